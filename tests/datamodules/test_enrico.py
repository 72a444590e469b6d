"""The traps of ENRICO."""

import random

import pytest

from datamodules.enrico import Enrico
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture
def root(tmp_path):
    Enrico.write_twin(tmp_path)
    return tmp_path


def data_of(root, **changes):
    return Enrico(root, SCENARIO, **{"size": [8, 4]} | changes)


def screens(root):
    lines = (root / "enrico" / "design_topics.csv").read_text().splitlines()[1:]
    return [line.split(",") for line in lines]


def test_the_split_is_that_of_multibench_without_the_damaged_screens(root):
    rows = [row for row in screens(root) if row[0] not in ("50105", "50109")]
    assert len(rows) == len(screens(root)) - 2 == 160
    keys = list(range(len(rows)))
    random.Random(42).shuffle(keys)
    expected = {"train": keys[:104], "val": keys[104:128], "test": keys[128:]}
    topics = sorted({topic for _, topic in rows})
    data = data_of(root)
    names = data.names_of_ids()
    for split in SPLITS:
        samples = data.load(split)
        target = dict(zip([names[k] for k in samples.sample_id.tolist()], samples.target.tolist(),
                          strict=True))  # fmt: skip
        assert target == {rows[k][0]: topics.index(rows[k][1]) for k in expected[split]}
    assert "2 screens with damaged wireframes left out" in data.notes()


def test_screens_are_upright_in_both_pictures(root):
    task = data_of(root, size=[36, 20]).describe()
    assert [(m.name, m.shape) for m in task.modalities] == [
        ("screenshot", (3, 36, 20)),
        ("wireframe", (3, 36, 20)),
    ]
    assert Enrico(root, SCENARIO).describe().modalities[0].shape == (3, 256, 128)


def test_a_list_with_other_topics_or_an_empty_cell_is_refused(root):
    path = root / "enrico" / "design_topics.csv"
    text = path.read_text()
    path.write_text(text + "7,somewhere\n")
    with pytest.raises(ValueError, match="has 21 topics, but ENRICO has 20"):
        data_of(root).describe()
    path.write_text(text + "7,\n")
    with pytest.raises(ValueError, match=r"design_topics.csv row 164: topic is empty"):
        data_of(root).describe()
    path.write_text(text.replace("screen_id,topic\n", ""))
    with pytest.raises(ValueError, match="has no column screen_id"):
        data_of(root).describe()


def test_a_screen_whose_pictures_are_both_bad_is_left_out_and_counted(root):
    data = data_of(root)
    name = data.names_of_ids()[int(data.load("test").sample_id[0])]
    (root / "enrico" / "screenshots" / f"{name}.jpg").write_bytes(b"")
    (root / "enrico" / "wireframes" / f"{name}.png").unlink()
    with pytest.raises(ValueError, match=r"picture \d+ of 160: .* is no readable picture"):
        data_of(root).load("test")
    passed = data_of(root, skip_bad=1)
    assert len(passed.load("test")) == len(data.load("test")) - 1
    assert "1 samples without any modality left out" in passed.notes()
