"""What can go wrong in a run, in the words of its record."""

import signal

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmbench.bench.record import killed
from mmbench.data.batch import LeakError


class DivergedError(RuntimeError):
    """The method's outputs are no longer finite."""


class RankError(RuntimeError):
    """What ended one of several processes that train together, as `classify` put it there."""


def classify(error: BaseException) -> str:
    """One line about a failure, its kind first (out of memory, diverged, leak, input, disk)."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, RankError):
        return text
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"out of memory: {text}"
    if isinstance(error, DivergedError):
        return f"diverged: {text}"
    if isinstance(error, LeakError):
        return f"leak: {text}"
    if isinstance(error, SIGTERMException):  # lightning holds the signal back until a step ends
        return killed(signal.SIGTERM)
    if isinstance(error, SystemExit):
        return f"exit: the method ended the process by sys.exit({error.code!r})"
    if isinstance(error, ValueError):
        return f"input: {text}"
    if isinstance(error, OSError):
        return f"disk: {text}"
    return f"error: {type(error).__name__}: {text}"
