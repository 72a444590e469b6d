"""What goes missing inside a modality that is there: segments, tokens, patches, features, noise.

Every entry has one number, the rate at which it goes, whatever the rate asked for: what is gone at
a low rate is gone at a higher one. The entry that goes last always stays, so that a modality that
is there shows something; a rate is so the expected share of entries, but for that one. Numbers are
keyed by mask seed, split, sample, modality and place, as those of presence are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.special import ndtri

from mmbench.data.missingness.protocol import modality_index
from mmbench.data.missingness.rates import share
from mmbench.data.missingness.stream import Stream
from mmbench.data.samples import PresenceArray, Samples
from mmbench.data.task import Kind, Modality

Rates = float | Mapping[str, float]


@runtime_checkable  # so that tests can check signatures
class Within(Protocol):
    """What goes inside a modality. Implementations are frozen dataclasses, fields are YAML keys."""

    kinds: ClassVar[tuple[Kind, ...]]  # of modality that it touches

    @property
    def mechanism(self) -> str:
        """Its name in a scenario, "segments"."""

    @property
    def label(self) -> str:
        """Its part of the name of a test condition, "segments_0.3"; empty where nothing goes."""

    @property
    def rate(self) -> float | None:
        """Share of entries that go; None if modalities differ, or it is not set by a rate."""

    def check(self, names: tuple[str, ...]) -> None:
        """Refuse modalities that do not exist.

        Raises:
            ValueError: One line that says which.
        """

    def gap(self, modality: Modality, samples: Samples, stream: Stream) -> "Gap | None":
        """What becomes of the entries of one modality; None if nothing.

        Raises:
            ValueError: If it cannot be laid over the modality.
        """


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on standardised values.

    Args:
        deviation: Its standard deviation, > 0; features have 1.
        sample_id: Of the samples.
        stream: Where its numbers come from.
        modality: What they are for.
        shape: Of one sample.
    """

    deviation: float
    sample_id: Int[np.ndarray, " sample"]
    stream: Stream
    modality: str
    shape: tuple[int, ...]

    def of(self, rows: NDArray[np.int_]) -> Float[np.ndarray, "row ..."]:
        """Noise of some samples, the same whoever is beside them."""
        count = int(np.prod(self.shape))
        u = self.stream.places(self.sample_id[rows], count, self.modality, "noise")
        z = self.deviation * ndtri(np.maximum(u, 2.0**-54))
        noise: NDArray[np.float32] = z.astype(np.float32).reshape(len(rows), *self.shape)
        return noise


@dataclass(frozen=True)
class Gap:
    """What becomes of the entries of one modality.

    Args:
        observed: (sample, ...) over the axes of the modality without channels, for steps without
            features; True = the entry stays. None = all stay.
        patch: Height and width in pixels of what one entry of `observed` stands for.
        noise: What is added to what stays; None = nothing.
    """

    observed: Bool[np.ndarray, "sample ..."] | None = None
    patch: int = 1
    noise: Noise | None = None

    def joined(self, other: "Gap") -> "Gap":
        """Both at once: what stays, stays in both.

        Raises:
            ValueError: If they divide the modality differently, or both are noise.
        """
        if self.noise is not None and other.noise is not None:
            raise ValueError("a modality takes one noise; leave the other out")
        observed, patch = self.observed, self.patch
        if observed is None:
            observed, patch = other.observed, other.patch
        elif other.observed is not None:
            if other.observed.shape != observed.shape or other.patch != patch:
                raise ValueError(
                    "two mechanisms divide one modality differently; leave one of them out"
                )
            observed = observed & other.observed
        return Gap(observed, patch, self.noise or other.noise)


def gaps(
    within: Sequence[Within], modalities: Sequence[Modality], samples: Samples, stream: Stream
) -> dict[str, Gap]:
    """What becomes of the modalities of some samples; those that nothing touches are left out.

    Raises:
        ValueError: If mechanisms contradict each other, or one touches no modality at all.
    """
    result: dict[str, Gap] = {}
    for one in within:
        for modality in fitting(one, modalities):
            gap = one.gap(modality, samples, stream)
            if gap is not None:
                past = result.get(modality.name)
                result[modality.name] = gap if past is None else past.joined(gap)
    return result


def realised_inside(
    gaps_of: Mapping[str, Gap], samples: Samples, presence: PresenceArray
) -> dict[str, tuple[int, int]]:
    """Entries inside modalities that went, and how many there were; what noise touches stays.

    Args:
        gaps_of: From `gaps`, for these samples.
        samples: Some samples; padding is no entry of theirs.
        presence: Which modalities they show; what is in one that is absent does not count.

    Returns:
        Modality -> entries gone and entries in all, for modalities that something may go from.
    """
    counts = {}
    for name, gap in gaps_of.items():
        if gap.observed is None:
            continue
        rows = presence[:, samples.modalities.index(name)]
        stays = gap.observed[rows].reshape(int(rows.sum()), -1)
        total = stays.size
        if name in samples.lengths:
            total = int(np.maximum(samples.lengths[name][rows], 1).sum())
        counts[name] = (total - int(stays.sum()), total)
    return counts


