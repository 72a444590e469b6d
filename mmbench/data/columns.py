"""Turns the columns of a user's file into the features of a vector, by what they hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.files import exact
from mmbench.data.frames import EMPTY_NUMBERS, Frame, as_text, is_text, to_numbers

# what a text is that must never become a category by accident
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\s*[ap]m)?"
_DAY = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})"
    rf"|\d{{1,2}}[-\s.]+{_MONTH}[-\s,]+\d{{2,4}}|{_MONTH}\s+\d{{1,2}},?\s+\d{{4}}"
)
DATE = re.compile(rf"(?:{_DAY})(?:[T\s]+{_TIME}.*)?|{_TIME}", re.IGNORECASE)
DECORATED = re.compile(r"[<>=≤≥~$€£¥]*\s*[-+\u2212]?\s*\d[\d.,'\u2019\s]*[%‰$€£¥]?")
BOOLEANS = {"true": 1.0, "false": 0.0}


class BadRowError(ValueError):
    """A row holds what cannot be meant; others may be good.

    Args:
        message: One line that names file, row and column.
        row: Its position in the frame.
    """

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class Features:
    """Features of the rows of a file.

    Args:
        x: (row, feature) finite where a row has a value at all; float64 where float32 would lose
            digits.
        present: Which rows have a value at all.
        notes: What was filled in, and categories without a column, a line each.
    """

    x: NDArray[np.floating[Any]]
    present: NDArray[np.bool_]
    notes: tuple[str, ...]


def features(frame: Frame, train: NDArray[np.bool_], *, indicators: bool = False) -> Features:
    """Numbers as they are, `true` and `false` as 1 and 0, lists as their entries, texts one-hot.

    Categories are those of training, in the order of text; another one is zero in all their
    columns. An empty cell is filled with the median of training, or its most frequent category
    (0 where training has no value); a row without any value is not present.

    Args:
        frame: From `read_frame`.
        train: Rows of training; nothing is learned from others.
        indicators: Whether a feature with empty cells in training gets another beside it, after
            all features: 1 = the cell was empty.

    Raises:
        BadRowError: If a cell holds a date, a number written with something else, an infinity, or
            anything else. The message names file, row and column and says what to do.
        ValueError: If a column holds text that is no category.
    """
    if not frame.names:
        raise ValueError(f"{frame.path} has no column beside the id that could be a feature")
    notes: list[str] = []
    blocks: list[_Block] = []
    if frame.others:
        plain = iter(frame.numbers.T)
        blocks = [
            _column(frame, k, train, notes) if k in frame.others else _Block(next(plain)[:, None])
            for k in range(len(frame.names))
        ]
    x = np.concatenate([b.x for b in blocks], axis=1) if blocks else frame.numbers.copy()
    widths = [b.x.shape[1] for b in blocks] or [1] * len(frame.names)
    starts = np.cumsum([0, *widths])[:-1]
    _require_finite(frame, x, starts)
    empty = np.isnan(x)
    present = ~empty.all(axis=1)
    cells = empty[np.ix_(present, starts)]
    if cells.any():
        rows = int(cells.any(axis=1).sum())
        notes.append(
            f"{frame.path.name}: empty cells filled with the median (of categories: the most "
            f"frequent one) of training; cells: {int(cells.sum())}, rows: {rows}"
        )
    modes = {
        int(start): block.mode
        for start, block in zip(starts, blocks, strict=False)
        if block.mode is not None
    }
    _fill(x, empty, train, modes)
    if indicators:
        gaps = empty[:, starts][:, empty[np.ix_(train & present, starts)].any(axis=0)]
        x = np.concatenate([x, gaps], axis=1)
    x[~present] = 0.0
    return Features(exact(x), present, tuple(notes))


def _require_finite(frame: Frame, x: NDArray[np.float64], starts: NDArray[np.int_]) -> None:
    """Refuse infinities and what float32 has no number for: 1e60, too, stands for something."""
    with np.errstate(over="ignore"):
        wrong = np.isinf(x.astype(np.float32))
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        name = frame.names[int(np.searchsorted(starts, place, side="right")) - 1]
        raise BadRowError(
            f"{frame.where(int(row))}, column {name}: {f'{x[row, place]:g}'!r} is no finite "
            "number; empty the cell, or write what it stands for",
            int(row),
        )


def _fill(
    x: NDArray[np.float64],
    empty: NDArray[np.bool_],
    train: NDArray[np.bool_],
    modes: Mapping[int, NDArray[np.float64]],
) -> None:
    """Fill empty cells, in place.

    Args:
        x: (row, feature).
        empty: Where it is NaN.
        train: Rows of training.
        modes: First feature of a category -> what its features are where its cell is empty.
    """
    for first, mode in modes.items():
        x[empty[:, first], first : first + len(mode)] = mode
    for k in np.flatnonzero(np.isnan(x).any(axis=0)):
        seen = x[train & ~empty[:, k], k]
        x[empty[:, k], k] = np.median(seen) if len(seen) else 0.0


@dataclass(frozen=True)
class _Block:
    """What one column becomes: (row, feature), NaN where its cell is empty.

    Args:
        x: Its values.
        mode: What fills a category's empty cells; None = the median of each feature.
    """

    x: NDArray[np.float64]
    mode: NDArray[np.float64] | None = None


def _column(frame: Frame, k: int, train: NDArray[np.bool_], notes: list[str]) -> _Block:
    """One column that does not hold plain numbers."""
    column, name = frame.others[k], frame.names[k]
    if is_text(column):
        return _text(frame, name, as_text(column, frame.path, name), train, notes)
    filled = column.notna().to_numpy(bool)
    values = column[filled].tolist()
    if all(isinstance(v, list | tuple | np.ndarray) for v in values):
        return _lists(frame, name, [np.asarray(v) for v in values], filled)
    if all(isinstance(v, bool | np.bool_) for v in values) or _decimals(values):
        values_of = np.full((len(column), 1), np.nan)
        values_of[filled, 0] = [float(v) for v in values]
        return _Block(values_of)
    place = next((k for k, v in enumerate(values) if not isinstance(v, int | float)), 0)
    row, what = int(np.flatnonzero(filled)[place]), type(values[place]).__name__
    raise BadRowError(
        f"{frame.where(row)}, column {name} holds {what}, here {values[place]!s}, and no number; "
        + (_DATES if pd.api.types.is_datetime64_any_dtype(column.dtype) or what in _DATE_TYPES
           else "write numbers, or take the column out"),
        row,
    )  # fmt: skip


_DATES = "write the days since a date of yours as a number, or take the column out"
_DATE_TYPES = ("date", "datetime", "Timestamp", "time", "Timedelta", "timedelta")


def _decimals(values: list[Any]) -> bool:
    return all(type(v).__name__ == "Decimal" for v in values)


def _text(
    frame: Frame, name: str, text: "pd.Series[str]", train: NDArray[np.bool_], notes: list[str]
) -> _Block:
    """Booleans or categories; everything else is refused."""
    path = frame.path
    filled = (text != "").to_numpy(bool)
    lower = text.str.lower()
    boolean = lower.isin(list(BOOLEANS))
    if boolean.any() and (boolean | text.isin(EMPTY_NUMBERS)).all():
        truth = np.array([BOOLEANS.get(one, np.nan) for one in lower])
        return _Block(truth[:, None])
    numbers, bad = to_numbers(text, comma=frame.commas)
    if not np.isnan(numbers).all():
        if not bad.any():  # rows that were no numbers are left out
            return _Block(numbers[:, None])
        row = int(np.flatnonzero(bad)[0])
        raise BadRowError(
            f"{frame.where(row)}, column {name}: {text[row]!r} is no finite number, but others of "
            "the column are; write a number or empty the cell",
            row,
        )
    for pattern, what in (
        (DATE, f"is a date or a time; {_DATES}"),
        (
            DECORATED,
            "is a number with something else around it; write the number alone (decimal commas "
            "are read where the separator is a semicolon)",
        ),
    ):
        if (like := text.str.fullmatch(pattern) & filled).any():
            row = int(np.flatnonzero(like)[0])
            raise BadRowError(f"{frame.where(row)}, column {name}: {text[row]!r} {what}", row)
    seen = text[train & filled]
    categories = sorted(seen.unique())
    if len(categories) > max(2, len(seen) // 2):
        raise ValueError(
            f"{path}: column {name} holds {len(categories)} different texts in {len(seen)} rows of "
            f"training, such as {text[filled].iloc[0][:40]!r}, which are no categories; take the "
            "column out, or make it a file of its own of kind tokens"
        )
    codes = pd.Index(categories, dtype=object).get_indexer(pd.Index(text, dtype=object))
    known = codes >= 0
    one_hot = np.zeros((len(text), max(len(categories), 1)))
    one_hot[known, codes[known]] = 1.0
    if (other := filled & ~known).any():
        row = int(np.flatnonzero(other)[0])
        notes.append(
            f"{path.name}: column {name} has {int(other.sum())} rows of categories that training "
            f"never shows, such as {text[row]!r}; they are zero in all features of {name}"
        )
    one_hot[~filled] = np.nan
    counts = np.bincount(codes[known & train], minlength=one_hot.shape[1])
    return _Block(one_hot, mode=np.eye(len(counts))[counts.argmax()] * (counts.max() > 0))


def _lists(
    frame: Frame, name: str, values: list[NDArray[Any]], filled: NDArray[np.bool_]
) -> _Block:
    """Lists of equally many numbers, an entry a feature."""
    rows = np.flatnonzero(filled)
    shape = values[0].shape
    for row, value in zip(rows, values, strict=True):
        if value.ndim != 1 or value.shape != shape or value.dtype.kind not in "biuf":
            raise BadRowError(
                f"{frame.where(int(row))}, column {name}: a list of shape {value.shape} of "
                f"{value.dtype}, but lists of {shape[0] if shape else 0} numbers are expected, as "
                "in the rows before; for steps of different number take an npz file of kind "
                "sequence",
                int(row),
            )
    block = np.full((len(filled), *shape), np.nan)
    block[rows] = np.stack(values)
    return _Block(block)
