"""What a sweep costs beyond its runs: overhead, two workers against one, claims, many nodes.

Prints two tables in less than four minutes; nothing is judged. By the clock, figures are those of a
machine on which nothing else runs; by processor time, which counts this process and all below it,
they hold on a busy one, too. The other tables are simulations: durations and memory of the
committed quickstart, replayed on made-up nodes by the code that orders and shares out real runs.

    python benchmarks/speed/sweep.py [overhead|workers|claims|nodes]...
"""

import contextlib
import heapq
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from mmbench.bench.executors.local import execute
from mmbench.bench.executors.order import budget_s, data_of, in_order, joins
from mmbench.bench.executors.queue import Queue
from mmbench.bench.executors.sharing import CONTEXT_MIB, Sharing
from mmbench.bench.plan import plan
from mmbench.bench.record import Outcome, finish
from mmbench.bench.spec import RunSpec, load_suite
from mmbench.store import attempt, claim, publish

HERE = Path()
BOARD = Path(__file__).parents[2] / "results" / "quickstart" / "leaderboard.csv"
GPUS = 8  # of a node
RUNS_A_GPU = 10  # of the simulated sweep


def short_runs(count: int) -> list[RunSpec]:
    """Runs of one short epoch."""
    return plan(
        load_suite(
            "quickstart",
            [
                "data=[mfeat]",
                "methods=[{name: zero_fill, args: {dim: 8}}]",
                f"seeds={list(range(count))}",
                "trainer.max_epochs=1",
                "trainer.min_steps=null",
                "limit=256",
            ],
        )
    )


