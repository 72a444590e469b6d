"""What a sweep costs beyond its runs: overhead, two workers against one, claims, many nodes.

Prints figures; nothing is judged. The last table is a simulation: durations of the committed
quickstart, replayed on made-up nodes by the code that orders and shares out real runs.

    python benchmarks/speed/sweep.py [overhead|workers|claims|nodes]...
"""

import heapq
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from mmbench.bench.executors.local import execute
from mmbench.bench.executors.order import budget_s, data_of, in_order, joins
from mmbench.bench.executors.queue import Queue
from mmbench.bench.plan import plan
from mmbench.bench.record import Outcome, finish
from mmbench.bench.spec import RunSpec, load_suite
from mmbench.store import attempt, claim, publish

HERE = Path()
BOARD = Path(__file__).parents[2] / "results" / "quickstart" / "leaderboard.csv"
SLOTS = 8  # of a node
RUNS_A_SLOT = 10  # of the simulated sweep


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


def sweep(specs: list[RunSpec], workers: int) -> tuple[float, list[Outcome]]:
    """Seconds from the second beginning of each worker on, and how the runs since then ended."""
    outcomes: list[Outcome] = []
    warm: set[int | None] = set()
    began = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for event in execute(Queue(specs, Path(folder)), HERE, workers=workers):
            if event.outcome is None:
                continue
            assert event.outcome.state == "done", event.outcome.why
            if len(warm) == workers:
                outcomes.append(event.outcome)
            else:  # the first run of a worker also starts its process and loads the data
                warm.add(event.worker)
                began = time.perf_counter()
        return time.perf_counter() - began, outcomes


def overhead() -> None:
    """Seconds of a short run beyond fit and evaluation, by one worker."""
    seconds, outcomes = sweep(short_runs(200), 1)
    work = sum(outcome.work_s for outcome in outcomes)
    inside = statistics.median(outcome.wall_s - outcome.work_s for outcome in outcomes)
    print(
        f"{len(outcomes)} runs of one epoch: {seconds / len(outcomes):.3f} s a run, "
        f"{work / len(outcomes):.3f} s of it fit and evaluation, "
        f"{(seconds - work) / len(outcomes):.3f} s overhead ({inside:.3f} s of it inside the run)"
    )


def workers() -> None:
    """Runs a second of two workers against one."""
    rate = {}
    for count in (1, 2):
        seconds, outcomes = sweep(short_runs(100 * count), count)
        rate[count] = len(outcomes) / seconds
    print(
        f"two workers: {rate[2]:.2f} runs a second, one: {rate[1]:.2f}; "
        f"ratio {rate[2] / rate[1]:.2f}"
    )


def take_all(specs: list[RunSpec], runs: Path, gate: Any, answers: Any) -> None:
    """Take runs as a worker does, claim each, publish nothing much; answer with the costs."""
    queue = Queue(specs, runs)
    for spec in specs:
        queue.durations.add(spec, 0.3)
    taken, claimed, others = 0.0, 0.0, 0
    mine = 0
    with queue.opened(1):
        gate.wait()
        while True:
            began = time.perf_counter()
            ticket = queue.take(0, idle=True)
            taken += time.perf_counter() - began
            if ticket is None:
                break
            target = runs / ticket.spec.folder
            began = time.perf_counter()
            with claim(target) as held:
                claimed += time.perf_counter() - began
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
                began = time.perf_counter()
            claimed += time.perf_counter() - began
            queue.ended(ticket, outcome)
    answers.put((mine, taken, claimed, others))


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
    print(
        f"{count} workers on one folder, {done} runs of 0.3 s: "
        f"{1e3 * sum(taken for _, taken, *_ in costs) / done:.2f} ms a run to find it, "
        f"{1e3 * sum(claimed for *_, claimed, _ in costs) / done:.2f} ms to claim it; "
        f"{sum(others for *_, others in costs)} times another was quicker"
    )