def fitting(one: Within, modalities: Sequence[Modality]) -> list[Modality]:
    """The modalities that a mechanism touches.

    Raises:
        ValueError: If there is none.
    """
    chosen = [modality for modality in modalities if modality.kind in one.kinds]
    if not chosen:
        raise ValueError(
            f"{one.mechanism} speaks of modalities of kind {' or '.join(one.kinds)}, and there is "
            f"none among {', '.join(modality.name for modality in modalities)}"
        )
    return chosen


def keep_last(
    gone_at: Float[np.ndarray, "sample ..."],
    rate: float,
    valid: Bool[np.ndarray, "sample ..."] | None = None,
) -> Bool[np.ndarray, "sample ..."]:
    """Which entries stay at a rate; the one that goes last always does.

    Args:
        gone_at: Rate at which each goes, in [0, 1).
        rate: Share of entries, 0 <= rate <= 1.
        valid: False = padding, which counts for nothing; None = there is none.
    """
    n = len(gone_at)
    last = (gone_at if valid is None else np.where(valid, gone_at, -1.0)).reshape(n, -1)
    stays = (gone_at >= rate).reshape(n, -1)
    stays[np.arange(n), last.argmax(axis=1)] = True
    observed = stays.reshape(gone_at.shape)
    return observed if valid is None else observed & valid


def _steps(modality: Modality, samples: Samples) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
    """Lengths, at least 1, and which steps are no padding."""
    steps = np.maximum(samples.lengths[modality.name], 1).astype(np.int64)
    return steps, np.arange(modality.shape[0]) < steps[:, None]


def _rates(value: Rates, key: str) -> Rates:
    """Shares, checked.

    Raises:
        ValueError: If one is none.
    """
    if not isinstance(value, Mapping):
        return share(value, key)
    if not value:
        raise ValueError(f"{key} names no modality; write {{audio: 0.3}} or 0.3")
    return {name: share(one, f"{key}.{name}") for name, one in value.items()}


@dataclass(frozen=True)
class _Gone:
    """Entries that go at a rate; a subclass has one field that is its rate, the first."""

    mechanism: ClassVar[str]
    kinds: ClassVar[tuple[Kind, ...]]
    key: ClassVar[str]  # the field that holds the rate

    def __post_init__(self) -> None:
        object.__setattr__(self, self.key, _rates(getattr(self, self.key), self.key))

    @property
    def _value(self) -> Rates:
        value: Rates = getattr(self, self.key)
        return value

    @property
    def label(self) -> str:
        """`segments_0.3`, `segments_audio_0.3`."""
        if not isinstance(self._value, Mapping):
            return f"{self.mechanism}_{self._value:g}" if self._value else ""
        parts = [f"{name}_{rate:g}" for name, rate in self._value.items() if rate]
        return "_".join([self.mechanism, *parts]) if parts else ""

    @property
    def rate(self) -> float | None:
        """The rate; None if each modality has its own."""
        return None if isinstance(self._value, Mapping) else self._value

    def check(self, names: tuple[str, ...]) -> None:
        """See `Within`."""
        for name in self._value if isinstance(self._value, Mapping) else ():
            modality_index(name, names)

    def _rate_of(self, modality: Modality, names: tuple[str, ...]) -> float:
        if not isinstance(self._value, Mapping):
            return self._value
        rates = {names[modality_index(name, names)]: rate for name, rate in self._value.items()}
        return rates.get(modality.name, 0.0)


@dataclass(frozen=True)
class Segments(_Gone):
    """One contiguous segment of each sequence goes: a sensor that fails for a while.

    At the rate r the segment is [c (1 - r), c (1 - r) + r) in shares of the sequence's length, with
    c uniform in [0, 1): it always has the length r, grows around the place c, and is nested in r.

    Args:
        segment_rate: Share of time steps, 0 <= rate <= 1; or modality -> share of its own.
    """

    segment_rate: Rates
    mechanism: ClassVar[str] = "segments"
    kinds: ClassVar[tuple[Kind, ...]] = ("sequence",)
    key: ClassVar[str] = "segment_rate"

    def gap(self, modality: Modality, samples: Samples, stream: Stream) -> Gap | None:
        """See `Within`."""
        rate = self._rate_of(modality, samples.modalities)
        if not rate:
            return None
        steps, valid = _steps(modality, samples)
        c = stream.uniform(samples.sample_id, [modality.name], purpose="segment")
        x = (np.arange(modality.shape[0]) + 0.5) / steps[:, None]
        # r at which the segment reaches x from the right, and from the left
        before = 1 - x / np.maximum(c, 2.0**-54)
        after = (x - c) / (1 - c)
        gone_at = np.where(x < c, before, after)
        return Gap(keep_last(gone_at, rate, valid))


