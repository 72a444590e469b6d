"""What a method shows of itself after evaluation, typed so that a report can draw it by type.

A run keeps them in one `.npz`: an array for each field, named `name/Type/field`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from mmbench.data.files import read_npz
from mmbench.store import write_arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterUsage:
    """How the work of experts is shared, by what a sample shows.

    Args:
        pattern: Names of what is told apart, such as the patterns of presence that occurred.
        expert: Names of the experts.
        share: Of each expert in a pattern's gates, >= 0; rows sum to 1.
        count: How many tokens or samples stand behind a row, > 0.
    """

    pattern: Shaped[np.ndarray, " pattern"]
    expert: Shaped[np.ndarray, " expert"]
    share: Float[np.ndarray, "pattern expert"]
    count: Float[np.ndarray, " pattern"]

    def __post_init__(self) -> None:
        """Refuse parts that do not fit."""
        _require(self, share=(len(self.pattern), len(self.expert)), count=(len(self.pattern),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Which training samples some test samples retrieve.

    Args:
        query: Ids of test samples: opaque ones (`Batch.blind`) as a method gives them, the real
            ones in the record.
        neighbour: Ids of training samples, best first; -1 where fewer were found.
        score: How alike they are to the method, any real number, more is more alike; NaN where a
            method draws without a score.
        label: How far labels agree, in [0, 1], see `label_agreement`; None before it is known,
            and for a regression.
        by: In words, what each modality is looked up by.
        query_image: The first queries as pictures, 0..255, black where the condition hides one;
            None where no pictures are looked for.
        neighbour_image: Theirs.
    """

    query: Int[np.ndarray, " query"]
    neighbour: Int[np.ndarray, "query neighbour"]
    score: Float[np.ndarray, "query neighbour"]
    label: Float[np.ndarray, "query neighbour"] | None = None
    by: Shaped[np.ndarray, " modality"] | None = None
    query_image: UInt8[np.ndarray, "picture channel height width"] | None = None
    neighbour_image: UInt8[np.ndarray, "picture neighbour channel height width"] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not fit."""
        shape = (len(self.query), *self.neighbour.shape[1:2])
        _require(self, neighbour=shape, score=shape)
        if self.label is not None:
            _require(self, label=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a method puts in the place of what is missing, beside what is true.

    Args:
        modality: Name of the modality that is missing, for each row.
        recovered: What the method goes on with.
        true: What it goes on with when the modality is there.
    """

    modality: Shaped[np.ndarray, " entry"]
    recovered: Float[np.ndarray, "entry dim"]
    true: Float[np.ndarray, "entry dim"]

    def __post_init__(self) -> None:
        """Refuse parts that do not fit."""
        shape = (len(self.modality), *self.true.shape[1:2])
        _require(self, recovered=shape, true=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Numbers in rows and columns that have names.

    Args:
        values: Any real number, NaN = undefined.
        row: Names.
        column: Names.
    """

    values: Float[np.ndarray, "row column"]
    row: Shaped[np.ndarray, " row"]
    column: Shaped[np.ndarray, " column"]

    def __post_init__(self) -> None:
        """Refuse parts that do not fit."""
        _require(self, values=(len(self.row), len(self.column)))


Diagnostic: TypeAlias = RouterUsage | Retrieval | Recovery | Matrix
TYPES = {cls.__name__: cls for cls in (RouterUsage, Retrieval, Recovery, Matrix)}


def _require(diagnostic: Any, **shapes: tuple[int, ...]) -> None:
    for name, shape in shapes.items():
        actual = getattr(diagnostic, name).shape
        if actual != shape:
            kind = type(diagnostic).__name__
            raise ValueError(f"{name} of a {kind} has the shape {actual}, but has to be {shape}")


def write_diagnostics(path: Path, diagnostics: Mapping[str, Diagnostic]) -> None:
    """Write what a method shows into one file."""
    arrays: dict[str, Any] = {}
    for name, one in diagnostics.items():
        for field in fields(one):
            value = getattr(one, field.name)
            if value is not None:
                arrays[f"{name}/{type(one).__name__}/{field.name}"] = value
    write_arrays(path, arrays)


def read_diagnostics(path: Path) -> dict[str, Diagnostic]:
    """What `write_diagnostics` wrote.

    Raises:
        ValueError: If the file holds anything else, or parts that do not fit.
    """
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    for key, value in read_npz(path).items():
        name, kind, field = ["", "", *key.rsplit("/", 2)][-3:]
        parts.setdefault((name, kind), {})[field] = value
    try:
        return {name: TYPES[kind](**arrays) for (name, kind), arrays in parts.items()}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no diagnostics that this version can read") from error
