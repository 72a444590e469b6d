"""Made-up data whose best possible score is known, whatever is missing and why.

The class of a sample is a word of bits. By where a bit can be read it is

- redundant: every modality carries it, so it survives as long as anything is there;
- unique to one modality: lost with it;
- synergistic: the parity (XOR) of one private bit in each modality. Any modality short of all
  of them leaves it a fair coin.

Modality m turns the bits that it carries, b in {-1, +1}^k, into the latent vector

    u_m = A_m b + B_m c_m + noise * e,     e ~ N(0, I),  c_m ~ N(0, 1)

with a unit vector B_m and orthogonal columns A_m, of length 1, or 2 for private bits. The nuisance
c_m is shared: two modalities have it correlated by `nuisance_correlation`, so that seeing one
helps to clean the other. What a method reads is f_m(u_m) for a fixed invertible f_m that bends
the latent space. Since f_m can be undone, the posterior given f_m(u_m) is that given u_m: a
mixture of Gaussians with a common covariance, written down exactly. The first latent coordinate
is the only one that f_m leaves alone and that nuisance does not touch; the mean of all entries of
a modality is proportional to it, whatever its kind.

Kinds: a `vector` is f(u). A `sequence` or a `bag` has 4 to 8 steps f(u + r_t) whose residuals r_t
sum to zero (a bag's are independent, a sequence's drift like a bridge), so their mean in latent
space is u. An `image` is f(u) on smooth two-dimensional cosines plus clutter at right angles to
them.

Bits in the sense of partial information: Williams and Beer, "Nonnegative Decomposition of
Multivariate Information", arXiv 1004.2515, 2010.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mmbench.bounds import SampleCount, Seed
from mmbench.data.missingness.composed import simplest
from mmbench.data.missingness.dependent import Mar, MnarLabel, MnarValue
from mmbench.data.missingness.fixed import Natural, Pattern
from mmbench.data.missingness.incomplete import Incomplete
from mmbench.data.missingness.mcar import Mcar
from mmbench.data.missingness.protocol import Missingness, pattern_index, pattern_name
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.values import modality_values
from mmbench.data.samples import SPLITS, PresenceArray, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

STEPS = 8  # longest sequence or bag
SIDE = 8  # pixels
BEND = 0.5  # height of the tanh steps of f; beyond 1 small encoders no longer come near the bound
RESIDUAL = 0.5  # standard deviation of r_t, and of the clutter of an image
PARITY_GAIN = 2.0  # a parity is wrong if any private bit is, so these are coded further apart
MAX_BITS = 16  # all words of them are enumerated
MAX_CLASS_BITS = 8
CHUNK = 2**21  # numbers (row, word) held at a time
TIE = 1e-6  # far above rounding, and less than stored values lose
ID_STRIDE = 10**9  # room for the samples of one split
BLIND_TO_VALUES = Mcar | MnarLabel | Incomplete | Pattern | Natural

SyntheticKind = Literal["vector", "sequence", "bag", "image"]
Array = np.ndarray[Any, np.dtype[np.float64]]


class Synthetic(DataModule):
    """Samples with planted bits and their exact posterior.

    Args:
        root: Not read; the data is computed.
        scenario: See `DataModule`.
        num_modalities: M, 2..6; they are called m0, m1, ...
        width: Latent numbers a modality, 2..64 and at least the number of bits it carries.
        redundant: Bits that every modality carries, >= 0.
        unique: Bits that only m0, only m1, ... carries, >= 0; those not listed have none.
        synergistic: Bits that are the parity of one private bit in each modality, >= 0.
        noise: Standard deviation of the noise on every latent number, > 0; a bit moves its
            own direction by +-1.
        nuisance_correlation: Of two modalities' nuisance, 0..1.
        imbalance: How many times the most frequent class outnumbers the rarest, >= 1; the
            frequencies in between fall geometrically.
        n_train: Samples, >= 1.
        n_val: Samples, >= 1.
        n_test: Samples, >= 1.
        kinds: Of m0, m1, ...; begun again when the list is at its end.
        data_seed: Decides the codes, the maps and the samples, >= 0. Sample i of a split is the
            same however many are asked for.
        **common: Passed to `DataModule`.

    Raises:
        ValueError: If an argument is out of range, there is no bit at all, or more than 256
            classes or 2^16 words of bits would have to be enumerated.
    """

    source = Source(citation="Computed by mmbench; nothing to cite.", licence="Apache-2.0")

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        num_modalities: int = 3,
        width: int = 8,
        redundant: int = 1,
        unique: Sequence[int] = (1,),
        synergistic: int = 1,
        noise: float = 0.6,
        nuisance_correlation: float = 0.5,
        imbalance: float = 1.0,
        n_train: SampleCount = 1000,
        n_val: SampleCount = 300,
        n_test: SampleCount = 1000,
        kinds: Sequence[SyntheticKind] = ("vector",),
        data_seed: Seed = 0,
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        self.sizes: dict[Split, int] = {"train": n_train, "val": n_val, "test": n_test}
        for split, n in self.sizes.items():
            if not 1 <= n <= ID_STRIDE:
                raise ValueError(f"n_{split} must lie in 1..{ID_STRIDE}, found {n}")
        self.world = World.make(
            num_modalities=num_modalities,
            width=width,
            redundant=redundant,
            unique=unique,
            synergistic=synergistic,
            noise=noise,
            nuisance_correlation=nuisance_correlation,
            imbalance=imbalance,
            kinds=kinds,
            seed=data_seed,
        )

    def describe(self) -> Task:
        """Single-label classification; class names spell the bits, redundant ones first."""
        return Task("single_label", self.world.modalities, self.world.class_names)

    def load(self, split: Split) -> Samples:
        """Compute one split; nothing is missing by nature."""
        return self.world.sample(split, self.sizes[split])

    def bayes_posterior(
        self, samples: Samples, presence: PresenceArray, missingness: Missingness
    ) -> Float[np.ndarray, "sample output"] | None:
        """P(class | present entries, which entries are absent).

        Exact for every pattern and mechanism of mmbench: sums over all words, a closed form for
        the nuisance, and the mask counted as evidence. Where an entry vanishes by its own value
        (`mnar_value`), that value is integrated out numerically, to a relative precision better
        than 1e-8; values are stored as float32, which moves a log probability by about 1e-5.
        What the mechanism is calibrated to (mean and deviation of scores, its intercept) is
        taken as given: that of the whole split.

        A lost bit leaves classes exactly tied; factors within 1e-6 of one, drawn by sample id, let
        argmax name them all equally often.

        Its argmax has the best possible accuracy and the probabilities the best possible
        cross-entropy. Macro F1 of the argmax is a reference, not a strict bound: F1 is no
        average over samples, and other decisions can be slightly better.

        Args:
            samples: Some or all samples of one split of this data module.
            presence: What they show, drawn by `missingness` for the whole split.
            missingness: Who drew it.

        Returns:
            Rows sum to 1, no entry is 0. None for other mechanisms: a table from a file does not
            say what it depended on, and what is left of a modality inside of which something went
            has no closed form, since the bend mixes features.

        Raises:
            ValueError: If the mechanism never leaves one of the patterns.
        """
        if not len(samples):
            return np.empty((0, self.world.num_classes))
        split = SPLITS[int(samples.sample_id[0]) // ID_STRIDE]
        everyone = self.samples(split)
        mechanism = simplest(missingness)
        if isinstance(mechanism, Natural) and mechanism.simulated is not None:
            mechanism = mechanism.simulated  # nature left no gaps
        if isinstance(mechanism, MnarValue) and mechanism.missing_rate > 0:
            joint = self.world.joint(samples, presence, Clocks.fit(mechanism, everyone))
        elif isinstance(mechanism, Mar):  # depends on nothing but what is shown
            joint = self.world.joint(samples, presence)
        elif isinstance(mechanism, BLIND_TO_VALUES | MnarValue):  # the latter at rate 0
            classes = self.world.num_classes
            unread, label = np.full((classes, presence.shape[1]), np.nan), np.arange(classes)
            law = mechanism.law(everyone)
            chance = law(unread, label.astype(np.float64), np.ones(unread.shape, bool))
            joint = self.world.joint(samples, presence) * chance[:, pattern_index(presence)].T
        else:
            return None
        total = joint.sum(axis=1, keepdims=True)
        if not total.all():
            pattern = presence[(total == 0).argmax()]
            raise ValueError(
                f"a sample shows {pattern_name(pattern, samples.modalities)}, which "
                f"{missingness.label} never leaves; pass the missingness that drew the presence"
            )
        # no zeros, so that the logarithm is finite
        posterior: Array = np.maximum(joint / total, np.finfo(np.float64).tiny)
        coin = Stream(0, split).uniform(samples.sample_id, self.world.class_names, purpose="tie")
        posterior *= 1 + TIE * coin
        posterior /= posterior.sum(axis=1, keepdims=True)
        return posterior


@dataclass(frozen=True)
class World:
    """The latent model: what is fixed before any sample is drawn.

    Attributes:
        modalities: Names, kinds and shapes.
        class_names: One word of class bits each.
        words: (word, bit) in {-1, +1}: all words of redundant, unique and private bits.
        word_class: (word,) class of each.
        word_prior: (word,) probability of each.
        seen: For each modality the columns of `words` that it carries.
        codes: For each modality A_m, (width, bits it carries).
        nuisances: For each modality B_m, (width,).
        bends: For each modality the weights of f_m.
        noise: Standard deviation.
        nuisance_correlation: Of c_m between two modalities.
        seed: Of everything.
    """

    modalities: tuple[Modality, ...]
    class_names: tuple[str, ...]
    words: Array
    word_class: NDArray[np.int64]
    word_prior: Array
    seen: tuple[NDArray[np.int64], ...]
    codes: tuple[Array, ...]
    nuisances: tuple[Array, ...]
    bends: tuple["Bend", ...]
    noise: float
    nuisance_correlation: float
    seed: int

    @classmethod
    def make(
        cls,
        *,
        num_modalities: int,
        width: int,
        redundant: int,
        unique: Sequence[int],
        synergistic: int,
        noise: float,
        nuisance_correlation: float,
        imbalance: float,
        kinds: Sequence[SyntheticKind],
        seed: int,
    ) -> "World":
        """Draw codes and maps; arguments as in `Synthetic`, where their ranges are given."""
        if seed < 0:
            raise ValueError(f"data_seed must be >= 0, found {seed}")
        _check(
            num_modalities, width, redundant, unique, synergistic, noise, nuisance_correlation,
            imbalance, kinds,
        )  # fmt: skip
        unique_bits = [*unique, *[0] * (num_modalities - len(unique))]
        plain = redundant + sum(unique_bits)
        # columns: redundant, unique by modality, then synergistic bit by bit, modality by modality
        words = _bits(plain + synergistic * num_modalities)
        private = words[:, plain:].reshape(len(words), synergistic, num_modalities)
        class_bits = np.concatenate([words[:, :plain], private.prod(axis=2)], axis=1)
        num_bits = class_bits.shape[1]
        word_class = ((class_bits < 0) @ (1 << np.arange(num_bits)[::-1])).astype(np.int64)
        fall = np.arange(2**num_bits) / (2**num_bits - 1)
        prior = imbalance**-fall
        prior /= prior.sum()
        words_a_class = 2 ** (synergistic * (num_modalities - 1))

        seen, codes, nuisances, bends = [], [], [], []
        for m in range(num_modalities):
            first = redundant + sum(unique_bits[:m])
            columns = [*range(redundant), *range(first, first + unique_bits[m])]
            columns += [plain + s * num_modalities + m for s in range(synergistic)]
            seen.append(np.array(columns, np.int64))
            rng = _generator(seed, "world", m)
            gain = np.where(np.array(columns) < plain, 1.0, PARITY_GAIN)
            codes.append(_orthonormal(rng, width)[:, : len(columns)] * gain)
            nuisance = rng.standard_normal(width)
            nuisance[0] = 0.0  # keeps the first coordinates independent, given the bits
            nuisances.append(nuisance / np.linalg.norm(nuisance))
            bends.append(Bend.draw(rng, width))
        names = [f"m{m}" for m in range(num_modalities)]
        shapes = {
            "vector": (width,),
            "sequence": (STEPS, width),
            "bag": (STEPS, width),
            "image": (1, SIDE, SIDE),
        }
        kind = [kinds[m % len(kinds)] for m in range(num_modalities)]
        return cls(
            modalities=tuple(Modality(n, k, shapes[k]) for n, k in zip(names, kind, strict=True)),
            class_names=tuple(f"c{c:0{num_bits}b}" for c in range(2**num_bits)),
            words=words,
            word_class=word_class,
            word_prior=prior[word_class] / words_a_class,
            seen=tuple(seen),
            codes=tuple(codes),
            nuisances=tuple(nuisances),
            bends=tuple(bends),
            noise=noise,
            nuisance_correlation=nuisance_correlation,
            seed=seed,
        )

    def sample(self, split: Split, n: int) -> Samples:
        """Draw the first `n` samples of a split.

        Every quantity has a stream of its own that is read in order of sample, so the first
        rows do not depend on how many are drawn.
        """
        rng = _generator(self.seed, split, "word")
        word = np.searchsorted(np.cumsum(self.word_prior)[:-1], rng.random(n), side="right")
        common = _generator(self.seed, split, "nuisance").standard_normal(n)
        rho = self.nuisance_correlation
        inputs, lengths = {}, {}
        for m, modality in enumerate(self.modalities):
            private = _generator(self.seed, split, "own nuisance", m).standard_normal(n)
            nuisance = np.sqrt(rho) * common + np.sqrt(1 - rho) * private
            width = len(self.nuisances[m])
            noise = _generator(self.seed, split, "noise", m).standard_normal((n, width))
            u = self.means(m)[word] + nuisance[:, None] * self.nuisances[m] + self.noise * noise
            rng = _generator(self.seed, split, "dress", m)
            x, steps = _dress(modality, self.bends[m], u, rng)
            inputs[modality.name] = x.astype(np.float32)
            if steps is not None:
                lengths[modality.name] = steps
        return Samples(
            modalities=tuple(modality.name for modality in self.modalities),
            inputs=inputs,
            target=self.word_class[word],
            sample_id=SPLITS.index(split) * ID_STRIDE + np.arange(n, dtype=np.int64),
            presence=np.ones((n, len(self.modalities)), bool),
            lengths=lengths,
        )

    @property
    def num_classes(self) -> int:
        """C, two to the number of class bits."""
        return len(self.class_names)

    def means(self, m: int) -> Array:
        """(word, width): where each word puts the latent vector of modality m."""
        mean: Array = self.words[:, self.seen[m]] @ self.codes[m].T
        return mean

    def covariance(self, columns: Sequence[int]) -> Array:
        """Of the latent vectors of these modalities, one after the other, given the word."""
        total = sum(len(self.nuisances[m]) for m in columns)
        shared = np.concatenate([self.nuisances[m] for m in columns])
        cov = self.nuisance_correlation * np.outer(shared, shared)
        start = 0
        for m in columns:
            b = self.nuisances[m]
            block = slice(start, start + len(b))
            cov[block, block] += (1 - self.nuisance_correlation) * np.outer(b, b)
            start += len(b)
        cov[np.diag_indices(total)] += self.noise**2
        return cov

    def latent(self, samples: Samples, m: int, rows: NDArray[Any]) -> Array:
        """(row, width): undo f and the dress of modality m at these positions."""
        modality = self.modalities[m]
        x = samples.inputs[modality.name][rows].astype(np.float64)
        steps = samples.lengths[modality.name][rows] if modality.has_lengths else None
        return _undress(modality, self.bends[m], x, steps)

    def joint(
        self, samples: Samples, presence: PresenceArray, clocks: "Clocks | None" = None
    ) -> Float[np.ndarray, "sample output"]:
        """P(class, present entries), and the mask if clocks are given.

        Up to a positive factor for each sample.
        """
        columns = [[x.name for x in self.modalities].index(name) for name in samples.modalities]
        out = np.empty((len(samples), self.num_classes))
        patterns, which = np.unique(presence, axis=0, return_inverse=True)
        for p, pattern in enumerate(patterns):
            rows = np.flatnonzero(which.reshape(-1) == p)
            latent = {
                column: self.latent(samples, columns[column], rows)
                for column in np.flatnonzero(pattern).tolist()
            }
            kernel, basis = np.ones((len(rows), 1)), self.word_prior[None]
            if clocks is not None and not pattern.all():
                kernel, factor = clocks.mask(
                    {column: u[:, 0] for column, u in latent.items()},
                    {
                        column: self.means(columns[column])[:, 0]
                        for column in np.flatnonzero(~pattern).tolist()
                    },
                    self.noise,
                )
                basis = basis * factor
            present = [columns[column] for column in latent]
            u = np.concatenate(list(latent.values()), axis=1)
            out[rows] = self._pattern_joint(u, present, kernel, basis)
        return out

    def _pattern_joint(
        self, u: Array, present: Sequence[int], kernel: Array, basis: Array
    ) -> Array:
        """Sum over words of N(u; word) (kernel @ basis)[word], class by class.

        Args:
            u: (row, latent) of the modalities `present`, one after the other.
            present: Which.
            kernel: (row, term).
            basis: (term, word); with one term alone the kernel is no more than a factor.
        """
        carried = np.unique(np.concatenate([self.seen[m] for m in present]))
        _, first, alike = np.unique(
            self.words[:, carried], axis=0, return_index=True, return_inverse=True
        )
        alike = alike.reshape(-1)
        mean = np.concatenate([self.means(m)[first] for m in present], axis=1)
        slope = np.linalg.solve(self.covariance(present), mean.T)  # (latent, word)
        offset = -0.5 * np.einsum("wl,lw->w", mean, slope)
        if len(basis) == 1:  # words that look alike here are weighed once and for all
            label = np.zeros((len(first), self.num_classes))
            np.add.at(label, (alike, self.word_class), basis[0])
        else:
            label = np.eye(self.num_classes)[self.word_class]
        out = np.empty((len(u), self.num_classes))
        chunk = max(1, CHUNK // len(label))
        for start in range(0, len(u), chunk):
            rows = slice(start, start + chunk)
            log = u[rows] @ slope
            log += offset
            log -= log.max(axis=1, keepdims=True)
            likelihood = np.exp(log, out=log)
            if len(basis) > 1:
                likelihood = likelihood[:, alike] * (kernel[rows] @ basis)
            out[rows] = likelihood @ label
        return out


@dataclass(frozen=True)
class Clocks:
    """How soon entries are safe under `mnar_value`, by the first latent coordinate.

    Entry m vanishes with probability exp(-a_m), and is the one kept where all would vanish with
    probability exp(-sum a) a_m / sum a, where log a_m = offset_m - slope_m u_m1. Given the word,
    the u_m1 are independent Gaussians, which makes the mask tractable (see `mask`).

    Attributes:
        offset: For each column of presence.
        slope: For each column of presence.
    """

    offset: Array
    slope: Array

    @classmethod
    def fit(cls, mechanism: MnarValue, samples: Samples) -> "Clocks":
        """Read the intercept off one entry: log a = -(intercept + strength z) for all of them."""
        raw = modality_values(samples)
        centre, spread = raw.mean(axis=0), raw.std(axis=0)
        p = mechanism.absence_probability(samples)
        row, column = np.unravel_index(np.abs(p - 0.5).argmin(), p.shape)
        z = (raw[row, column] - centre[column]) / spread[column]
        if p[row, column] > 1 - 1e-6:
            intercept = 60.0  # at the highest rate all would vanish; only ratios of a matter
        else:
            intercept = -np.log(-np.log(p[row, column])) - mechanism.strength * z
        # the mean of n entries is the first latent coordinate / sqrt(n)
        entries = [
            x.shape[-1] if name in samples.lengths else x[0].size
            for name, x in ((name, samples.inputs[name]) for name in samples.modalities)
        ]
        return cls(
            offset=-intercept + mechanism.strength * centre / spread,
            slope=mechanism.strength / (spread * np.sqrt(entries)),
        )

    def mask(
        self, visible: Mapping[int, Array], hidden: Mapping[int, Array], noise: float
    ) -> tuple[Array, Array]:
        """P(mask | what is shown, word) as kernel (row, term) @ basis (term, word).

        With S_h(r) = E[exp(-r a_h) | word] over the hidden values, two or more shown entries give
        prod_h S_h(1) up to a factor of the row. A single one, o, may also be the one kept:

            (1 - exp(-a_o)) prod_h S_h(1) + integral from 1 of a_o exp(-r a_o) prod_h S_h(r) dr,

        since exp(-sum a) a_o / sum a is the integral of a_o exp(-r sum a). It is computed
        by Gauss-Legendre in log r.

        Args:
            visible: Column -> (row,) first latent coordinates.
            hidden: Column -> (word,) means of the hidden ones.
            noise: Their standard deviation.
        """
        rows = len(next(iter(visible.values())))
        if len(visible) > 1:
            return np.ones((rows, 1)), self._survival(np.ones(1), hidden, noise)
        ((column, u),) = visible.items()
        a = np.exp(self.offset[column] - self.slope[column] * u)
        panels = max(1, int(np.ceil(2 * np.log(40 / a.min()))))  # beyond, exp(-r a) < exp(-40)
        node, weight = np.polynomial.legendre.leggauss(8)
        r = np.exp((0.5 * np.arange(panels)[:, None] + 0.25 * (node + 1)).reshape(-1))
        ra = a[:, None] * r
        terms = ra * np.exp(-ra) * np.tile(0.25 * weight, panels)  # dr = r d(log r)
        kernel = np.concatenate([-np.expm1(-a)[:, None], terms], axis=1)
        return kernel, self._survival(np.concatenate([np.ones(1), r]), hidden, noise)

    def _survival(self, r: Array, hidden: Mapping[int, Array], noise: float) -> Array:
        """(r, word): product over the hidden entries of E[exp(-r a)]."""
        # trapezoids converge geometrically on smooth functions times a Gaussian
        node = np.linspace(-8.5, 8.5, 257)
        weight = np.exp(-0.5 * node**2)
        weight /= weight.sum()
        product = np.ones((len(r), 1))
        for column, means in hidden.items():
            distinct, which = np.unique(means, return_inverse=True)
            u = distinct[:, None] + noise * node  # (mean, node)
            a = np.exp(self.offset[column] - self.slope[column] * u)
            survival = np.stack([np.exp(-x * a) @ weight for x in r])
            product = product * survival[:, which.reshape(-1)]
        return product


@dataclass(frozen=True)
class Bend:
    """An invertible map with two additive coupling steps; the first coordinate stays.

    With u = (u_1, a, b):  b' = b + BEND * tanh(V [u_1, a]),  a' = a + BEND * tanh(W [u_1, b']).

    Attributes:
        v: (b, 1 + a).
        w: (a, 1 + b).
        turn: Orthogonal (width, width) whose first column is constant; turns the bent vector in
            all kinds but images.
    """

    v: Array
    w: Array
    turn: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, width: int) -> "Bend":
        """Random weights of size 1 / sqrt(inputs), so that tanh is used where it curves."""
        b = width // 2
        a = width - 1 - b
        v = rng.standard_normal((b, 1 + a)) / np.sqrt(1 + a)
        w = rng.standard_normal((a, 1 + b)) / np.sqrt(1 + b)
        basis = rng.standard_normal((width, width))
        basis[:, 0] = 1.0
        turn, _ = np.linalg.qr(basis)
        return cls(v, w, turn * np.sign(turn[0, 0]))

    def __call__(self, u: Float[np.ndarray, "*n width"]) -> Float[np.ndarray, "*n width"]:
        """Bend; before the turn."""
        u_1, a, b = self._split(u)
        b = b + BEND * np.tanh(np.concatenate([u_1, a], axis=-1) @ self.v.T)
        a = a + BEND * np.tanh(np.concatenate([u_1, b], axis=-1) @ self.w.T)
        return np.concatenate([u_1, a, b], axis=-1)

    def undo(self, z: Float[np.ndarray, "*n width"]) -> Float[np.ndarray, "*n width"]:
        """Inverse of the call."""
        u_1, a, b = self._split(z)
        a = a - BEND * np.tanh(np.concatenate([u_1, b], axis=-1) @ self.w.T)
        b = b - BEND * np.tanh(np.concatenate([u_1, a], axis=-1) @ self.v.T)
        return np.concatenate([u_1, a, b], axis=-1)

    def _split(self, u: Array) -> tuple[Array, Array, Array]:
        middle = 1 + len(self.w)
        return u[..., :1], u[..., 1:middle], u[..., middle:]


def _dress(
    modality: Modality, bend: Bend, u: Array, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int64] | None]:
    """From latent vectors (sample, width) to what a method reads, and its lengths."""
    n, width = u.shape
    if modality.kind == "vector":
        return bend(u) @ bend.turn.T, None
    if modality.kind == "image":
        cosines = _cosines(width)
        clutter = RESIDUAL * rng.standard_normal((n, SIDE * SIDE))
        clutter -= clutter @ cosines @ cosines.T
        return (bend(u) @ cosines.T + clutter).reshape(n, 1, SIDE, SIDE), None
    draws = rng.random((n, 1 + STEPS * width * 2))  # one row a sample, so that rows are stable
    steps = STEPS // 2 + (draws[:, 0] * (STEPS // 2 + 1)).astype(np.int64)
    radius = np.sqrt(-2 * np.log1p(-draws[:, 1 : 1 + STEPS * width]))
    r = RESIDUAL * (radius * np.cos(2 * np.pi * draws[:, 1 + STEPS * width :]))  # Box, Muller
    r = r.reshape(n, STEPS, width)
    if modality.kind == "sequence":
        r = np.cumsum(r, axis=1) / np.sqrt(STEPS)
    valid = (np.arange(STEPS) < steps[:, None])[..., None]
    r -= (r * valid).sum(axis=1, keepdims=True) / steps[:, None, None]
    return np.where(valid, bend(u[:, None] + r) @ bend.turn.T, 0.0), steps


def _undress(modality: Modality, bend: Bend, x: Array, steps: NDArray[Any] | None) -> Array:
    """Inverse of `_dress` as far as the latent vector goes."""
    if modality.kind == "vector":
        return bend.undo(x @ bend.turn)
    if modality.kind == "image":
        return bend.undo(x.reshape(len(x), -1) @ _cosines(len(bend.turn)))
    assert steps is not None
    valid = np.arange(x.shape[1]) < steps[:, None]
    u = np.zeros((*x.shape[:2], x.shape[2]))
    u[valid] = bend.undo(x[valid] @ bend.turn)
    mean: Array = u.sum(axis=1) / steps[:, None]
    return mean


def _cosines(width: int) -> Array:
    """Orthonormal smooth pictures (pixel, width), the constant one first, coarse before fine."""
    pixel = np.arange(SIDE) + 0.5
    wave = np.cos(np.pi * np.outer(np.arange(SIDE), pixel) / SIDE)  # (frequency, pixel)
    wave /= np.linalg.norm(wave, axis=1, keepdims=True)
    pairs = sorted(np.ndindex(SIDE, SIDE), key=lambda pair: (sum(pair), pair))
    return np.stack([np.outer(wave[i], wave[j]).reshape(-1) for i, j in pairs[:width]], axis=1)


def _bits(count: int) -> Array:
    """All words of `count` bits as rows of -1 and +1."""
    number = np.arange(2**count)[:, None] >> np.arange(count)[::-1]
    word: Array = np.where(number & 1, -1.0, 1.0)
    return word


def _orthonormal(rng: np.random.Generator, width: int) -> Array:
    q: Array = np.linalg.qr(rng.standard_normal((width, width)))[0]
    return q


def _generator(seed: int, *words: str | int) -> np.random.Generator:
    """A stream for each name; text enters as its bytes, hash() would change with the process."""
    entropy = [seed, *[b if isinstance(b, int) else int.from_bytes(b.encode()) for b in words]]
    return np.random.default_rng(entropy)


def _check(
    num_modalities: int,
    width: int,
    redundant: int,
    unique: Sequence[int],
    synergistic: int,
    noise: float,
    nuisance_correlation: float,
    imbalance: float,
    kinds: Sequence[SyntheticKind],
) -> None:
    if not 2 <= num_modalities <= 6:
        raise ValueError(f"num_modalities must lie in 2..6, found {num_modalities}")
    if len(unique) > num_modalities:
        raise ValueError(f"unique lists {len(unique)} modalities, but there are {num_modalities}")
    if not kinds:
        raise ValueError("kinds is empty; give at least one, such as [vector]")
    if min(redundant, synergistic, *unique) < 0:
        raise ValueError(
            f"numbers of bits must be >= 0, found redundant {redundant}, unique {list(unique)}, "
            f"synergistic {synergistic}"
        )
    if not redundant + sum(unique) + synergistic:
        raise ValueError("no bits, so there is one class; give redundant, unique or synergistic")
    total = redundant + sum(unique) + synergistic * num_modalities
    if total > MAX_BITS:
        raise ValueError(
            f"{total} bits (redundant + unique + synergistic x modalities) make 2^{total} words; "
            f"the exact posterior enumerates at most 2^{MAX_BITS}"
        )
    if (class_bits := redundant + sum(unique) + synergistic) > MAX_CLASS_BITS:
        raise ValueError(
            f"{class_bits} bits (redundant + unique + synergistic) make 2^{class_bits} classes; "
            f"there may be 2^{MAX_CLASS_BITS}"
        )
    most = redundant + max(unique, default=0) + synergistic
    if not max(2, most) <= width <= SIDE * SIDE:
        raise ValueError(
            f"width must lie in {max(2, most)}..{SIDE * SIDE} to hold {most} bits, found {width}"
        )
    if not noise > 0:
        raise ValueError(f"noise must be > 0, found {noise}")
    if not 0 <= nuisance_correlation <= 1:
        raise ValueError(f"nuisance_correlation must lie in 0..1, found {nuisance_correlation}")
    if not imbalance >= 1:
        raise ValueError(f"imbalance must be >= 1, found {imbalance}")
