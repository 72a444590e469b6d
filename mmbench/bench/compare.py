"""Two leaderboards beside each other, and a leaderboard beside the numbers that papers print."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmbench.bench.leaderboard import CELL, COLUMNS, in_markdown
from mmbench.bench.record import IPW
from mmbench.metrics.metric import higher_is_better
from mmbench.registry import METHODS

LABELS = (*CELL, "mechanism", "code", "note", "mixed", "sources")
NUMBERS = tuple(name for name in COLUMNS if name not in LABELS)
NEEDED = (*CELL, "mean", "ci_low", "ci_high", "n_seeds", "n_seeds_planned", "protocol")
REPORTED = (
    "table", "row", "data", "modalities", "condition", "metric", "mean", "std", "source",
)  # fmt: skip
AGAINST = (
    "status", "data", "modalities", "scenario", "condition", "method", "variant", "metric",
    "reported", "reported_std", "ours", "ci_low", "ci_high", "seeds", "gap", "covered", "unit",
    "table", "source", "why",
)  # fmt: skip
DIGITS = 1e-5  # relative; a leaderboard.csv keeps six significant digits


# --- two leaderboards -------------------------------------------------------------------------


def read_board(where: Path) -> pd.DataFrame:
    """Read a leaderboard back.

    Args:
        where: A `leaderboard.csv`, or the result folder of a suite that holds one.

    Raises:
        ValueError: If it does not exist, cannot be read, or is no leaderboard; one line.
    """
    path = where / "leaderboard.csv" if where.is_dir() else where
    if not path.is_file():
        raise ValueError(
            f"no leaderboard in {where}: {path} does not exist; give a leaderboard.csv or a folder "
            "with one (`mmbench leaderboard SUITE` writes it)"
        )
    board = _read(path, NEEDED, "leaderboard", NUMBERS)
    _require_unique(board, str(path))
    return board


def changes(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Which cells differ between two leaderboards.

    A cell has changed if its mean (beyond the six digits that a file keeps), its seeds or its
    protocol did, or if one side has no mean.

    Args:
        before: A, from `leaderboard` or `read_board`.
        after: B, the same.

    Returns:
        A row for each changed cell, in A's order, then B's; no row if all are the same. Columns
        as in `CELL`, then `what` (changed, only in A, only in B), `before`, `after`, `change` =
        after - before, `ci_low` and `ci_high` of A, `inside` (yes, no: is B's mean inside A's
        interval; unknown where A has none, as with one seed), `seeds_before`, `seeds_after`
        ("2/3"), and `note` where the protocols differ: then the means answer two questions.

    Raises:
        ValueError: If a board lacks columns or holds a cell twice.
    """
    for name, board in (("A", before), ("B", after)):
        _require_columns(board, NEEDED, f"board {name}", "leaderboard")
        _require_unique(board, f"board {name}")
    old, new = _by_cell(before), _by_cell(after)
    rows = []
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if a is not None and b is not None and _same(a, b):
            continue
        rows.append({**dict(zip(CELL, key, strict=True)), **_change(a, b)})
    columns = [*CELL, *_change(None, None)]
    return pd.DataFrame(rows, columns=columns)


def _by_cell(board: pd.DataFrame) -> dict[tuple[Any, ...], dict[Any, Any]]:
    rows = board.to_dict("records")
    return {tuple(row[name] for name in CELL): row for row in rows}


