"""One run: what it records, how it fails, and that evaluation is what it claims to be."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
from arrays import Arrays, alike, fit
from filelock import SoftFileLease
from safetensors.torch import load_file
from sweeps import MCAR, NO_DATA, specs
from threadpoolctl import threadpool_info
from waiting import leases_of, wait_until_lost

from mmbench import store, trained
from mmbench.bench.record import find_run, read_calibration, read_predictions, samples_digest
from mmbench.bench.result import read_result
from mmbench.bench.run import meters, provenance
from mmbench.bench.run.build import build_data, check_arguments
from mmbench.bench.run.evaluation import evaluate
from mmbench.bench.run.failures import DivergedError, LeakError, classify
from mmbench.bench.run.meters import forget_peak, peak_mib
from mmbench.bench.run.run import run
from mmbench.bench.run.scoring import _require_no_leak
from mmbench.bench.run.selection import KeepBest, still_rising
from mmbench.bench.run.threads import threads
from mmbench.bench.run.training import seed_everything
from mmbench.data.missingness.stream import Stream
from mmbench.method import Method
from mmbench.metrics.metric import metrics_for, score
from mmbench.registry import METHODS
from mmbench.store import Claim


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One real run of zero_fill that keeps its weights."""
    runs = tmp_path_factory.mktemp("runs")
    spec = replace(specs()[1], keep_weights=True)
    outcome = run(spec, runs, NO_DATA)
    assert outcome.state == "done", outcome.why
    return spec, runs


def test_a_suite_s_encoders_reach_the_method_and_are_part_of_the_key(tmp_path):
    spec = specs()[1]
    deep = replace(spec, encoders={"vector": {"layers": 3}}, keep_weights=True)
    assert deep.key != spec.key
    assert run(deep, tmp_path, NO_DATA).state == "done"
    names = load_file(tmp_path / deep.folder / "weights.safetensors")
    assert any("trunk.layers.2" in name for name in names)


def test_encoders_that_do_not_fit_are_refused_before_anything_runs():
    wrong = replace(specs()[1], encoders={"vektor": {"layers": 3}})
    with pytest.raises(ValueError, match=r"encoders.vektor is neither .*did you mean 'vector'"):
        check_arguments(wrong, NO_DATA)


def test_a_run_leaves_the_files_that_are_promised(finished):
    spec, runs = finished
    names = {str(f.relative_to(runs / spec.folder)) for f in (runs / spec.folder).rglob("*.*")}
    assert names >= {
        "spec.json",
        "env.json",
        "log.txt",
        "metrics.csv",
        "metrics.json",
        "weights.safetensors",
        "calibration.npz",
        "predictions/complete.npz",
        "predictions/mcar_0.3.npz",
    }
    assert find_run(spec, runs).state == "done"


def test_stored_scores_are_those_of_the_stored_predictions(finished):
    spec, runs = finished
    found = find_run(spec, runs)
    for name, condition in read_result(found.folder).conditions.items():
        kept = read_predictions(found, name)
        assert kept["logits"].dtype == np.float32
        again = score("accuracy", kept["logits"], kept["target"], "single_label")
        assert condition.scores["accuracy"] == again
        realised = 1 - kept["presence"].mean()
        assert condition.realised.missing_rate == pytest.approx(realised)
        assert condition.missing_rate_nominal == (0.0 if name == "complete" else 0.3)


def test_sets_are_calibrated_on_validation_samples_of_which_the_same_is_hidden(finished):
    spec, runs = finished
    found = find_run(spec, runs)
    data = build_data(spec, NO_DATA)
    data.setup()
    val = data.split("val").samples
    method = trained.load(found).method
    for name, condition in read_result(found.folder).conditions.items():
        known = read_calibration(found, name)
        assert (known.target == val.target).all()
        shown = data.conditions[name].draw(val, Stream(data.scenario.mask_seed, "test"))
        batch = data.on_validation(10**6).split("test")[list(range(len(val)))]
        with torch.no_grad():
            again = method.eval()(batch.hide(torch.from_numpy(~shown)))
        np.testing.assert_allclose(known.logits, again.numpy(), rtol=1e-4, atol=1e-4)
        kept = read_predictions(found, name)
        for metric in metrics_for("single_label", calibrated=True):
            expected = score(
                metric, kept["logits"], kept["target"], "single_label", calibration=known
            )
            assert condition.scores[metric] == expected
    assert not np.allclose(
        read_calibration(found, "complete").logits, read_calibration(found, "mcar_0.3").logits
    )