# --- simulated nodes --------------------------------------------------------------------------


def real_runs(count: int) -> list[tuple[Any, float]]:
    """Runs like those of the committed quickstart, in the order of a plan, with their seconds."""
    board = pd.read_csv(BOARD)
    kinds = board.groupby(["data", "scenario", "method"], sort=False)["train_s"].first()
    rng = random.Random(0)
    seeds = -(-count // len(kinds))
    runs: list[tuple[Any, float]] = []
    for data in dict.fromkeys(kind[0] for kind in kinds.index):
        for seed in range(seeds):
            for kind, seconds in kinds.items():
                if kind[0] == data:
                    spec = SimpleNamespace(data_label=data, fold=0, kind=kind, seed=seed)
                    # seeds differ by a tenth; loading and recording take half a second
                    runs.append((spec, 0.5 + seconds * rng.lognormvariate(0, 0.1)))
    return runs


def simulate(nodes: int) -> tuple[int, float, float]:
    """Runs, share of time that slots are busy until 5 % of the runs are left, and to the end."""
    length = dict(enumerate(real_runs(nodes * SLOTS * RUNS_A_SLOT)))
    place = {id(spec): number for number, (spec, _) in length.items()}
    expected: dict[tuple[str, ...], float] = {}

    def seconds(spec: Any) -> float | None:
        return expected.get(spec.kind)

    left = {number: spec for number, (spec, _) in length.items()}  # nobody has taken
    chunks: list[deque[Any]] = [deque() for _ in range(nodes)]
    near: dict[tuple[int, int], Any] = {}
    clock, busy, ended, busy_until_late, late_at = 0.0, 0.0, 0, 0.0, 0.0
    flying: list[tuple[float, int, int, int]] = []  # end, node, slot, number
    begun: dict[int, float] = {}
    idle = [(node, slot) for slot in range(SLOTS) for node in range(nodes)]

    def take(node: int, slot: int) -> Any:
        if not chunks[node] and left:
            specs = list(left.values())
            budget = budget_s(specs, seconds, slots=SLOTS, slots_in_all=SLOTS * nodes)
            for spec in in_order(specs, seconds, near.get((node, slot))):
                if not joins(chunks[node], spec, seconds, budget):
                    break
                chunks[node].append(spec)
                del left[place[id(spec)]]
        if chunks[node]:
            at = near.get((node, slot))
            spec = next((s for s in chunks[node] if data_of(s) == at), chunks[node][0])
            chunks[node].remove(spec)
            return spec
        longest = max(chunks, key=len)  # what another has taken and not begun
        return longest.pop() if longest else None

    late = len(length) * 95 // 100
    while idle or flying:
        for node, slot in idle:
            if (spec := take(node, slot)) is not None:
                near[node, slot] = data_of(spec)
                number = place[id(spec)]
                begun[number] = clock
                heapq.heappush(flying, (clock + length[number][1], node, slot, number))
        if not flying:
            break
        clock, node, slot, number = heapq.heappop(flying)
        spec, took = length[number]
        expected.setdefault(spec.kind, took)
        busy += took
        ended += 1
        if ended == late:
            late_at = clock
            busy_until_late = busy + sum(clock - begun[n] for *_, n in flying)
        idle = [(node, slot)]
    slots = nodes * SLOTS
    return len(length), busy_until_late / (late_at * slots), busy / (clock * slots)


def nodes() -> None:
    """How busy made-up nodes are."""
    print("| nodes of 8 GPUs | runs | busy until 5 % of the runs are left | busy to the end |")
    print("|---:|---:|---:|---:|")
    for count in (1, 2, 4, 8, 16, 32, 64):
        runs, until_late, to_the_end = simulate(count)
        print(f"| {count} | {runs} | {until_late:.1%} | {to_the_end:.1%} |", flush=True)


if __name__ == "__main__":
    PARTS = {"overhead": overhead, "workers": workers, "claims": claims, "nodes": nodes}
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