@dataclass(frozen=True)
class Tokens(_Gone):
    """Tokens of a text go, each by itself, and leave the id 0 behind.

    Args:
        token_rate: Share of tokens, 0 <= rate <= 1; or modality -> share of its own.
    """

    token_rate: Rates
    mechanism: ClassVar[str] = "tokens"
    kinds: ClassVar[tuple[Kind, ...]] = ("tokens",)
    key: ClassVar[str] = "token_rate"

    def gap(self, modality: Modality, samples: Samples, stream: Stream) -> Gap | None:
        """See `Within`."""
        rate = self._rate_of(modality, samples.modalities)
        if not rate:
            return None
        _, valid = _steps(modality, samples)
        u = stream.places(samples.sample_id, modality.shape[0], modality.name, "token")
        return Gap(keep_last(u, rate, valid))


@dataclass(frozen=True)
class Patches(_Gone):
    """Square patches of a picture go, each by itself, in all channels.

    Args:
        patch_rate: Share of patches, 0 <= rate <= 1; or modality -> share of its own.
        patch_size: Height and width in pixels, >= 1; patches at the edge may be smaller.
    """

    patch_rate: Rates
    patch_size: int = 4
    mechanism: ClassVar[str] = "patches"
    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    key: ClassVar[str] = "patch_rate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_size < 1:
            raise ValueError(f"patch_size must be 1 pixel or more, found {self.patch_size}")

    @property
    def label(self) -> str:
        """`patches_0.3`, `patches_0.3_size_8`."""
        size = f"_size_{self.patch_size}" if self.patch_size != 4 else ""
        return f"{super().label}{size}" if super().label else ""

    def gap(self, modality: Modality, samples: Samples, stream: Stream) -> Gap | None:
        """See `Within`."""
        rate = self._rate_of(modality, samples.modalities)
        if not rate:
            return None
        grid = [-(-size // self.patch_size) for size in modality.shape[1:]]
        purpose = f"patch {self.patch_size}"
        u = stream.places(samples.sample_id, grid[0] * grid[1], modality.name, purpose)
        return Gap(keep_last(u, rate).reshape(-1, *grid), patch=self.patch_size)


@dataclass(frozen=True)
class Features(_Gone):
    """Features of a vector go, each by itself: tests that were not ordered.

    Args:
        feature_rate: Share of features, 0 <= rate <= 1; or modality -> share of its own.
    """

    feature_rate: Rates
    mechanism: ClassVar[str] = "features"
    kinds: ClassVar[tuple[Kind, ...]] = ("vector",)
    key: ClassVar[str] = "feature_rate"

    def gap(self, modality: Modality, samples: Samples, stream: Stream) -> Gap | None:
        """See `Within`."""
        rate = self._rate_of(modality, samples.modalities)
        if not rate:
            return None
        u = stream.places(samples.sample_id, modality.shape[0], modality.name, "feature")
        return Gap(keep_last(u, rate))


@dataclass(frozen=True)
class WhiteNoise:
    """Gaussian noise of a given signal-to-noise ratio, on everything but texts.

    A feature or channel of standardised data has the power 1, so noise of S dB has the standard
    deviation 10^(-S / 20). The same normal numbers serve every ratio. Nothing is gone: `observed`
    stays true.

    Args:
        snr_db: Signal-to-noise ratio in dB, any number; 0 = as loud as the signal.
    """

    snr_db: float
    mechanism: ClassVar[str] = "noise"
    kinds: ClassVar[tuple[Kind, ...]] = ("vector", "sequence", "image", "volume", "bag")

    def __post_init__(self) -> None:
        if not np.isfinite(self.snr_db):
            raise ValueError(f"snr_db must be finite, found {self.snr_db}")

    @property
    def label(self) -> str:
        """`noise_10db`."""
        return f"noise_{self.snr_db:g}db"

    @property
    def rate(self) -> float | None:
        """None: it is set by a ratio."""
        return None

    def check(self, names: tuple[str, ...]) -> None:
        """See `Within`; it speaks of no modality by name."""

    def gap(self, modality: Modality, samples: Samples, stream: Stream) -> Gap | None:
        """See `Within`."""
        deviation = float(10 ** (-self.snr_db / 20))
        noise = Noise(deviation, samples.sample_id, stream, modality.name, modality.shape)
        return Gap(noise=noise)