def test_validation_samples_that_calibrate_are_bounded_in_number_and_none_of_the_test_split():
    data = build_data(specs(limit=None)[1], NO_DATA)
    few = data.on_validation(50)
    held = few.split("test").samples
    assert len(held) == 50
    assert set(held.sample_id) < set(data.samples("val").sample_id)
    assert few.condition_presence("mcar_0.3").shape == (50, 2)
    assert len(data.split("test")) == 300  # the data itself are as they were
    assert len(data.condition_presence("mcar_0.3")) == 300


def test_kept_weights_give_the_kept_predictions(finished):
    spec, runs = finished
    data = build_data(spec, NO_DATA)
    data.setup()
    method = METHODS.get("zero_fill")(data.task, dim=8)
    method.load_state_dict(load_file(runs / spec.folder / "weights.safetensors"))
    for name, logits in evaluate(method, data).items():
        kept = read_predictions(find_run(spec, runs), name)
        np.testing.assert_array_equal(kept["logits"], logits)


def test_a_finished_run_is_not_repeated_unless_asked(finished):
    spec, runs = finished
    before = (runs / spec.folder / "done").stat().st_mtime_ns
    assert run(spec, runs, NO_DATA).state == "done"
    assert (runs / spec.folder / "done").stat().st_mtime_ns == before
    assert run(spec, runs, NO_DATA, overwrite=True).state == "done"
    assert (runs / spec.folder / "done").stat().st_mtime_ns > before


def test_the_same_run_gives_the_same_predictions(finished, tmp_path):
    spec, runs = finished
    assert run(spec, tmp_path, NO_DATA).state == "done"
    first, second = (read_predictions(find_run(spec, r), "complete") for r in (runs, tmp_path))
    np.testing.assert_array_equal(first["logits"], second["logits"])


def test_one_pass_over_all_conditions_equals_each_by_itself():
    spec = replace(
        specs()[1],
        scenario={**MCAR, "test": {"mechanism": "every_pattern"}},
        data_args={"modalities": ["fou", "kar", "mor"]},
    )
    data = build_data(spec, NO_DATA)
    data.setup()
    seed_everything(0)
    method = METHODS.get("shaspec")(data.task, dim=8).eval()
    together = evaluate(method, data)
    assert len(together) == 7
    for name, logits in together.items():
        absent = torch.from_numpy(~data.condition_presence(name))
        with torch.no_grad():
            parts, start = [], 0
            for batch in data.batches("test"):
                parts.append(method(batch.hide(absent[start : start + len(batch)])))
                start += len(batch)
        np.testing.assert_allclose(logits, torch.cat(parts).numpy(), atol=1e-6)


def test_outputs_that_are_no_numbers_are_refused_in_evaluation_too():
    data = build_data(specs()[1], NO_DATA)
    data.setup()
    method = METHODS.get("zero_fill")(data.task, dim=8)
    method.fuse.head[-1].bias.data[0] = float("nan")
    with pytest.raises(DivergedError, match="under the condition complete are not finite"):
        evaluate(method, data)


def test_every_method_and_seed_meets_the_same_masks(tmp_path):
    shown = []
    for spec in specs(seeds=2):
        assert run(spec, tmp_path, NO_DATA).state == "done"
        kept = read_predictions(find_run(spec, tmp_path), "mcar_0.3")
        shown.append((kept["presence"], kept["sample_id"]))
    for presence, sample_id in shown[1:]:
        np.testing.assert_array_equal(presence, shown[0][0])
        np.testing.assert_array_equal(sample_id, shown[0][1])


def test_a_method_that_does_not_apply_is_skipped_with_the_reason(tmp_path):
    spec = replace(specs()[0], method="shaspec", data_args={"modalities": ["fou"]})
    assert run(spec, tmp_path, NO_DATA).state == "skipped"
    assert find_run(spec, tmp_path).why == "needs 2 modalities, found 1"
    everyone = {**MCAR, "train": {"mechanism": "pattern", "present": ["fou"]}}
    spec = replace(specs()[0], method="complete_case", scenario=everyone)
    assert run(spec, tmp_path, NO_DATA).why.startswith("needs complete training samples")


