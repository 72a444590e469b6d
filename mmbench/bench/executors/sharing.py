"""How many runs share a GPU: a fixed number, or as many as its memory holds."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import lru_cache

from mmbench.bench.spec import RunSpec

MOST = 8  # runs that share a GPU, however small they are
SPARE = 0.1  # share of a GPU's memory that nobody plans with
CONTEXT_MIB = 600.0  # of CUDA itself, for each process; no record counts it
ANSWER_S = 10.0


def per_gpu(text: str) -> int | None:
    """Read `--per-gpu`: a number, or None for `auto`.

    Raises:
        ValueError: If it is neither.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise ValueError(f"--per-gpu {text}: give auto, or a number from 1 to 64")
    return int(text)


class Sharing:
    """The GPUs of a worker, and which runs may share them.

    By memory, the first run of a method on a data set has its GPU for itself; what it needed at
    most then says how many others find room beside it.

    Args:
        ids: Of the GPUs; without any, slots share the processor and everything fits.
        count: Runs that share a GPU; None = as many as find room.
        memory_mib: Says how much memory a GPU has; None = nobody knows, so that none is shared.
    """

    def __init__(
        self,
        ids: list[str],
        count: int | None = 1,
        memory_mib: Callable[[str], float | None] | None = None,
    ) -> None:
        self.ids = ids
        self.count = count
        self._memory_mib = memory_mib or gpu_memory_mib

    @property
    def slots(self) -> int:
        """Slots of all GPUs."""
        return len(self.ids) * (self.count or MOST)

    def gpu(self, slot: int) -> str | None:
        """The GPU of a slot; None if there is none."""
        return self.ids[slot % len(self.ids)] if self.ids else None

    def beside(self, slot: int, flying: Mapping[int, RunSpec]) -> list[RunSpec]:
        """What runs on a slot's GPU.

        Args:
            slot: Which.
            flying: What runs in each slot that is not idle.
        """
        return [spec for other, spec in flying.items() if self.gpu(other) == self.gpu(slot)]

    def fits(
        self,
        spec: RunSpec,
        slot: int,
        flying: Mapping[int, RunSpec],
        peak_mib: Callable[[RunSpec], float | None],
    ) -> bool:
        """Whether a run finds room on a slot's GPU.

        Args:
            spec: Which run.
            slot: Which slot, idle.
            flying: As for `beside`.
            peak_mib: Says how much memory a run needs at most; None = unknown.
        """
        gpu = self.gpu(slot)
        neighbours = self.beside(slot, flying)
        if gpu is None or not neighbours or self.count is not None:
            return True
        known = self._memory_mib(gpu)
        needs = [peak_mib(each) for each in (*neighbours, spec)]
        if known is None or any(need is None for need in needs):
            return False
        return sum((need or 0.0) + CONTEXT_MIB for need in needs) <= (1 - SPARE) * known


@lru_cache
def gpu_memory_mib(gpu: str) -> float | None:
    """Memory of a GPU, asked of its driver, since CUDA must not start here; None if unknown."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [*command, f"--id={gpu}"],
            capture_output=True, text=True, check=False, timeout=ANSWER_S,
        )  # fmt: skip
        return float(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
