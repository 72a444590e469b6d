"""How far a long piece of work is: a bar on a terminal, lines elsewhere, nothing if it is short."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_S = 2.0  # before anything is said
LINES_S = 30.0  # between two lines where there is no terminal


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far work is, on the error output.

    Args:
        what: It is, such as "decoding photo".
        total: Of steps.

    Yields:
        To be called with the number of steps that are done.
    """
    began = time.monotonic()
    if not sys.stderr.isatty():
        said = began + PATIENCE_S - LINES_S

        def line(done: int) -> None:
            nonlocal said
            now = time.monotonic()
            if now - said >= LINES_S:
                said = now
                sys.stderr.write(f"{what}: {done:,} of {total:,} after {now - began:.0f} s\n")

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, visible=False)

        def advance(done: int) -> None:
            late = time.monotonic() - began >= PATIENCE_S
            bar.update(task, completed=done, visible=late)

        yield advance
