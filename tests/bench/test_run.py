"""One run: what it records, how it fails, and that evaluation is what it claims to be."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from arrays import Arrays, alike, fit
from safetensors.torch import load_file
from sweeps import MCAR, NO_DATA, specs

from mmbench.bench.record import find, read_metrics, read_predictions
from mmbench.bench.run.build import build_data, check
from mmbench.bench.run.evaluation import evaluate
from mmbench.bench.run.failures import DivergedError, LeakError, classify
from mmbench.bench.run.run import run
from mmbench.bench.run.scoring import _require_no_leak
from mmbench.bench.run.selection import KeepBest
from mmbench.bench.run.training import seed_everything
from mmbench.method import Method
from mmbench.metrics.metric import score
from mmbench.registry import METHODS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One real run of zero_fill that keeps its weights."""
    runs = tmp_path_factory.mktemp("runs")
    spec = replace(specs()[1], keep_weights=True)
    outcome = run(spec, runs, NO_DATA)
    assert outcome.state == "done", outcome.why
    return spec, runs


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
        "predictions/complete.npz",
        "predictions/mcar_0.3.npz",
    }
    assert find(spec, runs).state == "done"


def test_stored_scores_are_those_of_the_stored_predictions(finished):
    spec, runs = finished
    found = find(spec, runs)
    for name, condition in read_metrics(found)["conditions"].items():
        kept = read_predictions(found, name)
        assert kept["logits"].dtype == np.float32
        again = score("accuracy", kept["logits"], kept["target"], "single_label")
        assert condition["scores"]["accuracy"] == again
        realised = 1 - kept["presence"].mean()
        assert condition["realised"]["missing_rate"] == pytest.approx(realised)
        assert condition["missing_rate_nominal"] == (0.0 if name == "complete" else 0.3)


def test_kept_weights_give_the_kept_predictions(finished):
    spec, runs = finished
    data = build_data(spec, NO_DATA)
    data.setup()
    method = METHODS.get("zero_fill")(data.task, dim=8)
    method.load_state_dict(load_file(runs / spec.folder / "weights.safetensors"))
    for name, logits in evaluate(method, data).items():
        kept = read_predictions(find(spec, runs), name)
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
    first, second = (read_predictions(find(spec, r), "complete") for r in (runs, tmp_path))
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
        kept = read_predictions(find(spec, tmp_path), "mcar_0.3")
        shown.append((kept["presence"], kept["sample_id"]))
    for presence, sample_id in shown[1:]:
        np.testing.assert_array_equal(presence, shown[0][0])
        np.testing.assert_array_equal(sample_id, shown[0][1])


def test_a_method_that_does_not_apply_is_skipped_with_the_reason(tmp_path):
    spec = replace(specs()[0], method="shaspec", data_args={"modalities": ["fou"]})
    assert run(spec, tmp_path, NO_DATA).state == "skipped"
    assert find(spec, tmp_path).why == "needs 2 modalities, found 1"
    everyone = {**MCAR, "train": {"mechanism": "pattern", "present": ["fou"]}}
    spec = replace(specs()[0], method="complete_case", scenario=everyone)
    assert run(spec, tmp_path, NO_DATA).why.startswith("needs complete training samples")


def test_a_failure_is_recorded_with_its_traceback_and_does_not_reach_the_caller(tmp_path):
    spec = replace(specs()[1], method_args={"dim": 8, "lr": 1e30})
    outcome = run(spec, tmp_path, NO_DATA)
    assert outcome.state == "failed"
    assert outcome.why.startswith("diverged: ")
    words = json.loads((tmp_path / spec.folder / "failed.json").read_text())
    assert "DivergedError" in words["traceback"]
    assert find(spec, tmp_path).why == outcome.why


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
        (
            {"scenario": {**MCAR, "train": {"mechanism": "mcar", "missing_rate": 0.7}}},
            r"0\.7 cannot be reached with 2 modalities",
        ),
        ({"fold": 7}, "fold 7 was asked for"),
    ],
)
def test_a_users_mistake_is_found_before_anything_runs(change, message):
    with pytest.raises(ValueError, match=message) as error:
        check(replace(specs()[1], **change), NO_DATA)
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
    for condition in read_metrics(find(spec, tmp_path))["conditions"].values():
        ceiling, error = condition["bayes"]["accuracy"], condition["bayes_se"]["accuracy"]
        assert 1 / 8 < condition["scores"]["accuracy"] < ceiling < 1
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
    [condition] = read_metrics(find(spec, tmp_path))["conditions"].values()
    assert 0 < condition["scores"]["accuracy_ipw"] < 1
    assert 1 < condition["effective_n"] < condition["n"]
    assert condition["realised"]["natural_missing_rate"] > 0.2
    assert condition["realised"]["simulated_missing_rate"] == 0
    assert condition["dependence"]["label"] > 0.01  # who has a filled picture depends on the class
