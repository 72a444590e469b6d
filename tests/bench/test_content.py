"""What the data are made of is part of a run's key."""

import json
import os
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from mmbench.bench.content import Contents
from mmbench.bench.run.build import build_data, check_arguments, examine, modalities_of
from mmbench.bench.spec import Suite, parse
from mmbench.cli import main
from mmbench.data import frames
from mmbench.registry import DATASETS
from mmbench.sweep import Sweep

NATURAL = {"name": "n", "train": {"mechanism": "natural"}, "test": {"mechanism": "natural"}}
TABLE = {"name": "table", "args": {"files": {"x": "x.csv"}, "labels": "labels.csv"}}


def write(folder, *, noise):
    """One feature that tells the class, or with noise nothing."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    target = np.arange(120) % 2
    x = rng.normal(size=120) if noise else 4.0 * target + rng.normal(size=120)
    ids = [f"p{k}" for k in range(120)]
    pd.DataFrame({"id": ids, "label": target}).to_csv(folder / "labels.csv", index=False)
    pd.DataFrame({"id": ids, "x": x}).to_csv(folder / "x.csv", index=False)


def suite(**changes):
    words = {
        "name": "mine",
        "data": [TABLE],
        "methods": [{"name": "zero_fill", "args": {"dim": 8, "lr": 0.01}}],
        "scenarios": [NATURAL],
        "seeds": 1,
        "trainer": {"max_epochs": 4, "batch_size": 16},
        "select": {"metric": "accuracy"},
    }
    return parse(Suite, words | changes, "suite")


def planned(folder, root, *, look=True, examine=examine, **changes):
    contents = Contents(folder, root, examine, modalities_of)
    if look:
        contents.look(suite(**changes))
        folder.mkdir(exist_ok=True)
        contents.write()
    return contents.plan(suite(**changes))


def test_other_files_are_other_runs_and_the_same_files_elsewhere_are_not(tmp_path):
    write(tmp_path / "a", noise=False)
    write(tmp_path / "b", noise=True)
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    keys = {name: planned(tmp_path / name / "results", tmp_path / name)[0].key for name in "abc"}
    assert keys["a"] == keys["c"] != keys["b"]


def test_a_plan_made_after_an_edit_does_not_find_the_old_runs_and_does_after_it_is_taken_back(
    tmp_path,
):
    root, results = tmp_path / "data", tmp_path / "results"
    write(root, noise=False)
    first = planned(results, root)
    assert planned(results, root, look=False) == first
    write(root, noise=True)
    assert planned(results, root, look=False)[0].key != first[0].key  # status, leaderboard, report
    assert planned(results, root)[0].key != first[0].key
    write(root, noise=False)
    assert planned(results, root, look=False) == first


def test_an_edit_that_keeps_size_and_date_is_seen(tmp_path):
    root, results = tmp_path / "data", tmp_path / "results"
    write(root, noise=False)
    before = (root / "labels.csv").stat()
    first = planned(results, root)
    text = (root / "labels.csv").read_text().replace("p0,0", "p0,1")
    (root / "new").write_text(text)
    (root / "new").replace(root / "labels.csv")
    os.utime(root / "labels.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (root / "labels.csv").stat().st_size == before.st_size
    assert planned(results, root)[0].key != first[0].key


def test_where_the_data_are_not_what_is_remembered_counts(tmp_path):
    root, results = tmp_path / "data", tmp_path / "results"
    write(root, noise=False)
    first = planned(results, root)
    root.rename(tmp_path / "away")
    assert planned(results, root, look=False) == first
    with pytest.raises(ValueError, match="no folder"):
        planned(results, root)


@pytest.mark.parametrize("what", ["files", "code"])
def test_what_was_changed_and_cannot_be_read_is_said_and_what_is_remembered_does_not_count(
    tmp_path, what
):
    root, results = tmp_path / "data", tmp_path / "results"
    write(root, noise=False)
    first = planned(results, root)

    def unreadable(entry, root):
        raise ValueError("labels.csv is no table")

    assert planned(results, root, look=False, examine=unreadable) == first
    if what == "files":
        (root / "labels.csv").write_bytes(b"\0")
    else:
        remembered = json.loads((results / "content.json").read_text())
        [known] = remembered.values()
        known["made_of"]["code"]["datamodules.table"] = "of yesterday"
        (results / "content.json").write_text(json.dumps(remembered))
    with pytest.raises(ValueError, match="no table"):
        planned(results, root, look=False, examine=unreadable)
    root.rename(tmp_path / "away")
    assert len(planned(results, root, look=False, examine=unreadable)) == 1


def test_unchanged_files_are_not_read_again(tmp_path):
    root, results = tmp_path / "data", tmp_path / "results"
    write(root, noise=False)
    first = planned(results, root)

    def never(entry, root):
        raise AssertionError("read again")

    assert planned(results, root, examine=never) == first
    assert planned(results, root, examine=never, look=False) == first


PLUGIN = """
import numpy as np
from mmbench.data import frames
from mmbench.data.samples import Samples
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

