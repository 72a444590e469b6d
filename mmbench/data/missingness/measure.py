"""What a drawn table came to: rates, patterns, and how much the mask tells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmbench.data.missingness.protocol import (
    Missingness,
    every_pattern,
    pattern_index,
    pattern_name,
)
from mmbench.data.missingness.values import label_value, modality_value, modality_values
from mmbench.data.samples import PresenceArray, Samples

BINS = 8  # quantile bins of a continuous quantity whose mutual information is estimated


def pattern_probability(
    missingness: Missingness, samples: Samples
) -> Float[np.ndarray, "sample pattern"]:
    """Exact probability of each pattern for these samples; columns as in `Missingness.law`."""
    law = missingness.law(samples)
    return law(modality_values(samples), label_value(samples), samples.presence)


@dataclass(frozen=True)
class Realised:
    """What a drawn table came to.

    Args:
        missing_rate: Share of all entries that are absent, for whatever reason.
        incomplete_rate: Share of samples that lack something, for whatever reason.
        natural_missing_rate: Share of all entries that are naturally missing.
        simulated_missing_rate: Share of the naturally present entries that were hidden; this is
            what the nominal rate speaks of.
        patterns: Pattern name -> samples, most frequent first; those that do not occur are
            left out.
    """

    missing_rate: float
    incomplete_rate: float
    natural_missing_rate: float
    simulated_missing_rate: float
    patterns: dict[str, int]


def realised(presence: PresenceArray, natural: PresenceArray, names: Sequence[str]) -> Realised:
    """Count what is absent in a drawn table; all rates are 0 if it is empty."""
    codes, counts = np.unique(pattern_index(presence), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    patterns = every_pattern(len(names))
    entries, present = max(presence.size, 1), max(int(natural.sum()), 1)
    return Realised(
        missing_rate=int((~presence).sum()) / entries,
        incomplete_rate=int((~presence.all(axis=1)).sum()) / max(len(presence), 1),
        natural_missing_rate=int((~natural).sum()) / entries,
        simulated_missing_rate=int((natural & ~presence).sum()) / present,
        patterns={pattern_name(patterns[codes[i]], names): int(counts[i]) for i in order},
    )


@dataclass(frozen=True)
class Dependence:
    """How much a mask tells, in nats.

    Args:
        label: Mutual information of pattern and target.
        value: Modality -> mutual information of pattern and that modality's value, over the
            samples that have it by nature.
    """

    label: float
    value: dict[str, float]


def dependence(presence: PresenceArray, samples: Samples) -> Dependence:
    """Estimate the mutual information between the mask and target or values, in nats.

    Plug-in estimate from counts, less its first-order bias (K - 1)(L - 1) / 2N and never below 0
    (Miller and Madow). Classes are taken as they are; scores and other targets of more than 32
    values are cut into 8 quantile bins.
    """
    codes = pattern_index(presence)
    value = {}
    for column, name in enumerate(samples.modalities):
        present = samples.presence[:, column]
        value[name] = _information(codes[present], _binned(modality_value(samples, name)[present]))
    label = label_value(samples)
    classes = samples.target.ndim == 1 and np.issubdtype(samples.target.dtype, np.integer)
    return Dependence(label=_information(codes, label if classes else _binned(label)), value=value)


def _binned(x: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    if len(np.unique(x)) <= 4 * BINS:
        return x
    edges = np.unique(np.quantile(x, np.arange(1, BINS) / BINS))
    return np.searchsorted(edges, x, side="right").astype(np.float64)


def _information(codes: Int[np.ndarray, " row"], x: Float[np.ndarray, " row"]) -> float:
    if not len(x):
        return 0.0
    rows, columns = np.unique(codes, return_inverse=True)[1], np.unique(x, return_inverse=True)[1]
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1.0)
    joint = table / len(x)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    plug_in = (joint[filled] * np.log(joint[filled] / independent[filled])).sum()
    bias = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * len(x))
    return max(0.0, float(plug_in - bias))
