"""A mixture of diagonal Gaussians, fitted once, through which a set becomes K tokens.

Notation: x instances, F features; K components with mean μ (K, F), variance σ² (K, F), weight
π (K,); r (..., K) = posterior of the components given an instance.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmbench.data.cache import cached
from mmbench.data.embeddings import content
from mmbench.layers.pooling import valid_steps
from mmbench.sources import distributions, sources
from mmbench.store import ALONE, Claim

LEAST_VARIANCE = 1e-3  # of inputs whose scale is one
PRIOR_INSTANCES = 1e-2  # how many instances a component's own mean counts for in a token
MOST_ROUNDS = 30
LEAST_GAIN = 1e-4  # nats an instance and a feature, below which a fit ends
SEED_ROWS = 20_000  # rows that the first means are drawn from
CHUNK_ROWS = 8_192
WORTH_KEEPING = 2**23  # numbers; a smaller fit takes a few seconds and is not cached
LEAST_MASS = 1e-6  # rows, below which a component stays where it was
LAST_ROUND = "last_round.npz"


class DiagonalMixture(nn.Module):
    """K diagonal Gaussians over instances; turns a set of instances into K means.

    The parameters are fitted by `fit`, never by gradient, so that they are frozen and what
    `Batch.embed` gets from them is computed once for each sample.

    Source: Dempster et al., "Maximum Likelihood from Incomplete Data via the EM Algorithm", 1977;
    a set's own means from one step of EM as in Song et al., "Morphological Prototyping for
    Unsupervised Slide Representation Learning in Computational Pathology" (PANTHER), CVPR 2024.

    Args:
        components: K, >= 1.
        features: F.

    Raises:
        ValueError: If `components` is below 1.
    """

    def __init__(self, components: int, features: int) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"a mixture needs at least 1 component, found {components}")

        def fixed(x: Tensor) -> nn.Parameter:
            return nn.Parameter(x, requires_grad=False)

        self.mean = fixed(torch.zeros(components, features))
        self.variance = fixed(torch.ones(components, features))
        self.log_weight = fixed(torch.full((components,), -math.log(components)))

    def forward(
        self, x: Float[Tensor, "batch instance feature"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch component feature"]:
        """The mean of each component among a sample's own instances, weighted by posterior.

        Σ_n r_nk x_n / Σ_n r_nk, except that μ_k takes part with the weight of 0.01 instances:
        a component of which the sample has nothing gives μ_k. The order of the instances does
        not matter, and neither does padding.
        """
        present = valid_steps(lengths, x)[:, :, None]
        x = torch.where(present, x, 0.0)
        r = torch.where(present, self.posterior(x), 0.0)
        mass = r.sum(1)[:, :, None] + PRIOR_INSTANCES
        return (r.transpose(1, 2) @ x + PRIOR_INSTANCES * self.mean) / mass

    def log_density(
        self, x: Float[Tensor, "*leading feature"]
    ) -> Float[Tensor, "*leading component"]:
        """Log of each component's density, without its weight."""
        return diagonal_log_density(x, self.mean, self.variance)

    def posterior(
        self, x: Float[Tensor, "*leading feature"]
    ) -> Float[Tensor, "*leading component"]:
        """Probability of each component given the instance; sums to 1."""
        return (self.log_density(x) + self.log_weight).softmax(-1)

    def fit(self, rows: Sequence[Float[Tensor, "_ feature"]], home: Path | None = None) -> None:
        """Fit to instances by expectation maximisation, the same for the same rows.

        A large fit lies in the cache under a hash of the rows: it is made once for all runs,
        keeps its state after each round, and goes on there if it was cut off.

        Args:
            rows: On the CPU, in pieces of any size; none at all leaves the mixture as it is.
            home: Where the cache lies; None = the user's.
        """
        rows = [piece for part in rows for piece in torch.split(part, CHUNK_ROWS) if len(piece)]
        components, features = self.mean.shape
        count = sum(map(len, rows))
        if not count:
            return
        if count * features < WORTH_KEEPING:
            state = expectation_maximisation(rows, components)
        else:
            spec = {
                "what": "mixture of diagonal Gaussians",
                "code": sources(__name__) | distributions("torch"),
                "components": components,
                "rows": [count, features],
                "content": content(rows),
            }

            def build(folder: Path, held: Claim) -> None:
                expectation_maximisation(rows, components, folder, held)

            state = _read(cached(spec, build, home=home) / LAST_ROUND)
        with torch.no_grad():
            self.mean.copy_(state["mean"])
            self.variance.copy_(state["variance"])
            self.log_weight.copy_(state["log_weight"])


def diagonal_log_density(
    x: Float[Tensor, "*leading feature"],
    mean: Float[Tensor, "component feature"],
    variance: Float[Tensor, "component feature"],
) -> Float[Tensor, "*leading component"]:
    """Log of N(x; μ_k, diag σ²_k) for all components, in two matrix products.

    Σ (x - μ)²/σ² = Σ x²/σ² - 2 Σ x μ/σ² + Σ μ²/σ², which loses digits where x is far from zero in
    units of σ.
    """
    return _log_density(x, x.square(), mean, variance)