def _same(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    close = bool(np.isclose(a["mean"], b["mean"], rtol=DIGITS, atol=0, equal_nan=True))
    return close and _seeds(a) == _seeds(b) and not _protocols(a, b)


def _protocols(a: dict[Any, Any], b: dict[Any, Any]) -> str:
    """In words, if they differ; a cell without a finished run has none."""
    old, new = float(a["protocol"]), float(b["protocol"])
    return f"protocol {old:g} -> {new:g}" if abs(old - new) > 0 else ""


def _change(a: Any, b: Any) -> dict[str, Any]:
    """One row of `changes` without its cell; None = the board does not have it."""
    nan = float("nan")
    mean = [nan if x is None else float(x["mean"]) for x in (a, b)]
    low, high = (nan, nan) if a is None else (float(a["ci_low"]), float(a["ci_high"]))
    both = a is not None and b is not None
    return {
        "what": "changed" if both else "only in B" if a is None else "only in A",
        "before": mean[0],
        "after": mean[1],
        "change": mean[1] - mean[0],
        "ci_low": low,
        "ci_high": high,
        "inside": _inside(mean[1], low, high),
        "seeds_before": _seeds(a),
        "seeds_after": _seeds(b),
        "note": _protocols(a, b) if both else "",
    }


def _inside(value: float, low: float, high: float) -> str:
    """Whether an interval covers a value: yes, no, or unknown where one of them is not there."""
    if np.isnan([value, low, high]).any():
        return "unknown"
    slack = DIGITS * abs(value)
    return "yes" if low - slack <= value <= high + slack else "no"


def _seeds(row: Any) -> str:
    return "" if row is None else f"{row['n_seeds']:g}/{row['n_seeds_planned']:g}"


def render_changes(table: pd.DataFrame) -> str:
    """What `changes` found, as Markdown."""
    if table.empty:
        return "no cell changed\n"
    changed = table[table["what"] == "changed"]
    inside = changed["inside"].value_counts()
    only = table["what"].value_counts()
    head = (
        f"{len(changed)} cells changed: {inside.get('no', 0)} outside the interval of A, "
        f"{inside.get('yes', 0)} inside, {inside.get('unknown', 0)} unknown. "
        f"{only.get('only in A', 0)} only in A, {only.get('only in B', 0)} only in B."
    )
    cells = table[CELL].assign(
        what=table["what"],
        A=[_number(x) for x in table["before"]],
        B=[_number(x) for x in table["after"]],
        change=[_signed(x) for x in table["change"]],
        interval_of_A=_intervals(table),
        inside=table["inside"].where(table["what"] == "changed", ""),
        seeds=[
            a if a == b else f"{a} -> {b}" if a and b else a or b
            for a, b in zip(table["seeds_before"], table["seeds_after"], strict=True)
        ],
        note=table["note"],
    )
    return f"{head}\n\n{_markdown(cells)}\n"


# --- a leaderboard and a paper ----------------------------------------------------------------


def read_reported(where: Path) -> pd.DataFrame:
    """Read the numbers that papers print.

    Args:
        where: A CSV file with the columns of `REPORTED`, or a folder of such files.

    Raises:
        ValueError: If there is none, or one cannot be read or has other columns; one line.
    """
    files = sorted(where.glob("*.csv")) if where.is_dir() else [where]
    if not files or not files[0].is_file():
        raise ValueError(
            f"no reported numbers in {where}; give a CSV file, or a folder of them, with the "
            f"columns {','.join(REPORTED)}"
        )
    return pd.concat(
        [_read(file, REPORTED, "table of reported numbers", ("mean", "std")) for file in files],
        ignore_index=True,
    )


def against_reported(board: pd.DataFrame, reported: Path | pd.DataFrame) -> pd.DataFrame:
    """Our numbers beside those that papers print.

    Names match whatever their case and punctuation: `MoE-Retriever` is `moe_retriever`. A method
    of another variant than `paper` matches without the variant in its label. A data set matches
    with its modalities: `cmu_mosi(video+audio)` has those two; a plain `cmu_mosi` is taken to have
    all that are reported of it. Features, encoders and splits may still differ from the paper's.

    A reported number is in percent if its source says so ("in percent"), or if the metric cannot
    exceed 1 and a number of the same table, source and metric does; it is then divided by 100.

    Args:
        board: From `leaderboard` or `read_board`.
        reported: Table with the columns of `REPORTED`, or where such files lie.

    Returns:
        Columns as in `AGAINST`, in this order: every reported number with each of our cells that
        matches (`status` is matched) or none (only reported; `why` says what the board lacks),
        then our cells that match none (only ours). `gap` = ours - reported; `covered` (yes, no,
        unknown): is the reported mean inside our interval over seeds; `unit` says how the reported
        number was read.

    Raises:
        ValueError: If a table cannot be read or lacks columns.
    """
    table = reported if isinstance(reported, pd.DataFrame) else read_reported(reported)
    _require_columns(board, NEEDED, "the board", "leaderboard")
    _require_columns(table, REPORTED, "the table", "table of reported numbers")
    ours = _with_keys(board)
    names = {_plain(name): name for name in METHODS.names()}
    everything = {  # all modalities that are reported of a data set
        data: frozenset().union(*map(_modalities, part["modalities"]))
        for data, part in table.groupby(table["data"].map(_plain))
    }
    units = _units(table)
    rows, used = [], set()
    for (_, row), unit in zip(table.iterrows(), units, strict=True):
        size = 100.0 if unit.startswith("percent") else 1.0
        line = {
            **{name: row[name] for name in ("data", "modalities", "condition", "metric")},
            **{name: row[name] for name in ("table", "source")},
            "method": names.get(_plain(row["row"]), row["row"]),
            "reported": row["mean"] / size,
            "reported_std": row["std"] / size,
            "unit": unit,
        }
        matching, why = _matching(ours, row, everything)
        if why:
            rows.append({**line, "status": "only reported", "covered": "unknown", "why": why})
        for index, cell in zip(matching.index, matching.to_dict("records"), strict=True):
            used.add(index)
            rows.append({**line, **_ours(cell, line["reported"]), "status": "matched"})
    rows += [
        {**_ours(cell, float("nan")), "status": "only ours", "why": "not reported"}
        for cell in ours.drop(index=list(used)).to_dict("records")
    ]
    measured = ("reported", "reported_std", "ours", "ci_low", "ci_high", "gap")
    unknown = {name: float("nan") if name in measured else "" for name in AGAINST}
    return pd.DataFrame([{**unknown, **row} for row in rows], columns=list(AGAINST))


def _ours(cell: Any, reported: float) -> dict[str, Any]:
    return {
        **{name: cell[name] for name in (*CELL, "ci_low", "ci_high")},
        "ours": cell["mean"],
        "seeds": _seeds(cell),
        "gap": cell["mean"] - reported,
        "covered": _inside(reported, cell["ci_low"], cell["ci_high"]),
    }


def _matching(
    ours: pd.DataFrame, row: Any, everything: dict[Any, frozenset[str]]
) -> tuple[pd.DataFrame, str]:
    """Our cells that a reported number belongs to; if none, what the board lacks."""
    data, modalities = _plain(row["data"]), _modalities(row["modalities"])
    left = ours[ours["_data"] == data]
    if left.empty:
        return left, f"no data set {row['data']} on the board"
    # None: the label names no modality, so it has them all
    same = [
        (everything[data] if names is None else names) == modalities
        for names in left["_modalities"]
    ]
    left = left[same]
    if left.empty:
        return left, f"no data set {row['data']}({row['modalities']}) on the board"
    for key, wanted in (
        ("_method", _plain(row["row"])),
        ("condition", row["condition"]),
        ("metric", row["metric"]),
    ):
        left = left[left[key] == wanted]
        if left.empty:
            label = row["row"] if key == "_method" else wanted
            return left, f"no {key.strip('_')} {label} for {row['data']} on the board"
    return left, ""


def _with_keys(board: pd.DataFrame) -> pd.DataFrame:
    """The board with what its labels are matched by."""
    labels: list[Any] = [
        re.fullmatch(r"([^(]*)(?:\((.*)\))?.*", str(name), re.DOTALL) for name in board["data"]
    ]
    methods = [
        _plain(method)
        if variant == "paper"
        # moe_retriever_official, moe_retriever(variant=official)
        else _plain(method).removesuffix(_plain(variant)).removesuffix("variant")
        for method, variant in zip(board["method"], board["variant"], strict=True)
    ]
    modalities: Any = [_modalities(label[2]) if label[2] else None for label in labels]
    return board.assign(
        _data=[_plain(label[1]) for label in labels],
        _modalities=modalities,
        _method=methods,
    ).reset_index(drop=True)


def _plain(name: Any) -> str:
    """A name without case and punctuation."""
    return re.sub(r"[\W_]+", "", str(name).casefold())


def _modalities(condition: str) -> frozenset[str]:
    """Names in "video+audio", or in "modalities=['video', 'audio']" as suites print it."""
    names = re.split(r"[^\w-]+", condition.removeprefix("modalities="))
    return frozenset(_plain(name) for name in names if name)


def _units(table: pd.DataFrame) -> list[str]:
    """How each reported number is to be read, and why."""
    exceed = table.groupby(["table", "source", "metric"], dropna=False)["mean"].transform("max") > 1
    return [
        "percent, as the source says"
        if re.search(r"\bin (percent|per cent|%)", str(source))
        else "as printed"
        if not _ends_at_one(metric)
        else "percent, as numbers exceed 1"
        if above
        else "fraction"
        for source, metric, above in zip(table["source"], table["metric"], exceed, strict=True)
    ]


def _ends_at_one(metric: str) -> bool:
    """Whether a metric cannot exceed 1: all of ours where more is better."""
    try:
        return higher_is_better(metric.removesuffix(IPW))
    except ValueError:  # papers have metrics that we do not
        return False


def render_reported(comparison: pd.DataFrame) -> str:
    """What `against_reported` found, as Markdown: each match, then what has no match."""
    both = comparison[comparison["status"] == "matched"]
    theirs = comparison[comparison["status"] == "only reported"]
    ours = comparison[comparison["status"] == "only ours"]
    covered = both["covered"].value_counts()
    parts = [
        f"{len(both)} matches: {covered.get('yes', 0)} reported means inside our interval, "
        f"{covered.get('no', 0)} outside, {covered.get('unknown', 0)} unknown. "
        f"{len(theirs)} reported numbers and {len(ours)} of our cells have no match."
    ]
    if len(both):
        names = ["data", "modalities", "scenario", "condition", "method", "metric"]
        cells = both[names].assign(
            reported=[
                _number(mean) + ("" if np.isnan(std) else f" ± {_number(std)}")
                for mean, std in zip(both["reported"], both["reported_std"], strict=True)
            ],
            ours=[_number(x) for x in both["ours"]],
            interval=_intervals(both),
            seeds=both["seeds"],
            gap=[_signed(x) for x in both["gap"]],
            covered=both["covered"],
            table=both["table"],
            read_as=both["unit"],
        )
        parts.append(_markdown(cells))
    for title, part, keys in (
        ("Only reported", theirs, ["why"]),
        ("Only ours", ours, ["data", "scenario", "condition"]),
    ):
        if len(part):
            groups = part.groupby(keys, sort=False)
            lists = groups[["method", "metric"]].agg(_listed)
            lists.insert(0, "numbers", groups.size())
            parts.append(f"{title}:\n\n{_markdown(lists.reset_index())}")
    sources = list(dict.fromkeys(both["source"]))
    if sources:
        parts.append("Sources: " + ". ".join(sources))
    return "\n\n".join(parts) + "\n"


def _listed(names: Any) -> str:
    return ", ".join(dict.fromkeys(names))


# --- files and text ---------------------------------------------------------------------------


def _read(path: Path, needed: Sequence[str], what: str, numbers: Sequence[str]) -> pd.DataFrame:
    """A CSV file whose labels stay text ("NA" and "1" are names)."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, UnicodeError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as a {what}: {reason}") from error
    _require_columns(table, needed, str(path), what)
    # the quote that keeps a spreadsheet from computing a name
    table = table.replace(r"^'(?=[=+\-@\t\r])", "", regex=True)
    for name in numbers:
        if name not in table:
            continue
        try:
            table[name] = pd.to_numeric(table[name]).astype(float)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is no {what}: column {name!r} holds what is no number ({error}); "
                "mend that line or write the file anew"
            ) from error
    return table


def _require_columns(table: pd.DataFrame, needed: Sequence[str], where: str, what: str) -> None:
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(
            f"{where} is no {what}: it lacks the column{'s' * (len(missing) > 1)} "
            f"{', '.join(missing)}; a {what} has {', '.join(needed)}"
        )


def _require_unique(board: pd.DataFrame, where: str) -> None:
    twice = board[board.duplicated(CELL)]
    if len(twice):
        cell = ", ".join(str(twice.iloc[0][name]) for name in CELL)
        raise ValueError(
            f"{where} holds a cell twice ({cell}); a leaderboard has each once, so write it anew "
            "with `mmbench leaderboard SUITE`"
        )


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    """With its sign, and small enough a change keeps a digit."""
    return "" if np.isnan(value) else f"{value:+.2g}" if abs(value) < 5e-4 else f"{value:+.3f}"


def _intervals(table: pd.DataFrame) -> list[str]:
    return [
        "" if np.isnan(low) or np.isnan(high) else f"{low:.3f} to {high:.3f}"
        for low, high in zip(table["ci_low"], table["ci_high"], strict=True)
    ]


def _markdown(table: pd.DataFrame) -> str:
    named = table.map(lambda cell: in_markdown(cell) if isinstance(cell, str) else cell)
    return str(named.to_markdown(index=False, disable_numparse=True))
