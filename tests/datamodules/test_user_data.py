"""Data sets that users bring, on generated twins in the same layout."""

import gzip
import importlib.util
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import io
from sklearn.linear_model import LogisticRegression
from twins import WRITE

from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.data.vocabulary import words
from mmbench.registry import DATASETS

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
HAS_RDATA = importlib.util.find_spec("rdata") is not None
needs_rdata = pytest.mark.skipif(not HAS_RDATA, reason="breast_tcga is read by the extra rdata")
NAMES = [pytest.param(name, marks=[needs_rdata] if name == "breast_tcga" else []) for name in WRITE]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Every twin, written once; tests that spoil files copy first."""
    root = tmp_path_factory.mktemp("twins")
    for name, write in WRITE.items():
        if name != "breast_tcga" or HAS_RDATA:
            write(root, np.random.default_rng(0))
    return root


@pytest.fixture
def spoiled(twins, tmp_path):
    """A copy of one twin that a test may spoil."""

    def copy(name):
        shutil.copytree(twins / name, tmp_path / name)
        return tmp_path

    return copy


def module(name, root, **arguments):
    return DATASETS.get(name)(root, SCENARIO, **arguments)


def load(name, root, **arguments):
    data = module(name, root, **arguments)
    return {split: data.load(split) for split in SPLITS}


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_as_described_and_splits_share_no_sample(name, twins):
    data = module(name, twins)
    task = data.describe()
    ids = []
    for split in SPLITS:
        samples = data.load(split)
        assert len(samples) > 0
        assert samples.modalities == task.names
        for modality in task.modalities:
            assert samples.inputs[modality.name].shape == (len(samples), *modality.shape)
            assert samples.inputs[modality.name].dtype == np.float32
        assert set(np.unique(samples.target)) <= set(range(task.num_outputs))
        ids += samples.sample_id.tolist()
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", NAMES)
def test_batches_come_out_of_the_whole_module(name, twins):
    data = module(name, twins, limit=20)
    for split in SPLITS:
        for batch in data.batches(split):
            for column, modality in enumerate(batch.modalities):
                gone = batch.inputs[modality][~batch.presence[:, column]]
                assert not gone.any()
                assert np.isfinite(batch.inputs[modality].numpy()).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_modality_of_the_right_row_belongs_to_the_label(name, twins):
    """Twins plant a signal, so features joined to the wrong rows would score at chance."""
    parts = load(name, twins)
    for column, modality in enumerate(parts["train"].modalities):
        train, test = (parts[k].take(parts[k].presence[:, column]) for k in ("train", "val"))
        scale = train.inputs[modality].std() + 1e-9
        probe = LogisticRegression(C=0.1, max_iter=300)
        probe.fit(train.inputs[modality] / scale, train.target)
        assert probe.score(test.inputs[modality] / scale, test.target) > 0.75


@pytest.mark.parametrize("name", NAMES)
def test_the_files_that_are_listed_are_those_that_are_read(name, spoiled):
    root = spoiled(name)
    files = DATASETS.get(name).files
    assert files
    extra = {"target": "seven"} if name == "cmu_mosi" else {}
    for file in files:
        found = [
            path for path in (root / name).iterdir() if path.name.startswith(file[len(name) + 1 :])
        ]
        assert len(found) == 1, file
        aside = found[0].rename(found[0].with_name("aside"))
        with pytest.raises(ValueError, match=f"no file {re.escape(file[len(name) + 1 :])} in"):
            load(name, root, **extra)
        aside.rename(found[0])
    load(name, root, **extra)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_folder_is_named(name, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"no folder {tmp_path / name}")):
        load(name, tmp_path)
    with pytest.raises(ValueError, match="set --data-root or MMBENCH_DATA to the folder that has"):
        load(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["three_sources", "hundred_leaves", "bbc4view"])
def test_the_test_parts_of_the_folds_do_not_overlap(name, twins):
    tested = [module(name, twins, fold=fold).load("test").sample_id.tolist() for fold in range(5)]
    every = [one for fold in tested for one in fold]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("name", ["three_sources", "hundred_leaves", "bbc4view"])
def test_damaged_matlab_files_are_named(name, spoiled):
    root = spoiled(name)
    path = root / DATASETS.get(name).files[0]
    content = {k: v for k, v in io.loadmat(path).items() if not k.startswith("__")}
    label = "label" if "label" in content else "Y"
    wrong = content | {label: content[label].astype(float)}
    wrong[label][4] = np.nan
    io.savemat(path, wrong)
    with pytest.raises(ValueError, match=rf"{path.name} {label} row 5: label nan is none of 1\.\."):
        load(name, root)
    io.savemat(path, {k: v for k, v in content.items() if k != label})
    with pytest.raises(ValueError, match=f"{path.name} has no variable {label}; it has "):
        load(name, root)
    io.savemat(path, content | {label: content[label][:-1]})
    with pytest.raises(ValueError, match="as many rows are expected in each"):
        load(name, root)
    path.write_bytes(b"no matlab at all" * 20)
    with pytest.raises(ValueError, match=f"{path.name} is no readable MATLAB file"):
        load(name, root)


@pytest.mark.parametrize("name", ["three_sources", "hundred_leaves", "bbc4view"])
def test_text_and_complex_numbers_in_matlab_files_are_refused(name, spoiled):
    root = spoiled(name)
    path = root / DATASETS.get(name).files[0]
    content = {k: v for k, v in io.loadmat(path).items() if not k.startswith("__")}
    label = "label" if "label" in content else "Y"
    words = np.array([f"class {k}" for k in range(len(content[label]))])
    io.savemat(path, content | {label: words})
    with pytest.raises(ValueError, match=f"{path.name} {label} holds .* real numbers are expected"):
        load(name, root)
    key = "V1" if "V1" in content else "X"
    if key == "V1":
        spoilt = content[key] * 1j
    else:
        spoilt = content[key].copy()
        spoilt.flat[0] = spoilt.flat[0] * 1j
    io.savemat(path, content | {key: spoilt})
    with pytest.raises(ValueError, match=r"holds complex128, but real numbers are expected"):
        load(name, root)


def test_three_sources_refuses_a_presence_that_is_neither_0_nor_1(spoiled):
    root = spoiled("three_sources")
    path = root / "three_sources" / "Data_3Sources.mat"
    content = {k: v for k, v in io.loadmat(path).items() if not k.startswith("__")}
    content["ind"] = content["ind"].astype(float)
    content["ind"][3, 1] = 0.5
    io.savemat(path, content)
    with pytest.raises(ValueError, match=r"ind row 4 is .*0\.5.*, expected 0 or 1"):
        load("three_sources", root)


def test_three_sources_takes_its_gaps_from_the_file(twins):
    content = io.loadmat(twins / "three_sources" / "Data_3Sources.mat")
    for samples in load("three_sources", twins).values():
        np.testing.assert_array_equal(
            samples.presence, content["ind"][samples.sample_id].astype(bool)
        )
        np.testing.assert_array_equal(samples.inputs["guardian"], content["V2"][samples.sample_id])


# --- ROSMAP ------------------------------------------------------------------------------------


def test_rosmap_keeps_the_given_test_rows(twins):
    parts = load("rosmap", twins)
    assert parts["test"].sample_id.tolist() == list(range(60, 84))
    assert len(parts["val"]) == 9
    first = np.loadtxt(twins / "rosmap" / "2_te.csv", delimiter=",")
    np.testing.assert_allclose(parts["test"].inputs["methylation"], first, rtol=1e-6)


def test_rosmap_folds_test_every_row_once_and_the_given_split_has_no_folds(twins):
    tested = [
        module("rosmap", twins, partition="folds", fold=fold).load("test").sample_id
        for fold in range(5)
    ]
    assert sorted(np.concatenate(tested).tolist()) == list(range(84))
    with pytest.raises(ValueError, match="take partition=folds"):
        module("rosmap", twins, fold=1)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("1_tr.csv", "0.5," * 198 + "oops,1", r"1_tr.csv row 3, column 199: 'oops' is no finite"),
        ("1_tr.csv", "0.5," * 199, r"1_tr.csv row 3, column 200: 'nan' is no finite"),
        ("labels_tr.csv", "2", r"labels_tr.csv row 3: label 2 is none of 0\.\.1"),
        ("labels_tr.csv", "ill", r"labels_tr.csv row 3, column 1: 'ill' is no finite number"),
        ("labels_te.csv", "0\n1", r"as many rows are expected in each"),
    ],
)
def test_rosmap_names_the_row_that_is_wrong(spoiled, file, line, message):
    root = spoiled("rosmap")
    path = root / "rosmap" / file
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message):
        load("rosmap", root)


def test_a_column_of_truth_values_is_no_column_of_numbers(spoiled):
    root = spoiled("rosmap")
    path = root / "rosmap" / "1_tr.csv"
    table = pd.read_csv(path, header=None)
    table[4] = table[4] > 0
    table.to_csv(path, header=False, index=False)
    with pytest.raises(ValueError, match=r"1_tr.csv row 1, column 5: '(True|False)' is no finite"):
        load("rosmap", root)


def test_labels_of_more_than_one_column_are_refused(spoiled):
    root = spoiled("rosmap")
    path = root / "rosmap" / "labels_tr.csv"
    path.write_text("".join(f"{line},1\n" for line in path.read_text().split()))
    with pytest.raises(ValueError, match=r"labels_tr.csv has 2 columns, but 1 are expected"):
        load("rosmap", root)


def test_a_file_of_another_width_is_refused(spoiled):
    root = spoiled("rosmap")
    (root / "rosmap" / "3_te.csv").write_text("1,2,3\n")
    with pytest.raises(ValueError, match=r"3_te.csv has 3 columns, but 200 are expected"):
        load("rosmap", root)


def test_files_may_be_compressed(spoiled):
    root = spoiled("rosmap")
    before = load("rosmap", root)["train"].inputs["mrna"]
    path = root / "rosmap" / "1_tr.csv"
    path.with_name("1_tr.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    np.testing.assert_array_equal(load("rosmap", root)["train"].inputs["mrna"], before)


# --- breast TCGA -------------------------------------------------------------------------------


@needs_rdata
def test_no_tumour_of_the_test_set_has_protein(twins):
    parts = load("breast_tcga", twins)
    assert {split: part.presence.mean(axis=0).tolist() for split, part in parts.items()} == {
        "train": [1, 1, 1],
        "val": [1, 1, 1],
        "test": [1, 1, 0],
    }


def test_without_rdata_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "breast_tcga").mkdir()
    (tmp_path / "breast_tcga" / "breast.TCGA.rda").write_bytes(b"unread")
    monkeypatch.setitem(sys.modules, "rdata", None)  # makes the import fail
    with pytest.raises(ValueError, match="pip install rdata") as caught:
        load("breast_tcga", tmp_path)
    assert "\n" not in str(caught.value)


@needs_rdata
def test_tumours_in_another_order_are_refused(tmp_path, monkeypatch):
    import rdata

    WRITE["breast_tcga"](tmp_path, np.random.default_rng(0))
    read = rdata.read_rda

    def turned(path):
        content = read(path)
        block = content["breast.TCGA"]["data.train"]
        block["mrna"] = block["mrna"][::-1]
        return content

    monkeypatch.setattr(rdata, "read_rda", turned)
    with pytest.raises(ValueError, match="the rows of mrna are not the tumours of mirna, in order"):
        load("breast_tcga", tmp_path)


@needs_rdata
def test_an_r_file_of_something_else_is_refused(tmp_path):
    import rdata

    path = tmp_path / "breast_tcga" / "breast.TCGA.rda"
    path.parent.mkdir()
    rdata.write_rda(path, {"other": np.eye(2)})
    with pytest.raises(ValueError, match=r"breast.TCGA.rda is not laid out as breast.TCGA"):
        load("breast_tcga", tmp_path)


# --- CMU-MOSI ----------------------------------------------------------------------------------


def labels(root):
    return pd.read_csv(root / "cmu_mosi" / "mosi_labels.csv").set_index("utterance")


def test_mosi_partition_by_file_shares_no_video(twins):
    data = module("cmu_mosi", twins)
    index = data._index
    videos = {split: set(index.loc[index["split"] == split, "video"]) for split in SPLITS}
    assert not videos["train"] & videos["val"]
    assert not videos["train"] & videos["test"]
    assert not videos["val"] & videos["test"]
    rows = {
        part: len(pd.read_csv(twins / "cmu_mosi" / f"rows_{part}.csv"))
        for part in ("train", "test")
    }
    assert len(data.load("train")) == rows["train"]
    assert len(data.load("val")) + len(data.load("test")) == rows["test"]


def test_mosi_standard_partition_is_that_of_the_labels_file(twins):
    data = module("cmu_mosi", twins, partition="standard")
    told = labels(twins)["split"].value_counts()
    assert {split: len(data.load(split)) for split in SPLITS} == {
        "train": told["train"],
        "val": told["valid"],
        "test": told["test"],
    }


def test_mosi_scores_classes_and_labels_agree(twins):
    """Any two forms of the target must name the same utterances, joined by sample id."""
    binary, seven, score = (
        {
            int(one): float(y)
            for part in load("cmu_mosi", twins, target=target).values()
            for one, y in zip(part.sample_id, np.ravel(part.target), strict=True)
        }
        for target in ("binary", "seven", "score")
    )
    assert set(binary) == set(score) == set(seven)
    for one, value in score.items():
        assert binary[one] == (value >= 0)  # zero counts as positive
        assert seven[one] == round(value) + 3  # Python, too, rounds halves to even
    assert {0.0, -0.5, 0.5, 1.5} <= set(score.values())


def test_mosi_tokens_are_the_words_of_the_utterance_and_of_training_alone(twins):
    data = module("cmu_mosi", twins, text="tokens")
    text = data.describe().modalities[0]
    ids = data._vocabulary
    assert text.vocab_size == 2 + len(ids)
    index = data._index.set_index("split")
    in_train = set(words(" ".join(index.loc["train", "text"])))
    assert set(ids) <= in_train
    assert not [word for word in ids if word.startswith("rare")]  # each occurs once
    word = {number: word for word, number in ids.items()}
    test = data.load("test")
    for row, wanted in enumerate(index.loc["test", "text"]):
        got = [word.get(t, "?") for t in test.inputs["text"][row, : test.lengths["text"][row]]]
        assert got == [w if w in ids else "?" for w in words(wanted)]
    assert next(iter(data.batches("train"))).inputs["text"].dtype.is_floating_point is False


def test_mosi_works_without_the_labels_file_as_long_as_it_is_not_needed(spoiled):
    root = spoiled("cmu_mosi")
    (root / "cmu_mosi" / "mosi_labels.csv").unlink()
    assert len(load("cmu_mosi", root)["train"])
    with pytest.raises(ValueError, match=r"no file mosi_labels.csv in"):
        load("cmu_mosi", root, target="score")


def edit(path, row, text):
    lines = path.read_text().splitlines()
    lines[row - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("file", "row", "text", "message"),
    [
        ("rows_train.csv", 4, "9999", r"rows_train.csv row 4: transcript_row is not in 0\.\."),
        ("rows_train.csv", 1, "row", r"rows_train.csv has no single column transcript_row"),
        ("transcripts.csv", 2, '"a","b","1","7"', r"transcripts.csv row 2: label is neither 0 nor"),
        ("transcripts.csv", 2, '"a","b","1","x"', r"transcripts.csv row 2: .* found 'x'"),
        ("transcripts.csv", 2, '"a","b","","1"', r"transcripts.csv row 2: video is empty"),
        ("transcripts.csv", 1, '"a","b"', r"transcripts.csv"),
        ("mosi_labels.csv", 3, "x_1,x,train,9", r"mosi_labels.csv row 3: score is not in"),
        ("mosi_labels.csv", 3, "x_1,x,train,NA", r"mosi_labels.csv row 3: score is not in"),
        ("mosi_labels.csv", 3, "x_1,x,dev,1", r"mosi_labels.csv row 3: split is none of train"),
        ("mosi_labels.csv", 3, "x_1,x,train,1", r"mosi_labels.csv has no utterance vid"),
        (
            "mosi_labels.csv",
            1,
            "utterance,video,part,score",
            r"mosi_labels.csv has no column split",
        ),
    ],
)
def test_mosi_names_the_file_and_row_that_is_wrong(spoiled, file, row, text, message):
    root = spoiled("cmu_mosi")
    edit(root / "cmu_mosi" / file, row, text)
    with pytest.raises(ValueError, match=message) as caught:
        load("cmu_mosi", root, target="score", partition="standard")
    assert "\n" not in str(caught.value)


def test_mosi_features_out_of_step_with_the_transcripts_are_noticed(spoiled):
    root = spoiled("cmu_mosi")
    path = root / "cmu_mosi" / "audio_train0.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:] + lines[:1]))
    with pytest.raises(ValueError, match="the rows of the two files are not in step"):
        load("cmu_mosi", root)
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match="as many rows are expected in each"):
        load("cmu_mosi", root)


def test_mosi_rows_that_claim_one_transcript_twice_are_refused(spoiled):
    root = spoiled("cmu_mosi")
    path = root / "cmu_mosi" / "rows_train.csv"
    lines = path.read_text().splitlines()
    edit(path, 3, lines[1])
    with pytest.raises(ValueError, match="belongs to two feature rows"):
        load("cmu_mosi", root)
