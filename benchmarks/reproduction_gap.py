"""What released code and single mechanisms are worth: one page from the runs of one suite.

The suite `reproduction_gap` has each method and, named METHOD.CHANGE, the same method with one
argument changed. `official` is what the released code computes; every other change leaves out or
replaces a part that the paper names. Each change is compared with its method, paired by seed and
on the same masks; p is adjusted by Holm over all changes of the page.

    mmbench run reproduction_gap
    python benchmarks/reproduction_gap.py [RESULTS, results]

writes RESULTS/reproduction_gap.md. What a paper reports of the same change is taken from
`benchmarks/reported`, and its numbers on CMU-MOSI stand beside ours where RESULTS has them.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import kendalltau

from mmbench import Sweep
from mmbench.bench.compare import against_reported, read_board, read_reported
from mmbench.bench.score_cache import ScoreCache
from mmbench.bench.spec import Entry, parameters
from mmbench.bench.statistics import holm
from mmbench.bench.verdict import (
    ALL,
    CHANCE,
    EVERY,
    compare,
    needed,
    power_sentence,
    spread,
)
from mmbench.paths import folder
from mmbench.registry import METHODS
from mmbench.store import write_text

SUITE = "reproduction_gap"
OFFICIAL = "official"
DASH = "\N{EN DASH}"  # nothing to say
EQUAL = 1e-6  # less is rounding of a variance
ASKED = 0.02  # of the suite's metric: what the page had better be able to find
MOSI = ("moe_retriever_mosi", "moe_retriever_table2.csv")  # a suite, and what a paper says of it


def families(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Method -> itself, then its changes.

    Raises:
        ValueError: If a change comes before its method, or changes more than one argument.
    """
    changes: dict[str, list[Entry]] = {}
    for entry in entries:
        method, _, change = entry.label.partition(".")
        if not change:
            changes[method] = [entry]
        elif method not in changes or len(changed(entry, changes[method][0])) != 1:
            raise ValueError(f"{entry.label} is no change of one argument of a method before it")
        else:
            changes[method].append(entry)
    return changes


def changed(entry: Entry, method: Entry) -> dict[str, Any]:
    """Arguments that a change has and its method has not."""
    return {name: value for name, value in entry.args.items() if method.args.get(name) != value}


def _argument(entry: Entry, method: Entry) -> str:
    """What a change changes, from the method's value to its own: `hide: True -> False`."""
    defaults = {each.name: each.default for each in parameters(METHODS.get(method.name))}
    before = defaults | method.args
    return ", ".join(f"{k}: {before[k]} -> {v}" for k, v in changed(entry, method).items())


def worth(sweep: Sweep) -> pd.DataFrame:
    """A row for each change and data set, `EVERY` among them.

    Returns:
        `method`, `change`, `argument`, `data`, `worth` (score of the method as its paper has it
        less that of the change), `ci_low`, `ci_high`, `se_seeds`, `se_samples`, `p`, adjusted,
        `rising` (most trainings of one of the two ended while their validation score rose).
    """
    runs, records, metric = sweep.runs(), sweep.records(), sweep.suite.select.metric
    if not any(run.state == "done" for run in runs):
        raise ValueError(f"no run of {SUITE} has ended in {sweep.folder}: mmbench run {SUITE}")
    cache = ScoreCache(sweep.runs_folder)
    rising = records.groupby("method")["rising"].mean() > 0.5  # over data sets, as worth is
    early = {str(name) for name in rising.index[rising]}
    tables = []
    for method, entries in families(sweep.suite.methods).items():
        for entry in entries[1:]:
            table = compare(runs, records, [method, entry.label], metric, cache)
            argument = _argument(entry, entries[0])
            tables.append(
                table[table["over"] == ALL].assign(
                    method=method,
                    change=entry.label.partition(".")[2],
                    argument=argument,
                    rising=not early.isdisjoint([method, entry.label]),
                    worth=-table["gain"],
                    ci_low=-table["ci_high"],
                    ci_high=-table["ci_low"],
                )
            )
    cache.write()
    rows = pd.concat([table for table in tables if len(table)], ignore_index=True)
    for _, part in rows.groupby(rows["data"] == EVERY):
        rows.loc[part.index, "p"] = holm(part["p"].to_numpy(float))
    return rows


