"""The samples of one split, as arrays: all that a data set's file has to produce."""

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from mmbench.data.mapped import Values, at_rows, chunks

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
PresenceArray = Bool[np.ndarray, "sample modality"]


@dataclass(frozen=True)
class Samples:
    """Samples of one split with their natural missingness.

    Args:
        modalities: Names, in the order of the columns of `presence`.
        inputs: Modality -> array (sample, ...) in the axes of its kind; images may be uint8
            (0..255) and token ids any integer type. Absent entries may hold anything. An array
            that is mapped from a large file is never copied: parts of these samples refer to it.
        target: (sample,) int for single_label, (sample, 2) time and event for survival, (sample,
            output) float otherwise.
        sample_id: Unique int64, the same in every run: masks and predictions are joined on it.
        presence: True = the sample has the modality; at least one in every row.
        lengths: Modality -> (sample,) steps, for sequences, tokens and bags.
        checked: Whether the values are known to be finite: large files are read once for that.

    Raises:
        ValueError: If sizes differ, ids repeat, a row has no modality, or a present entry or a
            target is not finite; the message names the first offending sample.
    """

    modalities: tuple[str, ...]
    inputs: Mapping[str, Values]
    target: NDArray[Any]
    sample_id: Int[np.ndarray, " sample"]
    presence: PresenceArray
    lengths: Mapping[str, Int[np.ndarray, " sample"]] = field(default_factory=dict)
    checked: InitVar[bool] = False

    def __post_init__(self, checked: bool) -> None:
        n = len(self.sample_id)
        sizes = {name: len(self.inputs[name]) for name in self.modalities}
        sizes |= {"target": len(self.target), "presence": len(self.presence)}
        sizes |= {f"lengths[{name}]": len(steps) for name, steps in self.lengths.items()}
        if wrong := {name: size for name, size in sizes.items() if size != n}:
            raise ValueError(f"{n} sample ids, but {wrong}")
        ids, counts = np.unique(self.sample_id, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"sample id {ids[counts > 1][0]} occurs {counts.max()} times")
        if n and not self.presence.any(axis=1).all():
            lost = self.sample_id[~self.presence.any(axis=1)][0]
            raise ValueError(f"sample {lost} has no modality at all; drop such rows")
        if checked:
            return
        self._require_finite("target", self.target, np.ones(n, bool))
        for column, name in enumerate(self.modalities):
            self._require_finite(name, self.inputs[name], self.presence[:, column])

    def _require_finite(self, name: str, values: Values, rows: NDArray[np.bool_]) -> None:
        if not np.issubdtype(values.dtype, np.floating):
            return
        for part in chunks(values):
            finite = np.isfinite(values[part]).all(axis=tuple(range(1, values.ndim)))
            if (bad := rows[part] & ~finite).any():
                raise ValueError(
                    f"{name} of sample {self.sample_id[part][bad][0]} holds NaN or infinity; "
                    "mark the entry absent or drop the sample"
                )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.sample_id)

    def take(self, rows: NDArray[Any]) -> "Samples":
        """Return the samples at these positions (or where a bool mask is True)."""
        return replace(
            self,
            inputs={name: at_rows(values, rows) for name, values in self.inputs.items()},
            target=self.target[rows],
            sample_id=self.sample_id[rows],
            presence=self.presence[rows],
            lengths={name: steps[rows] for name, steps in self.lengths.items()},
            checked=True,
        )

    def only(self, modalities: Sequence[str]) -> "Samples":
        """Return the samples with these modalities alone; rows left with none are dropped."""
        columns = [self.modalities.index(name) for name in modalities]
        rest = self.take(np.any(self.presence[:, columns], axis=1))
        return replace(
            rest,
            modalities=tuple(modalities),
            inputs={name: rest.inputs[name] for name in modalities},
            presence=rest.presence[:, columns],
            lengths={name: steps for name, steps in rest.lengths.items() if name in modalities},
            checked=True,
        )
