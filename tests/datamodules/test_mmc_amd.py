"""The traps of MMC-AMD."""

import numpy as np
import pytest

from datamodules.mmc_amd import MmcAmd
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.health import examine

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture
def root(tmp_path):
    MmcAmd.write_twin(tmp_path)
    return tmp_path


def data_of(root, **changes):
    return MmcAmd(root, SCENARIO, **{"size": 8} | changes)


def lines(root, split, kind, name, partition="AP"):
    path = root / "mmc_amd" / f"mmc-amd-split{partition}-{split}" / kind / f"{name}.txt"
    return path, path.read_text().split("\n")[:-1]


def eye(image):
    return image[2:].split("_")[0]


def names_of(data, split):
    names = data.names_of_ids()
    return [names[one] for one in data.load(split).sample_id.tolist()]


def test_samples_are_all_pairs_of_an_eye_and_of_its_class(root):
    data = data_of(root)
    for split in SPLITS:
        octs, cfps = (lines(root, split, "ImageSets", name)[1] for name in ("oct", "cfp"))
        pairs = [f"{one}+{other}" for one in octs for other in cfps if eye(one) == eye(other)]
        assert names_of(data, split) == pairs
        samples = data.load(split)
        assert samples.presence.all()
        assert samples.target.tolist() == ["hdpw".index(pair[2]) for pair in pairs]
    assert len(set(map(eye, octs))) < len(octs)  # some eyes have two scans


def test_eyes_with_one_modality_are_natural_missingness_if_asked_for(root):
    pairs, every = data_of(root), data_of(root, unpaired=True)
    for split in SPLITS:
        octs, cfps = (lines(root, split, "ImageSets", name)[1] for name in ("oct", "cfp"))
        alone = [o for o in octs if eye(o) not in map(eye, cfps)]
        alone += [c for c in cfps if eye(c) not in map(eye, octs)]
        assert alone
        assert names_of(every, split) == names_of(pairs, split) + alone
        presence = every.load(split).presence
        assert presence[len(presence) - len(alone) :].sum(axis=1).tolist() == [1] * len(alone)


def test_split_a_has_persons_in_two_parts_and_is_told_so(root):
    assert examine(data_of(root)).problems == ()
    [problem] = examine(data_of(root, partition="A")).problems
    shared = set.intersection(
        *(
            {
                *lines(root, s, "SubjectSets", "cfp", "A")[1],
                *lines(root, s, "SubjectSets", "oct", "A")[1],
            }
            for s in ("train", "test")
        )
    )
    assert problem.startswith(f"train and test share {len(shared)} subject")
    parts = [
        {eye(n.split("+")[0]) for n in names_of(data_of(root, partition="A"), s)} for s in SPLITS
    ]
    assert not parts[0] & parts[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], r"annotations/cfp.txt has \d+ lines, but .*ImageSets/cfp.txt has"),
        (
            lambda rows: [*rows[:2], f"{rows[2][:-1]}7", *rows[3:]],
            "row 3: the label '7' is none of",
        ),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "row 1 is about f-"),
        (lambda rows: [f"{r[:-1]}{(int(r[-1]) + 1) % 4}" for r in rows], "of the same eye"),
    ],
)
def test_annotations_that_do_not_fit_are_named(root, change, message):
    path, rows = lines(root, "train", "annotations", "cfp")
    path.write_text("\n".join(change(rows)) + "\n")
    with pytest.raises(ValueError, match=message):
        data_of(root).describe()


def test_a_name_that_leads_out_of_the_folder_is_refused(root):
    path, rows = lines(root, "train", "ImageSets", "oct")
    path.write_text("\n".join(["../o-1", *rows[1:]]) + "\n")
    annotations, labels = lines(root, "train", "annotations", "oct")
    annotations.write_text("\n".join(["../o-1 1", *labels[1:]]) + "\n")
    with pytest.raises(ValueError, match=r"row 1: '../o-1' is no picture of oct"):
        data_of(root).describe()


def test_a_picture_of_two_pairs_is_the_same_in_both(root):
    data = data_of(root)
    samples, names = data.load("train"), names_of(data, "train")
    by_fundus = {}
    for row, name in enumerate(names):
        by_fundus.setdefault(name.split("+")[1], []).append(row)
    rows = next(rows for rows in by_fundus.values() if len(rows) == 2)
    assert np.array_equal(*samples.inputs["fundus"][rows])
    assert not np.array_equal(*samples.inputs["oct"][rows])
