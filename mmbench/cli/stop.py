"""Signals that end a command in good order: what is under way goes on from its checkpoints."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import typer

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Told(BaseException):
    """A signal that ends the command; no code may take it for an error of a run."""


@contextlib.contextmanager
def heeding(*numbers: signal.Signals) -> Iterator[None]:
    """Raise `Told` in the body when one of these signals comes, and ignore what comes after it."""

    def tell(number: int, frame: FrameType | None) -> None:
        enough()
        if number == signal.SIGUSR2:
            from mmbench.bench.executors.slurm import requeue

            typer.echo(requeue())  # before all else: the cluster ends this soon
        raise Told(signal.Signals(number))

    before = {number: signal.signal(number, tell) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is tell:  # else told, and the command is ending
                signal.signal(number, handler)


def enough() -> None:
    """Ignore these signals from now on: to be told once is enough."""
    for each in ALL:
        signal.signal(each, signal.SIG_IGN)


def exit_code(stop: BaseException) -> int:
    """What a command returns that a signal ended: 128 and its number; Ctrl-C is 130."""
    return 128 + (stop.args[0] if stop.args else signal.SIGINT)