def test_a_failure_is_recorded_with_its_traceback_and_does_not_reach_the_caller(
    tmp_path, monkeypatch
):
    [_, spec] = specs()
    zero_fill = METHODS.get("zero_fill")
    loss = zero_fill.loss
    monkeypatch.setattr(
        zero_fill, "loss", lambda method, batch: {"task": loss(method, batch)["task"] * np.inf}
    )
    outcome = run(spec, tmp_path, NO_DATA)
    assert outcome.state == "failed"
    assert outcome.why.startswith("diverged: ")
    words = json.loads((tmp_path / spec.folder / "failed.json").read_text())
    assert "DivergedError" in words["traceback"]
    assert find_run(spec, tmp_path).why == outcome.why


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out of memory: MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), "out of memory: CUDA"),
        (DivergedError("x"), "diverged: x"),
        (ValueError("bad"), "input: bad"),
        (OSError(28, "No space left on device"), "disk: "),
        (KeyError("k"), "error: KeyError: 'k'"),
    ],
)
def test_failures_are_told_apart(error, kind):
    assert classify(error).startswith(kind)
    assert "\n" not in classify(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method_args": {"dimm": 3}}, "unknown key 'dimm'; did you mean 'dim'"),
        ({"method": "zero_fil"}, "did you mean 'zero_fill'"),
        ({"data_args": {"modalities": ["fow"]}}, "no modality named 'fow'"),
        ({"select": {"metric": "mae"}}, "select.metric 'mae' does not fit"),
        (
            {"trainer_args": {"max_epochs": 1, "batch_size": 8, "gpu": 1}},
            "unknown key 'trainer.gpu",
        ),
        *(
            ({"trainer_args": {"max_epochs": 1, "batch_size": 8, name: value}}, message)
            for name, value, message in (
                ("callbacks", [], "trainer.callbacks cannot be set: one of ours selects"),
                ("logger", False, "trainer.logger must be one of csv, tensorboard, wandb, mlflow"),
                ("enable_checkpointing", True, "trainer.enable_checkpointing cannot be set"),
                ("fast_dev_run", True, "give --limit; leave it out"),
                ("num_sanity_val_steps", 2, "selected before training"),
                ("limit_val_batches", 0, "leaves nothing to select an epoch by"),
                ("limit_val_batches", 0.0, "leaves nothing to select an epoch by"),
            )
        ),
        (
            {"scenario": {**MCAR, "train": {"mechanism": "mcar", "missing_rate": 0.7}}},
            r"0\.7 cannot be reached with 2 modalities",
        ),
        ({"fold": 7}, "fold 7 was asked for"),
    ],
)
def test_a_users_mistake_is_found_before_anything_runs(change, message):
    with pytest.raises(ValueError, match=message) as error:
        check_arguments(replace(specs()[1], **change), NO_DATA)
    assert "\n" not in str(error.value)