class Made(DataModule):
    source = Source(citation="none")

    def describe(self):
        return Task("single_label", (Modality("x", "vector", (1,)),), ("no", "yes"))

    def load(self, split):
        n, first = 20, 100 * ["train", "val", "test"].index(split)
        return Samples(("x",), {"x": np.zeros((n, 1))}, np.arange(n) % 2, first + np.arange(n),
                       np.ones((n, 1), bool))
"""


def test_the_code_of_a_data_set_is_part_of_it_and_the_rest_of_mmbench_is_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number, change in enumerate(("", "# another comment\n")):
        (tmp_path / f"made_{number}.py").write_text(PLUGIN + change)
        cls = DATASETS.get(f"made_{number}.Made")
        found.append(examine(suite(data=[f"made_{number}.Made"]).data[0], tmp_path)["code"])
        assert list(found[-1]) == [cls.__module__]
    assert found[0]["made_0"] != found[1]["made_1"]
    shipped = examine(suite(data=["mfeat"]).data[0], tmp_path)
    assert "datamodules.mfeat" in shipped["code"]
    assert not any(name.startswith("mmbench") for name in shipped["code"])


def test_nothing_stale_is_printed(tmp_path, monkeypatch, capsys):
    """The same command after a file was edited trains again; old numbers are gone."""
    root, results = tmp_path / "data", tmp_path / "results"
    write(root, noise=False)
    (tmp_path / "suite.json").write_text(suite().model_dump_json(exclude_defaults=True))
    words = [str(tmp_path / "suite.json"), "--data-root", str(root), "--results", str(results)]

    def call(*more):
        monkeypatch.setattr(sys, "argv", ["mmbench", *more])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0

    def accuracy():
        board = pd.read_csv(results / "mine" / "leaderboard.csv")
        return board.loc[board["metric"] == "accuracy", "mean"].item()

    assert call("run", *words, "--workers", "1") == 0
    assert accuracy() > 0.9
    write(root, noise=True)
    capsys.readouterr()
    assert call("status", *words) == 0
    assert "1 waiting" in capsys.readouterr().out
    assert call("leaderboard", *words) == 2
    assert "no finished run" in capsys.readouterr().err
    assert call("run", *words, "--workers", "1") == 0
    assert accuracy() < 0.8
    remembered = (results / "mine" / "content.json").read_text()
    assert str(tmp_path) not in remembered
    assert json.loads(remembered)


def test_files_are_read_once_a_process_whatever_the_scenario_and_the_method(tmp_path, monkeypatch):
    write(tmp_path / "data", noise=False)
    frames._read.cache_clear()
    reads, csv = [], frames._csv
    monkeypatch.setattr(
        frames, "_csv", lambda path, *a, **k: reads.append(path.name) or csv(path, *a, **k)
    )
    mcar = NATURAL | {"name": "m", "train": {"mechanism": "natural"}}
    specs = planned(
        tmp_path / "results",
        tmp_path / "data",
        methods=["majority", "zero_fill"],
        scenarios=[NATURAL, mcar],
        seeds=2,
    )
    for spec in specs:
        check_arguments(spec, tmp_path / "data")
        data = build_data(spec, tmp_path / "data")
        data.setup()
        assert data.scenario.name == spec.scenario_name
        data.notes()
    assert sorted(reads) == ["labels.csv", "x.csv"]


EACH = {"name": "unimodal", "args": {"modality": "*", "dim": 8}}


def test_one_entry_plans_a_run_for_every_modality_of_each_data_set(tmp_path):
    write(tmp_path / "data", noise=False)
    digits = {"name": "mfeat", "args": {"modalities": ["kar", "fou"]}}
    words = {"data": [TABLE, digits], "methods": ["zero_fill", EACH, "majority"], "seeds": 2}
    runs = planned(tmp_path / "results", tmp_path / "data", **words)
    rows = [(run.data, run.seed, run.method_label) for run in runs]
    each = {"table": ["unimodal_x"], "mfeat": ["unimodal_kar", "unimodal_fou"]}
    assert rows == [
        (data, seed, label)
        for data, names in each.items()
        for seed in (0, 1)
        for label in ("zero_fill", *names, "majority")
    ]
    assert [run.method_args for run in runs if run.method_label == "unimodal_fou"] == [
        {"modality": "fou", "dim": 8}
    ] * 2
    # a run is the one that a suite with that modality alone would have
    alone = {"name": "unimodal", "args": {"modality": "fou", "dim": 8}}
    other = planned(tmp_path / "o", tmp_path / "data", data=[digits], methods=[alone])
    assert other[0].key in {run.key for run in runs}


def test_modalities_are_remembered_and_asked_for_only_where_they_are_needed(tmp_path):
    root, results = tmp_path / "data", tmp_path / "results"
    write(root, noise=False)
    planned(results, root)
    assert "modalities" not in (results / "content.json").read_text()
    [run] = planned(results, root, methods=[EACH])
    assert run.method_label == "unimodal_x"
    root.rename(tmp_path / "away")
    assert planned(results, root, look=False, methods=[EACH]) == [run]
    # never looked at: no runs either, and the entry stays as it is
    [other] = planned(tmp_path / "new", root, look=False, methods=[EACH])
    assert other.method_args["modality"] == "*"


def test_rows_of_every_modality_are_called_apart(tmp_path):
    write(tmp_path, noise=False)
    wide = {"name": "unimodal", "args": {"modality": "*", "dim": 16}}
    with pytest.raises(ValueError, match="two entries of the suite are called 'unimodal_x'"):
        planned(tmp_path / "a", tmp_path, methods=[EACH, wide])
    runs = planned(tmp_path / "b", tmp_path, methods=[EACH, wide | {"label": "wide"}])
    assert [run.method_label for run in runs] == ["unimodal_x", "wide_x"]


def test_a_table_has_a_row_for_every_modality(tmp_path):
    write(tmp_path / "data", noise=False)
    digits = {"name": "mfeat", "args": {"modalities": ["mor", "fou"]}}
    words = suite(data=[TABLE, digits], methods=["majority", EACH], limit=40).model_dump()
    where = {"results": tmp_path / "results", "data_root": tmp_path / "data"}
    sweep = Sweep(words, **where)
    assert set(sweep.run(workers=1)["state"]) == {"done"}
    rows = sweep.leaderboard().groupby("data")["method"].unique().map(set).to_dict()
    assert rows == {
        "mfeat": {"majority", "unimodal_mor", "unimodal_fou"},
        "table": {"majority", "unimodal_x"},
    }
    again = Sweep(sweep.folder, **where)  # its folder knows them, too
    assert again.specs == sweep.specs
    assert not again.todo()
