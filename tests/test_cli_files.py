"""Commands about data sets and presence tables, as a user meets them."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sweeps import NO_DATA, suite
from twins import WRITE

from mmbench.data.masks import PresenceTable
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.data.splits import stable_hash
from mmbench.registry import DATASETS

TWO = "modalities=[fou,kar]"
MNAR = {
    "train": {"mechanism": "mnar_label", "missing_rate": 0.3, "strength": 2},
    "val": {"mechanism": "mcar", "missing_rate": 0.2},
    "test": [
        {"mechanism": "natural + mcar", "missing_rate": [0.0, 0.4]},
        {"mechanism": "every_pattern"},
    ],
    "mask_seed": 3,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with a scenario in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMBENCH_DATA", raising=False)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MNAR))
    return tmp_path


@pytest.fixture
def mmbench(mmbench, here):
    """Runs the command line in this process; returns exit code, output and errors."""
    return mmbench


def refused(result, message, *, code=2):
    """Whether a command ended in one line on stderr that holds the message."""
    ended, _, error = result
    assert ended == code
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def data_module(scenario, **arguments):
    spec = {"name": "s"} | scenario
    arguments = arguments or {"modalities": ["fou", "kar"]}
    return DATASETS.get("mfeat")(NO_DATA, Scenario.parse(spec), **arguments)


def cells(out):
    """Rows of the tables in an output: first cell -> the others."""
    rows = [line.strip("│").split("│") for line in out.splitlines() if line.startswith("│")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


# --- data ----------------------------------------------------------------------------------


def test_listing_data_sets_names_each_and_imports_no_torch():
    script = (
        "import sys; from mmbench.cli.app import data_app; "
        "data_app(['list'], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in DATASETS.names():
        assert f"{name} " in done.stdout
        assert DATASETS.summary(name) in done.stdout


def test_a_data_set_that_ships_is_whole(mmbench):
    code, out, _ = mmbench("data", "check", "mfeat")
    assert code == 0
    assert "ships    with mmbench" in out
    assert "loaded   train: 1400 samples" in out
    assert "loaded   test: 300 samples" in out
    assert out.endswith("mfeat is whole\n")


def test_a_check_without_a_data_folder_says_how_to_name_it(mmbench):
    result = mmbench("data", "check", "rosmap", "--data-root", "nowhere")
    refused(result, "no folder nowhere; set --data-root or MMBENCH_DATA")
    assert "url      https://github.com/txWang/MOGONET" in result[1]
    assert "missing  nowhere/rosmap/1_tr.csv" in result[1]


def test_a_check_names_each_missing_file_and_counts_compressed_ones(mmbench, here):
    WRITE["rosmap"](here, np.random.default_rng(0))
    code, out, _ = mmbench("data", "check", "rosmap", "--data-root", ".")
    assert code == 0
    assert sum(line.startswith("found    rosmap/") for line in out.splitlines()) == 8
    assert "missing" not in out
    table = pd.read_csv(here / "rosmap" / "1_tr.csv", header=None)
    table.to_csv(here / "rosmap" / "1_tr.csv.gz", header=False, index=False)
    for name in ("1_tr.csv", "2_te.csv"):
        (here / "rosmap" / name).unlink()
    result = mmbench("data", "check", "rosmap", "--data-root", ".")
    message = "rosmap is not whole: 1 of 8 files are missing from .; get them from https://"
    refused(result, message, code=1)
    assert "found    rosmap/1_tr.csv.gz" in result[1]
    assert "missing  rosmap/2_te.csv" in result[1]
    assert "problem" not in result[1]  # what is missing is said once


def test_a_file_that_is_there_but_spoiled_is_one_problem_not_three(mmbench, here):
    WRITE["rosmap"](here, np.random.default_rng(0))
    path = here / "rosmap" / "1_tr.csv"
    path.write_text(path.read_text().replace(",", ",x", 1))
    result = mmbench("data", "check", "rosmap", "--data-root", here)
    refused(result, "rosmap is not whole: 1 problem, see above", code=1)
    [problem] = [line for line in result[1].splitlines() if line.startswith("problem")]
    assert problem.startswith("problem  train, val")
    assert "is no finite number" in problem


def test_a_missing_file_that_the_arguments_do_not_need_is_a_note(mmbench, here):
    WRITE["cmu_mosi"](here, np.random.default_rng(0))
    (here / "cmu_mosi" / "mosi_labels.csv").unlink()
    code, out, _ = mmbench("data", "check", "cmu_mosi", "--data-root", here)
    assert code == 0
    assert "missing  " in out
    assert "note     what is missing is not read with these arguments" in out
    result = mmbench("data", "check", "cmu_mosi", "target=seven", "--data-root", here)
    refused(result, "1 of 10 files are missing", code=1)


BROKEN = """
import numpy as np
from mmbench.data.samples import Samples
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

