"""Losses of survival: slow loops, and Cox models that a library fitted."""

import math

import numpy as np
import pytest
import torch
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from mmbench.layers.survival import survival_loss, survival_prior


def outcomes(n=24, seed=0, *, latest=9):
    """Times with ties, or numbers of intervals; some are censored."""
    g = torch.Generator().manual_seed(seed)
    time = torch.randint(1, latest, (n,), generator=g).float()
    return torch.stack([time, (torch.rand(n, generator=g) < 0.6).float()], 1)


def test_a_factor_of_the_partial_likelihood_compares_an_event_with_who_was_at_risk():
    target, risk = outcomes(), torch.randn(24, 1, dtype=torch.float64)
    found = survival_loss(risk, target).tolist()
    for (time, event), own, loss in zip(target.tolist(), risk[:, 0].tolist(), found, strict=True):
        at_risk = [r for r, t in zip(risk[:, 0].tolist(), target[:, 0], strict=True) if t >= time]
        expected = event * (math.log(sum(map(math.exp, at_risk))) - own)
        assert loss == pytest.approx(expected, abs=1e-5)


def test_the_coefficients_that_a_library_fits_are_where_the_loss_is_flat():
    x = np.random.default_rng(0).normal(size=(60, 3))
    target = outcomes(60)
    y = Surv.from_arrays(target[:, 1].numpy() > 0, target[:, 0].double().numpy())
    fitted = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-12).fit(x, y).coef_
    w = torch.tensor(fitted, dtype=torch.float32)[:, None].requires_grad_()
    survival_loss(torch.tensor(x, dtype=torch.float32) @ w, target).sum().backward()
    assert w.grad.abs().max() < 1e-4
    off = (w.detach() + 0.1).requires_grad_()
    survival_loss(torch.tensor(x, dtype=torch.float32) @ off, target).sum().backward()
    assert off.grad.abs().max() > 0.1


def test_hazards_of_intervals_have_the_likelihood_of_their_products():
    logits = torch.randn(24, 5)
    target = outcomes(latest=7) - torch.tensor([1.0, 0.0])  # 0..5, of which 5 is beyond the last
    hazard = logits.sigmoid().tolist()
    for (k, event), h, loss in zip(
        target.tolist(), hazard, survival_loss(logits, target).tolist(), strict=True
    ):
        likelihood = math.prod(1 - one for one in h[: int(k)])
        if event and k < 5:
            likelihood *= h[int(k)]
        assert loss == pytest.approx(-math.log(likelihood), abs=1e-5)


@pytest.mark.parametrize("outputs", [1, 4])
def test_samples_that_do_not_count_are_as_if_they_were_not_there(outputs):
    target, output = outcomes(latest=5), torch.randn(24, outputs)
    among = torch.rand(24) < 0.5
    output[~among] = torch.nan
    found = survival_loss(output, target, among)
    torch.testing.assert_close(found[among], survival_loss(output[among], target[among]))
    assert not found[~among].any()


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_batch_without_an_event_is_finite_and_has_a_gradient(outputs, rows):
    target = torch.stack([1 + torch.arange(float(rows)), torch.zeros(rows)], 1)
    output = torch.randn(rows, outputs, requires_grad=True)
    loss = survival_loss(output, target).sum()
    loss.backward()
    assert output.grad.isfinite().all()
    if outputs == 1:
        assert loss == 0
        assert not output.grad.any()


def test_log_risks_of_any_size_and_half_precision_give_finite_losses():
    output = torch.tensor([[3e4], [-3e4], [0.0]], dtype=torch.bfloat16)
    target = torch.tensor([[1.0, 1], [2, 1], [3, 1]])
    loss = survival_loss(output, target)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()


def test_the_prior_is_the_constant_of_least_loss():
    target = outcomes(4000, latest=6) - torch.tensor([1.0, 0.0])
    logits = survival_prior(4, target).requires_grad_()
    survival_loss(logits.expand(4000, -1), target).mean().backward()
    assert logits.grad.abs().max() < 1e-3  # smoothed by one sample of thousands
    assert not survival_prior(1, target).any()


@pytest.mark.parametrize("outputs", [1, 4])
def test_no_loss_waits_for_a_device(outputs):
    among = torch.ones(6, dtype=torch.bool, device="meta")  # which holds no number to wait for
    output, target = torch.zeros(6, outputs, device="meta"), torch.zeros(6, 2, device="meta")
    assert survival_loss(output, target, among).shape == (6,)
