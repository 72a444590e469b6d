"""What a method must know about a data set before it sees a sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["vector", "sequence", "image", "volume", "tokens", "bag"]
TaskKind = Literal["single_label", "multi_label", "regression"]

AXES: dict[Kind, tuple[str, ...]] = {
    "vector": ("feature",),
    "sequence": ("time", "feature"),
    "image": ("channel", "height", "width"),
    "volume": ("channel", "depth", "height", "width"),
    "tokens": ("time",),
    "bag": ("instance", "feature"),
}
WITH_LENGTHS: frozenset[Kind] = frozenset({"sequence", "tokens", "bag"})


@dataclass(frozen=True, slots=True)
class Modality:
    """One modality of a data set.

    Args:
        name: Column name in presence tables and patterns; letters, digits and `_`.
        kind: Decides the axes of a sample, see `AXES`.
        shape: Sizes of those axes, padding included (the longest sequence or bag).
        vocab_size: Number of token ids, `tokens` only; id 0 is padding.

    Raises:
        ValueError: If the shape does not fit the kind, the name is not an identifier, or
            `vocab_size` is missing for tokens or given for anything else.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    vocab_size: int = 0

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(
                f"modality name {self.name!r} is not usable in patterns such as 'audio+text': "
                "take letters, digits and _, not beginning with a digit"
            )
        if len(self.shape) != len(AXES[self.kind]):
            raise ValueError(
                f"modality {self.name!r} of kind {self.kind} needs the axes {AXES[self.kind]}, "
                f"but its shape is {self.shape}"
            )
        if (self.vocab_size > 0) != (self.kind == "tokens"):
            raise ValueError(
                f"modality {self.name!r}: vocab_size belongs to tokens, which need it; "
                f"found kind {self.kind} with vocab_size {self.vocab_size}"
            )

    @property
    def has_lengths(self) -> bool:
        """Whether samples differ in length along the first axis."""
        return self.kind in WITH_LENGTHS


@dataclass(frozen=True, slots=True)
class Task:
    """What goes in and what is predicted.

    Args:
        kind: `single_label` (target int in 0..C-1), `multi_label` (target 0/1, shape (C,)) or
            `regression` (target float, shape (C,)).
        modalities: In the order of the columns of presence.
        outputs: Names of the classes, or of the regressed quantities.

    Raises:
        ValueError: If there is no modality, a name occurs twice, or there are no outputs.
    """

    kind: TaskKind
    modalities: tuple[Modality, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.modalities or not self.outputs:
            raise ValueError("a task needs at least one modality and one output")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"modality names must differ, found {self.names}")

    @property
    def names(self) -> tuple[str, ...]:
        """Modality names, in the order of the columns of presence."""
        return tuple(modality.name for modality in self.modalities)

    @property
    def num_outputs(self) -> int:
        """C: classes, labels or regressed quantities."""
        return len(self.outputs)

    def one_of(self, kinds: Sequence[Kind], name: str | None = None) -> Modality:
        """Choose the modality that a method for a single modality reads.

        Args:
            kinds: That it can read, the most wanted first.
            name: The user's choice; None = the first modality of the first kind that occurs.

        Raises:
            ValueError: If there is no such modality, or it is of another kind.
        """
        if name is None:
            fitting = [m for kind in kinds for m in self.modalities if m.kind == kind]
        elif name not in self.names:
            raise ValueError(f"no modality named {name!r}; there are {', '.join(self.names)}")
        else:
            fitting = [m for m in self.modalities if m.name == name and m.kind in kinds]
        if not fitting:
            found = {m.name: m.kind for m in self.modalities if name in (None, m.name)}
            raise ValueError(
                f"a modality of kind {' or '.join(kinds)} is needed, found "
                f"{', '.join(f'{n} of kind {kind}' for n, kind in found.items())}"
            )
        return fitting[0]
