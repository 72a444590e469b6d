"""Synthetic data that stay Gaussian, so that ceilings are known inside modalities, too.

As `synthetic`, with one step left out: the map f_m of a modality turns its latent vector and does
not bend it,

    x_m = T_m u_m,     u_m = A_m b + B_m c_m + noise * e,

with T_m orthogonal. Given the word of bits, all features of all modalities are so jointly Gaussian
with one covariance, and they stay it if some of them are hidden (their rows and columns go) or if
noise is added (its variance stands on the diagonal). The posterior is that of a mixture of such
Gaussians, sample by sample from the features that are left of it.

Linear methods come near the ceilings here as they do not on `synthetic`, whose f_m bends: what is
measured is what a method makes of gaps, not what it makes of curves.

Kinds: vectors alone. Nothing is missing by nature.

Sanity, best possible accuracy on 1,000 test samples of the default arguments (chance .125), all
modalities present: nothing hidden .953; features hidden at .25 .845, .5 .690,
.75 .422, .9 .311; noise of 10 dB .896, 0 dB .548, -10 dB .220.

Source: conditional and marginal distributions of a Gaussian, as in Bishop, "Pattern Recognition and
Machine Learning", 2006, section 2.3.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import block_diag

from datamodules.synthetic import CHUNK, ID_STRIDE, Bend, Clocks, Synthetic, World
from mmbench.data.missingness.composed import Composed, simplest, within_of
from mmbench.data.missingness.dependent import Mar, MnarValue
from mmbench.data.missingness.fixed import Natural
from mmbench.data.missingness.protocol import Missingness
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.within import Gap, gaps
from mmbench.data.samples import SPLITS, PresenceArray, Samples
from mmbench.data.scenario import Scenario

Array = np.ndarray[Any, np.dtype[np.float64]]


class Gaussian(Synthetic):
    """Samples with planted bits in linear codes, and their exact posterior inside modalities, too.

    Args:
        root: Not read; the data is computed.
        scenario: See `DataModule`.
        **given: As `synthetic`; `kinds` can be vectors alone.

    Raises:
        ValueError: As there, and if a modality is to be no vector.
    """

    def __init__(self, root: Path, scenario: Scenario, **given: Any) -> None:
        super().__init__(root, scenario, **given)
        others = {m.kind for m in self.world.modalities} - {"vector"}
        if others:
            raise ValueError(
                f"gaussian has vectors alone, found kinds: {', '.join(sorted(others))}; "
                "take synthetic for those"
            )
        straight = tuple(Bend(0 * b.v, 0 * b.w, b.turn) for b in self.world.bends)
        self.world = _copied(self.world, World, bends=straight)

    def bayes_posterior(
        self, samples: Samples, presence: PresenceArray, missingness: Missingness
    ) -> Float[np.ndarray, "sample output"] | None:
        """P(class | present entries as far as they are left, which entries are absent).

        As `Synthetic.bayes_posterior`, also where features are hidden or noise is added: which
        features go depends on nothing, and the noise that a method sees is the noise here.

        Returns:
            None where a modality is lost by values (`mar`, `mnar_value`) of which something is
            hidden as well.
        """
        within = within_of(simplest(missingness))
        if not within or not len(samples):
            return super().bayes_posterior(samples, presence, missingness)
        assert isinstance(missingness, Composed)
        lost = missingness.loss
        by = lost.simulated if isinstance(lost, Natural) else lost
        if isinstance(by, Mar | MnarValue):
            return None
        self.setup()  # noise is measured in deviations of the training split
        split = SPLITS[int(samples.sample_id[0]) // ID_STRIDE]
        stream = Stream(self.scenario.mask_seed, split)
        spread = {
            name: 1 / scale.inverse_std.numpy()
            for name, scale in self._scales.items()
            if scale is not None
        }
        other = copy.copy(self)
        holes = gaps(within, self.task.modalities, samples, stream)
        other.world = _copied(self.world, _Gapped, gaps=holes, spread=spread)
        return Synthetic.bayes_posterior(other, samples, presence, lost)


@dataclass(frozen=True)
class _Gapped(World):
    """The same world where something went from inside the modalities of some samples.

    Attributes:
        gaps: Modality -> what becomes of it, for these samples in their order.
        spread: Modality -> deviation of its features, in which noise is measured.
    """

    gaps: Mapping[str, Gap]
    spread: Mapping[str, Array]

    def joint(
        self, samples: Samples, presence: PresenceArray, clocks: Clocks | None = None
    ) -> Float[np.ndarray, "sample output"]:
        """P(class, what is left of present entries), up to a positive factor for each sample."""
        assert clocks is None
        columns = [[x.name for x in self.modalities].index(name) for name in samples.modalities]
        values, seen, noise = [], [], []
        for name, present in zip(samples.modalities, presence.T, strict=True):
            x = np.asarray(samples.inputs[name], dtype=np.float64)
            gap = self.gaps.get(name, Gap())
            deviation = 0.0
            if gap.noise is not None:
                x = x + gap.noise.of(np.arange(len(x))) * self.spread[name]
                deviation = gap.noise.deviation
            values.append(x)
            noise.append(np.square(deviation * self.spread[name]))
            left = np.ones(x.shape, bool) if gap.observed is None else gap.observed
            seen.append(left & present[:, None])
        x, visible = np.concatenate(values, axis=1), np.concatenate(seen, axis=1)
        turn = block_diag(*(self.bends[m].turn for m in columns))
        mean = np.concatenate([self.means(m) for m in columns], axis=1) @ turn.T
        covariance = turn @ self.covariance(columns) @ turn.T + np.diag(np.concatenate(noise))
        alike, word = np.unique(mean.round(12), axis=0, return_index=True, return_inverse=True)[1:]
        prior = np.zeros((len(alike), self.num_classes))
        np.add.at(prior, (word.reshape(-1), self.word_class), self.word_prior)
        out = np.empty((len(samples), self.num_classes))
        width, words = mean.shape[1], len(alike)
        each = max(1, CHUNK // (width * (width + words)))
        for start in range(0, len(samples), each):
            rows = slice(start, start + each)
            log = _log_likelihood(x[rows], visible[rows], mean[alike], covariance)
            out[rows] = np.exp(log - log.max(axis=1, keepdims=True)) @ prior
        return out


def _log_likelihood(
    x: Float[np.ndarray, "row feature"],
    seen: Bool[np.ndarray, "row feature"],
    mean: Float[np.ndarray, "word feature"],
    covariance: Float[np.ndarray, "feature feature"],
) -> Float[np.ndarray, "row word"]:
    """Log N(x; mean, covariance) of the features that are seen, up to a number for each row."""
    both = seen[:, :, None] & seen[:, None, :]
    # a feature that is not seen is made a unit of its own, and then counts for nothing
    precision = np.linalg.inv(np.where(both, covariance, np.eye(x.shape[1]))) * both
    slope = precision @ mean.T  # (row, feature, word)
    offset: Array = np.einsum("wf,nfw->nw", mean, slope)
    return np.asarray(np.einsum("nf,nfw->nw", x, slope) - 0.5 * offset)


def _copied(world: World, cls: type[World], **changes: Any) -> Any:
    values = {one.name: getattr(world, one.name) for one in fields(World)}
    return cls(**values | changes)
