"""Random numbers keyed by what they are for, the same ones on every machine."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from mmbench.data.samples import Split

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # step of SplitMix64: odd, 2^64 over the golden ratio
CHUNK = 1 << 15  # samples drawn at a time, so that their random numbers stay in cache


def _mix(z: NDArray[np.uint64]) -> None:
    """Scramble 64-bit words in place.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
    2014, the output function of SplitMix64 (constants by Stafford, variant 13).
    """
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)


def key_of(*words: str | int) -> np.uint64:
    """64 bits that depend on all words; the separator keeps ("a", "bc") and ("ab", "c") apart."""
    text = "\0".join(str(word) for word in words)
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


@dataclass(frozen=True)
class Stream:
    """Random numbers keyed by what they are for, not by when they are drawn.

    A number depends on (mask_seed, split, sample id, name, purpose) alone: not on the order of
    the samples, on which others are there, on the platform, or on anything drawn before. Only
    integer arithmetic modulo 2^64 and one exact conversion are involved.

    Args:
        mask_seed: Decides what is withheld, whatever the seed of training.
        split: Split that is drawn for.
    """

    mask_seed: int
    split: Split

    def uniform(
        self, sample_id: Int[np.ndarray, " sample"], names: Sequence[str], purpose: str = "entry"
    ) -> Float[np.ndarray, "sample column"]:
        """Return one number in [0, 1) for each sample and name, a multiple of 2^-53.

        Args:
            sample_id: Any integers.
            names: What the columns are for, such as modality names.
            purpose: Tells apart numbers that one sample and name need for several ends.
        """
        row = self._rows(sample_id)
        numbers = np.empty((len(row), len(names)))
        for column, name in enumerate(names):
            z = row + key_of("column", purpose, name)
            _mix(z)
            np.multiply(z >> np.uint64(11), 2.0**-53, out=numbers[:, column])
        return numbers

    def places(
        self, sample_id: Int[np.ndarray, " sample"], count: int, name: str, purpose: str
    ) -> Float[np.ndarray, "sample place"]:
        """Return one number in [0, 1) for each sample and place inside of what it is for.

        Each sample has a SplitMix64 sequence of its own, whose k-th number is that of place k, so
        numbers do not change with how many places there are.

        Args:
            sample_id: Any integers.
            count: Of places.
            name: What they are inside of, such as a modality.
            purpose: As in `uniform`.
        """
        start = self._rows(sample_id)[:, None] + key_of("places", purpose, name)
        z = start + np.arange(1, count + 1, dtype=np.uint64) * GAMMA
        _mix(z)
        numbers: Float[np.ndarray, "sample place"] = (z >> np.uint64(11)) * 2.0**-53
        return numbers

    def _rows(self, sample_id: Int[np.ndarray, " sample"]) -> NDArray[np.uint64]:
        row = sample_id.astype(np.int64).view(np.uint64)
        row = row * GAMMA + key_of("row", self.mask_seed, self.split)
        _mix(row)
        return row
