"""Inputs and outcomes are scaled by the training split, whatever their offset and their size."""

import numpy as np
import pytest
import torch
from arrays import Arrays, alike, fit, samples

from mmbench.bench.run.evaluation import evaluate
from mmbench.bench.run.selection import KeepBest
from mmbench.data.scale import CHUNK_BYTES, Scale, TargetScale
from mmbench.data.task import Modality, Task
from mmbench.methods.majority import Majority
from mmbench.methods.zero_fill import ZeroFill

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(200, 3))


def scaled(x, shown=None):
    made = samples({"x": x}, np.zeros(len(x), np.int64))
    shown = np.ones(len(x), bool) if shown is None else shown
    scale = Scale.fit(Modality("x", "vector", x.shape[1:]), made, shown)
    return scale.apply(torch.from_numpy(x)).numpy()


WANTED = (Z - Z.mean(0)) / Z.std(0)


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (Z, 1e-6),
        (Z.astype(np.float32), 1e-5),
        (1e-8 * Z, 1e-6),  # mol/l
        ((1e-8 * Z).astype(np.float32), 1e-5),
        (1.7e9 + 5 * Z, 1e-5),  # seconds since 1970: float32 would keep every 128th
        ((1e6 * Z).round().astype(np.int64) + 3_000_000_000, 1e-5),
        (1e30 * Z, 1e-6),
    ],
)
def test_neither_offset_nor_unit_of_a_feature_matters(x, error):
    got = scaled(x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, WANTED, atol=error)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-8, 1.7e9, -3e20])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_constant_becomes_zero_and_so_does_what_varies_by_rounding(value, dtype):
    x = np.full((50, 2), value, dtype)
    if value:
        x[::2, 1] = np.nextafter(x[::2, 1], dtype(np.inf))  # the last bit of every other row
    assert not scaled(x).any()


def test_what_training_does_not_show_has_no_part_in_the_scale():
    x = Z.copy()
    shown = np.arange(200) < 150
    x[~shown] = 1e12
    np.testing.assert_allclose(
        scaled(x, shown)[shown], (Z[shown] - Z[shown].mean(0)) / Z[shown].std(0), atol=1e-6
    )


def test_pieces_give_the_moments_of_the_whole(monkeypatch):
    whole = scaled(1e3 + Z)
    monkeypatch.setattr("mmbench.data.scale.CHUNK_BYTES", 7 * 3 * 8)
    np.testing.assert_allclose(scaled(1e3 + Z), whole, atol=1e-5)
    assert CHUNK_BYTES > 7 * 3 * 8


REGRESSION = Task("regression", (Modality("x", "vector", (3,)),), ("age", "price"))


def test_outcomes_go_to_training_without_unit_and_come_back_in_it():
    target = np.stack([1.7e9 + 100 * Z[:, 0], np.full(200, 250_000.0)], axis=1)
    scale = TargetScale.fit(REGRESSION, target)
    learnt = scale.apply(target)
    assert learnt.dtype == np.float32
    np.testing.assert_allclose(learnt[:, 0].std(), 1, atol=1e-5)
    assert not learnt[:, 1].any()  # constant: only its offset is known
    np.testing.assert_allclose(scale.undo(learnt), target, atol=1e-3)
    assert TargetScale.fit(Task("single_label", REGRESSION.modalities, ("a",)), target) is None


def ages(factor, offset):
    """Targets of one linear law in another unit."""
    x = RNG_INPUT
    splits = alike({"x": x}, (offset + factor * x[:, :1]).astype(np.float64))
    return Arrays(splits, kind="regression", outputs=("age",))


RNG_INPUT = np.random.default_rng(1).normal(size=(160, 2))


@pytest.mark.parametrize(("factor", "offset"), [(1, 0), (12, 60), (9e4, 3e5), (1e-6, 0)])
def test_a_regression_is_learnt_in_any_unit_and_predicted_in_its_own(factor, offset):
    data = ages(factor, offset)
    torch.manual_seed(0)
    method = ZeroFill(data.task, dim=16, dropout=0.0, lr=1e-2)
    keep = KeepBest(data, "rmse", "val", None)
    fit(method, data, keep, 12)
    keep.restore(method)
    (output,) = evaluate(method, data).values()
    target = data.samples("test").target
    error = output - target
    assert 1 - (error**2).mean() / target.var() > 0.9
    assert keep.best == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)  # val is like test


def test_a_baseline_that_counts_targets_predicts_their_mean_in_units():
    data = ages(12, 60)
    method = Majority(data.task)
    method.prepare(data.batches("train"))
    (output,) = evaluate(method, data).values()
    np.testing.assert_allclose(output, data.samples("train").target.mean(), rtol=1e-6)