class Scheduled(Method):
    """Says what it is told to say in each epoch, and remembers the epoch as a weight."""

    says = ("wrong", "half", "half", "wrong")

    def __init__(self, task):
        super().__init__(task)
        self.epoch = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, batch):
        truth = (batch.inputs["x"][:, 0] > 0).long()
        answer = {"wrong": 1 - truth, "half": torch.zeros_like(truth)}
        output = torch.nn.functional.one_hot(answer[self.says[self.current_epoch]], 2).float()
        return output + 0 * self.epoch

    def on_train_epoch_start(self):
        self.epoch.data.fill_(self.current_epoch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def two_classes(n=4):
    """Their one feature is -1 for class 0 and 1 for class 1, after scaling."""
    target = np.arange(n) % 2
    return Arrays(alike({"x": target[:, None].astype(np.float32)}, target))


@pytest.mark.parametrize(("on", "epoch", "best"), [("val", 1, 0.5), ("last", 3, 0.0)])
def test_the_best_epoch_is_kept_the_earliest_on_ties(on, epoch, best):
    """Validation accuracies are 0, 1/2, 1/2, 0."""
    data = two_classes()
    keep = KeepBest(data, "accuracy", on, patience=None)
    method = Scheduled(data.task)
    fit(method, data, keep, 4)
    assert (keep.epoch, keep.best) == (epoch, best)
    keep.restore(method)
    assert method.epoch.item() == epoch


SYNTHETIC = {"data": [{"name": "synthetic", "args": {"n_train": 64, "n_val": 64, "n_test": 300}}]}


def test_synthetic_data_come_with_their_ceiling_and_no_honest_method_is_a_leak(tmp_path):
    [spec] = specs(**SYNTHETIC, methods=["zero_fill"], limit=None)
    outcome = run(spec, tmp_path, NO_DATA)
    assert outcome.state == "done", outcome.why
    for condition in read_result(tmp_path / spec.folder).conditions.values():
        ceiling, error = condition.bayes["accuracy"], condition.bayes_se["accuracy"]
        assert 1 / 8 < condition.scores["accuracy"] < ceiling < 1
        assert error == pytest.approx(np.sqrt(ceiling * (1 - ceiling) / 300), rel=0.3)


def test_a_score_above_the_ceiling_is_a_leak():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 400)
    best = np.eye(2)[np.where(rng.random(400) < 0.7, target, 1 - target)]
    _require_no_leak("complete", best, best, target)
    _require_no_leak("complete", np.eye(2)[1 - target], best, target)
    with pytest.raises(LeakError, match="above the best possible one"):
        _require_no_leak("complete", np.eye(2)[target], best, target)


def test_natural_gaps_bring_weighted_scores(tmp_path):
    natural = {"name": "n", "train": {"mechanism": "natural"}, "test": {"mechanism": "natural"}}
    [spec] = specs(data=["tabler"], methods=["majority"], scenarios=[natural], limit=None)
    outcome = run(spec, tmp_path, NO_DATA)
    assert outcome.state == "done", outcome.why
    [condition] = read_result(tmp_path / spec.folder).conditions.values()
    assert 0 < condition.scores["accuracy_ipw"] < 1
    assert 1 < condition.effective_n < condition.n
    assert condition.realised.natural_missing_rate > 0.2
    assert condition.realised.simulated_missing_rate == 0
    assert condition.dependence.label > 0.01  # who has a filled picture depends on the class


def test_a_run_has_its_own_number_of_threads_and_gives_back_what_was_before(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    with threads(3):
        assert torch.get_num_threads() == 3
        assert {pool["num_threads"] for pool in threadpool_info()} == {3}
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "3")
    assert torch.get_num_threads() == before
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


def test_the_threads_of_a_run_are_part_of_its_key():
    one, two = (specs(trainer={"max_epochs": 1, "threads": n})[1] for n in (1, 2))
    assert one.key != two.key


@pytest.mark.slow
@pytest.mark.parametrize(
    "job",
    [
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1"},
    ],
)
def test_a_run_inside_a_task_of_a_slurm_job_is_a_run_by_itself(tmp_path, job):
    """In a process of its own: Lightning reads the rank when it is imported."""
    script = """
import sys
from pathlib import Path
from sweeps import NO_DATA, specs
from mmbench.bench.run.run import run
spec = specs()[1]
outcome = run(spec, Path(sys.argv[1]), NO_DATA)
print(outcome, (Path(sys.argv[1]) / spec.folder / "metrics.csv").is_file())
"""
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "sweep", "SLURM_LOCALID": "0"}
    paths = os.pathsep.join(p for p in sys.path if p)
    shown = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, **slurm, "SLURM_NODEID": "0", **job, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert "state='done'" in shown.stdout, shown.stdout + shown.stderr
    assert shown.stdout.rstrip().endswith("True"), "the training curve is lost"


