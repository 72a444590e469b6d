"""Which runs are taken first, and how many at once; reads no file, so it can be simulated."""

import math
from collections.abc import Callable, Iterable, Sequence

from mmbench.bench.spec import RunSpec

CHUNK_S = 30.0  # of short runs that a slot takes at once: asking for each would cost more than it
SAME_S = 1.0  # below which one run is as short as another

Seconds = Callable[[RunSpec], float | None]  # how long a run is expected to take; None = unknown
Data = tuple[str, int]


def data_of(spec: RunSpec) -> Data:
    """What a slot keeps in memory from one run to the next: data set and fold."""
    return spec.data_label, spec.fold


def in_order(specs: Iterable[RunSpec], seconds: Seconds, near: Data | None = None) -> list[RunSpec]:
    """Longest first, so that no long run begins when all others are done.

    Runs whose lengths differ by less than a factor of two count as equal: those on the same data
    stand together then, in the order of the plan. A run of unknown length may be a long one and
    comes first.

    Args:
        specs: In the order of the plan.
        seconds: Says how long each is expected to take.
        near: Data that are in memory; of equals, runs on them come first.
    """

    def rank(place_and_spec: tuple[int, RunSpec]) -> tuple[float, bool, int]:
        place, spec = place_and_spec
        expected = seconds(spec)
        size = math.inf if expected is None else math.floor(math.log2(max(expected, SAME_S)))
        return -float(size), data_of(spec) != near, place

    return [spec for _, spec in sorted(enumerate(specs), key=rank)]


def budget_s(left: Sequence[RunSpec], seconds: Seconds, *, slots: int, slots_in_all: int) -> float:
    """Seconds of work that a worker takes at once: `CHUNK_S` a slot, but half a fair share at most.

    So what is taken at once becomes less towards the end, and all slots end together.

    Args:
        left: What is not finished.
        seconds: As for `in_order`.
        slots: Of this worker, >= 1.
        slots_in_all: Of all that live, this worker's included.
    """
    share = sum(seconds(spec) or 0.0 for spec in left) / (2 * slots_in_all)
    return slots * min(CHUNK_S, share)


def joins(chunk: Sequence[RunSpec], spec: RunSpec, seconds: Seconds, budget: float) -> bool:
    """Whether one more run still belongs to what is taken at once.

    Args:
        chunk: What is taken so far, of known lengths but for its first.
        spec: The next in order.
        seconds: As for `in_order`.
        budget: From `budget_s`.
    """
    if not chunk:
        return True
    lengths = [seconds(each) for each in (*chunk, spec)]
    if any(length is None for length in lengths) or data_of(spec) != data_of(chunk[0]):
        return False
    return sum(length or 0.0 for length in lengths) <= budget
