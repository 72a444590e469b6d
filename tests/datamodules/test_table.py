"""The data module for any user's files."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_models import NAME, save

import datamodules.table
from datamodules.table import Table
from mmbench.bench.spec import bind
from mmbench.cli import main
from mmbench.data import frames, parsed
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.data.splits import stable_hash

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
N = 40
HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None


@pytest.fixture
def root(tmp_path):
    """40 patients p0..p39: a lab CSV without p3, an npz of ECG without p5, notes for all."""
    rng = np.random.default_rng(0)
    ids = [f"p{k}" for k in range(N)]
    label = np.array(["ill", "well"])[np.arange(N) % 2]
    frame = pd.DataFrame(
        {"id": ids, "label": label, "split": ["train"] * 24 + ["val"] * 8 + ["test"] * 8}
    )
    frame["age"] = np.arange(N) / 2
    frame["cough"] = np.arange(N) % 3 == 0
    frame["fever"] = np.arange(N) % 2
    frame["cough"] = frame["cough"].astype(int)
    frame.to_csv(tmp_path / "labels.csv", index=False)
    lab = pd.DataFrame({"id": ids, "x": np.arange(N), "y": 2.5})
    lab.drop(index=3).sample(frac=1, random_state=0).to_csv(tmp_path / "lab.csv", index=False)
    kept = np.delete(np.arange(N), 5)[::-1]
    ecg = (
        np.broadcast_to(kept[:, None, None], (len(kept), 6, 2)) + rng.random((len(kept), 6, 2)) / 9
    )
    length = 1 + kept % 6
    np.savez(tmp_path / "ecg.npz", id=np.array(ids)[kept], x=ecg, length=length)
    notes = pd.DataFrame(
        {
            "id": ids,
            "note": [f"Patient {'Coughs' if k % 2 else 'sleeps'}, only{k}" for k in range(N)],
        }
    )
    notes.to_csv(tmp_path / "notes.csv", index=False)
    return tmp_path


FILES = {"lab": "lab.csv", "ecg": "ecg.npz", "notes": "notes.csv"}
KINDS = {"ecg": "sequence", "notes": "tokens"}


def table(root, **arguments):
    plain = {"files": FILES, "labels": "labels.csv", "kinds": KINDS}
    return Table(root, SCENARIO, **(plain | arguments))


def by_id(samples):
    return {int(one): row for row, one in enumerate(samples.sample_id)}


def test_rows_are_joined_by_id_and_absent_rows_are_missing(root):
    data = table(root, split="split")
    samples = data.load("train")
    assert data.describe().outputs == ("ill", "well")
    assert len(samples) == 24
    for k in range(24):
        row = by_id(samples)[stable_hash(f"p{k}")]
        assert samples.target[row] == k % 2
        assert samples.presence[row].tolist() == [k != 3, k != 5, True]
        if k != 3:
            assert samples.inputs["lab"][row].tolist() == [k, 2.5]
        if k != 5:
            steps = 1 + k % 6
            assert samples.lengths["ecg"][row] == steps
            wanted = [[k, k]] * steps + [[0, 0]] * (6 - steps)  # what lies beyond is ignored
            assert samples.inputs["ecg"][row].astype(int).tolist() == wanted


def test_text_becomes_words_of_the_training_split(root):
    data = table(root, split="split")
    notes = data.describe().modalities[2]
    assert (notes.kind, notes.shape) == ("tokens", (3,))
    # patient, coughs, sleeps occur twice; only0, only1, ... once each
    assert notes.vocab_size == 2 + 3
    samples = data.load("test")
    assert samples.lengths["notes"].tolist() == [3] * 8
    assert (samples.inputs["notes"][:, 0] == 2).all()
    assert (samples.inputs["notes"][:, 2] == 1).all()


def test_shares_are_stratified_and_folds_test_different_rows(root):
    parts = [
        {s: table(root, split=[0.6, 0.2, 0.2], fold=k).load(s) for s in SPLITS} for k in range(5)
    ]
    for part in parts:
        assert {s: len(x) for s, x in part.items()} == {"train": 24, "val": 8, "test": 8}
        assert abs(np.bincount(part["test"].target) - 4).max() <= 1
    tested = [one for part in parts for one in part["test"].sample_id.tolist()]
    assert len(set(tested)) == N


def test_the_batches_work(root):
    for split in SPLITS:
        for batch in table(root, batch_size=7).batches(split):
            assert not batch.inputs["lab"][~batch.has("lab")].any()
            assert batch.lengths["ecg"].min() >= 0


def test_whole_numbers_stay_the_sample_ids(root):
    frame = pd.DataFrame({"id": [10**12 + k for k in range(N)], "label": np.arange(N) % 2})
    frame.to_csv(root / "labels.csv", index=False)
    frame.rename(columns={"label": "x"}).to_csv(root / "lab.csv", index=False)
    data = table(root, files={"lab": "lab.csv"}, kinds={})
    ids = np.concatenate([data.load(split).sample_id for split in SPLITS])
    assert sorted(ids.tolist()) == frame["id"].tolist()
    frame["id"] = [f"{k:03d}" for k in range(N)]  # leading zeros are part of a name
    frame.to_csv(root / "labels.csv", index=False)
    frame.rename(columns={"label": "x"}).to_csv(root / "lab.csv", index=False)
    ids = table(root, files={"lab": "lab.csv"}, kinds={}).load("train").sample_id
    assert set(ids.tolist()) < {stable_hash(f"{k:03d}") for k in range(N)}


def test_regression_and_multi_label_targets(root):
    data = table(root, task="regression", target="age", split="split")
    assert data.describe().outputs == ("age",)
    samples = data.load("test")
    assert samples.target[by_id(samples)[stable_hash("p39")]].tolist() == [19.5]
    data = table(root, task="multi_label", target=["cough", "fever"], split="split")
    assert data.load("train").target.shape == (24, 2)
    with pytest.raises(ValueError, match=r"labels.csv row 3 \(id p1\): age is 0.5, but .* 0 or 1"):
        table(root, task="multi_label", target=["fever", "age"]).load("train")
    with pytest.raises(ValueError, match="a single_label task has one target column"):
        table(root, target=["cough", "fever"])


def test_classes_that_are_numbers_are_sorted_as_numbers(root):
    frame = pd.read_csv(root / "labels.csv")
    frame["label"] = np.array([10, 9, 2])[np.arange(N) % 3]
    frame.to_csv(root / "labels.csv", index=False)
    assert table(root).describe().outputs == ("2", "9", "10")


def test_a_row_that_is_empty_throughout_is_missing(root):
    frame = pd.read_csv(root / "lab.csv").set_index("id")
    frame.loc["p7"] = np.nan
    frame.to_csv(root / "lab.csv")
    samples = table(root, split="split").load("train")
    assert not samples.presence[by_id(samples)[stable_hash("p7")], 0]


def test_images_keep_their_bytes(root):
    ids = np.array([f"p{k}" for k in range(N)], dtype="S")
    np.savez(root / "scan.npz", id=ids, x=np.full((N, 3, 4, 4), 200, np.uint8))
    data = table(root, files={"scan": "scan.npz"}, kinds={"scan": "image"})
    assert data.load("train").inputs["scan"].dtype == np.uint8
    assert data.describe().modalities[0].shape == (3, 4, 4)


def test_arguments_come_from_yaml(root):
    yaml = {
        "files": FILES,
        "labels": "labels.csv",
        "kinds": KINDS,
        "split": [0.6, 0.2, 0.2],
        "target": "label",
    }
    bound = bind(Table, yaml, ("root", "scenario", "fold"))
    assert len(Table(root, SCENARIO, **bound).load("train")) == 24


def rewrite(root, file, change):
    frame = pd.read_csv(root / file)
    change(frame).to_csv(root / file, index=False)


def put(column, row, value):
    def change(frame):
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("labels.csv", put("label", 4, None), r"labels.csv row 6 \(id p4\): label is empty"),
        ("labels.csv", put("id", 4, None), r"labels.csv row 6: id is empty"),
        ("labels.csv", put("id", 4, "p1"), r"labels.csv row 6: id p1 occurs a second time"),
        ("labels.csv", put("split", 4, "later"), r"labels.csv row 6 .*: split is 'later', but"),
        ("labels.csv", lambda f: f.drop(columns="label"), r"no column 'label'; it has id, split"),
        ("labels.csv", lambda f: f.rename(columns={"label": "lable"}), "did you mean 'lable'"),
        ("labels.csv", lambda f: f[f["split"] != "val"], r"id p\d+ \(8 in all\) has no row in"),
        ("labels.csv", lambda f: f.assign(split="train"), "the val split of labels.csv is empty"),
        ("lab.csv", put("id", 4, "q9"), r"lab.csv: id q9 \(1 in all\) has no row in labels.csv"),
        ("lab.csv", put("y", 4, "high"), r"lab.csv row 6 \(id p\d+\), column y: 'high' is no"),
        ("lab.csv", put("y", 4, 1e60), r"lab.csv row 6 \(id p\d+\), column y: '1e\+60' is"),
        ("notes.csv", lambda f: f.assign(more="x"), r"notes.csv has the columns .* no tokens"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_in_one_line(root, file, change, message):
    rewrite(root, file, change)
    with pytest.raises(ValueError, match=message) as caught:
        table(root, split="split").load("train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((1, 6, 2))}, "has no array id; it has x"),
        ({"id": ["p1"], "x": np.zeros((2, 6, 2))}, "must have one entry a sample"),
        ({"id": ["p1", "p1"], "x": np.zeros((2, 6, 2))}, "row 2: id p1 occurs a second time"),
        (
            {"id": ["p1"], "x": np.zeros((1, 6, 2)), "length": [7]},
            r"id p1: length is not in 1\.\.6",
        ),
        ({"id": ["p1"], "x": np.array([[[1, np.nan]]])}, "id p1: x holds NaN or infinity in part"),
        ({"id": np.array(["p1", None]), "x": np.zeros((2, 1, 1))}, "npz file of plain arrays"),
        ({"id": ["p1"], "x": np.zeros((1, 6))}, "needs the axes"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_npz_file_is_said(root, arrays, message):
    np.savez(root / "ecg.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        table(root).load("train")


def test_a_sample_without_any_modality_is_named(root):
    with pytest.raises(ValueError, match=r"labels.csv row 5: id p3 is in no modality's file"):
        table(root, files={"lab": "lab.csv"}, kinds={}).load("train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"files": {}}, "at least one file"),
        ({"kinds": {"labs": "vector"}}, "kinds names the modality 'labs'.*did you mean 'lab'"),
        ({"split": [0.5, 0.5]}, "three shares of train, val and test that sum to 1"),
        ({"split": [0.5, 0.1, 0.1]}, "three shares of train, val and test that sum to 1"),
        ({"fold": 5}, r"has the folds 0\.\.4"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(root, arguments, message):
    with pytest.raises(ValueError, match=message):
        table(root, **arguments)


def test_a_column_of_train_val_and_test_is_one_partition(root):
    with pytest.raises(ValueError, match="fold 1 was asked for, but the column 'split' describes"):
        table(root, split="split", fold=1).describe()


def test_an_unknown_ending_is_refused(root):
    (root / "lab.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"lab.xlsx is none of .csv, .tsv, .parquet, .h5ad"):
        table(root, files={"lab": "lab.xlsx"}, kinds={}).load("train")


@pytest.mark.skipif(HAS_PYARROW, reason="pyarrow is installed; its absence cannot be shown")
def test_parquet_without_pyarrow_says_what_to_install(root):
    (root / "lab.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="pip install pyarrow"):
        table(root, files={"lab": "lab.parquet"}, kinds={}).load("train")


@pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow is not installed")
def test_parquet_reads_like_csv(root):
    frame = pd.read_csv(root / "lab.csv")
    frame.set_index("id").to_parquet(root / "lab.parquet")
    (root / "bad.parquet").write_bytes(b"no parquet")
    a = table(root).load("train").inputs["lab"]
    b = table(root, files=FILES | {"lab": "lab.parquet"}).load("train").inputs["lab"]
    np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"bad.parquet is no readable parquet file"):
        table(root, files=FILES | {"lab": "bad.parquet"}).load("train")


def blocks(language):
    text = (Path(datamodules.table.__file__).parent / "README.md").read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_example_of_the_readme_works(tmp_path):
    (entry,) = yaml.safe_load(blocks("yaml")[0])["data"]
    n = 9
    ids, split = [f"p{k}" for k in range(n)], ["train", "val", "test"] * 3
    labels = pd.DataFrame(
        {"patient": ids, "diagnosis": ["ill", "well", "well"] * 3, "split": split}
    )
    labels.to_csv(tmp_path / "labels.csv", index=False)
    pd.DataFrame({"patient": ids[1:], "sodium": 140, "glucose": 5.0}).to_csv(
        tmp_path / "lab.csv", index=False
    )
    np.savez(tmp_path / "ecg.npz", id=ids, x=np.ones((n, 5, 2)), length=np.arange(n) % 5 + 1)
    pd.DataFrame({"patient": ids, "note": "no complaints"}).to_csv(
        tmp_path / "notes.csv", index=False
    )
    data = Table(tmp_path, SCENARIO, **bind(Table, entry["args"], ("root", "scenario")))
    assert data.load("train").presence.tolist() == [[False, True, True], [True] * 3, [True] * 3]


def test_the_class_of_the_readme_works(tmp_path):
    code = next(block for block in blocks("python") if "class Pets" in block)
    made = {}
    exec(code, made)
    (tmp_path / "pets").mkdir()
    for start, split in enumerate(SPLITS):
        np.savez(
            tmp_path / "pets" / f"{split}.npz",
            sound=np.ones((4, 40), np.float32),
            weight=np.ones((4, 1), np.float32),
            label=np.arange(4) % 2,
            id=np.arange(4) + 10 * start,
            presence=np.ones((4, 2), bool),
        )
    data = made["Pets"](tmp_path, SCENARIO)
    assert next(iter(data.batches("test"))).presence.shape == (4, 2)


# --- large files, parsed once a machine ----------------------------------------------------------


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A labels file and two modalities of more than 1 MB each, one with gaps and words in it."""
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    ids = [f"p{k}" for k in range(N)]
    split = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    pad = ["x" * 30_000] * N
    pd.DataFrame({"id": ids, "label": ["a", "b"] * 20, "split": split, "pad": pad}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    genes = pd.DataFrame(rng.normal(size=(N, 5000)).round(3)).astype(object)
    genes[0] = rng.choice(["M", "F"], N)
    genes.iloc[2, 5] = ""
    genes.insert(0, "id", ids)
    genes.drop(index=7).to_csv(tmp_path / "genes.csv", index=False)
    notes = [f"{' '.join(f'w{k}' for k in rng.integers(0, 900, 9000))}" for _ in ids]
    pd.DataFrame({"id": ids, "note": notes}).to_csv(tmp_path / "notes.csv", index=False)
    files = {"genes": "genes.csv", "notes": "notes.csv"}
    asked = {"files": files, "kinds": {"notes": "tokens"}, "labels": "labels.csv", "split": "split"}
    return lambda **more: Table(tmp_path, SCENARIO, **asked | more)


def content(data):
    parts = [data.load(split) for split in SPLITS]
    return data.describe(), data.notes(), parts


def test_a_second_process_parses_no_large_file_and_finds_the_same(large, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(parsed, "SMALL_BYTES", 2**40)
        task, notes, plain = content(large())
    content(large())
    frames._read.cache_clear()  # as in another process

    def refuse(*_, **__):
        raise AssertionError("parsed again")

    monkeypatch.setattr(pd, "read_csv", refuse)
    frame = frames.read_frame(large().root / "genes.csv", "id")
    assert frame.text("0").isin(["M", "F"]).all()
    assert np.isnan(frame.numbers).sum() == 1
    assert large(indicators=True).describe().modalities[0].shape == (5002,)
    again = content(large())
    assert again[0] == task
    assert again[1] == notes
    assert len(notes) == 1
    for one, other in zip(again[2], plain, strict=True):
        for name in ("genes", "notes"):
            assert np.array_equal(one.inputs[name], other.inputs[name])
        assert np.array_equal(one.presence, other.presence)
        assert np.array_equal(one.target, other.target)
        assert np.array_equal(one.lengths["notes"], other.lengths["notes"])


# --- texts for a published model -----------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    """A tiny ViLT, whose tokenizer knows w3, w4, ..., beside a text and a picture of each id."""
    save("vilt", tmp_path / "model")
    rng = np.random.default_rng(0)
    ids = [f"p{k}" for k in range(N)]
    split = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    pd.DataFrame({"id": ids, "label": ["a", "b"] * 20, "split": split}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    texts = [f"w{3 + k} w7 unheard" + " w9" * (k // 10) for k in range(N)]
    pd.DataFrame({"id": ids, "note": texts}).to_csv(tmp_path / "notes.csv", index=False)
    pixels = rng.integers(0, 256, (N, 3, 16, 16)).astype(np.uint8)
    np.savez(tmp_path / "photo.npz", id=np.array(ids), x=pixels)
    return tmp_path


PAIR = {"files": {"notes": "notes.csv", "photo": "photo.npz"}, "labels": "labels.csv",
        "kinds": {"notes": "tokens", "photo": "image"}, "split": "split"}  # fmt: skip


def test_texts_are_cut_into_the_ids_of_a_published_tokenizer(model):
    data = Table(model, SCENARIO, **PAIR, tokenizer="model")
    text, _ = data.describe().modalities
    assert (text.vocab_size, text.tokenizer, text.shape) == (120, NAME, (8,))
    train = data.load("train")
    assert train.inputs["notes"][1].tolist() == [101, 4, 7, 1, 102, 0, 0, 0]  # unheard = [UNK]
    assert train.inputs["notes"][23].tolist() == [101, 26, 7, 1, 9, 9, 102, 0]
    assert train.lengths["notes"][[1, 23]].tolist() == [5, 7]
    assert data.notes() == ()


def test_long_texts_are_cut_and_counted(model):
    data = Table(model, SCENARIO, **PAIR, tokenizer="model", max_tokens=6)
    assert data.load("train").inputs["notes"][23].tolist() == [101, 26, 7, 1, 9, 102]
    assert data.notes() == ("notes.csv: 20 texts cut to 6 tokens",)
    words = Table(model, SCENARIO, **PAIR, max_tokens=3)
    assert words.load("train").lengths["notes"].tolist() == [3] * 24
    assert words.notes() == ("notes.csv: 30 texts cut to 3 tokens",)


def test_token_ids_of_the_user_are_those_of_the_tokenizer_that_is_named(model):
    ids = np.array([f"p{k}" for k in range(N)])
    x = np.tile([101, 5, 102, 0], (N, 1))
    np.savez(model / "ids.npz", id=ids, x=x, length=np.full(N, 3))
    pair = PAIR | {"files": PAIR["files"] | {"notes": "ids.npz"}}
    text, _ = Table(model, SCENARIO, **pair, tokenizer="model").describe().modalities
    assert (text.vocab_size, text.tokenizer) == (120, NAME)
    x[4, 1] = 120
    np.savez(model / "ids.npz", id=ids, x=x)
    with pytest.raises(ValueError, match=r"ids.npz id p4: token id 120 is none of the 120 of the"):
        Table(model, SCENARIO, **pair, tokenizer="model").describe()


def test_a_tokenizer_is_part_of_what_the_data_are_made_of(model):
    before = Table(model, SCENARIO, **PAIR, tokenizer="model").content()
    file = model / "model" / "tokenizer.json"
    file.write_text(file.read_text().replace('"w9"', '"w900"'))
    assert Table(model, SCENARIO, **PAIR, tokenizer="model").content() != before
    with pytest.raises(ValueError, match=r"no modality is of kind tokens; say kinds="):
        Table(model, SCENARIO, **PAIR | {"kinds": {"photo": "image"}}, tokenizer="model")
    with pytest.raises(ValueError, match=r"none holds no tokenizer: tokenizer.json, vocab.txt"):
        Table(model, SCENARIO, **PAIR, tokenizer="none")


def test_a_csv_of_texts_reaches_a_published_model_or_is_told_how(model, monkeypatch, capsys):
    suite = {
        "name": "own",
        "data": [{"name": "table", "args": PAIR | {"tokenizer": "model"}}],
        "methods": [{"name": "backbone_alone", "args": {"backbone": f"vilt:{model / 'model'}"}}],
        "scenarios": ["natural"],
        "seeds": 1,
        "trainer": {"max_epochs": 1},
    }
    (model / "suite.yaml").write_text(yaml.safe_dump(suite))
    call = ["run", "suite.yaml", "--data-root", str(model), "--results", str(model / "results")]

    def mmbench(*more):
        monkeypatch.chdir(model)
        monkeypatch.setattr(sys, "argv", ["mmbench", *call, *more])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out + said.err

    code, said = mmbench()
    assert code == 0, said
    del suite["data"][0]["args"]["tokenizer"]
    (model / "suite.yaml").write_text(yaml.safe_dump(suite))
    code, said = mmbench("name=without")
    assert code == 2
    assert f"`tokenizer: {model / 'model'}`" in " ".join(said.split())
