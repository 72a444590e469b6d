"""What a method must know about a data set before it sees a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from mmbench.registry import suggest

Kind = Literal["vector", "sequence", "image", "volume", "tokens", "bag"]
TaskKind = Literal["single_label", "multi_label", "regression", "survival"]

AXES: dict[Kind, tuple[str, ...]] = {
    "vector": ("feature",),
    "sequence": ("time", "feature"),
    "image": ("channel", "height", "width"),
    "volume": ("channel", "depth", "height", "width"),
    "tokens": ("time",),
    "bag": ("instance", "feature"),
}
WITH_LENGTHS: frozenset[Kind] = frozenset({"sequence", "tokens", "bag"})


MOST_LAYERS = 256
FEWEST_INTERVALS = 3  # the Brier score is integrated between the ends of at least two


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """How a suite encodes a modality, the same for every method; the width is the method's.

    Args:
        backbone: Network in place of the small CNN, images only, such as `efficientnet_lite0` or
            `resnet18:/models/resnet18.safetensors`; empty = the small CNN. A network whose width
            is the method's is read as it is.
        frozen: Whether the backbone keeps its weights; it then runs once for each sample.
        layers: Hidden layers of a vector, >= 0; layers of the GRU of a sequence or of the
            transformer of a text, >= 1. With 0, a vector passes one Linear, and one that already
            has the method's width passes unchanged.
        dropout: In [0, 1).

    Raises:
        ValueError: If a number is out of range.
    """

    backbone: str = ""
    frozen: bool = False
    layers: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of an encoder must be in [0, 1), found {self.dropout}")
        if not 0 <= self.layers <= MOST_LAYERS:
            raise ValueError(
                f"layers of an encoder must be in 0..{MOST_LAYERS}, found {self.layers}"
            )
        if self.frozen and not self.backbone:
            raise ValueError("an encoder that is frozen needs a backbone with weights of its own")


@dataclass(frozen=True, slots=True)
class Pixels:
    """How 8-bit pixels became what a batch holds: (pixel / 255 - mean) / std, channel by channel.

    Published weights undo it, and scale pixels as they were trained on.

    Args:
        mean: Of each channel, in [0, 1].
        std: Of each channel; 0 = it is constant, and 0 in a batch.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Modality:
    """One modality of a data set.

    Args:
        name: Column name in presence tables and patterns; letters, digits and `_`.
        kind: Decides the axes of a sample, see `AXES`.
        shape: Sizes of those axes, padding included (the longest sequence or bag).
        vocab_size: Number of token ids, `tokens` only; id 0 is padding.
        tokenizer: Name of the vocabulary by which ids were given, see `mmbench.data.pieces`;
            empty = the data set's own numbers, which no published weights know.
        pixels: How a data module standardised 8-bit images, known once it is set up; None for
            images of any other type, and for other kinds.
        encoder: How the suite encodes it.

    Raises:
        ValueError: If the shape does not fit the kind, the name is not an identifier,
            `vocab_size` is missing for tokens or given for anything else, or the encoder does not
            fit the kind.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    vocab_size: int = 0
    tokenizer: str = ""
    pixels: Pixels | None = None
    encoder: EncoderSpec = EncoderSpec()

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
        self._require_encoder_that_fits()

    def _require_encoder_that_fits(self) -> None:
        backbone, layers = self.encoder.backbone, self.encoder.layers
        if backbone and self.kind != "image":
            raise ValueError(
                f"backbone {backbone!r} reads images, but modality {self.name!r} is of kind "
                f"{self.kind}; leave its backbone out"
            )
        if layers != 1 and self.kind in ("image", "volume", "bag"):
            raise ValueError(
                f"layers belongs to vectors, sequences and tokens, but modality {self.name!r} is "
                f"of kind {self.kind}; leave its layers out"
            )
        if layers < 1 and self.kind != "vector":
            raise ValueError(
                f"modality {self.name!r} of kind {self.kind} needs layers >= 1, found {layers}"
            )

    @property
    def has_lengths(self) -> bool:
        """Whether samples differ in length along the first axis."""
        return self.kind in WITH_LENGTHS


@dataclass(frozen=True, slots=True)
class Task:
    """What goes in and what is predicted.

    Args:
        kind: `single_label` (target int in 0..C-1), `multi_label` (target 0/1, shape (C,)),
            `regression` (target float, shape (C,)) or `survival` (target time > 0 and event 0/1,
            shape (2,)).
        modalities: In the order of the columns of presence.
        outputs: Names of the classes, or of the regressed quantities; of survival one, the log risk
            of Cox, or one for each of K >= 3 intervals, of which the hazards are learned.

    Raises:
        ValueError: If there is no modality, a name occurs twice, or there are no outputs.
    """

    kind: TaskKind
    modalities: tuple[Modality, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.modalities or not self.outputs:
            raise ValueError("a task needs at least one modality and one output")
        if self.kind == "survival" and 1 < self.num_outputs < FEWEST_INTERVALS:
            raise ValueError(
                f"hazards need at least {FEWEST_INTERVALS} intervals, found {self.num_outputs}"
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"modality names must differ, found {self.names}")

    @property
    def names(self) -> tuple[str, ...]:
        """Modality names, in the order of the columns of presence."""
        return tuple(modality.name for modality in self.modalities)

    @property
    def num_outputs(self) -> int:
        """C: classes, labels, regressed quantities or intervals."""
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
            candidates = {m.name: m.kind for m in self.modalities if name in (None, m.name)}
            raise ValueError(
                f"a modality of kind {' or '.join(kinds)} is needed, found "
                f"{', '.join(f'{n} of kind {kind}' for n, kind in candidates.items())}"
            )
        return fitting[0]


def with_encoders(task: Task, encoders: Mapping[str, Any]) -> Task:
    """Say how a suite encodes the modalities of a task.

    Args:
        task: Whose modalities.
        encoders: Modality, or kind for all modalities of it, -> fields of `EncoderSpec`, or the
            text of its backbone; `dropout` -> a number for all. What is said of a modality goes
            before what is said of its kind, and that before what is said of all.

    Raises:
        ValueError: If a key is neither, or a value does not fit; one line.
    """
    known = ["dropout", *task.names, *AXES]
    for name in encoders:
        if name not in known:
            raise ValueError(
                f"encoders.{name} is neither a modality of the data set nor a kind"
                f"{suggest(name, known)}; modalities are {', '.join(task.names)}; where data sets "
                "of a suite differ, name a kind"
            )
    given = {name: _fields(name, value) for name, value in encoders.items() if name != "dropout"}
    common = {"dropout": encoders["dropout"]} if "dropout" in encoders else {}
    modalities = []
    for modality in task.modalities:
        settings = common | given.get(modality.kind, {}) | given.get(modality.name, {})
        _require_types(settings)
        modalities.append(replace(modality, encoder=EncoderSpec(**settings)))
    return replace(task, modalities=tuple(modalities))


def _require_types(settings: Mapping[str, Any]) -> None:
    kinds: dict[str, tuple[str, tuple[type, ...]]] = {
        "backbone": ("text", (str,)),
        "frozen": ("true or false", (bool,)),
        "layers": ("a whole number", (int,)),
        "dropout": ("a number", (float, int)),
    }
    for name, value in settings.items():
        what, taken = kinds[name]
        if type(value) not in taken:
            raise ValueError(f"{name} of an encoder must be {what}, found {value!r}")


def _fields(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, str | Mapping):
        raise ValueError(
            f"encoders.{name} must be the name of a backbone, or a mapping such as "
            f"{{backbone: resnet18, frozen: true}}, found {value!r}"
        )
    settings = {"backbone": value} if isinstance(value, str) else dict(value)
    known = [field.name for field in fields(EncoderSpec)]
    for key in settings:
        if key not in known:
            raise ValueError(
                f"unknown key 'encoders.{name}.{key}'{suggest(key, known)}; "
                f"known are {', '.join(known)}"
            )
    return settings
