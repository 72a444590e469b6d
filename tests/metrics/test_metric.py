"""The list of metrics: names, directions, what is refused, and the promise about resamples."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.metrics import metric as registry
from mmbench.metrics.metric import (
    describe,
    higher_is_better,
    metric,
    metrics_for,
    score,
    score_resampled,
)

KINDS = ("single_label", "multi_label", "regression")
EVERY = [(kind, name) for kind in KINDS for name in metrics_for(kind)]


def predictions(kind, n, outputs, seed, *, ties=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, outputs)) * 2
    if ties:
        logits = np.round(logits)
    if kind == "single_label":
        target = rng.integers(0, outputs, n)
    elif kind == "multi_label":
        target = (rng.random((n, outputs)) < 0.4).astype(float)
    else:
        target = np.clip(logits + rng.normal(size=(n, outputs)), -3, 3)
    return logits, target


@pytest.fixture
def scratch_registry(monkeypatch):
    monkeypatch.setattr(registry, "_METRICS", dict(registry._all()))


def test_every_task_kind_has_the_metrics_that_the_papers_report():
    assert {"accuracy", "balanced_accuracy", "macro_f1", "auroc"} < set(metrics_for("single_label"))
    assert {"macro_f1", "micro_f1", "samples_f1", "auprc"} < set(metrics_for("multi_label"))
    assert {"mae", "rmse", "pearson", "r2", "acc2", "acc7"} < set(metrics_for("regression"))


def test_an_unknown_metric_suggests_the_closest_name():
    with pytest.raises(ValueError, match="no metric named 'macro_f2'; did you mean 'macro_f1'"):
        higher_is_better("macro_f2")


def test_a_metric_that_does_not_fit_the_task_names_those_that_do():
    with pytest.raises(ValueError, match=r"defined for regression, not for single_label; .*auroc"):
        score("mae", np.zeros((2, 2)), np.array([0, 1]), "single_label")


@pytest.mark.parametrize(
    ("name", "higher"),
    [("accuracy", True), ("auroc", True), ("ece", False), ("log_loss", False), ("rmse", False)],
)
def test_every_metric_knows_its_better_direction(name, higher):
    assert higher_is_better(name) is higher


def test_the_list_of_metrics_says_what_each_one_is():
    lines = dict(describe())
    assert set(lines) >= {name for _, name in EVERY}
    assert lines["mae"] == (
        "Mean absolute error, in the unit of the target. [regression; lower is better]"
    )
    assert all(not line.startswith("[") for line in lines.values())


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_perfect_predictions_get_the_best_score_and_wrong_ones_a_worse_one(kind, name):
    target = {
        "single_label": np.array([0, 1, 2, 0, 1, 2]),
        "multi_label": np.array([[1, 0.0], [0, 1], [1, 1], [1, 0]]),
        "regression": np.array([[-3.0], [-1], [2], [3]]),
    }[kind]
    onehot = np.eye(3)[target] if kind == "single_label" else target
    right = onehot if kind == "regression" else 80 * (onehot - 0.5)
    best = 1.0 if higher_is_better(name) or name == "conformal_size_90" else 0.0  # one class a set
    assert score(name, right, target, kind) == pytest.approx(best, abs=1e-12)
    wrong = score(name, -right, target, kind)
    assert wrong < best - 0.3 if higher_is_better(name) else wrong > best + 0.3


@pytest.mark.parametrize(("kind", "name"), EVERY)
@pytest.mark.parametrize("ties", [False, True])
def test_scores_of_resamples_are_those_of_the_repeated_rows(kind, name, ties):
    logits, target = predictions(kind, 23, 3, seed=1, ties=ties)
    rng = np.random.default_rng(2)
    counts = np.stack([np.bincount(rng.integers(0, 23, 23), minlength=23) for _ in range(9)])
    counts[0], counts[1] = 0, np.eye(23)[5] * 4  # nothing at all; one sample only
    found = score_resampled(name, logits, target, kind, counts.astype(float))
    for row, value in zip(counts, found, strict=True):
        rows = np.repeat(np.arange(23), row)
        expected = score(name, logits[rows], target[rows], kind)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_whole_weights_are_repeated_rows_and_only_ratios_of_weights_matter(kind, name):
    logits, target = predictions(kind, 12, 3, seed=3)
    weight = np.random.default_rng(4).integers(0, 4, 12)
    rows = np.repeat(np.arange(12), weight)
    repeated = score(name, logits[rows], target[rows], kind)
    assert score(name, logits, target, kind, weight * 0.37) == pytest.approx(repeated, nan_ok=True)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_memory_order_of_the_counts_does_not_matter(kind, name):
    logits, target = predictions(kind, 15, 2, seed=5)
    counts = np.random.default_rng(6).integers(0, 3, (4, 15)).astype(float)
    slow = score_resampled(name, logits, target, kind, counts)
    fast = score_resampled(name, logits, target, kind, np.asfortranarray(counts))
    np.testing.assert_allclose(slow, fast, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "name"), EVERY)
@settings(derandomize=True, deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 12), outputs=st.integers(1, 4))
def test_the_order_of_samples_does_not_matter(kind, name, seed, n, outputs):
    logits, target = predictions(kind, n, outputs, seed, ties=seed % 2 == 0)
    order = np.random.default_rng(seed).permutation(n)
    expected = score(name, logits, target, kind)
    assert score(name, logits[order], target[order], kind) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_model_that_diverged_has_no_score(kind, name):
    logits, target = predictions(kind, 8, 3, seed=7)
    logits[2, 1] = np.nan
    assert np.isnan(score(name, logits, target, kind))
    assert np.isnan(score_resampled(name, logits, target, kind, np.ones((2, 8)))).all()


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_no_samples_have_no_score(kind, name):
    logits, target = predictions(kind, 0, 3, seed=8)
    assert np.isnan(score(name, logits, target, kind))
    assert np.isnan(score_resampled(name, logits, target, kind, np.ones((3, 0)))).all()


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_single_precision_predictions_score_as_double_precision_ones(kind, name):
    logits, target = predictions(kind, 40, 3, seed=9)
    logits = logits.astype(np.float32)
    assert score(name, logits, target, kind) == score(name, logits.astype(float), target, kind)


@pytest.mark.parametrize("name", metrics_for("single_label"))
def test_a_class_of_probability_zero_is_no_divergence(name):
    logits = np.log(np.array([[0.5, 0.5, 1e-300], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]))
    logits[0, 2] = -np.inf
    assert np.isfinite(score(name, logits, np.array([2, 1, 0]), "single_label"))


@pytest.mark.parametrize("name", metrics_for("single_label"))
@pytest.mark.parametrize("outputs", [2, 3])
def test_a_constant_added_to_all_logits_of_a_sample_changes_nothing(name, outputs):
    logits, target = predictions("single_label", 30, outputs, seed=10)
    offset = np.random.default_rng(11).normal(size=(30, 1)) * 50
    plain = score(name, logits, target, "single_label")
    assert score(name, logits + offset, target, "single_label") == pytest.approx(plain)


@pytest.mark.parametrize(
    ("kind", "logits", "target", "message"),
    [
        ("single_label", np.zeros((3, 2)), np.zeros(4, int), r"shape \(3,\), found \(4,\)"),
        ("single_label", np.zeros((2, 2)), np.array([0.0, 1.0]), "holds class numbers"),
        ("single_label", np.zeros((2, 2)), np.array([0, 2]), r"targets in 0..1, found 0..2"),
        ("multi_label", np.zeros((2, 2)), np.full((2, 2), 0.5), "0 and 1 only"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(kind, logits, target, message):
    with pytest.raises(ValueError, match=message):
        score("macro_f1", logits, target, kind)


def test_weights_that_do_not_fit_are_refused():
    logits, target = predictions("single_label", 4, 2, seed=0)
    with pytest.raises(ValueError, match="3 weights for 4 samples"):
        score("accuracy", logits, target, "single_label", np.ones(3))
    with pytest.raises(ValueError, match="finite and >= 0"):
        score("accuracy", logits, target, "single_label", np.array([1.0, 1, 1, -1]))


@pytest.mark.usefixtures("scratch_registry")
def test_a_new_metric_is_one_function_of_logits_and_target():
    @metric("top_logit", tasks=("single_label",), better="higher")
    def top_logit(logits, target):
        """Mean logit of the true class."""
        return logits[np.arange(len(target)), target].mean()

    assert "top_logit" in metrics_for("single_label")
    logits, target = np.array([[1.0, 2], [3, 5]]), np.array([0, 1])
    assert score("top_logit", logits, target, "single_label") == 3.0
    counts = np.array([[2.0, 0], [1, 3], [0, 0]])
    found = score_resampled("top_logit", logits, target, "single_label", counts)
    np.testing.assert_array_equal(found, [1.0, 4.0, np.nan])
    with pytest.raises(ValueError, match="takes no weights"):
        score("top_logit", logits, target, "single_label", np.ones(2))
    with pytest.raises(ValueError, match="whole numbers"):
        score_resampled("top_logit", logits, target, "single_label", counts / 2)


@pytest.mark.usefixtures("scratch_registry")
def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two metrics are named 'accuracy'"):

        @metric("accuracy", tasks=("single_label",), better="higher")
        def other(logits, target):
            return 0.0


def test_scores_need_neither_torch_nor_lightning():
    code = (
        "import sys, mmbench.metrics.metric as m; m.describe(); import mmbench.bench.statistics;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_on_scores_lists_every_metric_with_its_tasks_and_direction():
    page = (Path(registry.__file__).parent / "README.md").read_text(encoding="utf-8")
    listed = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 7 and cells[3] in ("higher", "lower"):
            for name in cells[1].split(", "):
                listed[name.strip("`")] = (tuple(cells[2].split(", ")), cells[3])
    known = {found.name: (found.tasks, found.better) for found in registry._all().values()}
    assert listed == known
