"""The command line: parses, calls, prints. Heavy imports happen inside the commands."""

import contextlib
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mmbench.cli_files import data_app, masks_app

app = typer.Typer(
    name="mmbench",
    help=(
        "Benchmark suite for multimodal learning with missing modalities.\n\n"
        "Start with `mmbench run`: it trains the built-in quickstart suite and prints a "
        "leaderboard. The same command again continues where it stopped."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data_app, name="data")
app.add_typer(masks_app, name="masks")

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SUITE] [KEY=VALUE]...",
        help="A built-in suite or a YAML file (default: quickstart), then changes to it, such as "
        "seeds=5 methods=[shaspec,zero_fill] trainer.max_epochs=3",
        show_default=False,
    ),
]
Results = Annotated[Path, typer.Option(help="Folder of all results.", show_default=True)]
DataRoot = Annotated[
    Path, typer.Option(envvar="MMBENCH_DATA", help="Folder of the data sets that you bring.")
]
Paired = Annotated[
    bool,
    typer.Option(
        "--p-values/--no-p-values",
        help="Compare every method with the best; reads the predictions of all runs that are new.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="At most so many samples a split; kept apart from full results."),
]


WATCH_S = 2.0  # between two looks at the files


class Form(StrEnum):
    """Forms of a leaderboard."""

    csv = "csv"
    md = "md"
    latex = "latex"
    html = "html"


class Things(StrEnum):
    """What `list` lists."""

    methods = "methods"
    data = "data"
    scenarios = "scenarios"
    suites = "suites"
    metrics = "metrics"


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    try:
        app()
    except ValueError as error:
        _fail(str(error), code=2)
    except OSError as error:
        _fail(
            f"{error.strerror}: {error.filename or 'disk'}; finished runs are kept, and the same "
            "command continues once that is mended",
            code=1,
        )


def _fail(message: str, *, code: int) -> NoReturn:
    from rich.console import Console

    text = " ".join(message.split())
    Console(stderr=True, soft_wrap=True).print("[bold red]error:[/] ", end="")
    sys.stderr.write(f"{text}\n")
    raise SystemExit(code)


class _Sweep:
    """A suite with its runs and where they lie."""

    def __init__(
        self,
        words: Sequence[str] | None,
        results: Path,
        limit: int | None,
        data_root: Path,
        *,
        look: bool = False,
    ) -> None:
        from mmbench.bench.content import Contents
        from mmbench.bench.plan import plan
        from mmbench.bench.record import find
        from mmbench.bench.spec import load_suite
        from mmbench.registry import DATASETS, METHODS

        rest = list(words or [])
        self.where = rest.pop(0) if rest and "=" not in rest[0] else "quickstart"
        if limit is not None:
            rest.append(f"limit={limit}")
        self.suite = load_suite(self.where, rest)
        for entry in self.suite.methods:
            METHODS.check(entry.name)
        for entry in self.suite.data:
            DATASETS.check(entry.name)
        # a smoke test must not stand beside real results
        suffix = "" if self.suite.limit is None else f"-limit{self.suite.limit}"
        self.folder = results / f"{self.suite.name}{suffix}"
        self.runs_folder = self.folder / "runs"
        self.contents = Contents(self.folder, data_root, _examine)
        if look:  # all others believe what is remembered as long as the data are unchanged
            self.contents.look(self.suite)
        self.specs = plan(self.suite, self.contents.of)
        self._find = find

    def runs(self) -> list[Any]:
        """Every planned run and what is found of it now."""
        return [self._find(spec, self.runs_folder) for spec in self.specs]

    def boards(self, runs: list[Any], metric: str, *, paired: bool = True) -> tuple[Any, Any]:
        """Leaderboard and robustness; `paired` reads predictions, if they changed, for p values."""
        from mmbench.bench.kept import Kept
        from mmbench.bench.leaderboard import leaderboard, robustness
        from mmbench.bench.record import read_records

        records = read_records(runs)
        kept = Kept(self.runs_folder)
        compare = metric if paired else None
        board = leaderboard(runs, compare=compare, records=records, kept=kept)
        robust = robustness(runs, compare=compare, records=records, kept=kept)
        kept.write()
        return board, robust


def _examine(entry: Any, root: Path) -> Any:
    from mmbench.bench.run.build import examine

    return examine(entry, root)


@app.command()
def run(
    words: Words = None,
    *,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time. [default: one a GPU, else one a core]"),
    ] = None,
    limit: Limit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, run nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Repeat runs that are finished, too.")
    ] = False,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Train and evaluate a suite, then write and print its leaderboard.

    Finished runs are kept: the same command again does what is left, failed runs included.
    Exit code 0: all fine; 1: some runs failed; 2: the input is wrong.
    """
    sweep = _Sweep(words, results, limit, data_root, look=True)
    if dry_run:
        _show_plan(sweep)
        return
    from mmbench.bench.executors.local import default_workers
    from mmbench.bench.run.build import check

    first = sweep.specs[0]
    for spec in sweep.specs:
        if (spec.seed, spec.fold) == (first.seed, first.fold):
            check(spec, data_root)
    _require_writable(sweep.folder)
    sweep.contents.write()
    finished = {"skipped"} if overwrite else {"done", "skipped"}
    found = sweep.runs()
    for item in found:
        if item.state == "broken":
            typer.echo(f"found a broken run, which will run again: {item.folder} ({item.why})")
    todo = [item.spec for item in found if overwrite or item.state not in finished]
    wanted = min(workers or default_workers(), max(1, len(todo)))
    if todo:
        _carry_out(sweep, todo, data_root, wanted, overwrite=overwrite)
    failed = _show_board(sweep)
    raise typer.Exit(1 if failed else 0)


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"the results folder {folder} is not writable ({error.strerror}); "
            "choose another with --results"
        ) from error


def _carry_out(
    sweep: _Sweep, todo: list[Any], root: Path, workers: int, *, overwrite: bool
) -> None:
    """Run what is left, showing progress: live lines in a terminal, plain lines elsewhere."""
    import time

    from rich.console import Console, Group
    from rich.live import Live
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from mmbench.bench.executors.local import execute

    console = Console()
    total, ended, failed = len(todo), 0, 0
    began = time.perf_counter()
    before = len(sweep.specs) - total
    kept = f" ({before} are finished)" if before else ""
    typer.echo(f"{total} runs on {workers} workers{kept}, results in {sweep.folder}")
    overall = Progress(
        BarColumn(None),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
        expand=True,
    )
    bar = overall.add_task("", total=total)
    each = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    lines: dict[int, TaskID] = {}  # worker -> the line of its run
    live = Live(Group(overall, each), console=console, refresh_per_second=4)
    events = execute(todo, sweep.runs_folder, root, workers=workers, overwrite=overwrite)
    try:
        with live if console.is_terminal else contextlib.nullcontext():
            for event in events:
                outcome = event.outcome
                if outcome is None:
                    lines[event.worker] = each.add_task(escape(event.spec.title))
                    continue
                each.remove_task(lines.pop(event.worker))
                overall.advance(bar)
                ended += 1
                failed += outcome.state == "failed"
                if outcome.state != "done" or not console.is_terminal:
                    why = f": {outcome.why}" if outcome.why else ""
                    text = f"[{ended}/{total}] {event.spec.title}: {outcome.state}{why}"
                    seconds = f" ({outcome.wall_s:.1f} s)" if outcome.wall_s else ""
                    console.print(text + seconds, markup=False, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        events.close()
        typer.echo(
            f"\nstopped: {before + ended} of {len(sweep.specs)} runs are finished and kept. "
            "The same command continues."
        )
        raise typer.Exit(130) from None
    typer.echo(f"{ended} runs in {time.perf_counter() - began:.0f} s, {failed} failed")


@app.command("plan")
def plan_command(
    words: Words = None,
    *,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Say how many trainings a suite asks for and how many are finished; runs nothing."""
    _show_plan(_Sweep(words, results, limit, data_root))


