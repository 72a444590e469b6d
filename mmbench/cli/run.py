"""`mmbench run` and `mmbench plan`."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli.options import (
    DataRoot,
    Limit,
    PerGpu,
    Results,
    SkipBad,
    Tune,
    Words,
    Workers,
    sweep_of,
)
from mmbench.cli.show import visible
from mmbench.cli.status import show_workers
from mmbench.cli.stop import Told, enough, exit_code, heeding

if TYPE_CHECKING:
    from mmbench.bench.executors.engine import Placement
    from mmbench.bench.executors.local import Event
    from mmbench.bench.record import Run
    from mmbench.sweep import Sweep

SHOWN = 20  # unfinished runs that are listed
HEARTBEAT_S = 60.0  # between two lines that say how far a sweep is, where there is no terminal


def run(
    words: Words = None,
    *,
    workers: Workers = None,
    per_gpu: PerGpu = "1",
    executor: Annotated[
        str,
        typer.Option(help="Who places the workers: local, slurm, ray, or a plugin's engine."),
    ] = "local",
    executor_args: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="For the engine, such as partition=gpu,time=240,nodes=4,gpus_per_node=8",
        ),
    ] = None,
    tune: Tune = None,
    limit: Limit = None,
    skip_bad: SkipBad = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the plan and what an engine would do, run nothing."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Repeat runs that are finished, too.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            help="A file of `mmbench archive`: compare with its rows, which are not trained.",
            show_default=False,
        ),
    ] = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Train and evaluate a suite, then write and print its leaderboard.

    Finished runs are kept: the same command again does what is left, failed runs included.
    Exit code 0: every planned run is finished and in the table; 1: some are not; 2: the input is
    wrong; 130: stopped by Ctrl-C; 143: by SIGTERM.
    """
    from mmbench.bench.executors.engine import parse_args
    from mmbench.bench.executors.sharing import per_gpu as parse_per_gpu

    share = parse_per_gpu(per_gpu)
    sweep = sweep_of(words, results, limit, data_root, tune, skip_bad)
    args = parse_args(executor_args)
    if executor == "local" and args:
        raise ValueError("--executor-args are for another --executor than local")
    if executor == "local":
        sweep.require_devices()
    if dry_run:
        left = _show_plan(sweep)
        if executor != "local":
            typer.echo(f"\n{sweep.place(executor, args, left).text}", nl=False)
        return
    if executor != "local":
        sweep.place(executor, args, len(sweep.specs))  # refuses before anything is written
    for todo in sweep.rounds(overwrite=overwrite):
        for item in todo:
            if item.state == "broken":
                typer.echo(f"found a broken run, which will run again: {item.folder} ({item.why})")
        if executor == "local":
            _here(sweep, todo, workers, share)
        else:
            _elsewhere(sweep, todo, sweep.place(executor, args, len(todo)))
    if against is not None:
        raise typer.Exit(0 if _show_against(sweep, against) else 1)
    raise typer.Exit(0 if _show_board(sweep) else 1)


