"""Reads the arrays of a user's npz or MATLAB file, in the axes of a kind of modality."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.files import exact, matlab_variables, read_npz
from mmbench.data.frames import WHOLE, as_text
from mmbench.data.task import AXES, WITH_LENGTHS, Kind

ENDINGS = (".npz", ".mat")
COLOURS = (1, 3, 4)  # channels that a picture has: grey, colour, colour with transparency


@dataclass(frozen=True)
class Arrays:
    """One modality of an npz or MATLAB file, with all of its entries.

    Args:
        path: The file.
        ids: As text, one an entry; they may repeat.
        x: (entry, ...) in the axes of the kind, finite; a vector may have NaN in part.
        length: Steps that are no padding; 1 for kinds without lengths.
        present: Which entries are there at all.
        notes: What was turned round, a line each.
    """

    path: Path
    ids: "pd.Index[str]"
    x: NDArray[Any]
    length: NDArray[np.int64]
    present: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


def read_arrays(path: Path, kind: Kind) -> Arrays:
    """Read `id`, `x` and, for sequences, tokens and bags, `length`.

    An entry that is NaN throughout, or whose length is 0, is absent; what lies beyond the length
    may be anything and becomes 0. Pictures may have their channels last, if only the last axis
    can be channels (1, 3 or 4), or no axis of channels.

    Raises:
        ValueError: If an array is not there, the sizes do not fit, or a value cannot be meant:
            complex, text, dates, infinite, NaN in part of anything but a vector; the message
            names the file and the id and says what to do.
    """
    return arrays_of(_of_matlab(path) if path.suffix == ".mat" else read_npz(path), path, kind)


def _of_matlab(path: Path) -> dict[str, NDArray[Any]]:
    """`id`, `x` and `length` as an npz file has them: MATLAB makes columns of all that is flat."""
    variables: dict[str, NDArray[Any]] = {}
    for name, value in matlab_variables(path).items():
        x = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
        if name in ("id", "length") and x.ndim == 2 and 1 in x.shape:
            x = x.reshape(-1)
        if name == "id" and x.dtype.kind == "O":  # a cell array: each cell an array of one text
            if any(np.size(cell) != 1 for cell in x):
                raise ValueError(f"{path}: a cell of id holds no single text or number")
            x = np.array([str(np.asarray(cell).item()) for cell in x])
        variables[name] = x
    return variables


def arrays_of(content: Mapping[str, NDArray[Any]], path: Path, kind: Kind) -> Arrays:
    """See `read_arrays`, of what was read of a file or folder."""
    for key in ("id", "x"):
        if key not in content:
            raise ValueError(f"{path} has no array {key}; it has {', '.join(content)}")
    x, ids = content["x"], _ids(content["id"], path)
    parts = {key: content[key] for key in ("id", "x", "length") if key in content}
    if flat := [key for key, array in parts.items() if array.ndim == 0]:
        raise ValueError(f"{path}: {flat[0]} is a single value, but one entry a sample is expected")
    sizes = {key: len(array) for key, array in parts.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{path}: arrays must have one entry a sample, found {sizes}")
    if x.dtype.kind not in "biuf":
        what = {"c": "complex numbers", "M": "dates", "m": "times"}.get(x.dtype.kind, "text")
        advice = {
            "c": "say what is meant: numpy.abs(x), or real and imaginary part side by side",
            "M": "write the time since a date of yours as a number",
            "m": "write it in a unit of yours as a number",
        }.get(x.dtype.kind, "write numbers, or texts into a CSV file of kind tokens")
        raise ValueError(f"{path}: x holds {what} ({x.dtype}); {advice}")
    if "length" in content and kind not in WITH_LENGTHS:
        raise ValueError(
            f"{path} has an array length, which a modality of kind {kind} does not read; say its "
            f"kind (kinds={{name: sequence}}, tokens or bag), or leave the array out"
        )
    notes: list[str] = []
    if kind in ("image", "volume"):
        x, turned = _channels_first(x, kind, path)
        notes += turned
    if x.ndim != 1 + len(AXES[kind]):
        raise ValueError(
            f"{path}: x has the shape {x.shape}, but kind {kind} needs the axes "
            f"{('sample', *AXES[kind])}; reshape it, or say another kind"
        )
    steps = x.shape[1] if kind in WITH_LENGTHS else 1
    length = _lengths(content["length"], path) if "length" in content else np.full(len(x), steps)
    valid = (np.arange(steps) < length[:, None]).reshape(len(x), steps, *[1] * (x.ndim - 2))
    if not valid.all() and kind in WITH_LENGTHS:
        x = np.where(valid, x, x.dtype.type(0))
    present = length > 0
    if x.dtype.kind == "f":
        present &= ~(np.isnan(x) | ~valid).reshape(len(x), -1).all(axis=1)
        _require_meant(x, ids, present, kind, path)
    if (bad := present & ((length < 1) | (length > steps))).any() or (length < 0).any():
        row = int(np.flatnonzero(bad | (length < 0))[0])
        raise ValueError(
            f"{path} id {ids[row]}: length is not in 1..{steps}, found {length[row]}; 0 is for an "
            "entry that is absent"
        )
    if kind == "tokens":
        if x.dtype.kind not in "iu" or (len(x) and x.min() < 0):
            raise ValueError(f"{path}: x of kind tokens needs whole numbers >= 0")
    elif kind in ("image", "volume"):
        x = x if x.dtype == np.uint8 and kind == "image" else x.astype(np.float32)
    elif x.dtype != np.float32:
        x = exact(x.astype(np.float64))
    return Arrays(path, ids, x, np.where(present, length, 1), present, tuple(notes))


def _ids(names: NDArray[Any], path: Path) -> "pd.Index[str]":
    if names.dtype.kind == "S":  # bytes
        try:
            names = np.char.decode(names, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: id holds bytes that are no UTF-8 text: {error}") from error
    if names.ndim != 1 or names.dtype.kind in "cMmV":
        raise ValueError(
            f"{path}: id has the shape {names.shape} of {names.dtype}, but one text or whole "
            "number a sample is expected"
        )
    ids = pd.Index(as_text(pd.Series(names), path, "id"), dtype=object)
    if (ids == "").any():
        raise ValueError(f"{path} entry {int(np.flatnonzero(ids == '')[0])}: id is empty")
    return ids


def _lengths(length: NDArray[Any], path: Path) -> NDArray[np.int64]:
    whole = length.ndim == 1 and length.dtype.kind in "iuf"
    if not whole or (length != np.round(length)).any() or (np.abs(length) > WHOLE).any():
        raise ValueError(f"{path}: length needs one whole number a sample, found {length[:3]}")
    return length.astype(np.int64)


def _channels_first(x: NDArray[Any], kind: Kind, path: Path) -> tuple[NDArray[Any], list[str]]:
    axes = AXES[kind]
    if x.ndim == len(axes):  # grey, without an axis of channels
        return x[:, None], [f"{path.name}: x {x.shape} has no axis of channels; read as one"]
    if x.ndim != 1 + len(axes):
        return x, []
    first, *sides, last = x.shape[1:]
    if last in COLOURS and first not in COLOURS:
        return np.moveaxis(x, -1, 1), [
            f"{path.name}: x {x.shape} has its channels last; turned to (sample, {', '.join(axes)})"
        ]
    if {first} == set(sides) != {last}:
        raise ValueError(
            f"{path}: x has the shape {x.shape}, whose channels may be last, but {kind} has the "
            f"axes {('sample', *axes)}; turn it with numpy.moveaxis(x, -1, 1), or, if there are "
            f"{first} channels, pad the {axes[1]} so that it is not {first} as well"
        )
    return x, []


def _require_meant(
    x: NDArray[Any], ids: "pd.Index[str]", present: NDArray[np.bool_], kind: Kind, path: Path
) -> None:
    """Refuse infinities, and NaN in part of what is no vector."""
    good = ~np.isinf(x) if kind == "vector" else np.isfinite(x)
    bad = ~good.reshape(len(x), -1).all(axis=1) & present
    if not bad.any():
        return
    row = int(np.flatnonzero(bad)[0])
    place = np.argwhere(~good[row])[0].tolist()
    value = x[(row, *place)]
    where = ", ".join(f"{axis} {k}" for axis, k in zip(AXES[kind], place, strict=True))
    raise ValueError(
        f"{path} id {ids[row]}: x holds NaN or infinity in part ({value} at {where}; "
        f"{int(bad.sum())} entries in all); write what it stands for, such as "
        "x[~numpy.isfinite(x)] = 0, or make the entry NaN throughout to mark it absent"
    )
