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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mmbench import Sweep
from mmbench.bench.compare import against_reported, read_reported
from mmbench.bench.score_cache import ScoreCache
from mmbench.bench.spec import Entry
from mmbench.bench.statistics import holm
from mmbench.bench.verdict import ALL, CHANCE, EVERY, compare, needed, power_sentence, spread
from mmbench.paths import folder
from mmbench.store import write_text

SUITE = "reproduction_gap"
OFFICIAL = "official"
DASH = "\N{EN DASH}"  # nothing to say
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


def worth(sweep: Sweep) -> pd.DataFrame:
    """A row for each change and data set, `EVERY` among them.

    Returns:
        `method`, `change`, `argument`, `data`, `worth` (score of the method as its paper has it
        less that of the change), `ci_low`, `ci_high`, `se_seeds`, `se_samples`, `p`, adjusted.
    """
    runs, records, metric = sweep.runs(), sweep.records(), sweep.suite.select.metric
    if not any(run.state == "done" for run in runs):
        raise ValueError(f"no run of {SUITE} has ended in {sweep.folder}: mmbench run {SUITE}")
    cache = ScoreCache(sweep.runs_folder)
    tables = []
    for method, entries in families(sweep.suite.methods).items():
        for entry in entries[1:]:
            table = compare(runs, records, [method, entry.label], metric, cache)
            argument = ", ".join(f"{k}: {v}" for k, v in changed(entry, entries[0]).items())
            tables.append(
                table[table["over"] == ALL].assign(
                    method=method,
                    change=entry.label.partition(".")[2],
                    argument=argument,
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
    text = [
        "# Reproduction gap",
        f"Written by `python benchmarks/reproduction_gap.py` from the suite `{SUITE}` (made by "
        f"{code}); no hand changes it. Each number is {metric} of a method as its paper has it "
        f"less that of the changed one, mean over all test conditions, {seeds} seeds: above zero, "
        "the paper's is better. Intervals are at 95 %, over seeds and test samples together; on "
        "single data sets, the standard errors over seeds (s) and over samples (t) stand apart. p "
        "is adjusted by Holm over all changes. Trainings are short and small: a mechanism that "
        "needs more than that is not refuted here.",
        "## What released code does otherwise",
        _sentence(released, "released variants differ from the paper's", metric),
        _table(released, sweep, reported, argument=False),
        "## What mechanisms are worth",
        _sentence(parts, "mechanisms make a difference", metric),
        _power(table, metric, sweep),
        _table(parts, sweep, reported, argument=True),
        "## CMU-MOSI",
        _mosi(results, reported),
        "## Commands",
        "Each makes the rows of one method again; another `--results` trains them anew.",
        *(_command(entries) for entries in families(sweep.suite.methods).values()),
    ]
    return "\n\n".join(part for part in text if part) + "\n"


def _sentence(table: pd.DataFrame, what: str, metric: str) -> str:
    mean = table[table["data"] == EVERY]
    sure = mean[mean["p"] < CHANCE].sort_values("worth")
    if mean["p"].isna().any():
        return "One training of each cannot tell chance from a difference; take three seeds."
    worse, better = sure[sure["worth"] > 0], sure[sure["worth"] < 0]
    said = [
        f"{len(sure)} of {len(mean)} {what} beyond chance in the mean over data sets ({metric})"
    ]
    for rows, how in ((worse[::-1], "lost by the change"), (better, "gained by it")):
        if len(rows):
            names = (f"{r.method}.{r.change} {abs(r.worth):.3f}" for r in rows.itertuples())
            said.append(f"{how}: {', '.join(names)}")
    return "; ".join(said) + "."


def _power(table: pd.DataFrame, metric: str, sweep: Sweep) -> str:
    typical = spread(table.assign(over=ALL))
    if typical is None:
        return ""
    seeds, sets = len(sweep.suite.seeds), len(set(table["data"]) - {EVERY})
    return (
        f"{power_sentence(typical, metric, seeds, sets, ASKED)} To find {ASKED} in 80 %: "
        f"{needed(typical, ASKED, seeds, sets)}."
    )


def _table(table: pd.DataFrame, sweep: Sweep, reported: pd.DataFrame, *, argument: bool) -> str:
    sets = [data for data in dict.fromkeys(table["data"]) if data != EVERY]
    heads = ["method", *(["without", "argument"] if argument else []), "worth", "p", *sets]
    heads += ["the paper reports"] if argument else []
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for (method, change), part in table.groupby(["method", "change"], sort=False):
        of = part.set_index("data")
        mean = of.loc[EVERY]
        cells = [f"`{method}`"]
        if argument:
            cells += [str(change), f"`{mean['argument']}`"]
        cells += [_interval(mean), _p(mean["p"])]
        cells += [_apart(of.loc[data]) if data in of.index else DASH for data in sets]
        if argument:
            cells.append(_reported(str(method), str(change), reported))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(row: Any) -> str:
    if pd.isna(row["ci_low"]):
        return f"{row['worth']:+.3f}"
    return f"{row['worth']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"


def _p(p: float) -> str:
    return DASH if pd.isna(p) else "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _apart(row: Any) -> str:
    seeds = "" if pd.isna(row["se_seeds"]) else f" s {row['se_seeds']:.3f}"
    return f"{row['worth']:+.3f}{seeds} t {row['se_samples']:.3f}"


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
    command = f"`mmbench run {suite} --tune 10`"
    board = results / suite / "leaderboard.csv"
    if not board.is_file():
        return f"Not here: {command} makes them where the data are."
    both = against_reported(pd.read_csv(board), folder("benchmarks") / "reported" / file)
    both = both[both["status"] == "matched"]
    tuned = int(pd.read_csv(board).get("tuned", pd.Series([0])).max())
    how = f"tuned, {tuned} trials each" if tuned else "NOT tuned"
    lines = [
        f"Our numbers ({how}) by {command}, beside those that a paper prints. Features and "
        "encoders are not the paper's: compare the order, not the values.",
        "",
        "| data | condition | method | metric | paper | ours | seeds | ours less paper's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    row: Any
    for row in both.itertuples():
        low = "" if pd.isna(row.ci_low) else f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        lines.append(
            f"| {row.data} | {row.condition} | `{row.method}` | {row.metric} | "
            f"{row.reported:.3f} | {row.ours:.3f}{low} | {row.seeds} | {row.gap:+.3f} |"
        )
    return "\n".join(lines)


def _command(entries: Sequence[Entry]) -> str:
    listed = [{"name": e.name, "args": e.args, "label": e.label} for e in entries]
    return f"```\nmmbench run {SUITE} 'methods={json.dumps(listed)}'\n```"


def main(results: Path) -> Path:
    """Write the page; returns its path."""
    path = results / f"{SUITE}.md"
    write_text(path, page(Sweep(SUITE, results=results), results))
    return path


if __name__ == "__main__":
    print(f"wrote {main(Path(sys.argv[1] if len(sys.argv) > 1 else 'results'))}")
