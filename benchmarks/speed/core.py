"""What the frame around a method costs: start-up, fixed cost of a run, conditions, Lightning.

Prints counts and ratios against a plain reference measured in the same run; nothing is judged.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mmbench.bench.executors.local import execute
from mmbench.bench.executors.queue import Queue
from mmbench.bench.plan import plan
from mmbench.bench.run.evaluation import evaluate
from mmbench.bench.spec import load_suite
from mmbench.data.scenario import Scenario
from mmbench.data.task import with_encoders
from mmbench.datamodule import DataModule
from mmbench.registry import DATASETS, METHODS

HERE = Path()
torch.set_num_threads(1)


def median_s(function: Callable[[], object], repeats: int) -> float:
    """Median wall seconds of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def data_of(name: str, test: dict[str, object]) -> DataModule:
    """A shipped data set with 30 % missing in training."""
    scenario = {"name": "s", "train": {"mechanism": "mcar", "missing_rate": 0.3}, "test": test}
    data: DataModule = DATASETS.get(name)(root=HERE, scenario=Scenario.parse(scenario))
    data.setup()
    return data


def start_up() -> None:
    """Seconds until the light commands have answered."""
    bare = median_s(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 5)
    for words in (["--help"], ["list", "methods"]):
        command = [sys.executable, "-m", "mmbench", *words]
        took = median_s(lambda c=command: subprocess.run(c, capture_output=True, check=True), 5)
        print(f"mmbench {' '.join(words)}: {took:.2f} s ({bare:.2f} s of it bare python)")


def fixed_cost() -> None:
    """What a warm run costs beyond fit and evaluation, and a sweep beyond its runs."""
    suite = load_suite("quickstart", ["data=[mfeat,synthetic]"])
    workers = 2
    with tempfile.TemporaryDirectory() as folder:
        specs = plan(suite)
        began, work_s, fixed, warm = time.perf_counter(), 0.0, [], set()
        for event in execute(Queue(specs, Path(folder)), HERE, workers=workers):
            if event.outcome is None:
                continue
            assert event.outcome.state == "done", event.outcome.why
            work_s += event.outcome.work_s
            if event.worker in warm:  # the first run of a worker also loads the data
                fixed.append(event.outcome.wall_s - event.outcome.work_s)
            warm.add(event.worker)
        wall_s = time.perf_counter() - began
    print(
        f"fixed cost of a warm run: median {statistics.median(fixed):.3f} s, max {max(fixed):.3f} s"
    )
    print(
        f"sweep of {len(specs)} runs on {workers} workers: {wall_s:.0f} s wall, "
        f"{wall_s / (work_s / workers):.2f} x fit and evaluation / workers"
    )


def conditions() -> None:
    """All 7 patterns of openmoji with a ResNet-18 against one pattern."""
    every = data_of("openmoji", {"mechanism": "every_pattern"})
    one = data_of("openmoji", {"mechanism": "pattern", "present": ["image", "english", "german"]})
    method = METHODS.get("zero_fill")(with_encoders(every.task, {"image": "resnet18"})).eval()
    all_s = median_s(lambda: evaluate(method, every), 3)
    one_s = median_s(lambda: evaluate(method, one), 3)
    print(
        f"evaluating {len(every.conditions)} patterns with ResNet-18: "
        f"{all_s / one_s:.2f} x evaluating {len(one.conditions)}"
    )


def lightning_step() -> None:
    """A training epoch of zero_fill on mfeat under Lightning against a bare loop."""
    import logging
    import warnings

    from lightning.pytorch import Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    data = data_of("mfeat", {"mechanism": "natural"})
    epochs = 10

    def bare() -> None:
        method = METHODS.get("zero_fill")(data.task).train()
        optimizer = method.configure_optimizers()
        loader = data.train_dataloader()
        for _ in range(epochs):
            for batch in loader:
                optimizer.zero_grad()
                torch.stack(list(method.loss(batch).values())).sum().backward()
                optimizer.step()

    def under_lightning() -> None:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(METHODS.get("zero_fill")(data.task), data.train_dataloader())

    pairs = [(median_s(under_lightning, 1), median_s(bare, 1)) for _ in range(5)]
    ratio = statistics.median(a / b for a, b in pairs)
    steps = epochs * len(data.train_dataloader())
    step_ms = 1000 * statistics.median(b for _, b in pairs) / steps
    print(f"training step of zero_fill on mfeat: {ratio:.2f} x a bare loop ({step_ms:.2f} ms)")


if __name__ == "__main__":
    start_up()
    lightning_step()
    conditions()
    fixed_cost()
