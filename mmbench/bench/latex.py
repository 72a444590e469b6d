r"""The leaderboard as LaTeX tables for a paper; they need the package booktabs."""

import re
from typing import Any

import pandas as pd

from mmbench.bench.leaderboard import BEST, RANKED_VARIANT, is_mixed, is_rising, repeats
from mmbench.bench.record import IPW
from mmbench.metrics.metric import higher_is_better
from mmbench.registry import suggest

DASH = "--"  # the method does not apply, or no ceiling is known
ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    # letters of other shapes in LaTeX's default font encoding
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # at the start of a row they would be arguments of the \\ before it
    "[": "{[}",
    "*": "{*}",
}


def escape(text: str) -> str:
    """Make any text print as itself in LaTeX; white space becomes single blanks."""
    return "".join(ESCAPED.get(letter, letter) for letter in " ".join(text.split()))


def latex(board: pd.DataFrame, *, metric: str, level: float = 0.05) -> str:
    r"""One booktabs table for each (data, scenario): methods down, conditions across.

    A cell is mean ± standard deviation over folds and seeds. Bold is the best method of a column
    and every ranked one that is not told apart from it (`p_vs_best` > `level`; where there is no p,
    an equal mean); underlined is the best of the others. A hole is neither: it shows how many of
    the planned runs finished, `(2/3)`. Variants of methods are other programs: each has its own
    part of a table, without marks. A dagger marks cells that mix sources. Where the ceiling
    is known, the last row has it with its standard error.

    Args:
        board: From `leaderboard`, with p values if it was made with `compare=metric`.
        metric: Which metric to show.
        level: Highest p in [0, 1] at which a method counts as worse than the best.

    Returns:
        `table` environments, one after the other; every name in them is escaped.

    Raises:
        ValueError: If the board has no such metric, or `level` is out of range.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"level {level} is no probability; give one in [0, 1], such as 0.05")
    cells = board[board["metric"] == metric]
    if cells.empty:
        known = sorted(set(board["metric"]))
        raise ValueError(
            f"no metric {metric!r} on the board{suggest(metric, known)}; known: {', '.join(known)}"
        )
    labels: set[str] = set()
    parts = [r"% needs \usepackage{booktabs}"]
    for (data, scenario), part in cells.groupby(["data", "scenario"], sort=False):
        label = _label(f"{data} {scenario} {metric}", labels)
        parts.append(_table(part, f"{data}, {scenario}", metric, level, label))
    return "\n\n".join(parts) + "\n"


def _table(part: pd.DataFrame, title: str, metric: str, level: float, label: str) -> str:
    conditions = list(dict.fromkeys(part["condition"]))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(part, title, metric, level)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'c' * len(conditions)}}}",
        r"\toprule",
        _row("method", [escape(str(name)) for name in conditions]),
    ]
    for _, same in part.groupby("variant", sort=False):
        lines.append(r"\midrule")
        cells: dict[tuple[Any, Any], str] = {}
        for condition, column in same.groupby("condition", sort=False):
            for method, cell in _column(column, level).items():
                cells[method, condition] = cell
        lines += [
            # a cell that the board lacks is left blank
            _row(escape(str(method)), [cells.get((method, c), "") for c in conditions])
            for method in dict.fromkeys(same["method"])
        ]
    ceiling = part.dropna(subset="bayes").drop_duplicates("condition").set_index("condition")
    if len(ceiling):
        known = {
            name: f"${row.bayes:.3f}{_spread(row.bayes_se)}$"
            for name, row in zip(ceiling.index, ceiling.itertuples(), strict=True)
        }
        lines += [r"\midrule", _row(BEST, [known.get(c, DASH) for c in conditions])]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _column(column: pd.DataFrame, level: float) -> dict[Any, str]:
    """Cells of one condition and variant by method."""
    column = column.assign(rank=column["rank"].where(column["variant"] == RANKED_VARIANT))
    bold = (column["rank"] == 1) | (column["rank"].notna() & (column["p_vs_best"] > level))
    rest = column["rank"].where(~bold)
    second = rest.notna() & (rest == rest.min())
    marks = bold.map({True: r"\mathbf", False: ""}).mask(second, r"\underline")
    return {
        row.method: _cell(row, mark)
        for row, mark in zip(column.itertuples(), marks.tolist(), strict=True)
    }


def _cell(row: Any, mark: str) -> str:
    if str(row.note).startswith("skipped"):
        return DASH
    hole = f"{row.n_seeds:g}/{row.n_seeds_planned:g}"
    if pd.isna(row.mean):
        return hole
    number = f"{mark}{{{row.mean:.3f}}}" if mark else f"{row.mean:.3f}"
    signs = (r"\uparrow" if is_rising(row) else "") + (r"\dagger" if is_mixed(row) else "")
    text = f"${number}{_spread(row.std_seeds)}{f'^{{{signs}}}' if signs else ''}$"
    return text if row.n_seeds == row.n_seeds_planned else f"{text} ({hole})"


def _spread(value: Any) -> str:
    return "" if pd.isna(value) else rf" \pm {value:.3f}"


def _row(head: str, cells: list[str]) -> str:
    return " & ".join([head, *cells]) + r" \\"


def _caption(part: pd.DataFrame, title: str, metric: str, level: float) -> str:
    """What is shown and what the marks mean."""
    mixed = any(is_mixed(row) for row in part.itertuples())
    rising = any(is_rising(row) for row in part.itertuples())
    way = "higher" if higher_is_better(metric.removesuffix(IPW)) else "lower"
    alike = (
        rf" and every method not told apart from it ($p > {level:g}$, paired bootstrap, Holm)"
        if part["p_vs_best"].notna().any()
        else ""
    )
    return (
        rf"{escape(title)}: {escape(metric)} ({way} is better), mean $\pm$ standard deviation over "
        rf"{escape(repeats(part))}. Bold: the best{alike}; underlined: the next; ($n/m$): only $n$ "
        r"of $m$ runs finished, not ranked."
        + (r" $\uparrow$: still rose when training ended, not ranked." if rising else "")
        + (r" $\dagger$: runs made by different sources." if mixed else "")
    )


def _label(caption: str, taken: set[str]) -> str:
    """A label of safe letters, new among those taken."""
    plain = "tab:" + re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")
    label, n = plain, 1
    while label in taken:
        n += 1
        label = f"{plain}-{n}"
    taken.add(label)
    return label
