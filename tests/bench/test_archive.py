"""An archive: small, whole or refused, and enough for every table."""

import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from sweeps import NO_DATA, suite

import mmbench
from mmbench.bench.archive import merge, read_manifest, unpack
from mmbench.bench.leaderboard import COLUMNS
from mmbench.bench.published import stale
from mmbench.bench.record import find_run, finish, read_predictions
from mmbench.bench.result import read_result
from mmbench.bench.spec import PROTOCOL
from mmbench.verify import verify

pytest.importorskip("pyarrow")
METHODS = ["late_logistic", {"name": "zero_fill", "args": {"dim": 8}}]


def words(methods=METHODS, **changes):
    return suite(methods=methods, seeds=2, **changes).model_dump()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of two methods, and its archive."""
    sweep = mmbench.Sweep(words(), results=tmp_path_factory.mktemp("results"))
    sweep.run(workers=1)
    file, runs = sweep.archive()
    assert runs == 4
    return sweep, file


def test_the_same_runs_give_the_same_bytes_and_every_member_has_a_checksum(finished, tmp_path):
    sweep, file = finished
    again, _ = sweep.archive(tmp_path / "again.zip")
    assert again.read_bytes() == file.read_bytes()
    manifest = read_manifest(file)
    with zipfile.ZipFile(file) as archive:
        assert set(manifest["files"]) == set(archive.namelist()) - {"manifest.json"}


def test_an_archive_gives_the_same_table_where_no_run_lies(finished, tmp_path):
    sweep, file = finished
    unpack(file, tmp_path / "tiny-limit64")
    other = mmbench.Sweep(words(), results=tmp_path)
    assert [run.state for run in other.runs(read_up_to=None)] == ["done"] * 4
    assert other.todo() == []
    ours, theirs = sweep.leaderboard(), other.leaderboard()
    sampled = ["p_vs_best", "sample_ci_low", "sample_ci_high"]  # of predictions in half precision
    pd.testing.assert_frame_equal(ours.drop(columns=sampled), theirs.drop(columns=sampled))
    pd.testing.assert_frame_equal(ours[sampled], theirs[sampled], atol=0.02)
    for run, copy in zip(sweep.runs(), other.runs(), strict=True):
        a, b = read_predictions(run, "complete"), read_predictions(copy, "complete")
        assert set(a) == set(b)
        np.testing.assert_allclose(a["logits"], b["logits"], rtol=1e-3, atol=1e-3)
        assert all(np.array_equal(a[name], b[name]) for name in set(a) - {"logits"})
        assert b["logits"].dtype == np.float32


def test_of_the_runs_that_are_asked_for_all_is_laid_out_and_nothing_of_others(finished, tmp_path):
    sweep, file = finished
    unpack(file, tmp_path, only=[])
    assert not (tmp_path / "runs").exists()
    assert (tmp_path / "suite.json").is_file()
    ours = sweep.runs()[2]  # neither the first nor the last of its file
    unpack(file, tmp_path, scratch=True, only=[ours.spec])
    copy = find_run(ours.spec, tmp_path / "runs")
    assert [end.parent for end in tmp_path.rglob("done")] == [copy.folder]
    for condition in ("complete", "mcar_0.3"):
        logits = (read_predictions(run, condition)["logits"] for run in (ours, copy))
        np.testing.assert_allclose(*logits, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("member", ["manifest.json", "predictions.parquet", "runs.parquet"])
def test_a_changed_byte_is_noticed(finished, tmp_path, member):
    _, file = finished
    changed = tmp_path / "changed.zip"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == member:
                content = content[:-9] + b"x" + content[-8:]
            new.writestr(name, content)
    with pytest.raises(ValueError, match=r"changed\.zip is (damaged|no whole archive)"):
        unpack(changed, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_what_is_no_archive_is_one_line(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    for name in ("a.zip", "b.zip"):
        with pytest.raises(ValueError, match="is no whole archive of mmbench"):
            read_manifest(tmp_path / name)


def test_a_new_method_stands_beside_archived_rows_that_are_not_trained(finished, tmp_path):
    _, file = finished
    mine = mmbench.Sweep(words(["mean_fusion"]), results=tmp_path)
    mine.run(workers=1)
    with mine.against(file) as runs:
        board, _ = mine.boards(runs=runs)
    assert set(board["method"]) == {"mean_fusion", "late_logistic", "zero_fill"}
    shown = board[(board["metric"] == "accuracy") & (board["condition"] == "complete")]
    assert sorted(shown["rank"]) == [1, 2, 3]
    assert shown["p_vs_best"].notna().sum() == 2
    assert len(list(mine.runs_folder.glob("[!.]*/*/*/[!.]*"))) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"max_epochs": 2}}, "trainer of mfeat differs"),
        ({"seeds": 3}, r"give seeds=\[0, 1\]"),
        ({"select": {"metric": "macro_f1"}}, "select of mfeat differs"),
    ],
)
def test_rows_of_other_settings_are_refused(finished, tmp_path, changes, message):
    _, file = finished
    mine = mmbench.Sweep(words(["mean_fusion"]) | changes, results=tmp_path)
    mine.check()
    with pytest.raises(ValueError, match=message), mine.against(file):
        pass


def test_folders_and_archives_join_and_the_same_run_counts_once(finished, tmp_path):
    sweep, file = finished
    other = mmbench.Sweep(words(["mean_fusion"]), results=tmp_path)
    other.run(workers=1)
    assert merge(other.folder, sweep.folder) == 4
    assert merge(other.folder, file) == 0
    both = mmbench.Sweep(words([*METHODS, "mean_fusion"]), results=tmp_path)
    assert {run.state for run in both.runs(read_up_to=None)} == {"done"}


def test_a_run_of_another_content_is_an_error_and_nothing_is_joined(finished, tmp_path):
    sweep, file = finished
    unpack(file, tmp_path / "there")
    record = next((tmp_path / "there").rglob("zero_fill/*/metrics.json"))
    said = json.loads(record.read_text())
    said["selected"]["epoch"] = 7
    record.write_text(json.dumps(said))
    (record.parent / "done").unlink()
    finish(record.parent, "done")
    for other in (sweep.folder, file):
        with pytest.raises(ValueError, match="is in both with different scores or sources"):
            merge(tmp_path / "there", other)
    with pytest.raises(ValueError, match=r"no run has ended in .*nowhere"):
        merge(tmp_path / "there", tmp_path / "nowhere")


def test_published_runs_are_made_again_and_a_changed_one_is_found(finished, tmp_path):
    sweep, _ = finished
    verified = verify(sweep.folder, tmp_path / "a", sample=2, data_root=NO_DATA)
    assert verified.outdated == {}
    assert [check.state for check in verified.checks] == ["equal", "equal"]
    published = tmp_path / "tiny-limit64"
    published.mkdir()
    for name in ("leaderboard.csv", "suite.json"):
        (published / name).write_bytes((sweep.folder / name).read_bytes())
    verified = verify(published, tmp_path / "b", sample=1, data_root=NO_DATA)
    states = [check.state for check in verified.checks]
    assert states == ["within"], "no predictions: by the interval"
    board = pd.read_csv(published / "leaderboard.csv")
    board["mean"] += 0.5
    board["sources"] = "0123456789abcdef"
    board.to_csv(published / "leaderboard.csv", index=False)
    verified = verify(published, tmp_path / "c", sample=1, data_root=NO_DATA)
    assert [check.state for check in verified.checks] == ["differs"]
    assert verified.outdated == {("mfeat", "mcar30"): ["late_logistic", "zero_fill"]}
    board.drop(columns="sources").to_csv(published / "leaderboard.csv", index=False)
    verified = verify(published, tmp_path / "d", sample=1, data_root=NO_DATA)
    assert verified.checks == []
    assert "did not name their sources" in verified.skipped


def test_the_shortest_runs_are_drawn_where_few_are_as_short_as_asked(finished, tmp_path):
    sweep, _ = finished
    for seconds, sample in ((0.0, 1), (0.0, 3)):
        at = tmp_path / f"{sample}"
        verified = verify(sweep.folder, at, sample=sample, seconds=seconds, data_root=NO_DATA)
        assert len(verified.checks) == sample
    board = pd.read_csv(sweep.folder / "leaderboard.csv")
    quickest = board.groupby("method")["train_s"].mean().idxmin()
    assert sum(quickest in check.title for check in verified.checks) == 2


def test_data_that_are_not_here_are_left_out_by_name(finished, tmp_path):
    sweep, _ = finished
    published = tmp_path / "tiny-limit64"
    published.mkdir()
    suite = json.loads((sweep.folder / "suite.json").read_text())
    suite["data"].append({"name": "rosmap"})
    (published / "suite.json").write_text(json.dumps(suite))
    board = pd.read_csv(sweep.folder / "leaderboard.csv")
    board.to_csv(published / "leaderboard.csv", index=False)
    verified = verify(published, tmp_path / "a", sample=9, data_root=NO_DATA)
    assert list(verified.absent) == ["rosmap"]
    assert [check.state for check in verified.checks] == ["within"] * 4
    foreign = board.assign(data="rosmap")  # the suite has other data, too, the table has not
    foreign.to_csv(published / "leaderboard.csv", index=False)
    verified = verify(published, tmp_path / "c", sample=9, data_root=NO_DATA)
    assert (verified.checks, "set --data-root" in verified.skipped) == ([], True)
    (published / "suite.json").write_text(json.dumps(suite | {"data": [{"name": "rosmap"}]}))
    verified = verify(published, tmp_path / "b", sample=9, data_root=NO_DATA)
    assert verified.checks == []
    assert "set --data-root or MMBENCH_DATA" in verified.skipped


def test_a_table_that_does_not_name_its_sources_is_out_of_date():
    row = {"data": "d", "scenario": "s", "method": "m", "n_seeds": 2}
    now = {("d", "s", "m"): "here"}
    assert stale(pd.DataFrame([row]), now) == {("d", "s"): ["m"]}
    assert stale(pd.DataFrame([{**row, "sources": "here"}]), now) == {}
    assert stale(pd.DataFrame([{**row, "sources": "here there"}]), now) == {("d", "s"): ["m"]}


def test_a_folder_without_a_table_or_a_suite_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no leaderboard in"):
        verify(tmp_path, tmp_path / "x", sample=0, data_root=NO_DATA)
    row = {**dict.fromkeys(COLUMNS), "data": "d", "sources": "s", "protocol": PROTOCOL}
    pd.DataFrame([row]).to_csv(tmp_path / "leaderboard.csv", index=False)
    with pytest.raises(ValueError, match="does not say of which suite it is"):
        verify(tmp_path, tmp_path / "x", sample=0, data_root=NO_DATA)


def test_a_part_of_a_suite_that_is_committed_as_an_archive_goes_on_elsewhere(tmp_path):
    """Search and all: the other machine trains what is left and nothing else."""
    words = suite(seeds=2, methods=METHODS, tune={"trials": 2}).model_dump()
    here = mmbench.Sweep(words, "methods=[late_logistic]", results=tmp_path / "here")
    here.run(workers=1)
    whole = mmbench.Sweep(words, results=tmp_path / "here")
    part = whole.todo()  # the trials of zero_fill
    for _ in whole.execute(part[:1], 1):
        pass
    file, runs = mmbench.Sweep(words, results=tmp_path / "here").archive()
    assert runs == 3
    there = tmp_path / "there" / whole.folder.name
    there.mkdir(parents=True)
    (there / file.name).write_bytes(file.read_bytes())
    other = mmbench.Sweep(words, results=tmp_path / "there")
    assert other.archived() == 3
    assert [run.spec.key for run in other.todo()] == [run.spec.key for run in whole.todo()]
    assert other.taken_up == 3
    assert other.archived() == 0
    other.run(workers=1)
    assert {run.state for run in other.runs(read_up_to=None)} == {"done"}
    made = list(other.runs_folder.glob("[!.]*/*/*/[!.]*"))
    archived = [run for run in made if "archived" in json.loads((run / "done").read_text())]
    assert len(archived) == 3
    more, runs = other.archive()
    assert runs == len(made)
    assert mmbench.bench.archive.merge(whole.folder, more) == len(made) - 3


def test_of_a_search_that_goes_on_the_best_trial_alone_keeps_predictions(tmp_path):
    """What is beaten never becomes the best."""
    words = suite(seeds=1, methods=["zero_fill"], tune={"trials": 4}).model_dump()
    here = mmbench.Sweep(words, results=tmp_path / "here")
    for _ in here.execute(here.todo()[:2], 1):
        pass
    trials = [find_run(spec, here.runs_folder) for spec in here.searches.trials]
    done = [run.folder for run in trials if run.state == "done"]
    score = {folder.name: read_result(folder).selected.score for folder in done}
    assert len(set(score.values())) == 2
    file, runs = here.archive()
    assert runs == 2
    there = tmp_path / "there" / here.folder.name
    assert kept(file, there) == {max(score, key=score.__getitem__)}
    other = mmbench.Sweep(words, results=tmp_path / "there")
    assert [run.spec.key for run in other.todo()] == [run.spec.key for run in here.todo()]
    for sweep in (here, other):
        sweep.run(workers=1)
    assert [run.spec.key for run in other.runs()] == [run.spec.key for run in here.runs()]
    assert {run.state for run in other.runs(read_up_to=None)} == {"done"}
    made = list(other.runs_folder.glob("[!.]*/*/*/[!.]*"))
    assert sum("archived" in json.loads((run / "done").read_text()) for run in made) == 2


def kept(file, folder):
    """Names of an archive's runs that have predictions."""
    unpack(file, folder)
    return {found.parent.name for found in folder.rglob("predictions")}


