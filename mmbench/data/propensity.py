"""How likely a sample is to show its pattern, and the weights that undo that.

Where data is missing by nature, the samples that show a pattern are no fair draw: in 3Sources,
health stories are seldom covered by all three. Scores of two patterns then differ because of
who is in them as well as because of what is missing. Weighting a sample by

    w_i = P(pattern_i) / P(pattern_i | g_i)

makes the samples of every pattern look like the population in whatever g is. A weighted score
estimates what would have been seen, had the same patterns fallen on samples regardless of g
(missing completely at random, with the same shares). Given g, missingness must not depend on
anything else that moves the score, and every pattern must be possible for every g (positivity);
neither can be checked from the data alone.

g is either the label (`LabelPropensity`: what `mnar_label` and most label-dependent gaps need)
or numbers that every sample has (`CovariatePropensity`: an always-present modality). Labels of
test samples are at hand when a score is computed, so this is no leak; a method never sees them.

Source: Hernán and Robins, Causal Inference: What If, 2020, chapter 12 (stabilised weights);
Seaman and White, "Review of inverse probability weighting for dealing with missing data",
Statistical Methods in Medical Research 22, 2013.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from mmbench.data.constant import is_constant
from mmbench.data.samples import PresenceArray, Samples


@dataclass(frozen=True)
class Propensity(ABC):
    """P(pattern) and P(pattern | g) as training shows them.

    Args:
        patterns: The patterns that training shows, (pattern, modality), each once.
        shares: P(pattern), the share of training samples that show each; sums to 1.
    """

    patterns: Bool[np.ndarray, "pattern modality"]
    shares: Float[np.ndarray, " pattern"]

    @abstractmethod
    def probabilities(self, given: NDArray[Any]) -> Float[np.ndarray, "sample pattern"]:
        """P(pattern | g) of each sample; rows sum to 1."""

    def weights(
        self,
        presence: PresenceArray,
        given: NDArray[Any],
        *,
        needs: Sequence[bool] | None = None,
    ) -> Float[np.ndarray, " sample"]:
        """Stabilised inverse-probability weights of test samples.

        Args:
            presence: Natural presence of each sample.
            given: What the propensity depends on, see the subclass; one entry a sample.
            needs: One bool a modality. None weighs each sample for its own pattern. Otherwise
                for a condition that shows these modalities to whoever has them: w = P(has all
                of them) / P(has all of them | g), and 0 for samples that lack one.

        Returns:
            Weights >= 0, about 1 on average over the samples with a weight. Metrics divide by
            their sum.

        Raises:
            ValueError: If a pattern occurs here that training never shows, or no training
                sample has what is needed: its propensity is unknown.
        """
        chance = self.probabilities(given)
        if needs is not None:
            wanted = np.asarray(needs, dtype=bool)
            fits = (self.patterns | ~wanted).all(axis=1)
            if not fits.any():
                raise ValueError(
                    f"no training sample has all of the modalities {_word(wanted)}, so there is "
                    "no propensity to weight by; score this condition unweighted"
                )
            ratio = self.shares[fits].sum() / chance[:, fits].sum(axis=1)
            return np.where((presence | ~wanted).all(axis=1), ratio, 0.0)
        same = (presence[:, None, :] == self.patterns[None]).all(axis=2)  # (sample, pattern)
        if not same.any(axis=1).all():
            strange = presence[~same.any(axis=1)][0]
            raise ValueError(
                f"pattern {_word(strange)} occurs here but never in training, so its propensity "
                "is zero and no weight can make up for it; score it unweighted"
            )
        pattern = same.argmax(axis=1)
        weight: NDArray[np.float64] = (
            self.shares[pattern] / chance[np.arange(len(pattern)), pattern]
        )
        return weight


@dataclass(frozen=True)
class LabelPropensity(Propensity):
    """P(pattern | class) by frequencies, drawn towards P(pattern).

    P(r | c) = (n_rc + a * P(r)) / (n_c + a): a class with few samples leans on the overall share
    instead of claiming that what it did not show cannot happen. A class that training never
    shows gets P(r), weight 1.

    Args:
        patterns: See `Propensity`.
        shares: See `Propensity`.
        table: P(pattern | class), (class, pattern); rows sum to 1.
    """

    table: Float[np.ndarray, "class pattern"]

    @classmethod
    def fit(
        cls,
        presence: PresenceArray,
        label: Int[np.ndarray, " sample"],
        *,
        classes: int,
        prior: float = 1.0,
    ) -> "LabelPropensity":
        """Count patterns by class.

        Args:
            presence: Natural presence of the training samples.
            label: Their classes, 0 <= label < classes.
            classes: Number of classes.
            prior: a, how many samples the overall share counts for, > 0.
        """
        patterns, which, shares = _count(presence)
        counts = np.zeros((classes, len(patterns)))
        np.add.at(counts, (label, which), 1.0)
        table = (counts + prior * shares) / (counts.sum(axis=1, keepdims=True) + prior)
        return cls(patterns, shares, table)

    def probabilities(
        self, given: Int[np.ndarray, " sample"]
    ) -> Float[np.ndarray, "sample pattern"]:
        """P(pattern | class) for these classes."""
        chance: NDArray[np.float64] = self.table[given]
        return chance


@dataclass(frozen=True)
class CovariatePropensity(Propensity):
    """P(pattern | x) by multinomial logistic regression on numbers that every sample has.

    Args:
        patterns: See `Propensity`.
        shares: See `Propensity`.
        mean: Of the training covariates.
        inverse_std: Of the training covariates; 0 for a constant one.
        coefficients: (covariate, pattern), for standardised covariates.
        intercept: Of each pattern.
    """

    mean: Float[np.ndarray, " covariate"]
    inverse_std: Float[np.ndarray, " covariate"]
    coefficients: Float[np.ndarray, "covariate pattern"]
    intercept: Float[np.ndarray, " pattern"]

    @classmethod
    def fit(
        cls,
        presence: PresenceArray,
        x: Float[np.ndarray, "sample covariate"],
        *,
        ridge: float = 1.0,
    ) -> "CovariatePropensity":
        """Minimise - sum log P(r_i | x_i) + ridge / 2 * ||coefficients||^2 by L-BFGS.

        Args:
            presence: Natural presence of the training samples.
            x: Their covariates, finite, whatever the pattern.
            ridge: Penalty on the coefficients of standardised covariates, > 0; the intercepts
                go free, so the average of P(r | x) over training is P(r).
        """
        patterns, which, shares = _count(presence)
        mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        varies = ~is_constant(x.min(axis=0), x.max(axis=0), x.dtype) & (std > 0)
        inverse_std = np.divide(1.0, std, out=np.zeros_like(std), where=varies)
        z = np.concatenate([(x - mean) * inverse_std, np.ones((len(x), 1))], axis=1)
        hit = np.eye(len(patterns))[which]

        def cost(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            w = flat.reshape(z.shape[1], len(patterns))
            log_p = log_softmax(z @ w, axis=1)
            penalised = np.vstack([w[:-1], np.zeros((1, len(patterns)))])
            slope = z.T @ (np.exp(log_p) - hit) + ridge * penalised
            return float(-(log_p * hit).sum() + ridge / 2 * (penalised**2).sum()), slope.ravel()

        start = np.zeros((z.shape[1], len(patterns)))
        start[-1] = np.log(shares) - logsumexp(np.log(shares))
        fitted = minimize(
            cost,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8},
        )
        w = fitted.x.reshape(start.shape)
        return cls(patterns, shares, mean, inverse_std, w[:-1], w[-1])

    def probabilities(
        self, given: Float[np.ndarray, "sample covariate"]
    ) -> Float[np.ndarray, "sample pattern"]:
        """P(pattern | x) for these covariates."""
        logits = (given - self.mean) * self.inverse_std @ self.coefficients + self.intercept
        return np.asarray(softmax(logits, axis=1))


def natural_weights(
    train: Samples, test: Samples, *, classes: int, needs: Sequence[bool] | None = None
) -> Float[np.ndarray, " sample"]:
    """Weights of the test samples by the propensity of their pattern given their label.

    Args:
        train: Training samples with their natural presence.
        test: Test samples of the same modalities.
        classes: Number of classes of the single-label task.
        needs: See `Propensity.weights`.

    Raises:
        ValueError: If the target is no class label, or training does not show a pattern that is
            weighted here.
    """
    if not np.issubdtype(train.target.dtype, np.integer):
        raise ValueError(
            "weights by label need a single-label task, but the targets are "
            f"{train.target.dtype}; fit a CovariatePropensity on a modality that all samples have"
        )
    propensity = LabelPropensity.fit(train.presence, train.target, classes=classes)
    return propensity.weights(test.presence, test.target, needs=needs)


def _count(
    presence: PresenceArray,
) -> tuple[NDArray[np.bool_], NDArray[np.int_], NDArray[np.float64]]:
    patterns, which, counts = np.unique(presence, axis=0, return_inverse=True, return_counts=True)
    return patterns, which.reshape(-1), counts / len(presence)


def _word(presence: NDArray[np.bool_]) -> str:
    return "".join("1" if present else "0" for present in presence)