def _show_plan(sweep: _Sweep) -> None:
    from rich.console import Console
    from rich.table import Table

    runs = sweep.runs()
    table = Table("data", "scenario", "method", "runs", "finished")
    groups: dict[tuple[str, str, str], list[str]] = {}
    for item in runs:
        spec = item.spec
        key = (spec.data_label, spec.scenario_name, spec.method_label)
        groups.setdefault(key, []).append(item.state)
    for key, states in groups.items():
        finished = sum(state in ("done", "skipped") for state in states)
        table.add_row(*key, str(len(states)), str(finished))
    console = Console()
    console.print(table)
    finished = sum(item.state in ("done", "skipped") for item in runs)
    folds = len({(item.spec.data_label, item.spec.fold) for item in runs})
    console.print(
        f"suite {sweep.suite.name}: {len(runs)} trainings "
        f"({folds} folds of {len(sweep.suite.data)} data sets x "
        f"{len(sweep.suite.scenarios)} scenarios x {len(sweep.suite.methods)} methods x "
        f"{len(sweep.suite.seeds)} seeds), {finished} finished, {len(runs) - finished} to do"
    )


@app.command()
def status(
    words: Words = None,
    *,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Say what is done, running, failed and waiting; reads files only."""
    from mmbench.bench.record import count, read_metrics

    sweep = _Sweep(words, results, limit, data_root)
    runs = sweep.runs()
    states = ", ".join(f"{n} {state}" for state, n in count(runs).items())
    typer.echo(f"suite {sweep.suite.name} in {sweep.folder}: {states}")
    for item in runs:
        if item.state in ("failed", "broken"):
            typer.echo(f"  {item.state}: {item.spec.title}: {item.why}")
    seconds = {}
    for item in runs:
        if item.state == "done":
            cost = read_metrics(item)["cost"]
            seconds[item.spec.title] = cost["train_s"] + cost["eval_s"]
    if seconds:
        slowest = max(seconds, key=lambda title: seconds[title])
        left = sum(item.state not in ("done", "skipped") for item in runs)
        work = left * sum(seconds.values()) / len(seconds)
        typer.echo(f"  slowest: {slowest}, {seconds[slowest]:.1f} s")
        if left:
            typer.echo(f"  left: about {work:.0f} s of work, divided by the workers")


@app.command("leaderboard")
def leaderboard_command(
    words: Words = None,
    *,
    form: Annotated[Form, typer.Option("--format", help="csv has everything.")] = Form.md,
    metric: Annotated[
        str | None, typer.Option(help="Shown metric. [default: the suite's selection metric]")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Print instead what papers report beside our numbers: `reported` (the tables "
            "that come with mmbench), a CSV file or a folder of them."
        ),
    ] = None,
    paired: Paired = True,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Rebuild the leaderboard from the records, write it and print it; trains nothing."""
    from mmbench.bench.leaderboard import render, write

    sweep = _Sweep(words, results, limit, data_root)
    shown = metric or sweep.suite.select.metric
    board, robust = sweep.boards(sweep.runs(), shown, paired=paired)
    _require_rows(board, sweep, shown)
    title = sweep.suite.name
    write(board, sweep.folder, metric=shown, title=title, robust=robust)
    if against is not None:
        from mmbench.bench.compare import against_reported, render_reported
        from mmbench.resources import folder

        where = folder("benchmarks") / "reported" if against == "reported" else Path(against)
        sys.stdout.write(render_reported(against_reported(board, where)))
    elif form is Form.latex:
        from mmbench.bench.latex import latex

        sys.stdout.write(latex(board, metric=shown))
    else:
        sys.stdout.write(
            render(board, form.value, metric=shown, title=title, robust=robust)  # type: ignore[arg-type]
        )


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A leaderboard.csv, or its folder.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Say which cells of two leaderboards differ, and whether by more than the interval."""
    from mmbench.bench.compare import changes, read_board, render_changes

    sys.stdout.write(render_changes(changes(read_board(before), read_board(after))))


def _require_rows(board: Any, sweep: _Sweep, metric: str) -> None:
    """Refuse a suite without a finished run, and a metric that it does not have."""
    from mmbench.registry import suggest

    if board.empty:
        raise ValueError(
            f"no finished run of this suite lies in {sweep.folder}; start it with "
            f"`mmbench run {sweep.where}` (or give the same KEY=VALUE words as then)"
        )
    known = sorted(set(board["metric"]))
    if metric not in known:
        raise ValueError(f"no metric {metric!r}{suggest(metric, known)}; known: {', '.join(known)}")


@app.command()
def report(
    words: Words = None,
    *,
    metric: Annotated[
        str | None, typer.Option(help="Shown metric. [default: the suite's selection metric]")
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Write it again whenever a run ends, until Ctrl-C."),
    ] = False,
    plots: Annotated[
        Path | None,
        typer.Option(help="Write the main plots of the leaderboard into this folder, as SVG."),
    ] = None,
    paired: Paired = True,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Write one self-contained HTML page with tables and plots; trains nothing."""
    from mmbench.bench.report import write_plots, write_report

    sweep = _Sweep(words, results, limit, data_root)
    shown = metric or sweep.suite.select.metric
    if watch:
        _watch(sweep, shown, paired=paired)
        return
    runs = sweep.runs()
    board, robust = sweep.boards(runs, shown, paired=paired)
    _require_rows(board, sweep, shown)
    path = write_report(sweep.suite.name, runs, board, sweep.folder, metric=shown, robust=robust)
    typer.echo(f"wrote {path}")
    for path in write_plots(board, plots, metric=shown) if plots is not None else ():
        typer.echo(f"wrote {path}")


def _watch(sweep: _Sweep, metric: str, *, paired: bool) -> None:
    """Write the page whenever the files of a run say something new; Ctrl-C is the way out."""
    import time

    from mmbench.bench.record import fingerprint
    from mmbench.bench.report import write_report

    def write(runs: list[Any], *, watched: bool) -> Path:
        board, robust = sweep.boards(runs, metric, paired=paired)
        if not board.empty:
            _require_rows(board, sweep, metric)
        return write_report(
            sweep.suite.name, runs, board, sweep.folder, metric=metric, robust=robust,
            watched=watched,
        )  # fmt: skip

    last = ""
    try:
        while True:
            # a run that begins anew while it is read is read at the next look
            with contextlib.suppress(FileNotFoundError):
                runs = sweep.runs()
                found = fingerprint(runs)
                if found != last:
                    path = write(runs, watched=True)
                    ended = sum(item.state in ("done", "skipped") for item in runs)
                    typer.echo(f"wrote {path}: {ended} of {len(runs)} runs; Ctrl-C stops watching")
                    last = found
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        with contextlib.suppress(FileNotFoundError):
            write(sweep.runs(), watched=False)
        typer.echo("")


def _show_board(sweep: _Sweep) -> int:
    """Write and print the leaderboard; returns how many runs failed."""
    from rich.console import Console
    from rich.markdown import Markdown

    from mmbench.bench.leaderboard import render, write
    from mmbench.bench.report import write_report

    runs = sweep.runs()
    failed = [item for item in runs if item.state == "failed"]
    metric = sweep.suite.select.metric
    board, robust = sweep.boards(runs, metric)
    console = Console()
    if board.empty:
        console.print("no run finished, so there is no leaderboard")
        return len(failed)
    path = write(board, sweep.folder, metric=metric, title=sweep.suite.name, robust=robust)
    text = render(board, "md", metric=metric, title=sweep.suite.name)
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        sys.stdout.write(text)
    if failed:
        console.print(f"{len(failed)} runs failed; `mmbench status` says why", style="bold")
    typer.echo(f"every metric and condition: {path}")
    try:
        page = write_report(
            sweep.suite.name, runs, board, sweep.folder, metric=metric, robust=robust
        )
    except ValueError as error:  # its libraries are an extra
        typer.echo(f"no page with plots: {error}")
    else:
        typer.echo(f"a page with plots: {page}")
    return len(failed)


@app.command("list")
def list_command(
    what: Annotated[Things, typer.Argument(help="What to list.")],
) -> None:
    """List what is installed, one line each; imports nothing heavy."""
    rows: list[tuple[str, str]]
    if what in (Things.methods, Things.data):
        from mmbench.registry import DATASETS, METHODS

        registry = METHODS if what is Things.methods else DATASETS
        rows = [(name, registry.summary(name)) for name in registry.names()]
    elif what is Things.metrics:
        from mmbench.metrics.metric import describe

        rows = describe()
    else:
        import yaml

        from mmbench.resources import folder

        home = folder("benchmarks") if what is Things.suites else folder("configs") / "scenario"
        rows = [
            (file.stem, str((yaml.safe_load(file.read_text(encoding="utf-8"))).get("about", "")))
            for file in sorted(home.glob("*.yaml"))
        ]
    width = max(len(name) for name, _ in rows)
    for name, line in rows:
        typer.echo(f"{name:<{width}}  {line}")


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="A method's name or class path.")],
) -> None:
    """Put a method through the contract that every method keeps; for plugins, too."""
    from mmbench.contract import METHOD_CHECKS, TASKS, sample_tasks
    from mmbench.registry import METHODS

    cls = METHODS.get(method)
    tasks = sample_tasks(cls)
    if not tasks:
        raise ValueError(f"{method} cannot be checked: it {cls.reason_not(TASKS[0])}")
    failed = 0
    for name, examine in METHOD_CHECKS.items():
        for task in tasks:
            try:
                examine(cls, task)
            except AssertionError as error:
                failed += 1
                typer.echo(f"FAILED {name} on {task.kind}: {str(error).strip()[:300]}")
                break
        else:
            typer.echo(f"passed {name}")
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    main()