def test_a_record_says_what_made_it_and_what_it_was_asked(finished):
    spec, runs = finished
    made = read_result(runs / spec.folder)
    assert made.sources.keys() >= {
        "mmbench.methods.zero_fill",
        "mmbench.layers.encoders",
        "mmbench.method",
        "mmbench.bench.run.training",
        "datamodules.mfeat",
    }
    assert made.distributions == {}
    env = json.loads((runs / spec.folder / "env.json").read_text())
    assert env["instructions"] in made.machine
    for name, condition in made.conditions.items():
        kept = read_predictions(
            find_run(spec, runs), name, only=("sample_id", "target", "presence")
        )
        assert condition.samples == samples_digest(**kept)
        hidden = kept["presence"].copy()
        hidden[3, 1] ^= True
        assert condition.samples != samples_digest(**kept | {"presence": hidden})
        assert condition.samples != samples_digest(**kept | {"target": kept["target"][::-1]})


def test_a_machine_without_git_runs_and_says_the_version(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._commit() == version("mmbench")


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\nexit 128",
        "#!/bin/sh\nprintf '\\377\\376 odd'",
        "#!/bin/sh\necho no commit",
        "#!/bin/sh\nexec /bin/sleep 60",
        "#!/bin/sh\nkill -9 $$",
        "#!/nonexistent/sh",
        "\0 no program",
    ],
)
def test_a_git_that_fails_or_hangs_or_talks_nonsense_costs_no_run(script, monkeypatch, tmp_path):
    (tmp_path / "git").write_text(script)
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(provenance, "GIT_S", 0.5)
    assert provenance._commit() == version("mmbench")


def test_the_commit_is_not_that_of_a_repository_that_a_hook_names(monkeypatch, tmp_path):
    commit = provenance._commit()
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert provenance._commit() == commit


def test_the_processor_is_named_by_its_model(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: A Processor @ 2 GHz\n")
    assert provenance._processor(file) == "A Processor @ 2 GHz"
    assert provenance._processor(tmp_path / "none")  # another system says at least its kind


def test_a_training_that_was_never_validated_is_no_run(tmp_path):
    [spec] = specs(methods=["zero_fill"], trainer={"max_epochs": 1, "check_val_every_n_epoch": 2})
    assert "ended without a validation" in run(spec, tmp_path, NO_DATA).why


def test_the_last_seed_that_a_suite_may_name_runs(tmp_path):
    [spec] = specs(methods=["zero_fill"], seeds=[2**32 - 1])
    assert run(spec, tmp_path, NO_DATA).state == "done"


@pytest.mark.parametrize(
    ("curve", "rises"),
    [
        ([0.1 * epoch for epoch in range(20)], True),
        ([1 - 0.5**epoch for epoch in range(20)], False),
        ([0.9, 0.91, 0.9, 0.92, 0.9, 0.91, 0.92, 0.9, 0.91, 0.9], False),
        ([0.0, 1.0, 0.0, 1.0, 0.1, 1.0, 0.2, 1.0], False),  # climbs, but not beyond chance
        ([0.1, 0.2, 0.3], False),  # too short to say
        ([0.1, float("nan")] + [0.1 * epoch for epoch in range(20)], False),
    ],
)
def test_a_curve_rises_if_its_second_half_climbs_beyond_chance(curve, rises):
    assert still_rising(curve, 1.0) is rises
    assert still_rising([-value for value in curve], -1.0) is rises


def validated(tmp_path, **trainer):
    """After how many passes a run on 64 samples was validated; 4 steps a pass."""
    spec = specs(trainer={"batch_size": 20} | trainer)[1]
    assert run(spec, tmp_path, NO_DATA).state == "done"
    curve = pd.read_csv(tmp_path / spec.folder / "metrics.csv")
    scored = [name for name in curve if name.startswith("val/")]
    passes = [int(epoch) + 1 for epoch in curve.dropna(subset=scored)["epoch"]]
    assert read_result(tmp_path / spec.folder).selected.epochs == passes[-1]
    return passes


def test_a_small_data_set_gets_the_steps_that_were_asked_for(tmp_path):
    assert validated(tmp_path, max_epochs=1) == [1]
    assert validated(tmp_path, max_epochs=1, min_steps=4) == [1]
    assert validated(tmp_path, max_epochs=1, min_steps=9) == [3]
    assert validated(tmp_path, max_epochs=2, min_steps=20) == [3, 6], "validated as often"


def test_patience_lasts_as_many_steps_on_a_small_data_set(tmp_path, monkeypatch):
    """With a score that never gets better, the first of three validations is the best one."""
    scores = iter(range(100, 0, -1))
    monkeypatch.setattr(
        "mmbench.bench.run.selection.score", lambda *args, **kwargs: next(scores) / 100
    )
    assert validated(tmp_path, max_epochs=9, patience=2) == [1, 2, 3]
    assert validated(tmp_path, max_epochs=9, patience=2, min_steps=100) == [3, 6, 9]


@pytest.mark.slow
def test_processes_at_the_same_run_and_stage_leave_one_whole_run_without_any_lock(
    tmp_path, monkeypatch
):
    """Three at one staged run with claims that do nothing, two of them killed on their way."""

    @contextlib.contextmanager
    def no_claim(target, *, until=None):
        yield Claim(ours=True)

    monkeypatch.setattr("mmbench.bench.run.attempt.claim", no_claim)
    monkeypatch.setattr("mmbench.data.cache.claim", no_claim)
    [spec] = specs(methods=[{"name": "momke", "args": {"dim": 8}}], trainer={"max_epochs": 2})
    assert run(spec, tmp_path / "alone", NO_DATA).state == "done"
    runs = tmp_path / "together"
    children = []
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0 if run(spec, runs, NO_DATA).state == "done" else 1)
        children.append(child)
    for number, child in enumerate(children[:2]):
        time.sleep(0.5 + number)
        os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes[2:] == [0, 0, 0]
    found = find_run(spec, runs, read_up_to=None)
    assert (found.state, found.why) == ("done", "")
    assert run(spec, runs, NO_DATA).state == "done"
    first, second = (
        read_predictions(find_run(spec, r), "complete") for r in (tmp_path / "alone", runs)
    )
    np.testing.assert_array_equal(first["logits"], second["logits"])


