"""A presence table from a file decides."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from mmbench.data.masks import PresenceTable
from mmbench.data.missingness.protocol import (
    Labels,
    Law,
    PatternProbability,
    Scores,
    modality_index,
    pattern_index,
)
from mmbench.data.missingness.stream import Stream
from mmbench.data.samples import PresenceArray, Samples


@dataclass(frozen=True)
class FromTable:
    """A presence table from a file decides what is shown.

    Args:
        path: File written by `PresenceTable.save`; relative to the working directory. One file
            may hold the samples of several splits.
        checksum: Its SHA-256, as its header says; empty = any.
    """

    path: str
    checksum: str = ""
    mechanism: ClassVar[str] = "table"

    @property
    def label(self) -> str:
        """`table_<name of the file>`."""
        return f"table_{Path(self.path).stem}"

    @property
    def nominal_rate(self) -> float | None:
        """None: it is set by a file."""
        return None

    def load(self) -> PresenceTable:
        """Read the file.

        Raises:
            ValueError: If it is no table, or not the one with the checksum.
        """
        table = PresenceTable.load(Path(self.path))
        if self.checksum and table.checksum != self.checksum:
            raise ValueError(
                f"{self.path} is not the table that the scenario names: its checksum is "
                f"{table.checksum[:12]}..., the scenario says {self.checksum[:12]}..."
            )
        return table

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`; reads the file."""
        modalities = self.load().modalities
        for name in modalities:
            modality_index(name, names)
        for name in names:
            modality_index(name, modalities)

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`; nothing is random."""
        return self.load().over(samples)

    def law(self, samples: Samples) -> Law:
        """See `Missingness`; the rows must be those of `samples`, whose patterns are certain."""
        presence = self.load().over(samples)

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            law: Float[np.ndarray, "row pattern"]
            law = np.zeros((len(presence), 1 << presence.shape[1]))
            law[np.arange(len(presence)), pattern_index(presence)] = 1.0
            return law

        return probability