class Broken(DataModule):
    source = Source(citation="none")

    def describe(self):
        return Task("single_label", (Modality("a", "vector", (3,)),), ("no", "yes"))

    def load(self, split):
        ids = {"train": np.arange(4), "val": np.arange(3, 5), "test": np.arange(9, 10)}[split]
        n = len(ids)
        width = 2 if split == "val" else 3
        return Samples(("a",), {"a": np.zeros((n, width))}, np.full(n, 2 * (split == "test")),
                       ids, np.ones((n, 1), bool))
"""


def test_a_plugin_that_breaks_its_promises_is_told_which(mmbench, here, monkeypatch):
    (here / "broken_data_set.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(here)
    result = mmbench("data", "check", "broken_data_set.Broken")
    refused(result, "broken_data_set.Broken is not whole: 3 problems, see above", code=1)
    assert [line[9:] for line in result[1].splitlines() if line.startswith("problem")] == [
        "val: a has the shape (2,), the task says (3,)",
        "test: its classes are not whole numbers from 0 to 1",
        "train and val share 1 sample, such as 3",
    ]


def test_a_description_counts_what_the_samples_hold(mmbench):
    code, out, _ = mmbench("data", "describe", "tabler")
    assert code == 0
    assert "licence  MIT" in out
    rows = cells(out)
    data = DATASETS.get("tabler")(NO_DATA, Scenario.parse({"name": "s"} | MNAR))
    splits = [data.load(split) for split in SPLITS]
    assert rows["samples"] == [str(len(samples)) for samples in splits]
    assert rows["missing rate"] == [f"{1 - s.presence.mean():.3f}" for s in splits]
    assert rows["outline+tags"] == [str((~s.presence[:, 1]).sum()) for s in splits]
    assert rows["Arrows"] == [str((s.target == 0).sum()) for s in splits]
    assert rows["outline"] == ["image", "1 x 32 x 32", ""]


def test_a_description_takes_arguments(mmbench):
    code, out, _ = mmbench("data", "describe", "tabler", "modalities=[filled,tags]")
    assert code == 0
    assert "outline+" not in out
    refused(mmbench("data", "describe", "tabler", "modalitis=[tags]"), "did you mean 'modalities'?")
    refused(mmbench("data", "describe", "tabler", "fold=1"), "unknown key 'fold'")
    refused(mmbench("data", "describe", "tabler", "tags"), "'tags' is no override; write key=value")
    refused(mmbench("data", "describe", "tablr"), "no data set named 'tablr'; did you mean")
    refused(mmbench("data", "describe", "mfeat", "--fold", 1), "fold 1 was asked for")


def test_a_data_set_that_needs_arguments_is_described_by_its_rules(mmbench):
    code, out, _ = mmbench("data", "describe", "table")
    assert code == 0
    assert "What a cell means." in out
    assert "unlabelled: Whether rows without a label" in out
    assert "needs    files=..., labels=..." in out


def test_a_description_says_what_was_filled_in(mmbench, here):
    split = ["train", "val", "test"] * 3
    pd.DataFrame({"id": range(9), "label": list("ab" * 4 + "a"), "split": split}).to_csv(
        "l.csv", index=False
    )
    pd.DataFrame({"id": range(9), "x": [1.5, None, *range(7)], "y": 1}).to_csv("x.csv", index=False)
    words = ["files.lab=x.csv", "labels=l.csv", "split=split", "--data-root", here]
    code, out, _ = mmbench("data", "describe", "table", *words)
    assert code == 0
    assert "of training; cells: 1, rows: 1\n" in out
    code, out, _ = mmbench("data", "check", "table", *words)
    assert code == 0
    assert f"found    {here / 'x.csv'}" in out
    code, out, _ = mmbench("data", "check", "table", *words, "files.more=no.csv")
    assert code == 1
    assert f"missing  {here / 'no.csv'}" in out


BOOKS = """
import numpy as np
from pathlib import Path
from mmbench.data.samples import Samples
from mmbench.data.task import Modality, Task
from mmbench.datamodule import Counts, DataModule, Source

