"""Losses of times to an event, some of them censored."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def survival_loss(
    output: Float[Tensor, "batch output"],
    target: Float[Tensor, "batch 2"],
    among: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """Cox's loss of one output, that of hazards of several.

    Args:
        output: Log risk, or logits of the hazards of K intervals.
        target: Time or number of the interval, and event, see `SurvivalScale.apply`.
        among: Who is compared; None = all. Others get 0.
    """
    output = output.float()
    if among is not None:  # who was censored at the beginning is never at risk
        target, output = (torch.where(among[:, None], x, 0.0) for x in (target, output))
    return cox_loss(output[:, 0], target) if output.shape[1] == 1 else hazard_loss(output, target)


def cox_loss(
    log_risk: Float[Tensor, " batch"], target: Float[Tensor, "batch 2"]
) -> Float[Tensor, " batch"]:
    """Negative log of each event's factor of the partial likelihood; 0 for censored samples.

    Who is at risk is looked up in the batch. Ties as Breslow has them: samples with the same time
    are all at risk at it.

    Source: Cox, "Partial Likelihood", Biometrika 62, 1975; Breslow, JRSS B 34, 1972, for ties.
    """
    time, event = target.unbind(1)
    at_risk = time[None, :] >= time[:, None]  # (B, B)
    total = torch.where(at_risk, log_risk[None, :], -torch.inf).logsumexp(1)
    return event * (total - log_risk)


def hazard_loss(
    logits: Float[Tensor, "batch interval"], target: Float[Tensor, "batch 2"]
) -> Float[Tensor, " batch"]:
    """Negative log likelihood of each sample under hazards h of intervals.

    An event in interval k has the probability h_k times the product of 1 - h_j over those before;
    a sample censored in k, or beyond the last, has survived those before.

    Source: Brown, "On the Use of Indicator Variables for Studying the Time-Dependence of Parameters
    in a Response-Time Model", Biometrics 31, 1975; Gensheimer and Narasimhan, PeerJ 7, 2019.
    """
    interval, event = target[:, :1], target[:, 1:]
    each = torch.arange(logits.shape[1], device=logits.device)
    survived, died = each < interval, (each == interval) * event
    return (survived * F.softplus(logits) + died * F.softplus(-logits)).sum(1)


def survival_prior(outputs: int, target: Float[Tensor, "sample 2"]) -> Float[Tensor, " output"]:
    """Best constant output: log risk 0, or the smoothed share that dies of those at risk."""
    if outputs == 1:
        return torch.zeros(1)
    interval, event = target[:, :1], target[:, 1:]
    each = torch.arange(outputs, device=target.device)
    died = ((each == interval) * event).sum(0)
    return (died + 1).log() - ((each < interval).sum(0) + 1).log()