def test_of_trials_of_an_ended_search_records_alone_are_kept(tmp_path):
    words = suite(methods=["zero_fill"], tune={"trials": 3}).model_dump()
    here = mmbench.Sweep(words, results=tmp_path / "here")
    here.run(workers=1)
    best = {run.folder.name for run in here.runs()}
    file, runs = here.archive()
    assert runs == 3
    there = tmp_path / "there" / here.folder.name
    there.mkdir(parents=True)
    (there / file.name).write_bytes(file.read_bytes())
    other = mmbench.Sweep(words, results=tmp_path / "there")
    assert other.todo() == []
    made = list(other.runs_folder.glob("[!.]*/*/*/[!.]*"))
    assert {run.name for run in made if (run / "predictions").is_dir()} == best
    assert len(made) == 3
    assert {run.state for run in other.runs(read_up_to=None)} == {"done"}
    pd.testing.assert_frame_equal(other.tuning(), here.tuning())
    _, runs = other.archive(tmp_path / "again.zip")
    assert runs == 3
    # what is a run of another suite has to have them
    others = [trial for trial in here.searches.trials if trial.folder.name not in best]
    for trial in others:
        assert find_run(trial, here.runs_folder).state == "done"
        found = find_run(trial, other.runs_folder)
        assert (found.state, found.why) == (
            "broken",
            "an archive keeps no predictions of a trial",
        )
    assert len(others) == 2
    assert list(other.work(workers=1)) == []


def test_a_damaged_archive_is_not_taken_up_in_part(finished, tmp_path):
    _, file = finished
    there = tmp_path / "tiny-limit64"
    there.mkdir()
    (there / file.name).write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"archive\.zip is"):
        mmbench.Sweep(words(), results=tmp_path).todo()
    assert not (there / "runs").exists()