class Books(DataModule):
    source = Source(citation="none", papers=("A study: 4 / 4 / 4, all words",))
    files = ("books/pages.csv",)
    published = (
        Counts("table 1 of a study", "train", samples=4, classes={"dull": 2, "good": 2}),
        Counts("table 1 of a study", "test", samples=5, classes={"good": 3}),
        Counts("its page", None, samples=12),
    )

    def describe(self):
        return Task("single_label", (Modality("a", "vector", (1,)),), ("dull", "good"))

    def load(self, split):
        ids = np.arange(4) + 4 * ("train", "val", "test").index(split)
        return Samples(("a",), {"a": np.zeros((4, 1))}, ids % 2, ids, np.ones((4, 1), bool))

    def subject_of(self, split):
        return np.array(["ann", "bob"] if split != "test" else ["bob", "cid"])
"""


def test_a_check_compares_with_what_was_published_and_looks_for_people_in_two_splits(
    mmbench, here, monkeypatch
):
    (here / "books_data_set.py").write_text(BOOKS)
    monkeypatch.syspath_prepend(here)
    name = "books_data_set.Books"
    code, out, _ = mmbench("data", "describe", name, "--data-root", here)
    assert code == 0
    assert "paper    A study: 4 / 4 / 4, all words" in out
    assert "note     nothing is counted: none of its files is in" in out
    (here / "books").mkdir()
    (here / "books" / "pages.csv").write_text("\n")
    result = mmbench("data", "check", name, "--data-root", here)
    refused(result, f"{name} is not whole: 5 problems, see above", code=1)
    problems = [line[9:] for line in result[1].splitlines() if line.startswith("problem")]
    assert problems == [
        "test: 4 samples, but 5 in table 1 of a study",
        "test: 2 of good, but 3 in table 1 of a study",
        "train and val share 2 subjects, such as ann",
        "train and test share 1 subject, such as bob",
        "val and test share 1 subject, such as bob",
    ]
    (here / "books" / "TWIN.txt").write_text("made up\n")
    result = mmbench("data", "check", name, "--data-root", here)
    refused(result, f"{name} is not whole: 3 problems, see above", code=1)
    refused(mmbench("data", "twin", name, "--out", here), "books_data_set has no twin")
    assert not list(here.glob(".twin-*"))


def test_many_classes_are_summed_up_labels_counted_and_numbers_averaged(mmbench, here):
    WRITE["hundred_leaves"](here, np.random.default_rng(0))
    code, out, _ = mmbench("data", "describe", "hundred_leaves", "--data-root", here)
    assert code == 0
    assert {"rarest", "median", "most frequent"} <= set(cells(out))
    ids, level = np.arange(40), np.arange(40) * 0.5
    split = np.repeat(["train", "val", "test"], [20, 10, 10])
    pd.DataFrame({"id": ids, "label": level, "split": split}).to_csv("l.csv", index=False)
    pd.DataFrame({"id": ids, "x": level}).to_csv("x.csv", index=False)
    words = ["files.lab=x.csv", "labels=l.csv", "split=split", "task=regression"]
    code, out, _ = mmbench("data", "describe", "table", *words, "--data-root", here)
    assert code == 0
    assert cells(out)["label"][0] == f"{level[:20].mean():.3g} ± {level[:20].std():.3g}"
    pd.DataFrame({"id": ids, "a": 1, "b": ids % 2, "split": split}).to_csv("l.csv", index=False)
    words = [*words[:3], "task=multi_label", "target=[a,b]"]
    code, out, _ = mmbench("data", "describe", "table", *words, "--data-root", here)
    assert code == 0
    assert (cells(out)["a"], cells(out)["b"]) == (["20", "10", "10"], ["10", "5", "5"])


# --- masks: export and verify -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "condition"),
    [("train", None), ("val", None), ("test", "natural+mcar_0.4"), ("test", "kar")],
)
def test_an_export_drives_a_data_module_to_the_same_presence(mmbench, here, split, condition):
    words = ["--split", split] + (["--condition", condition] if condition else [])
    code, out, _ = mmbench("masks", "export", "mfeat", "mine.yaml", TWO, *words, "--out", "m/x.csv")
    assert code == 0
    drawn = data_module(MNAR)
    drawn.setup()
    wanted = drawn.split(split).presence if not condition else drawn.condition_presence(condition)
    assert not wanted.all()

    entry = yaml.safe_load(out.splitlines()[-1])[split]  # the line that it prints for a scenario
    natural = {"mechanism": "natural"}
    taken = data_module({"train": natural, "val": natural, "test": natural} | {split: entry})
    taken.setup()
    found = taken.condition_presence("table_x") if condition else taken.split(split).presence
    np.testing.assert_array_equal(found, wanted)

    table = PresenceTable.load(here / "m" / "x.csv")
    assert table.checksum == entry["checksum"]
    assert (table.drawn["mask_seed"], table.drawn["split"]) == (3, split)
    assert f"missing  {1 - wanted.mean():.4f} of the entries" in out
    pattern, count = (
        ("kar", len(wanted)) if condition == "kar" else ("fou+kar", wanted.all(1).sum())
    )
    assert cells(out)[pattern] == [str(count)]


@pytest.mark.slow
def test_an_exported_table_drives_a_run(mmbench, here):
    code, out, _ = mmbench("masks", "export", "mfeat", "mine.yaml", TWO, "--condition", "fou")
    assert code == 0
    path = "mfeat_mine_test_fou.csv"
    scenario = {
        "name": "mine",
        "train": {"mechanism": "natural"},
        "test": [yaml.safe_load(out.splitlines()[-1])["test"]],
    }
    words = suite(scenarios=[scenario], methods=["majority"], limit=None)
    (here / "s.yaml").write_text(yaml.safe_dump(words.model_dump(exclude={"limit"})))
    assert mmbench("run", "s.yaml", "--workers", 1)[0] == 0
    [saved] = here.glob("results/tiny/runs/*/*/*/*/predictions/table_mfeat_mine_test_fou.npz")
    table = PresenceTable.load(here / path)
    with np.load(saved) as content:
        np.testing.assert_array_equal(content["sample_id"], table.sample_id)
        np.testing.assert_array_equal(content["presence"], table.presence)

    # another table under the same name is not the one that the scenario names
    (here / path).unlink()
    words = ["--condition", "kar", "--out", path]
    assert mmbench("masks", "export", "mfeat", "mine.yaml", TWO, *words)[0] == 0
    refused(mmbench("run", "s.yaml"), f"{path} is not the table that the scenario names")


def test_a_table_for_other_modalities_stops_a_run_before_it_starts(mmbench, here):
    words = ["modalities=[fou,zer]", "--condition", "mcar_0.3", "--out", "t.csv"]
    assert mmbench("masks", "export", "mfeat", "mcar", *words)[0] == 0
    table = {"mechanism": "table", "path": "t.csv"}
    scenario = {"name": "mine", "train": {"mechanism": "natural"}, "test": [table]}
    words = suite(scenarios=[scenario]).model_dump(exclude={"keep_weights"})
    (here / "s.yaml").write_text(yaml.safe_dump(words))
    refused(mmbench("run", "s.yaml"), "test table_t: no modality named 'zer'")


def test_the_mask_seed_changes_the_table_and_is_written_down(mmbench, here):
    words = ["mfeat", "mcar", TWO, "--condition", "mcar_0.3", "--split", "test"]
    for seed in (0, 7):
        out = f"{seed}.csv"
        assert mmbench("masks", "export", *words, "--mask-seed", seed, "--out", out)[0] == 0
    first, second = (PresenceTable.load(here / f"{seed}.csv") for seed in (0, 7))
    assert first.checksum != second.checksum
    assert (first.presence != second.presence).any()
    assert second.drawn["mask_seed"] == 7
    spec = {"train": {"mechanism": "natural"}, "test": {"mechanism": "mcar", "missing_rate": 0.3}}
    again = data_module(spec | {"mask_seed": 7})
    again.setup()
    np.testing.assert_array_equal(again.condition_presence("mcar_0.3"), second.presence)


def test_an_export_never_replaces_another_file(mmbench, here):
    words = ["masks", "export", "mfeat", "mcar", TWO, "--condition"]
    assert mmbench(*words, "mcar_0.3", "--out", "t.csv")[0] == 0
    before = (here / "t.csv").read_bytes()
    assert mmbench(*words, "mcar_0.3", "--out", "t.csv")[0] == 0  # the same again is fine
    refused(
        mmbench(*words, "mcar_0.2", "--out", "t.csv"), "t.csv is there and holds something else"
    )
    (here / "notes.csv").write_text("mine\n")
    refused(mmbench(*words, "mcar_0.2", "--out", "notes.csv"), "holds something else")
    assert (here / "t.csv").read_bytes() == before
    refused(mmbench(*words, "mcar_0.2", "--out", "notes.csv/x.csv"), "cannot be written")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mcarr"], "no scenario named 'mcarr'; did you mean 'mcar'?"),
        (["nowhere.yaml"], "nowhere.yaml cannot be read: [Errno 2]"),
        (["list.yaml"], "list.yaml is no scenario: it must be a mapping"),
        (["broken.yaml"], "broken.yaml is no YAML (line 1)"),
        (["odd.yaml"], "scenario 'odd': unknown key 'tests'; did you mean 'test'?"),
        (["mcar"], "scenario 'mcar' has 6 test conditions; choose one with --condition: complete"),
        (["mcar", "--condition", "mcar_0.33"], "no test condition 'mcar_0.33'; did you mean"),
        (["mcar", "--split", "val", "--condition", "mcar_0.3"], "belongs to the test split"),
        (["high.yaml", TWO], "the highest rate is (M - 1) / M = 0.500"),
        (["mcar", "batch_size=3"], "unknown key 'batch_size'"),
        (["mcar", "--fold", "1", "--condition", "complete"], "fold 1 was asked for"),
    ],
)
def test_a_mistaken_export_is_one_line_and_writes_nothing(mmbench, here, words, message):
    (here / "list.yaml").write_text("[a, b]")
    (here / "broken.yaml").write_text("train: [x")
    (here / "odd.yaml").write_text("{tests: 1}")
    high = {"mechanism": "mcar", "missing_rate": 0.7}
    (here / "high.yaml").write_text(yaml.safe_dump({"train": high, "test": high}))
    before = sorted(here.rglob("*"))
    refused(mmbench("masks", "export", "mfeat", *words), message)
    assert sorted(here.rglob("*")) == before


@pytest.fixture
def table(mmbench, here):
    """A presence table for the test split of two modalities of mfeat, `t.csv`."""
    words = ["mfeat", "mcar", TWO, "--condition", "mcar_0.3", "--out", "t.csv"]
    assert mmbench("masks", "export", *words)[0] == 0
    return PresenceTable.load(here / "t.csv")


def changed(table, **changes):
    names = ("modalities", "sample_id", "presence", "drawn")
    return PresenceTable(**{name: getattr(table, name) for name in names} | changes)


def test_a_table_that_fits_verifies(mmbench, here, table):
    code, out, _ = mmbench("masks", "verify", "t.csv")
    assert code == 0
    assert table.checksum in out
    assert cells(out)["fou+kar"] == [str(table.presence.all(axis=1).sum())]
    code, out, _ = mmbench("masks", "verify", "t.csv", "mfeat", TWO)
    assert code == 0
    assert out.endswith("fits     all 300 samples of mfeat test\n")
    refused(mmbench("masks", "verify", "t.csv", "--split", "test"), "of which data set?")


def test_a_changed_byte_is_found(mmbench, here, table):
    text = (here / "t.csv").read_text()
    (here / "t.csv").write_text(text.replace(",1,1\n", ",1,0\n", 1))
    refused(mmbench("masks", "verify", "t.csv"), "t.csv has been changed: its checksum is")
    shutil.copy(here / "mine.yaml", here / "u.csv")
    refused(mmbench("masks", "verify", "u.csv"), "u.csv is no presence table")
    refused(mmbench("masks", "verify", "v.csv"), "v.csv cannot be read as a presence table")


def test_a_table_for_other_samples_or_modalities_is_refused(mmbench, here, table):
    verify = ["masks", "verify", "u.csv", "mfeat", TWO]
    changed(table, sample_id=table.sample_id + 10**6).save(here / "u.csv")
    refused(mmbench(*verify), "u.csv does not fit mfeat test: sample")
    changed(table, modalities=("fou", "zer")).save(here / "u.csv")
    refused(
        mmbench(*verify), "u.csv does not fit mfeat test: the presence table has the modalities"
    )
    both = np.concatenate([table.sample_id, [10**6]])
    shown = np.concatenate([table.presence, [[True, True]]])
    changed(table, sample_id=both, presence=shown).save(here / "u.csv")
    refused(mmbench(*verify), "sample 1000000 (1 in all) is in none of its splits")
    refused(mmbench(*verify, "--split", "train"), "u.csv does not fit mfeat train")
    changed(table, drawn={}).save(here / "u.csv")
    refused(mmbench(*verify), "u.csv does not say which split it is for")
    assert mmbench(*verify, "--split", "test")[0] == 0


def test_rows_of_other_splits_are_counted(mmbench, here, table):
    val = data_module(MNAR).samples("val")
    both = np.concatenate([val.sample_id, table.sample_id])
    shown = np.concatenate([val.presence, table.presence])
    changed(table, sample_id=both, presence=shown).save(here / "u.csv")
    code, out, _ = mmbench("masks", "verify", "u.csv", "mfeat", TWO)
    assert code == 0
    assert f"of mfeat test; {len(val)} rows are of other splits" in out


def test_a_table_that_reveals_what_nature_hid_is_refused(mmbench, here):
    words = ["tabler", "complete", "--out", "t.csv"]
    assert mmbench("masks", "export", *words)[0] == 0
    found = PresenceTable.load(here / "t.csv")
    assert not found.presence.all()
    changed(found, presence=np.ones_like(found.presence)).save(here / "u.csv")
    refused(mmbench("masks", "verify", "u.csv", "tabler"), "which lacks it by nature")


# --- masks: import ----------------------------------------------------------------------------


@pytest.fixture
def memes(here):
    """A data set of text and image, as arguments; returns them and the ids in file order."""
    ids = np.array([5, 3, 9, 1, 8, 2, 7, 4, 6])
    split = ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    pd.DataFrame({"id": ids, "label": ids % 2, "split": split}).to_csv("l.csv", index=False)
    for name in ("image", "text"):
        pd.DataFrame({"id": ids, "x": ids}).to_csv(f"{name}.csv", index=False)
    words = ["files.image=image.csv", "files.text=text.csv", "labels=l.csv", "split=split"]
    return ["--data", "table", *words, "--data-root", "."], ids


def test_a_tensor_of_missing_aware_prompts_becomes_a_table(mmbench, here, memes):
    words, _ = memes
    torch.save(torch.tensor([2, 0, 1]), here / "test.pt")
    words = ["masks", "import", "test.pt", "--format", "missing_aware_prompts", *words]
    refused(mmbench(*words, "--out", "t.csv"), "holds one split; add --split test")
    code, out, _ = mmbench(*words, "--split", "test", "--out", "t.csv")
    assert code == 0
    found = PresenceTable.load(here / "t.csv")
    assert found.modalities == ("image", "text")  # in the order of the data set
    assert found.sample_id.tolist() == [7, 4, 6]
    assert found.presence.tolist() == [[False, True], [True, True], [True, False]]
    assert found.drawn["legacy"] == "missing_aware_prompts"
    entry = yaml.safe_load(out.splitlines()[-1])["test"]
    assert entry == {"mechanism": "table", "path": "t.csv", "checksum": found.checksum}
    code, out, _ = mmbench("masks", "verify", "t.csv", *words[6:])
    assert code == 0
    refused(
        mmbench(*words, "--split", "val", "--out", "u.csv"), "has the shape (3,), but there are 2"
    )
    refused(
        mmbench(*words, "--split", "test", "--missing", "text", "--out", "u.csv"),
        "belong to --format redeem",
    )


def test_a_table_of_redeem_covers_all_splits_or_the_one_that_is_asked_for(mmbench, here, memes):
    words, ids = memes
    codes = [0, 1, 2, 2, 0, 1, 2, 0, 1]  # both: 0 without text, 1 without image
    pd.DataFrame({"missing_mask_7": codes}).to_csv("m.csv", index=False)
    words = ["masks", "import", "m.csv", "--format", "redeem", *words]
    refused(mmbench(*words, "--out", "t.csv"), "--incomplete-rate 0.7 --missing")
    words += ["--incomplete-rate", "0.7", "--missing", "both"]
    code, out, _ = mmbench(*words, "--out", "t.csv")
    assert code == 0
    found = PresenceTable.load(here / "t.csv")
    assert found.sample_id.tolist() == ids.tolist()
    assert found.presence.tolist() == [[code != 1, code != 0] for code in codes]
    assert [*yaml.safe_load("\n".join(out.splitlines()[-3:]))] == ["train", "val", "test"]
    assert mmbench(*words, "--split", "val", "--out", "v.csv")[0] == 0
    found = PresenceTable.load(here / "v.csv")
    assert found.sample_id.tolist() == [8, 2]
    assert found.presence.tolist() == [[True, False], [False, True]]


@pytest.fixture
def visits(here):
    """A data set whose ids are names, as arguments; returns them and the names in file order."""
    names = ["p1", "01", "NA", "p2", "p3", "p4"]
    split = ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    pd.DataFrame({"patient": names, "label": list("xyxyxy"), "split": split}).to_csv(
        "l.csv", index=False
    )
    for name in "ab":
        pd.DataFrame({"patient": names, "x": range(6)}).to_csv(f"{name}.csv", index=False)
    words = ["files.a=a.csv", "files.b=b.csv", "labels=l.csv", "split=split", "id=patient"]
    return ["--data", "table", *words, "--data-root", "."], names


def test_a_table_of_ones_own_ids_becomes_a_presence_table(mmbench, here, visits):
    words, names = visits
    shown = {"p3": (1, 0), "NA": (0, 1), "p1": (1, 1), "01": (1, 0), "p2": (0, 1), "p4": (1, 1)}
    rows = "".join(f"{name};{b};{a}\n" for name, (a, b) in shown.items())
    (here / "mine.csv").write_text("patient;b;a\n" + rows)
    refused(mmbench("masks", "verify", "mine.csv"), "masks import mine.csv --format own")
    words = ["masks", "import", "mine.csv", "--format", "own", *words]
    code, out, _ = mmbench(*words, "--out", "m.csv")
    assert code == 0
    assert "table / test: 2 samples, by their ids" in out
    found = PresenceTable.load(here / "m.csv")
    assert found.modalities == ("a", "b")
    by_id = dict(zip(found.sample_id.tolist(), found.presence.astype(int).tolist(), strict=True))
    assert by_id == {stable_hash(name): list(shown[name]) for name in names}
    assert mmbench(*words, "--split", "test", "--out", "t.csv")[0] == 0
    assert len(PresenceTable.load(here / "t.csv").sample_id) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("p9,1,1", "mine.csv row 8 (id p9): no sample of the data has this id (1 such in all)"),
        ("p1,1,1", "mine.csv row 8: id p1 occurs a second time"),
        ("p1,2,1", "mine.csv row 2 (id p1): a is '2', but wanted is 0 or 1"),
        ("p1,,1", "mine.csv row 2 (id p1): a is '', but wanted is 0 or 1"),
        ("p1,0,0", "mine.csv row 2 (id p1) shows no modality at all"),
        ("", "is not in the presence table"),
    ],
)
def test_a_table_of_ones_own_that_does_not_fit_is_refused(mmbench, here, visits, rows, message):
    words, names = visits
    body = [f"{name},1,true" for name in names]
    body = [*body, rows] if "row 8" in message else [rows, *body[1:]]
    (here / "mine.csv").write_text("\n".join(["patient,a,b", *filter(None, body)]) + "\n")
    words = ["masks", "import", "mine.csv", "--format", "own", *words, "--out", "m.csv"]
    refused(mmbench(*words), message)
    assert not (here / "m.csv").exists()


def test_a_table_of_ones_own_without_a_modality_is_refused(mmbench, here, visits):
    words, names = visits
    (here / "mine.csv").write_text("patient,a\n" + "".join(f"{name},1\n" for name in names))
    words = ["masks", "import", "mine.csv", "--format", "own", *words, "--out", "m.csv"]
    refused(mmbench(*words), "mine.csv has no column 'b'; it has patient, a")


def test_whole_numbers_in_a_table_of_ones_own_are_the_ids(mmbench, here, memes):
    words, ids = memes
    body = "".join(f"{one},{one % 2},1\n" for one in ids)
    (here / "mine.csv").write_text("id,text,image\n" + body)
    code, _, _ = mmbench("masks", "import", "mine.csv", "--format", "own", *words, "--out", "m.csv")
    assert code == 0
    found = PresenceTable.load(here / "m.csv")
    assert found.sample_id.tolist() == ids.tolist()
    assert found.presence.tolist() == [[True, bool(one % 2)] for one in ids]


def test_a_pickle_is_refused_with_the_way_to_convert_it(mmbench, here, memes):
    words, _ = memes
    pd.DataFrame({"missing_mask_7": [0] * 9}).to_pickle(here / "m.pkl")
    words = [*words, "--incomplete-rate", "0.7", "--missing", "both", "--out", "t.csv"]
    refused(
        mmbench("masks", "import", "m.pkl", "--format", "redeem", *words),
        "pandas.read_pickle('m.pkl').to_csv('m.csv', index=False)",
    )
    assert not (here / "t.csv").exists()


def test_a_legacy_table_for_data_without_text_and_image_is_refused(mmbench, here):
    torch.save(torch.zeros(300, dtype=torch.int64), here / "test.pt")
    words = ["--format", "missing_aware_prompts", "--data", "mfeat", "--split", "test"]
    refused(
        mmbench("masks", "import", "test.pt", *words, "--out", "t.csv", TWO),
        "test.pt does not fit mfeat test: the presence table has the modalities text, image",
    )


@pytest.mark.parametrize(
    "command",
    [("data", "list"), ("data", "check"), ("data", "describe"), ("data", "twin"),
     ("masks", "export"), ("masks", "verify"), ("masks", "import")],
)  # fmt: skip
def test_help_has_an_example(mmbench, command):
    code, out, _ = mmbench(*command, "--help")
    assert code == 0
    assert f"Example: mmbench {' '.join(command)}" in " ".join(out.split())