def plan(
    words: Words = None,
    *,
    tune: Tune = None,
    detect: Annotated[
        float | None,
        typer.Option(
            min=0,
            show_default=False,
            help="A difference of two methods: how likely would these runs find it?",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Do one run of each method on each data set first, to say how long all takes.",
        ),
    ] = False,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Say how many trainings a suite asks for, how many are finished, and how long the rest takes.

    What `run` would refuse is refused: arguments, data, scenario, encoders and metric are checked.
    """
    sweep = sweep_of(words, results, limit, data_root, tune)
    sweep.require_devices()
    if measure and (todo := sweep.unmeasured()):
        _here(sweep, todo, None, 1)
        sweep.todo()  # searches take note
    _show_plan(sweep)
    _show_time(sweep)
    if detect is not None:
        _show_power(sweep, detect)


def _show_plan(sweep: "Sweep") -> int:
    """Print the plan; returns how many runs are left."""
    from mmbench.cli.show import print_table

    rows = sweep.plan()
    cells = rows.astype(str)
    print_table(list(cells.columns), cells.to_numpy().tolist(), left=3)
    runs, finished = rows["runs"].sum(), rows["finished"].sum()
    folds = len({(spec.data_label, spec.fold) for spec in sweep.specs})
    suite = sweep.suite
    typer.echo(
        f"suite {suite.name}: {runs} trainings ({folds} folds of {len(suite.data)} data sets x "
        f"{len(suite.scenarios)} scenarios x {len(suite.methods)} methods x "
        f"{len(suite.seeds)} seeds), {finished} finished, {runs - finished} to do"
    )
    if suite.tune is not None:
        lengths = [suite.tune.length(place) for place in range(suite.tune.trials)]
        long = "" if set(lengths) == {1} else f" of {sum(lengths):g} lengths in all"
        trials = sum(map(len, sweep.searches.left_of.values()))
        typer.echo(
            f"before that, settings are searched: {suite.tune.trials} trials{long} for each method "
            f"on each fold, {trials} trainings to do, of which the best are trainings of the suite"
        )
    if archived := sweep.archived():
        typer.echo(f"an archive holds {archived} runs, from which `mmbench run` goes on")
    return int(runs - finished)


def _show_time(sweep: "Sweep") -> None:
    expected = sweep.expected()
    known = expected.dropna(subset="seconds")
    unknown = int(expected["runs"].sum() - known["runs"].sum())
    if expected.empty:
        return
    if known.empty:
        typer.echo("how long that takes is not known; --measure finds out by a run of each method")
        return
    hours = float((known["runs"] * known["seconds"]).sum()) / 3600
    workers = sweep.default_workers()
    rest = f", and {unknown} trainings of unknown length" if unknown else ""
    typer.echo(
        f"{expected['runs'].sum()} trainings in all; expected: {hours:.2f} hours of work, "
        f"{hours / workers:.2f} on {workers} workers{rest}"
    )


def _show_power(sweep: "Sweep", gain: float) -> None:
    from mmbench.bench.verdict import needed, power_sentence

    suite = sweep.suite
    typical, tables = sweep.spread()
    folds = {(spec.data_label, spec.fold) for spec in sweep.specs}
    data_sets = len({data for data, _ in folds})
    trainings = len(suite.seeds) * len(folds) // data_sets
    typer.echo(
        f"{power_sentence(typical, suite.select.metric, trainings, data_sets, gain)} A difference "
        f"of {gain:.3g}: {needed(typical, gain, trainings, data_sets)}. Variances are those of "
        f"{tables}, and the test is the t test of the verdict."
    )


def _here(sweep: "Sweep", todo: list["Run"], workers: int | None, per_gpu: int | None) -> None:
    """Run what is left on this machine."""
    workers = min(workers or sweep.default_workers(per_gpu), len(todo))
    _say_what_begins(sweep, todo, f" on {workers} workers")
    stopped = "The same command continues."
    with heeding(signal.SIGTERM):
        _show_progress(sweep, todo, sweep.execute(todo, workers, per_gpu), lambda: stopped)


def _elsewhere(sweep: "Sweep", todo: list["Run"], placement: "Placement") -> None:
    """Have workers placed, or find them at it, and follow what they do."""
    where, events = sweep.follow(todo, placement)
    _say_what_begins(sweep, todo, f" ({where})")
    with heeding(signal.SIGTERM):
        _show_progress(sweep, todo, events, placement.leave)


def _say_what_begins(sweep: "Sweep", todo: list["Run"], where: str) -> None:
    before = len(sweep.known) - len(todo)
    archived = f", {sweep.taken_up} of them taken up from the archive" if sweep.taken_up else ""
    finished = f" ({before} are finished{archived})" if before else ""
    typer.echo(f"{len(todo)} runs{where}{finished}, results in {sweep.folder}")


def _show_progress(
    sweep: "Sweep",
    todo: list["Run"],
    events: Generator["Event", None, None],
    leave: Callable[[], str],
) -> None:
    """Show beginnings and endings: live lines in a terminal, plain lines elsewhere.

    Args:
        sweep: Whose runs.
        todo: What was left to run.
        events: Beginnings and endings.
        leave: Says, when Ctrl-C or SIGTERM has ended the showing, what goes on.
    """
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

    console = Console()
    total, ended, failed = len(todo), 0, 0
    before = len(sweep.known) - total
    began = time.perf_counter()
    overall = Progress(
        BarColumn(None),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
        expand=True,
    )
    bar = overall.add_task("", total=total)
    each = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    lines: dict[int | None, TaskID] = {}  # slot -> the line of its run
    live = Live(Group(overall, each), console=console, refresh_per_second=4)

    def say(line: str) -> None:
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)

    def heartbeat() -> None:
        left = (time.perf_counter() - began) / ended * (total - ended) if ended else None
        more = "" if left is None else f", about {left / 60:.0f} min left"
        workers = f"{len(lines)} running" if lines else show_workers(sweep)
        say(f"{ended} of {total} done, {workers}{more}")

    try:
        with live if console.is_terminal else _every(HEARTBEAT_S, heartbeat):
            for event in events:
                outcome = event.outcome
                if outcome is None:
                    lines[event.worker] = each.add_task(escape(event.spec.title))
                    if not console.is_terminal:
                        say(f"started {event.spec.title}")
                    continue
                if event.worker in lines:
                    each.remove_task(lines.pop(event.worker))
                if event.again:
                    if outcome.state == "failed":
                        say(f"{event.spec.title}: {outcome.why}; it is tried once more")
                    continue
                overall.advance(bar)
                ended += 1
                failed += outcome.state == "failed"
                if outcome.state != "done" or not console.is_terminal:
                    why = f": {outcome.why}" if outcome.why else ""
                    text = f"[{ended}/{total}] {event.spec.title}: {outcome.state}{why}"
                    seconds = f" ({outcome.wall_s:.1f} s)" if outcome.wall_s else ""
                    say(text + seconds)
    except (Told, KeyboardInterrupt) as stop:
        enough()
        events.close()
        typer.echo(
            f"\nstopped: {before + ended} of {len(sweep.known)} runs are finished and kept. "
            f"{leave()}"
        )
        raise typer.Exit(exit_code(stop)) from None
    typer.echo(f"{ended} runs in {time.perf_counter() - began:.0f} s, {failed} failed")


@contextlib.contextmanager
def _every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Act again and again while the body waits for its workers."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(seconds):
            act()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _show_board(sweep: "Sweep") -> bool:
    """Write and print the leaderboard; returns whether every planned run is on it."""
    from rich.console import Console
    from rich.markdown import Markdown

    from mmbench.bench.leaderboard import render

    runs = sweep.runs()
    metric = sweep.suite.select.metric
    board, robust = sweep.boards(runs=runs)
    console = Console()
    if board.empty:
        console.print("no run finished, so there is no leaderboard")
        return _show_unfinished(sweep, runs)
    verdict = sweep.verdict(runs=runs)
    path = sweep.write(board, robust, verdict=verdict)
    text = render(board, "md", metric=metric, title=sweep.suite.name, said=verdict.sentences)
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        sys.stdout.write(text)
    finished = _show_unfinished(sweep, runs)
    typer.echo(f"every metric and condition: {path}")
    try:
        page = sweep.write_page(runs, board, robust, verdict=verdict)
    except ValueError as error:  # its libraries are an extra
        typer.echo(f"no page with plots: {error}")
    else:
        typer.echo(f"a page with plots: {page}")
    if path.parent != sweep.folder:
        typer.echo(f"the suite's own table, of more runs, stays in {sweep.folder}")
    return finished


def _show_against(sweep: "Sweep", file: Path) -> bool:
    """Write and print the suite's rows beside those of an archive; returns as `_show_board`."""
    from mmbench.bench.leaderboard import render

    metric = sweep.suite.select.metric
    with sweep.against(file) as runs:
        board, robust = sweep.boards(runs=runs)
        verdict = sweep.verdict(runs=runs)
    title = f"{sweep.suite.name} against {file.name}"
    where = sweep.board_folder / f"against-{file.stem}"
    path = sweep.write(board, robust, verdict=verdict, folder=where)
    sys.stdout.write(render(board, "md", metric=metric, title=title, said=verdict.sentences))
    typer.echo(f"every metric and condition: {path}")
    return _show_unfinished(sweep, sweep.runs())


def _show_unfinished(sweep: "Sweep", runs: Sequence["Run"]) -> bool:
    """Say which planned runs are not finished, a line each; returns whether there are none."""
    left = [item for item in runs if item.state not in ("done", "skipped")]
    for item in left[:SHOWN]:
        state = "held elsewhere" if item.state == "running" else item.state
        log = item.folder / "log.txt"
        why = f": {item.why}" if item.why else ""
        more = f" ({log})" if log.is_file() else ""
        typer.echo(f"{state}: {visible(f'{item.spec.title}{why}{more}')}")
    if left:
        typer.echo(
            f"{len(left)} of {len(runs)} runs are not finished; the same command tries them "
            f"again, and `mmbench status {sweep.where}` lists them"
        )
    return not left
