"""How long a training step of each method takes; a Markdown table.

    python benchmarks/speed/methods.py [METHOD ...]

Batch 64, four modalities of 256 features, 30 % missing, each method's own widths, one thread. A
step is forward and backward of the losses of a method's last stage. Two ratios say what it costs
beyond what it has to:

- against its own bare products: what that step itself asked for, matrix products, convolutions,
  recurrent layers and fused attention, forward and backward, noted once and then computed again on
  the same tensors, and nothing else;
- what a run makes of it, against a bare loop: a step under the trainer of every run, loader,
  optimiser and hooks included, against loss, backward and the same optimiser on the same batch. The
  bare step follows that of the trainer, batch by batch; what an epoch costs is in neither.

Memory is that of parameters, gradients and whatever the step keeps for its backward pass.
"""

import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmbench.bench.executors.local import keep_freed_memory
from mmbench.bench.run.claimed import WhileClaimed
from mmbench.bench.run.training import make_trainer
from mmbench.bench.spec import RunSpec
from mmbench.data.batch import Batch
from mmbench.data.samples import Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Fitting, Source
from mmbench.method import Method
from mmbench.registry import METHODS
from mmbench.store import ALONE

BATCH, BATCHES, EPOCHS, FEATURES = 64, 15, 2, 256
TASK = Task(
    "single_label",
    tuple(Modality(name, "vector", (FEATURES,)) for name in "igcb"),
    ("a", "b", "c"),
)
MISSING = {"mechanism": "mcar", "missing_rate": 0.3}
SCENARIO = {"name": "mcar", "train": MISSING, "test": MISSING}
LEAST_REPEATS, LEAST_S = 5, 0.5  # of a measurement
PRODUCTS = {
    getattr(torch.ops.aten, name)
    for name in (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "convolution",
        "convolution_backward",
        "mkldnn_rnn_layer",
        "mkldnn_rnn_layer_backward",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    )
}
Call = tuple[Callable[..., object], Sequence[Any], Mapping[str, Any]]


class Noted(TorchDispatchMode):
    """Notes each product that is asked for, with its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> object:
        """Compute, and note a product."""
        if func.overloadpacket in PRODUCTS:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class MadeUp(DataModule):
    """Random vectors, in memory."""

    source = Source("none")

    def describe(self) -> Task:
        """The shape that all methods are measured on."""
        return TASK

    def load(self, split: Split) -> Samples:
        """As many batches of training as are measured; the other splits have one."""
        count = BATCH * BATCHES if split == "train" else BATCH
        rng = np.random.default_rng(len(split))
        return Samples(
            TASK.names,
            {name: rng.normal(size=(count, FEATURES)).astype(np.float32) for name in TASK.names},
            target=rng.integers(TASK.num_outputs, size=count),
            sample_id=np.arange(count),
            presence=np.ones((count, len(TASK.names)), bool),
        )


class BareBeside(Callback):
    """Measures every step of a trainer, and a bare one on the same network and batch after it."""

    def __init__(self) -> None:
        self.trained_s: list[float] = []
        self.bare_s: list[float] = []
        self._since = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the bare loop an optimiser like that of the trainer."""
        trainable = [p for p in pl_module.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=1e-2, fused=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the time since the last bare step, and that of the next one."""
        assert isinstance(pl_module, Method)
        began = thread_time()
        step(pl_module, batch)
        self._optimiser.step()
        after = thread_time()
        if batch_idx:  # before the first, an epoch began
            self.trained_s.append(began - self._since)
            self.bare_s.append(after - began)
        self._since = after


def main() -> None:
    """Print a row for each method; one that does not apply to the shape says why."""
    keep_freed_memory()  # as every worker does
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    data = MadeUp(Path(), Scenario.parse(SCENARIO), batch_size=BATCH)
    data.setup()
    print(
        "| method | stage | step, ms | products, ms | step / products | trainer / bare loop "
        "| parameters | MiB |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in sys.argv[1:] or METHODS.names():
        print(row(name, data), flush=True)


def row(name: str, data: DataModule) -> str:
    """The row of one method."""
    cls: type[Method] = METHODS.get(name)
    if reason := cls.reason_not(TASK):
        return f"| `{name}` | {reason} | - | - | - | - | - | - |"
    if not cls.applies.trains:
        return f"| `{name}` | has no training step | - | - | - | - | - | - |"
    torch.manual_seed(0)
    method = cls(TASK)
    method.prepare(data.batches("train"))
    for stage in method.stages:
        method.begin(stage)
    method.train()
    batch = next(data.batches("train"))
    step(method, batch)  # buffers and kernels are made
    with Noted() as noted:
        step(method, batch)
    kept_mib = memory_mib(method, batch)
    step_s, products_s = timed(lambda: step(method, batch), lambda: again(noted.calls))
    count = sum(p.numel() for p in method.parameters())
    return (
        f"| `{name}` | {method.stage} | {step_s * 1e3:.1f} | {products_s * 1e3:.1f} "
        f"| {step_s / products_s:.2f} | {harness(method, data):.2f} | {count:,} | {kept_mib:.0f} |"
    )


def harness(method: Method, data: DataModule) -> float:
    """Median step of a trainer as every run has it, against that of a bare loop."""
    settings = {"max_epochs": EPOCHS, "accelerator": "cpu", "limit_val_batches": 0}
    spec = RunSpec(method="", data="", scenario=SCENARIO, trainer_args=settings)
    beside = BareBeside()
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [WhileClaimed(ALONE), beside]
        trainer = make_trainer(spec, Path(folder), callbacks, EPOCHS, 1)
        trainer.fit(method, datamodule=Fitting(data, torch.device("cpu")))
    return statistics.median(beside.trained_s) / statistics.median(beside.bare_s)


def step(method: Method, batch: Batch) -> None:
    """Forward and backward of all losses."""
    method.zero_grad()
    torch.stack(list(method.loss(batch).values())).sum().backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def again(calls: Sequence[Call]) -> None:
    """Compute the products alone."""
    for func, args, kwargs in calls:
        func(*args, **kwargs)


def memory_mib(method: Method, batch: Batch) -> float:
    """Parameters, their gradients, and what a step keeps for its backward pass."""
    sizes: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        terms = list(method.loss(batch).values())
    del terms
    for p in method.parameters():  # many are kept for backward anyway, and count once
        sizes[p.untyped_storage().data_ptr()] = p.untyped_storage().nbytes()
    gradients = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    return (sum(sizes.values()) + gradients) / 2**20


def timed(*runs: Callable[[], object]) -> list[float]:
    """Shortest processor time of each in seconds, which other work on the machine hardly changes.

    It is that of this one thread, and so the wall time of a machine without other work.
    """
    best = [float("inf")] * len(runs)
    repeats, spent = 0, 0.0
    while repeats < LEAST_REPEATS or spent < LEAST_S:
        for at, run in enumerate(runs):
            start = thread_time()
            run()
            took = thread_time() - start
            best[at] = min(best[at], took)
            spent += took
        repeats += 1
    return best


if __name__ == "__main__":
    main()