def expectation_maximisation(
    rows: Sequence[Float[Tensor, "_ feature"]],
    components: int,
    folder: Path | None = None,
    held: Claim = ALONE,
) -> dict[str, Tensor]:
    """Fit a mixture of diagonal Gaussians, deterministically.

    The first means are rows drawn as in k-means++, with the variance of all rows; then at most
    30 rounds of EM, fewer if the mean log-likelihood rises by less than 1e-4 a feature.

    Args:
        rows: At least one; pieces are read one after the other.
        components: K, >= 1. With fewer different rows than that, some components coincide.
        folder: Where the state is kept after each round, and found by a later call.
        held: On what is fitted; it ends at the next piece of rows after that is lost.

    Returns:
        `mean`, `variance` (K, F), `log_weight` (K,), and `round` and `likelihood`, the number of
        the last round and the mean log-likelihood of the rows before it.

    Raises:
        LostClaimError: If `held` is lost in between.
    """
    file = None if folder is None else folder / LAST_ROUND
    state = _start(rows, components) if file is None or not file.exists() else _read(file)
    least = LEAST_GAIN * rows[0].shape[1]
    while not state["ended"]:
        before = state["likelihood"]
        state = _round(rows, state, held)
        last = state["round"] >= MOST_ROUNDS or state["likelihood"] - before < least
        state["ended"] = torch.as_tensor(last)
        if file is not None:
            _write(file, state)
    return state


def _start(rows: Sequence[Tensor], components: int) -> dict[str, Tensor]:
    """K rows that are far from each other; the variance of a sample of all rows."""
    count = sum(map(len, rows))
    every = math.ceil(count / SEED_ROWS)
    # each piece gives its share, whatever its size
    sample = torch.cat([part[::every] for part in rows])
    draw = torch.Generator().manual_seed(0)
    chosen = [sample[torch.randint(len(sample), (1,), generator=draw)]]
    nearest = torch.full((len(sample),), math.inf)
    for _ in range(components - 1):
        nearest = torch.minimum(nearest, (sample - chosen[-1]).square().sum(1))
        # where all rows are taken, any will do
        odds = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
        chosen.append(sample[torch.multinomial(odds, 1, generator=draw)])
    variance = sample.var(0, correction=0).clamp_min(LEAST_VARIANCE)
    return {
        "mean": torch.cat(chosen),
        "variance": variance.expand(components, -1).clone(),
        "log_weight": torch.full((components,), -math.log(components)),
        "round": torch.tensor(0),
        "likelihood": torch.tensor(-math.inf, dtype=torch.float64),
        "ended": torch.tensor(False),
    }


def _round(
    rows: Sequence[Tensor], state: dict[str, Tensor], held: Claim = ALONE
) -> dict[str, Tensor]:
    """One pass over all rows: posterior, then the weighted moments."""
    mean, variance, log_weight = state["mean"], state["variance"], state["log_weight"]
    mass = torch.zeros(len(mean), dtype=torch.float64)
    first = torch.zeros_like(mean, dtype=torch.float64)
    second = torch.zeros_like(first)
    total = torch.zeros((), dtype=torch.float64)
    for x in rows:
        held.require()
        square = x.square()
        joint = log_weight + _log_density(x, square, mean, variance)
        likelihood = joint.logsumexp(1, keepdim=True)
        r = (joint - likelihood).exp()
        total += likelihood.sum()
        mass += r.sum(0)
        first += r.T @ x
        second += r.T @ square
    count = sum(map(len, rows))
    some = (mass > LEAST_MASS)[:, None]
    whole = mass.clamp_min(LEAST_MASS)[:, None]
    new = first / whole
    spread = (second / whole - new.square()).clamp_min(LEAST_VARIANCE)
    return {
        "mean": torch.where(some, new, mean).float(),
        "variance": torch.where(some, spread, variance).float(),
        "log_weight": (mass.clamp_min(LEAST_MASS) / count).log().float(),
        "round": state["round"] + 1,
        "likelihood": total / count,
    }


def _log_density(x: Tensor, square: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    precision = 1 / variance
    constant = (mean.square() * precision + variance.log() + math.log(2 * math.pi)).sum(1)
    return -0.5 * (square @ precision.T - 2 * x @ (mean * precision).T + constant)


def _write(path: Path, state: dict[str, Tensor]) -> None:
    """Write by rename: a crash leaves the round before."""
    part = path.with_suffix(".part.npz")
    arrays: dict[str, Any] = {name: x.numpy() for name, x in state.items()}
    np.savez(part, **arrays)
    part.replace(path)


def _read(path: Path) -> dict[str, Tensor]:
    with np.load(path) as arrays:
        return {name: torch.as_tensor(arrays[name]) for name in arrays.files}