# of evaluation, a step is a batch under all conditions, of which there are two
@pytest.mark.parametrize(("step", "at", "ends"), [("loss", 3, 3), ("forward", 3, 4)])
def test_an_attempt_whose_claim_is_taken_over_stops_at_the_next_step(
    tmp_path, monkeypatch, step, at, ends
):
    monkeypatch.setattr(store, "LEASE_S", 2.0)
    monkeypatch.setattr(store, "HEARTBEAT_S", 0.05)
    leases = leases_of(monkeypatch)
    [_, spec] = specs(trainer={"max_epochs": 2, "batch_size": 4})
    claim_file = store._claim_file(tmp_path / spec.folder)
    other = SoftFileLease(claim_file, lease_duration=2.0, heartbeat_interval=0.05)
    zero_fill = METHODS.get("zero_fill")
    act, steps = getattr(zero_fill, step), []

    def taken_over(method, batch):
        if step == "loss" or method._trainer.state.finished:  # not the forward pass of training
            steps.append(len(batch))
        if len(steps) == at:
            claim_file.unlink()  # what a contender does with a claim that fell silent
            other.acquire(timeout=0)
            wait_until_lost(leases)
        return act(method, batch)

    monkeypatch.setattr(zero_fill, step, taken_over)
    outcome = run(spec, tmp_path, NO_DATA)
    assert (outcome.state, outcome.why) == ("elsewhere", "another process took it over")
    assert len(steps) == ends
    assert [p.name for p in claim_file.parent.iterdir()] == [claim_file.name]  # theirs, untouched
    other.release()
    monkeypatch.undo()
    assert run(spec, tmp_path, NO_DATA).state == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets the peak of a process")
def test_the_peak_of_a_run_is_not_that_of_the_run_before():
    held = np.ones(2**26)  # 512 MiB
    high = peak_mib(torch.device("cpu"))
    del held
    forget_peak()
    assert peak_mib(torch.device("cpu")) < high - 400
    held = np.ones(2**25)
    assert peak_mib(torch.device("cpu")) > 256
    del held


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process forgets its peak")
def test_where_a_peak_cannot_be_forgotten_the_log_of_the_run_says_whose_it_is(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(meters, "CLEAR_REFS", tmp_path / "forbidden" / "clear_refs")
    [spec] = specs(methods=["majority"])
    assert run(spec, tmp_path / "runs", NO_DATA).state == "done"
    [log] = (tmp_path / "runs").rglob("log.txt")
    assert "the peak memory is that of this process since it started" in log.read_text()
