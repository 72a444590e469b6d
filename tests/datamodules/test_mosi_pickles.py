"""CMU-MOSI as sequences, from generated pickles in the layouts of MMSA and MultiBench."""

import pickle
import re
import sys

import numpy as np
import pytest

from mmbench.cli import main
from mmbench.data import parsed
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.registry import DATASETS

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
SIZES = {"train": 12, "valid": 4, "test": 6}
STEPS = {"text": 10, "audio": 10, "vision": 10}
WIDTHS = {"text": 6, "audio": 3, "vision": 4}


def content(layout, steps=STEPS, seed=0):
    """Utterances of 4 to 8 steps; padding before (MultiBench) or after (MMSA) them."""
    rng = np.random.default_rng(seed)
    found = {}
    for video, (part, n) in enumerate(SIZES.items()):
        length = rng.integers(4, 9, n)
        score = rng.uniform(-3, 3, n).astype(np.float32)
        arrays = {}
        for name, width in WIDTHS.items():
            x = rng.normal(size=(n, steps[name], width)).astype(np.float32)
            for row, k in enumerate(length):
                if layout == "mmsa":
                    x[row, k:] = 0
                else:
                    x[row, : steps[name] - k] = 0
            arrays[name] = x
        if layout == "mmsa":
            arrays["regression_labels"] = score
            arrays["id"] = [f"vid{video}$_${k}" for k in range(n)]
            arrays["raw_text"] = np.array([f"it was {'good' if s >= 0 else 'bad'}" for s in score])
        else:
            arrays["labels"] = score[:, None, None]
            arrays["id"] = np.array([[f"vid{video}", str(k)] for k in range(n)], dtype=object)
        found[part] = arrays
        found[part]["length"] = length
    return found


def write(root, found):
    (root / "cmu_mosi").mkdir(exist_ok=True)
    plain = {p: {k: v for k, v in a.items() if k != "length"} for p, a in found.items()}
    (root / "cmu_mosi" / "mosi.pkl").write_bytes(pickle.dumps(plain))


def module(root, **arguments):
    cls = DATASETS.get("cmu_mosi")
    return cls(root, SCENARIO, pickle="cmu_mosi/mosi.pkl", **arguments)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("layout", ["mmsa", "multibench"])
def test_sequences_begin_at_their_first_step_in_both_layouts(tmp_path, monkeypatch, layout, large):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    if large:
        monkeypatch.setattr(parsed, "SMALL_BYTES", 0)
    found = content(layout)
    write(tmp_path, found)
    data = module(tmp_path, target="score")
    assert [m.shape for m in data.describe().modalities] == [(10, 6), (10, 3), (10, 4)]
    for split, part in zip(SPLITS, SIZES, strict=True):
        samples, said = data.load(split), found[part]
        assert samples.presence.all()
        names = data.names_of_ids()
        assert [names[one] for one in samples.sample_id.tolist()] == [
            f"vid{SPLITS.index(split)}_{k}" for k in range(SIZES[part])
        ]
        score = said["regression_labels" if layout == "mmsa" else "labels"].reshape(-1, 1)
        assert np.array_equal(samples.target, score)
        for ours, theirs in (("text", "text"), ("audio", "audio"), ("video", "vision")):
            assert np.array_equal(samples.lengths[ours], said["length"])
            for row, k in enumerate(said["length"]):
                start = 0 if layout == "mmsa" else 10 - k
                x = samples.inputs[ours][row]
                assert np.array_equal(x[:k], said[theirs][row, start : start + k])
                assert not x[k:].any()


def test_aligned_modalities_stay_aligned_and_others_have_lengths_of_their_own(tmp_path):
    found = content("mmsa")
    found["test"]["audio"][0, :2] = 0  # silence before the first word
    write(tmp_path, found)
    samples = module(tmp_path).load("test")
    assert np.array_equal(samples.inputs["audio"][0], found["test"]["audio"][0])
    assert samples.lengths["audio"][0] == samples.lengths["text"][0]
    found = content("mmsa", STEPS | {"audio": 20})
    found["test"]["audio"][0, :2] = 0
    write(tmp_path, found)
    samples = module(tmp_path).load("test")
    assert samples.inputs["audio"].shape == (6, 20, 3)
    assert samples.lengths["audio"][0] == samples.lengths["text"][0] - 2
    assert np.array_equal(samples.inputs["audio"][0, 0], found["test"]["audio"][0, 2])


def test_what_is_no_number_is_zero_and_counted_and_silence_is_absence(tmp_path):
    found = content("mmsa")
    found["train"]["audio"][1, 0, 2] = -np.inf
    found["train"]["text"][2] = 0
    for name in WIDTHS:
        found["valid"][name][3] = 0
    write(tmp_path, found)
    data = module(tmp_path)
    train = data.load("train")
    assert train.inputs["audio"][1, 0, 2] == 0
    assert train.inputs["audio"][1, 0, 0] == found["train"]["audio"][1, 0, 0]
    assert np.argwhere(~train.presence).tolist() == [[2, 0]]
    assert len(data.load("val")) == 3
    assert data.notes() == (
        "mosi.pkl: audio of 1 samples has values that are no finite number; they are 0",
        "mosi.pkl: 1 samples without any modality left out",
    )


def test_targets_and_words(tmp_path):
    found = content("mmsa")
    found["test"]["regression_labels"][:] = [0, -0.2, 2.4, -3, 1.5, 2.5]
    write(tmp_path, found)
    assert module(tmp_path).load("test").target.tolist() == [1, 0, 1, 0, 1, 1]
    assert module(tmp_path, target="seven").load("test").target.tolist() == [3, 3, 5, 0, 5, 5]
    data = module(tmp_path, text="tokens")
    assert data.describe().modalities[0].kind == "tokens"
    assert data.load("train").lengths["text"].tolist() == [3] * 12
    write(tmp_path, content("multibench"))
    with pytest.raises(ValueError, match="has no raw_text to make tokens of"):
        module(tmp_path, text="tokens").describe()
    with pytest.raises(ValueError, match="has its own split; leave partition=standard out"):
        module(tmp_path, partition="standard")


class Harmful:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["train"].update(text=Harmful()), "holds builtins.print, which is neither"),
        (lambda c: c.pop("valid"), "has no dictionary 'valid'"),
        (lambda c: c["test"].pop("vision"), "has no vision in 'test'; it has text, audio,"),
        (lambda c: c["test"].update(audio=np.zeros((6, 10))), r"audio must be .* found"),
        (lambda c: c["test"].update(audio=np.zeros((5, 10, 3))), "test has unequally many samples"),
        (lambda c: c["test"].update(id=["a"] * 6), r"id a occurs 6 times"),
    ],
)
def test_a_spoiled_pickle_is_one_line_and_does_not_run(
    tmp_path, monkeypatch, capsys, spoil, message
):
    found = content("mmsa")
    spoil(found)
    write(tmp_path, found)
    words = ["data", "describe", "cmu_mosi", "pickle=cmu_mosi/mosi.pkl", "--data-root", tmp_path]
    monkeypatch.setattr(sys, "argv", ["mmbench", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.err.count("\n") == 1
    assert re.search(message, said.err), said.err
    assert "run\n" not in said.out
