"""What CP-IMoE's stages cost, and what it saves that frozen encoders see a sample once.

    python benchmarks/speed/cp_imoe.py

Two images of 224 x 224, a ResNet-50 each, D = 2,048, 5 classes, batch 32, one thread, everything
in one run. A step of the main stage is timed with the encoders at work, as in the released code,
and with their outputs served from memory; both start from the same weights and give the same
logits, which is checked.

Operations are those that torch's counter finds (a product with its sum is two) for one sample,
forward and backward: of convolutions and matrix products, and of what is trained alone. The paper
does not say how it counted. Its 49.2 G are three passes (forward, and backward to inputs and to
weights) of two ResNet-50, 16.4 G each pass; its 16.7 G are one such pass and the small networks. So
its numbers seem to be of the same kind. Ours for everything are a little lower since images need no
gradient.
"""

from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter
from unittest import mock

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmbench.data.batch import Batch
from mmbench.data.embeddings import Embeddings
from mmbench.data.task import Modality, Task, with_encoders
from mmbench.methods.cp_imoe import CPIMoE

BATCH, SIDE, DIM = 32, 224, 2048
TASK = with_encoders(
    Task(
        "single_label",
        tuple(Modality(name, "image", (3, SIDE, SIDE)) for name in ("clinic", "derm")),
        tuple("abcde"),
    ),
    {"image": "resnet50"},
)
REPEATS = 3
PAPER = {"fit": "93.3 M and 49.2 G in Table S2", "main": "21.0 M and 16.7 G in Table S2"}


def main() -> None:
    """Print one line for each question."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = make_batch()
    print("trained parameters, and operations of a step for one sample")
    with torch.device("meta"):  # counting needs no values
        counted = (build(pretrain=False), build())
    for method in counted:
        for stage in method.stages:
            method.begin(stage)
            learns = sum(p.numel() for p in method.parameters() if p.requires_grad)
            cost = f"{count(method, batch.to('meta')) / 1e9:7.3f} G"
            if stage.name not in ("fit", "specific"):
                served = remember(method, batch.to("meta"))
                cost += f", encoders from memory {count(method, served) / 1e9:.3f} G"
            print(f"  {stage.name:12} {learns / 1e6:7.3f} M {cost}; {PAPER.get(stage.name, '-')}")

    method = build()
    method.begin(method.stages[-1])
    served = remember(method, batch)
    method.eval()
    with torch.no_grad():
        gap = (method(batch) - method(served)).abs().max().item()
    assert gap <= 1e-5, f"logits differ by {gap}"
    method.train()
    adam = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], fused=True)
    uncached_s, cached_s = timed(
        lambda: step(method, adam, batch), lambda: step(method, adam, served)
    )
    print(
        f"main stage, a step of {BATCH}: encoders at work {uncached_s * 1e3:.0f} ms, from memory "
        f"{cached_s * 1e3:.0f} ms, {uncached_s / cached_s:.0f} times as fast; "
        f"logits differ by {gap:.1e} at most"
    )


def build(*, pretrain: bool = True) -> CPIMoE:
    """The paper's sizes."""
    return CPIMoE(TASK, dim=DIM, pretrain=pretrain, lr=5e-5).train()


def make_batch() -> Batch:
    """Random images; 40 % of the samples lack the second."""
    presence = torch.ones(BATCH, 2, dtype=torch.bool)
    presence[torch.randperm(BATCH)[: int(0.4 * BATCH)], 1] = False
    return Batch(
        modalities=TASK.names,
        inputs={
            name: torch.randn(BATCH, 3, SIDE, SIDE) * presence[:, m, None, None, None]
            for m, name in enumerate(TASK.names)
        },
        presence=presence,
        target=torch.randint(5, (BATCH,)),
        sample_id=torch.arange(BATCH),
    )


def remember(method: CPIMoE, batch: Batch) -> Batch:
    """The same batch after an epoch, in which its samples went through the frozen encoders."""
    index = torch.arange(BATCH)
    served = batch.with_embeddings(Embeddings(BATCH), index)
    # tensors without values have no autocast that could be turned off
    with mock.patch("mmbench.data.embeddings.exact", return_value=nullcontext()):
        method.encode(served)
    return served


def count(method: CPIMoE, batch: Batch) -> float:
    """Operations of one step, forward and backward, for each sample."""
    method.zero_grad()
    with FlopCounterMode(display=False) as counter:
        backward(method, batch)
    method.zero_grad()
    return float(counter.get_total_flops()) / BATCH


def backward(method: CPIMoE, batch: Batch) -> None:
    """Loss of the present stage and its gradients."""
    total: Tensor = torch.stack(list(method.loss(batch).values())).sum()
    total.backward()  # type: ignore[no-untyped-call]


def step(method: CPIMoE, adam: torch.optim.Optimizer, batch: Batch) -> None:
    """One step of training."""
    adam.zero_grad()
    backward(method, batch)
    adam.step()


def timed(*runs: Callable[[], object]) -> list[float]:
    """Shortest wall time of each in seconds; by turns, so that other work hits all alike."""
    best = [float("inf")] * len(runs)
    for _ in range(REPEATS):
        for at, run in enumerate(runs):
            start = perf_counter()
            run()
            best[at] = min(best[at], perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
