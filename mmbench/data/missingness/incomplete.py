"""An exact number of incomplete samples."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from mmbench.data.missingness.protocol import (
    Labels,
    Law,
    PatternProbability,
    Scores,
    modality_index,
    pattern_index,
)
from mmbench.data.missingness.rates import share
from mmbench.data.missingness.stream import Stream
from mmbench.data.samples import PresenceArray, Samples


@dataclass(frozen=True)
class Incomplete:
    """Exactly round(eta N) samples lack something: the rate eta of the prompt learning papers.

    Samples are put in a random order and the first round(eta N) lose something, so tables are
    nested in eta. N counts the samples that can lose it: they have what is to be hidden and
    something else besides; on complete data these are all. The count, and so the table, depends
    on which samples there are; draw before taking a part of a split.

    Source: Lee et al., "Multimodal Prompting with Missing Modalities", CVPR 2023, section 4.1
    (eta, one of two modalities); the general case is ours.

    Args:
        incomplete_rate: eta, 0 <= eta <= 1.
        missing: What an incomplete sample lacks: a modality by name or `primary`, `secondary`;
            `each`: one modality, every one equally often (to within one sample); `both`: the same
            for two modalities; `any`: a random set, neither none nor all.
    """

    incomplete_rate: float
    missing: str
    mechanism: ClassVar[str] = "incomplete"

    def __post_init__(self) -> None:
        eta = share(self.incomplete_rate, "incomplete_rate")
        object.__setattr__(self, "incomplete_rate", eta)

    @property
    def label(self) -> str:
        """`incomplete_text_0.7`; `complete` where nothing is hidden."""
        eta = self.incomplete_rate
        return f"incomplete_{self.missing}_{eta:g}" if eta else "complete"

    @property
    def nominal_rate(self) -> float | None:
        """None: it is set by the share of incomplete samples."""
        return None

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`."""
        if self.missing == "both" and len(names) != 2 and "both" not in names:
            raise ValueError(
                f"missing: both speaks of two modalities, there are {len(names)}; write each"
            )
        if len(names) < 2 and self.incomplete_rate:
            raise ValueError(
                f"incomplete rate {self.incomplete_rate:g} cannot be reached with one modality: "
                "it is always kept"
            )
        self._column(names)

    def _column(self, names: tuple[str, ...]) -> int | None:
        """Which modality is hidden; None if it differs between samples."""
        if self.missing in ("each", "both", "any") and self.missing not in names:
            return None
        return modality_index(self.missing, names)

    def _eligible(
        self, natural: PresenceArray, names: tuple[str, ...]
    ) -> Bool[np.ndarray, " sample"]:
        column = self._column(names)
        several: Bool[np.ndarray, " sample"] = natural.sum(axis=1) > 1
        return several if column is None else several & natural[:, column]

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`."""
        natural, ids = samples.presence, samples.sample_id
        rows = np.flatnonzero(self._eligible(natural, samples.modalities))
        u = stream.uniform(ids, ["who", "what"], purpose="incomplete")
        rows = rows[np.lexsort((ids[rows], u[rows, 0]))]
        rows = rows[: round(self.incomplete_rate * len(rows))]
        absent = np.zeros_like(natural)
        column = self._column(samples.modalities)
        size = natural[rows].sum(axis=1)
        if column is not None:
            absent[rows, column] = True
        elif self.missing == "any":
            # bit j of `code`, 1 <= code <= 2^size - 2, hides the j-th modality that is there
            code = 1 + (u[rows, 1] * (2.0**size - 2)).astype(np.int64)
            place = np.where(natural[rows], natural[rows].cumsum(axis=1) - 1, 62)
            absent[rows] = (code[:, None] >> place) & 1 == 1
        else:
            # by turns along the random order: equal counts at every rate, and nested
            turn = np.arange(len(rows)) % size
            place = np.where(natural[rows], natural[rows].cumsum(axis=1) - 1, -1)
            absent[rows] = place == turn[:, None]
        presence: PresenceArray = natural & ~absent
        return presence

    def law(self, samples: Samples) -> Law:
        """See `Missingness`; looks at no value and no label."""
        names = samples.modalities
        column = self._column(names)
        count = int(self._eligible(samples.presence, names).sum())
        chosen = round(self.incomplete_rate * count)

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            law = np.zeros((len(natural), 1 << len(names)))
            every = np.arange(len(natural))
            whole = pattern_index(natural)
            share = np.where(self._eligible(natural, names), chosen / max(count, 1), 0.0)
            law[every, whole] = 1 - share
            size = natural.sum(axis=1)
            if column is not None:
                lost = np.where(share > 0, whole & ~(1 << column), whole)
                law[every, lost] += share
            elif self.missing == "any":
                for code in range(1, 1 << len(names)):
                    inside = (whole & code == code) & (whole != code) & (share > 0)
                    law[inside, code] += share[inside] / (2.0 ** size[inside] - 2)
            else:
                for m in range(len(names)):
                    turn = natural[:, :m].sum(axis=1)
                    times = chosen // size + (turn < chosen % size)
                    inside = natural[:, m] & (share > 0)
                    law[inside, whole[inside] & ~(1 << m)] += times[inside] / count
            return law

        return probability