def page(sweep: Sweep, results: Path) -> str:
    """The page as Markdown."""
    table = worth(sweep)
    metric, seeds = sweep.suite.select.metric, len(sweep.suite.seeds)
    reported = read_reported(folder("benchmarks") / "reported")
    released = table[table["change"] == OFFICIAL]
    parts = table[table["change"] != OFFICIAL]
    code = ", ".join(sorted(set(sweep.records()["code"])))
    families_of = families(sweep.suite.methods)
    text = [
        "# Reproduction gap",
        "Does it matter whether a method is built as its paper writes it or as its released code "
        "computes it? And is each mechanism that a paper names worth having? Every row below "
        "changes one argument of one method and leaves all else alike: data, masks, seeds and "
        "width.",
        f"Written by `python benchmarks/reproduction_gap.py` from the suite `{SUITE}`, made by "
        f"{code}; no hand changes it.",
        "## How to read a row",
        _key(metric, seeds, len(table[table["data"] == EVERY])),
        "## What released code does otherwise",
        "The question of each row: is the method better as its paper writes it than as its "
        "released code computes it? What the code does otherwise stands in the method's file, "
        "under “Differences from the paper”.",
        _sentence(released, "released variants differ from the paper's", metric),
        _table(released, sweep, reported, official=True),
        "## What mechanisms are worth",
        "The question of each row: is the method better with the part that its paper names than "
        "without it, or with the plainer one that takes its place?",
        _sentence(parts, "mechanisms make a difference", metric),
        _power(table, metric, sweep),
        _table(parts, sweep, reported, official=False),
        "## CMU-MOSI, beside a paper's numbers",
        _mosi(results, reported),
        "## The commands",
        "Each trains one method and its changes once more, in the folder `again`, and then writes "
        "their rows into `again/reproduction_gap.md`. There p is adjusted for fewer changes and "
        "smaller; `worth` and its interval are those of this page.",
        *(_command(method, entries) for method, entries in families_of.items()),
    ]
    return "\n\n".join(part for part in text if part) + "\n"


def _key(metric: str, seeds: int, changes: int) -> str:
    return (
        f"- **worth**: {metric} of the method as its paper has it less that of the changed one, "
        f"mean over data sets and all their test conditions, {seeds} seeds. Above zero, the "
        "paper's is better. In brackets, the 95 % interval over seeds and test samples together.\n"
        f"- **p**: chance of such a difference between equals, adjusted (Holm) for the {changes} "
        f"changes of this page. **better**: whose score is higher where p is below {CHANCE}; "
        "undecided elsewhere, which is not the same as equal; **the same**: so is every "
        "score, the change touches nothing here; **still rising**: most trainings "
        "of one of the two ended while validation still rose, so that the row is not counted.\n"
        "- **a data set**: the same there, with the standard error over seeds (s) and the one "
        f"over test samples (t) apart; {DASH} where the method does not apply.\n"
        "- A method's name leads to the command that makes its rows again.\n"
        "- Data sets are small and methods narrow: a mechanism that needs more than that is not "
        "refuted here."
    )


def _sentence(table: pd.DataFrame, what: str, metric: str) -> str:
    mean = table[(table["data"] == EVERY) & ~table["rising"]]
    if mean.empty:
        return "There are no such runs that can be compared."
    if mean["p"].isna().any():
        return "One training of each cannot tell chance from a difference; take three seeds."
    sure = mean[mean["p"] < CHANCE].sort_values("worth")
    worse, better = sure[sure["worth"] > 0], sure[sure["worth"] < 0]
    said = [
        f"**{len(sure)} of {len(mean)} {what} beyond chance** in the mean over data sets ({metric})"
    ]
    for rows, how in ((worse[::-1], "better as in the paper"), (better, "better when changed")):
        if len(rows):
            names = (f"{_words(r)} {abs(r.worth):.3f}" for r in rows.itertuples())
            said.append(f"{how}: {', '.join(names)}")
    return "; ".join(said) + "."


def _words(row: Any) -> str:
    """A change in words: `shaspec without hiding`."""
    if row.change == OFFICIAL:
        return str(row.method)
    return f"{row.method} {_change(row.change)}"


def _change(change: str) -> str:
    words = change.replace("_", " ")
    return words if words.startswith("without ") else f"with {words}"


def _power(table: pd.DataFrame, metric: str, sweep: Sweep) -> str:
    typical = spread(table.assign(over=ALL))
    if typical is None:
        return ""
    seeds, sets = len(sweep.suite.seeds), len(set(table["data"]) - {EVERY})
    return (
        f"{power_sentence(typical, metric, seeds, sets, ASKED)} A difference of {ASKED}: "
        f"{needed(typical, ASKED, seeds, sets)}."
    )


