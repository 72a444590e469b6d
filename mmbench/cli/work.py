"""`mmbench work`: a worker that takes runs until none is left."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.options import DataRoot, Limit, PerGpu, Results, Words, Workers, sweep_of
from mmbench.cli.show import visible
from mmbench.cli.stop import Told, enough, exit_code, heeding


def work(
    words: Words = None,
    *,
    workers: Workers = None,
    per_gpu: PerGpu = "1",
    time: Annotated[
        float | None,
        typer.Option(min=0, help="Minutes after which it takes no more runs. [default: none]"),
    ] = None,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Take planned runs that nobody is at, one after the other, until none is left.

    Start as many as you like, on any machine that sees the folder of results, also while
    `mmbench run` is at it. SIGTERM ends it and gives its runs back; SIGUSR2 has Slurm queue the
    job again before. Exit code 0: none of its runs failed; 1: some did; 2: the input is wrong.
    """
    from mmbench.bench.executors.sharing import per_gpu as parse_per_gpu

    share = parse_per_gpu(per_gpu)
    sweep = sweep_of(words, results, limit, data_root)
    if (sweep.board_folder / "suite.json").is_file() and len(words or ()) < 2:
        # what `mmbench run` resolved, overrides included, goes for all who join
        sweep = sweep_of([str(sweep.board_folder)], results, None, data_root)
    else:
        sweep.todo()
    failed = 0
    events = sweep.work(workers, time, share)
    with heeding(signal.SIGTERM, signal.SIGUSR2):
        try:
            for event in events:
                outcome = event.outcome
                by_others = outcome is not None and not outcome.wall_s and outcome.state == "done"
                if outcome is None or by_others or outcome.state == "elsewhere":
                    continue
                failed += outcome.state == "failed" and not event.again
                why = f": {outcome.why}" if outcome.why else ""
                more = "; it is tried once more" if event.again else ""
                typer.echo(visible(f"{event.spec.title}: {outcome.state}{why}{more}"))
        except (Told, KeyboardInterrupt) as stop:
            enough()
            events.close()
            typer.echo("stopped: what was under way goes on from its checkpoints")
            raise typer.Exit(exit_code(stop)) from None
    raise typer.Exit(1 if failed else 0)
