"""The traps of Hateful Memes."""

import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from datamodules.hateful_memes import HatefulMemes
from mmbench.data import parsed
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture
def root(tmp_path):
    HatefulMemes.write_twin(tmp_path)
    return tmp_path


def memes(root, part):
    text = (root / "hateful_memes" / f"{part}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def write(root, part, lines):
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (root / "hateful_memes" / f"{part}.jsonl").write_text(text)


def data_of(root, **changes):
    return HatefulMemes(root, SCENARIO, **{"size": 8} | changes)


def test_samples_are_the_memes_of_the_official_lists(root):
    data = data_of(root)
    for split, part in zip(SPLITS, ("train", "dev_seen", "test_seen"), strict=True):
        samples = data.load(split)
        said = memes(root, part)
        assert samples.target.tolist() == [meme["label"] for meme in said]
        assert samples.presence.all()
        names = data.names_of_ids()
        assert [names[one] for one in samples.sample_id.tolist()] == [str(m["id"]) for m in said]
    train = memes(root, "train")
    counts = Counter(word for meme in train for word in meme["text"].split())
    frequent = sum(count > 1 for count in counts.values())
    assert data.describe().modalities[1].vocab_size == 2 + frequent


def test_agreement_of_labels_among_equal_words_is_counted_pair_by_pair(root):
    train = memes(root, "train")
    train[0]["text"], train[1]["text"] = "same words", "Same  words"
    train[1]["label"] = train[0]["label"]
    write(root, "train", train)
    train[1]["text"] = "same words"
    pairs = [(a, b) for a, b in combinations(train, 2) if a["text"] == b["text"]]
    agree = np.mean([a["label"] == b["label"] for a, b in pairs])
    shared = len({m["id"] for pair in pairs for m in pair})
    assert 0 < agree < 0.5
    [note] = data_of(root).notes()
    assert note.startswith(f"{shared} of 120 training memes share their words with another")
    assert note.endswith(f"agree in {100 * agree:.1f} %")


def test_the_test_list_of_the_first_release_is_refused_and_its_validation_list_is_read(root):
    folder = root / "hateful_memes"
    (folder / "dev_seen.jsonl").rename(folder / "dev.jsonl")
    assert len(data_of(root).load("val")) == 30
    bare = [{k: v for k, v in meme.items() if k != "label"} for meme in memes(root, "test_seen")]
    write(root, "test_seen", bare)
    with pytest.raises(ValueError, match=r"test_seen.jsonl row 1 has no label; .* first release"):
        data_of(root).describe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "row 3: label must be 0 or 1, found 2"),
        ({"label": "1"}, "row 3: label must be int, found '1'"),
        ({"text": None}, "row 3: text must be str, found None"),
        ({"img": "../../secret.png"}, "does not lie in the folder"),
        ({"id": 1000000}, None),
    ],
)
def test_a_line_that_says_something_else_is_named(root, change, message):
    lines = memes(root, "train")
    lines[2] |= change
    write(root, "train", lines)
    if message is None:
        assert "1000000" in data_of(root).names_of_ids().values()
        return
    with pytest.raises(ValueError, match=message):
        data_of(root).describe()


@pytest.mark.parametrize("large", [False, True])
def test_a_bad_picture_is_named_by_its_number_and_as_many_pass_as_are_allowed(
    root, large, monkeypatch
):
    if large:  # decoded into the cache
        monkeypatch.setattr(parsed, "SMALL_BYTES", 0)
    said = memes(root, "train")
    bad = root / "hateful_memes" / said[16]["img"]
    bad.write_bytes(b"no picture")
    message = rf"picture 17 of 190: .*{bad.name} is no readable picture: .*skip_bad: 1 lets it pass"
    with pytest.raises(ValueError, match=message):
        data_of(root).load("train")
    data = data_of(root, skip_bad=1)
    samples = data.load("train")
    assert np.flatnonzero(~samples.presence[:, 0]).tolist() == [16]
    assert samples.presence[:, 1].all()
    assert any("picture 17 of 190" in note for note in data.notes())
    bad.unlink()
    with pytest.raises(ValueError, match=rf"picture 17 of 190: no file .*{bad.name}"):
        data_of(root).load("train")


def test_texts_are_cut_and_a_long_one_is_told(root):
    lines = memes(root, "train")
    lines[0]["text"] = "long " * 30
    write(root, "train", lines)
    assert data_of(root).describe().modalities[1].shape == (30,)
    data = data_of(root, max_tokens=4)
    assert data.describe().modalities[1].shape == (4,)
    assert data.load("train").lengths["text"].max() == 4
    assert "text: 190 texts cut to 4 tokens" in data.notes()
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        data_of(root, max_tokens=0)


def test_another_picture_is_another_content(root):
    one = data_of(root).content()
    said = memes(root, "train")
    path = root / "hateful_memes" / said[0]["img"]
    path.write_bytes((root / "hateful_memes" / said[1]["img"]).read_bytes())
    assert data_of(root).content() != one