def _table(table: pd.DataFrame, sweep: Sweep, reported: pd.DataFrame, *, official: bool) -> str:
    if table.empty:
        return ""
    sets = [data.label or data.name for data in sweep.suite.data]
    what = ["what the code does otherwise"] if official else ["changed", "argument"]
    heads = ["method", *what, f"worth, {sweep.suite.select.metric}", "p", "better", *sets]
    heads += [] if official else ["the paper reports, in percentage points"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for (method, change), part in table.groupby(["method", "change"], sort=False):
        of = part.set_index("data")
        mean = of.loc[EVERY]
        cells = [f"[`{method}`](#{method})"]
        if official:
            cells.append(f"[its file](../mmbench/methods/{method}.py)")
        else:
            cells += [_change(str(change)), f"`{mean['argument']}`"]
        cells += [_interval(mean), _p(mean["p"]), _better(mean, official=official)]
        cells += [_apart(of.loc[data]) if data in of.index else DASH for data in sets]
        if not official:
            cells.append(_reported(str(method), str(change), reported))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _better(row: Any, *, official: bool) -> str:
    if row["rising"]:
        return "still rising"
    if max(abs(row["worth"]), row["se_samples"]) < EQUAL:
        return "the same"
    if pd.isna(row["p"]) or row["p"] >= CHANCE:
        return "undecided"
    return "the paper's" if row["worth"] > 0 else "released code" if official else "changed"


def _interval(row: Any) -> str:
    if pd.isna(row["ci_low"]):
        return f"{row['worth']:+z.3f}"
    return f"{row['worth']:+z.3f} [{row['ci_low']:+z.3f}, {row['ci_high']:+z.3f}]"


def _p(p: float) -> str:
    return DASH if pd.isna(p) else "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _apart(row: Any) -> str:
    seeds = "" if pd.isna(row["se_seeds"]) else f" s {row['se_seeds']:.3f}"
    return f"{row['worth']:+z.3f}{seeds} t {row['se_samples']:.3f}"


def _reported(method: str, change: str, reported: pd.DataFrame) -> str:
    """What the paper's own table says of the same change, in its units."""
    row: Any
    said = []
    for row in reported[reported["row"] == change].itertuples():
        same = reported[
            (reported["row"] == method)
            & (reported["source"] == row.source)
            & (reported["data"] == row.data)
            & (reported["condition"] == row.condition)
            & (reported["metric"] == row.metric)
        ]
        if len(same):
            said.append(f"{same['mean'].iloc[0] - row.mean:+.2f} {row.metric} on {row.data}")
            source = row.source.partition("; in percent")[0]
    return f"{'; '.join(said)} ({source})" if said else DASH


def _mosi(results: Path, reported: pd.DataFrame) -> str:
    suite, file = MOSI
    board = results / suite / "leaderboard.csv"
    if not board.is_file():
        return f"Not here: `mmbench run {suite} --tune 10` makes them where the data are."
    ours = read_board(board)
    ours["tuned"] = ours.get("tuned", pd.Series(0, ours.index)).fillna(0).astype(int)
    both = against_reported(ours, folder("benchmarks") / "reported" / file)
    both = both[both["status"] == "matched"]
    same = ["data", "scenario", "condition", "method", "variant", "metric"]
    both = both.merge(ours[[*same, "tuned"]], on=same, how="left")
    trials = int(ours["tuned"].max())
    tuned = (f" --tune {trials}", "tuned") if trials else ("", "each method at its own defaults")
    lines = [
        f"Our numbers, made by `mmbench run {suite}{tuned[0]}` ({tuned[1]}), beside those that a "
        "paper prints. The data are the "
        "paper's; features and encoders are not, so compare the order of the methods, not the "
        "values. `trials`: settings that were tried on validation before; 0 is a method at its own "
        f"defaults.{_order(both)}",
        "",
        "| data | test condition | method | metric | paper | ours, 95 % over seeds | seeds | "
        "trials | ours less paper's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    row: Any
    for row in both.itertuples():
        low = "" if pd.isna(row.ci_low) else f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        std = "" if pd.isna(row.reported_std) else f" ± {row.reported_std:.3f}"
        variant = "" if row.variant == "paper" else f" ({row.variant})"
        lines.append(
            f"| {row.data} | {row.condition} | `{row.method}`{variant} | {row.metric} | "
            f"{row.reported:.3f}{std} | {row.ours:.3f}{low} | {row.seeds} | {row.tuned} | "
            f"{row.gap:+z.3f} |"
        )
    return "\n".join(lines)


def _order(both: pd.DataFrame) -> str:
    """How alike the order of the methods is in the paper and here, in one sentence."""
    papers = both[both["variant"] == "paper"]
    taus = [
        kendalltau(part["reported"], part["ours"]).statistic
        for _, part in papers.groupby(["data", "scenario", "condition", "metric"])
        if len(part) > 2
    ]
    known = [tau for tau in taus if not math.isnan(tau)]
    if not known:
        return ""
    return (
        f" Order of the methods here and in the paper: Kendall's tau {sum(known) / len(known):.2f} "
        f"(mean over {len(known)} pairs of data and metric; 1 = the same, 0 = unrelated)."
    )


def _command(method: str, entries: Sequence[Entry]) -> str:
    listed = [{"name": e.name, "args": e.args, "label": e.label} for e in entries]
    return (
        f"### {method}\n\n```\nmmbench run {SUITE} 'methods={json.dumps(listed)}' --results again\n"
        "python benchmarks/reproduction_gap.py again\n```"
    )


def main(results: Path) -> Path:
    """Write the page; returns its path."""
    path = results / f"{SUITE}.md"
    write_text(path, page(Sweep(SUITE, results=results), results))
    return path


if __name__ == "__main__":
    print(f"wrote {main(Path(sys.argv[1] if len(sys.argv) > 1 else 'results'))}")