def processor_s() -> float:
    """Processor time of this process and of all that live below it."""
    parents, spent = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended just now
            fields = file.read_text().rpartition(")")[2].split()  # a name may hold anything
            number = int(file.parent.name)
            parents[number] = int(fields[1])
            spent[number] = int(fields[11]) + int(fields[12])
    ours = {os.getpid()}
    while more := {one for one, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(spent[one] for one in ours) / os.sysconf("SC_CLK_TCK")


def sweep(specs: list[RunSpec], workers: int) -> tuple[float, float, list[Outcome]]:
    """Seconds and processor seconds from the second beginning of each worker on, and outcomes."""
    outcomes: list[Outcome] = []
    warm: set[int | None] = set()
    began = began_p = ended = ended_p = 0.0
    left = len(specs)
    with tempfile.TemporaryDirectory() as folder:
        for event in execute(Queue(specs, Path(folder)), HERE, workers=workers):
            if event.outcome is None:
                continue
            assert event.outcome.state == "done", event.outcome.why
            left -= 1
            if len(warm) == workers:
                outcomes.append(event.outcome)
            else:  # the first run of a worker also starts its process and loads the data
                warm.add(event.worker)
                began, began_p = time.perf_counter(), processor_s()
            if not left:  # the workers are still there
                ended, ended_p = time.perf_counter(), processor_s()
    return ended - began, ended_p - began_p, outcomes


def row(figure: str, by_the_clock: str, by_the_processor: str, aim: str) -> None:
    """Print a row of the table."""
    print(f"| {figure} | {by_the_clock} | {by_the_processor} | {aim} |", flush=True)


def overhead() -> None:
    """Seconds of a short run beyond fit and evaluation, by one worker."""
    seconds, processor, outcomes = sweep(short_runs(200), 1)
    count = len(outcomes)
    work = sum(outcome.work_s for outcome in outcomes)
    share = 1 - work / seconds
    row(
        f"a run of one epoch, of {count}",
        f"{seconds / count:.3f} s",
        f"{processor / count:.3f} s",
        "",
    )
    row(
        "of it beyond fit and evaluation",
        f"{share * seconds / count:.3f} s", f"{share * processor / count:.3f} s", "< 0.1 s",
    )  # fmt: skip


def workers() -> None:
    """Runs a second of two workers against one."""
    rate, rate_p = {}, {}
    for count in (1, 2):
        seconds, processor, outcomes = sweep(short_runs(100 * count), count)
        rate[count] = len(outcomes) / seconds
        rate_p[count] = count * len(outcomes) / processor  # each on a processor of its own
    ratio, ratio_p = rate[2] / rate[1], rate_p[2] / rate_p[1]
    row("two workers against one", f"{ratio:.2f} x", f"{ratio_p:.2f} x", ">= 1.9 x")


class Clock:
    """Adds up the time that its bodies take.

    Attributes:
        seconds: By the clock.
        processor: Of all threads of this process.
    """

    def __init__(self) -> None:
        self.seconds = self.processor = 0.0

    def __enter__(self) -> None:
        self.seconds -= time.perf_counter()
        self.processor -= time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()
        self.processor += time.process_time()


def take_all(specs: list[RunSpec], runs: Path, gate: Any, answers: Any) -> None:
    """Take runs as a worker does, claim each, publish nothing much; answer with the costs."""
    queue = Queue(specs, runs)
    for spec in specs:
        queue.durations.add(spec, 0.3)
    mine, others = 0, 0
    search, claimed = Clock(), Clock()
    with queue.opened(1):
        gate.wait()
        while True:
            with search:
                ticket = queue.take(0, idle=True)
            if ticket is None:
                break
            target = runs / ticket.spec.folder
            with contextlib.ExitStack() as claims:
                with claimed:
                    held = claims.enter_context(claim(target))
                if held.ours and not target.exists():
                    with attempt(target) as folder:
                        finish(folder, "done")
                        if publish(folder, target):
                            mine += 1
                            time.sleep(0.3)
                    outcome = Outcome("done")
                else:
                    others += 1
                    outcome = Outcome("done" if target.exists() else "elsewhere")
                with claimed:
                    claims.close()
            queue.ended(ticket, outcome)
    answers.put((mine, others, search, claimed))


def claims() -> None:
    """Milliseconds that finding and claiming a run costs, with 16 workers on one folder."""
    count = 16
    specs = short_runs(400)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        gate, answers = context.Barrier(count), context.Queue()
        processes = [
            context.Process(target=take_all, args=(specs, Path(folder), gate, answers))
            for _ in range(count)
        ]
        for process in processes:
            process.start()
        costs = [answers.get() for _ in processes]
        for process in processes:
            process.join()
    done = sum(mine for mine, *_ in costs)
    late = sum(others for _, others, *_ in costs)
    figures = (
        ("to find a run", "", 2),
        (f"to claim it; {late} times another was quicker", "< 5 ms", 3),
    )
    for figure, aim, place in figures:
        clocks = [cost[place] for cost in costs]
        by_the_clock, by_the_processor = (
            f"{1e3 * sum(getattr(clock, name) for clock in clocks) / done:.2f} ms"
            for name in ("seconds", "processor")
        )
        row(f"{count} workers, {done} runs of 0.3 s: {figure}", by_the_clock, by_the_processor, aim)


# --- simulated nodes --------------------------------------------------------------------------


def real_runs(count: int) -> list[tuple[Any, float]]:
    """Runs like those of the committed quickstart, in the order of a plan, with their seconds."""
    board = pd.read_csv(BOARD)
    kinds = board.groupby(["data", "scenario", "method"], sort=False)[["train_s", "peak_mib"]]
    rng = random.Random(0)
    seeds = -(-count // kinds.ngroups)
    runs: list[tuple[Any, float]] = []
    for data in board["data"].unique():
        for seed in range(seeds):
            for kind, cost in kinds.first().iterrows():
                if kind[0] == data:
                    spec = SimpleNamespace(
                        data_label=data, fold=0, kind=kind, seed=seed, peak_mib=cost["peak_mib"]
                    )
                    # seeds differ by a tenth; loading and recording take half a second
                    runs.append((spec, 0.5 + cost["train_s"] * rng.lognormvariate(0, 0.1)))
    return runs


@dataclass
class Simulated:
    """What came of a simulation.

    Args:
        runs: How many.
        until_late: Share of time that GPUs have a run until 5 % of the runs are left.
        to_the_end: The same, to the end.
        shared: Runs on a GPU that has any, on average until 5 % of the runs are left.
        most_mib: Most memory that runs of one GPU needed together, with what CUDA takes for each.
    """

    runs: int
    until_late: float
    to_the_end: float
    shared: float
    most_mib: float


def simulate(nodes: int, per_gpu: int | None = 1, gpu_mib: float = 0.0) -> Simulated:
    """Replay runs on made-up nodes.

    Args:
        nodes: How many, of 8 GPUs each.
        per_gpu: Runs that share a GPU, as in `Sharing`; they take no longer for it.
        gpu_mib: Memory of a GPU.
    """
    sharing = Sharing([str(gpu) for gpu in range(GPUS)], per_gpu, lambda gpu: gpu_mib)
    length = dict(enumerate(real_runs(nodes * GPUS * RUNS_A_GPU * (per_gpu or 8))))
    place = {id(spec): number for number, (spec, _) in length.items()}
    expected: dict[tuple[str, ...], float] = {}
    peaks: dict[tuple[str, ...], float] = {}

    def seconds(spec: Any) -> float | None:
        return expected.get(spec.kind)

    left = {number: spec for number, (spec, _) in length.items()}  # nobody has taken
    chunks: list[deque[Any]] = [deque() for _ in range(nodes)]
    near: dict[tuple[int, int], Any] = {}
    clock, ended, shared_s, most_mib = 0.0, 0, 0.0, 0.0
    busy_s, late = 0.0, (0.0, 0.0, 0.0)
    at_work: list[dict[int, Any]] = [{} for _ in range(nodes)]  # slot -> run
    ends: list[tuple[float, int, int, int]] = []  # end, node, slot, number
    idle = [(node, slot) for slot in range(sharing.slots) for node in range(nodes)]

    def take(node: int, slot: int) -> Any:
        if not chunks[node] and left:
            specs = list(left.values())
            budget = budget_s(specs, seconds, slots=sharing.slots, slots_in_all=len(slots))
            for spec in in_order(specs, seconds, near.get((node, slot))):
                if not joins(chunks[node], spec, seconds, budget):
                    break
                chunks[node].append(spec)
                del left[place[id(spec)]]
        # what another has taken and not begun, if nothing else is left
        chunk = chunks[node] or max(chunks, key=len)
        free = [
            spec
            for spec in (chunk if chunk is chunks[node] else list(chunk)[-1:])
            if sharing.fits(spec, slot, at_work[node], lambda each: peaks.get(each.kind))
        ]
        if not free:
            return None
        at = near.get((node, slot))
        spec = next((each for each in free if data_of(each) == at), free[0])
        chunk.remove(spec)
        return spec

    slots = list(idle)
    late_at = len(length) * 95 // 100
    while True:
        waiting, full = [], set()  # a GPU that has no room for one has none for the next
        for node, slot in idle:
            gpu = (node, sharing.gpu(slot))
            if gpu in full or (spec := take(node, slot)) is None:
                waiting.append((node, slot))
                full.add(gpu)
                continue
            near[node, slot] = data_of(spec)
            beside = [*sharing.beside(slot, at_work[node]), spec]
            most_mib = max(most_mib, sum(each.peak_mib + CONTEXT_MIB for each in beside))
            at_work[node][slot] = spec
            number = place[id(spec)]
            heapq.heappush(ends, (clock + length[number][1], node, slot, number))
        if not ends:
            break
        past = clock
        clock, node, slot, number = heapq.heappop(ends)
        gpus = sum(len({sharing.gpu(each) for each in flying}) for flying in at_work)
        busy_s += gpus * (clock - past)
        shared_s += (len(ends) + 1) * (clock - past)
        spec, took = length[number]
        del at_work[node][slot]
        expected.setdefault(spec.kind, took)
        peaks.setdefault(spec.kind, spec.peak_mib)
        ended += 1
        if ended == late_at:
            late = clock, busy_s, shared_s
        # only the node that has room again, and those that had nothing left to do, may take one
        idle = [(node, slot), *waiting] if per_gpu is None else [(node, slot)]
    assert not left
    assert not any(chunks)
    gpus = nodes * GPUS
    at, busy_until, shared_until = late
    return Simulated(
        len(length),
        busy_until / (at * gpus),
        busy_s / (clock * gpus),
        shared_until / busy_until,
        most_mib,
    )


def nodes() -> None:
    """How busy made-up nodes are, with a run a GPU and with as many as memory allows."""
    print()
    print("| nodes of 8 GPUs | runs | busy until 5 % of the runs are left | busy to the end |")
    print("|---:|---:|---:|---:|")
    for count in (1, 2, 4, 8, 16, 32, 64):
        one = simulate(count)
        print(f"| {count} | {one.runs} | {one.until_late:.1%} | {one.to_the_end:.1%} |", flush=True)
    print()
    print(
        "| nodes of 8 GPUs, `--per-gpu auto` | memory of a GPU, MiB | most that was needed | runs "
        "| runs on a GPU | busy until 5 % of the runs are left | busy to the end |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for count, gpu_mib in ((1, 4096.0), (1, 8192.0), (4, 4096.0), (4, 8192.0)):
        one = simulate(count, None, gpu_mib)
        print(
            f"| {count} | {gpu_mib:,.0f} | {one.most_mib:,.0f} | {one.runs} | {one.shared:.1f} "
            f"| {one.until_late:.1%} | {one.to_the_end:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    PARTS = {"overhead": overhead, "workers": workers, "claims": claims, "nodes": nodes}
    print("| figure | by the clock | by processor time | aim |")
    print("|---|---:|---:|---:|")
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
