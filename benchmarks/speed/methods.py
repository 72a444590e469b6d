"""How long a training step of each method takes, against its own bare products; a Markdown table.

    python benchmarks/speed/methods.py [METHOD ...]

Batch 64, four modalities of 256 features, 30 % missing, each method's own widths, one thread. A
step is forward and backward of the losses of a method's last stage. Its products are what that
step itself asked for: matrix products, convolutions, recurrent layers and fused attention, forward
and backward, which are noted once and then computed again on the same tensors, and nothing else.
Memory is that of parameters, gradients and whatever the step keeps for its backward pass.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from time import thread_time
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmbench.bench.executors.local import keep_freed_memory
from mmbench.data.batch import Batch
from mmbench.data.task import Modality, Task
from mmbench.method import Method
from mmbench.registry import METHODS

BATCH, TRAIN, MODALITIES, FEATURES, CLASSES = 64, 512, 4, 256, 3
TASK = Task(
    "single_label",
    tuple(Modality(name, "vector", (FEATURES,)) for name in "igcb"),
    ("a", "b", "c"),
)
REPEATS = 5
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


def main() -> None:
    """Print a row for each method; one that does not apply to the shape says why."""
    keep_freed_memory()  # as every worker does
    torch.set_num_threads(1)
    print("| method | stage | step, ms | products, ms | step / products | parameters | MiB |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in sys.argv[1:] or METHODS.names():
        print(row(name), flush=True)


def row(name: str) -> str:
    """The row of one method."""
    cls: type[Method] = METHODS.get(name)
    if reason := cls.reason_not(TASK):
        return f"| `{name}` | {reason} | - | - | - | - | - |"
    if not cls.applies.trains:
        return f"| `{name}` | has no training step | - | - | - | - | - |"
    torch.manual_seed(0)
    method = cls(TASK)
    method.prepare([make_batch(TRAIN, first_id=0)])
    for stage in method.stages:
        method.begin(stage)
    method.train()
    batch = make_batch(BATCH, first_id=TRAIN)
    step(method, batch)  # buffers and kernels are made
    with Noted() as noted:
        step(method, batch)
    kept_mib = memory_mib(method, batch)
    step_s, products_s = timed(lambda: step(method, batch), lambda: again(noted.calls))
    count = sum(p.numel() for p in method.parameters())
    return (
        f"| `{name}` | {method.stage} | {step_s * 1e3:.1f} | {products_s * 1e3:.1f} "
        f"| {step_s / products_s:.2f} | {count:,} | {kept_mib:.0f} |"
    )


def make_batch(size: int, first_id: int) -> Batch:
    """Random samples, 30 % of the entries missing, at least one modality each."""
    g = torch.Generator().manual_seed(first_id)
    presence = torch.rand(size, MODALITIES, generator=g) >= 0.3
    presence[:, 0] |= ~presence.any(1)
    return Batch(
        modalities=TASK.names,
        inputs={
            name: torch.randn(size, FEATURES, generator=g) * presence[:, [m]]
            for m, name in enumerate(TASK.names)
        },
        presence=presence,
        target=torch.randint(CLASSES, (size,), generator=g),
        sample_id=first_id + torch.arange(size),
    )


def step(method: Method, batch: Batch) -> None:
    """Forward and backward of all losses; the optimiser is the same for all."""
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
    for _ in range(REPEATS):
        for at, run in enumerate(runs):
            start = thread_time()
            run()
            best[at] = min(best[at], thread_time() - start)
    return best


if __name__ == "__main__":
    main()
