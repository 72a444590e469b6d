"""How long MoE-Retriever takes, against a loop over samples and against its bare products.

    python benchmarks/speed/moe_retriever.py

Batch 64, four modalities of 256 features, D = 128, P = 16, 4 of 8 + 4 experts, 30 % missing, two
threads, everything in one run. The loop does what Algorithm 1 of the paper says, one gap at a
time, with the same weights, draws and outputs, which is checked. The bare products are the matrix
products of one step on tensors of the same sizes, forward and backward, and nothing else.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

# oneDNN keeps kernels for up to 1,024 sizes of tensors; the number of tokens that ask an expert
# differs from step to step, so that this cache alone would grow for hundreds of steps
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")

import torch
from torch import Tensor

from mmbench.bench.executors.local import keep_freed_memory
from mmbench.data.batch import Batch
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import presence_code
from mmbench.methods.moe_retriever import MoERetriever

THREADS, BATCH, SAMPLES, TRAIN, MODALITIES, FEATURES = 2, 64, 2_000, 2_000, 4, 256
TASK = Task(
    "single_label",
    tuple(Modality(name, "vector", (FEATURES,)) for name in "igcb"),
    ("a", "b", "c"),
)
REPEATS = 6
MORE_STEPS = 20
LOOPED = 128  # samples that the loop is timed on in evaluation, then scaled up


def main() -> None:
    """Print one line for each question."""
    keep_freed_memory()  # as every worker does
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    method = MoERetriever(TASK)
    method.prepare([make_batch(TRAIN, first_id=0)])
    batch = make_batch(BATCH, first_id=TRAIN)

    step_s, loop_s, bare_s = timed(
        lambda: train(method, method, batch),
        lambda: train(method, lambda b: loop(method, b), batch),
        lambda: bare_step(method, batch),
    )
    print(
        f"training step   {step_s * 1e3:7.1f} ms   a loop {loop_s * 1e3:7.1f} ms, "
        f"{loop_s / step_s:.1f} times as long   bare products {bare_s * 1e3:7.1f} ms, "
        f"step {step_s / bare_s:.2f} times as long"
    )

    held = held_mib()
    for _ in range(MORE_STEPS):
        train(method, method, batch)
    print(f"{MORE_STEPS} more steps   {held_mib() - held:+.2f} MiB in use")

    method.eval()
    sizes = [BATCH] * (SAMPLES // BATCH) + [SAMPLES % BATCH]
    batches = [make_batch(size, first_id=5_000 + b * BATCH) for b, size in enumerate(sizes)]
    with torch.inference_mode():
        (all_s,) = timed(lambda: [method(b) for b in batches])
        some = batches[: LOOPED // BATCH]
        ours = torch.cat([method(b) for b in some])
        theirs = torch.cat([loop(method, b) for b in some])
        (loop_s,) = timed(lambda: [loop(method, b) for b in some], repeats=3)
        loop_s *= SAMPLES / LOOPED
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    print(
        f"{SAMPLES} predictions {all_s:6.2f} s    a loop {loop_s:7.2f} s, "
        f"{loop_s / all_s:.1f} times as long"
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
        target=torch.randint(3, (size,), generator=g),
        sample_id=first_id + torch.arange(size),
    )


def train(method: MoERetriever, forward: Callable[[Batch], Tensor], batch: Batch) -> None:
    """One forward and backward pass of the task loss, dropout and noise included."""
    method.train()
    method.zero_grad()
    method.task_loss(forward(batch), batch.target).backward()  # type: ignore[no-untyped-call]


def loop(method: MoERetriever, batch: Batch) -> Tensor:
    """One gap at a time: encode, draw, attend and ask experts for a single query."""
    z = []
    for i in range(len(batch)):
        one = take(batch, i)
        present = [m for m in range(MODALITIES) if one.presence[0, m]]
        encoders = method.encode.in_order
        encoded = {m: encoders[m](one.inputs[TASK.names[m]], None) for m in present}
        for target in range(MODALITIES):
            if target in present:
                continue
            code = presence_code(one.presence)
            drawn = method.draw(one, torch.tensor([0]), torch.tensor([target]), code)
            inputs = getattr(method.bank, f"input_{target}")
            support = [
                encoders[target](inputs[j : j + 1], None) for j in drawn.rows[drawn.chosen].tolist()
            ]
            encoded[target] = retrieve(method, support, [encoded[m] for m in present], target)
        z.append(torch.stack([encoded[m] for m in range(MODALITIES)], dim=1))
    return method.fuse(torch.cat(z))[0]


def retrieve(
    method: MoERetriever, support: list[Tensor], tokens_of: list[Tensor], target: int
) -> Tensor:
    """Attention, experts one by one, and the mean of both halves."""
    mix = method.mix
    assert mix is not None
    tokens = torch.cat([*support, *tokens_of], dim=1)  # (1, S P, D)
    x = tokens + mix.drop(mix.attend(mix.norm_attend(tokens)))
    x = mix.norm(x)[0]
    routing = mix.gate(x, mix.pools[target].expand(len(x), -1))
    y = torch.zeros_like(x)
    pools = [
        (target * mix.own_count, mix.specific[target]),
        (MODALITIES * mix.own_count, mix.shared),
    ]
    for first, experts in pools:
        for e in range(len(experts.w1)):
            gate = routing.gates[:, first + e]
            rows = gate.nonzero().squeeze(1)
            if len(rows):
                h = torch.nn.functional.gelu(x[rows] @ experts.w1[e].T + experts.b1[e])
                y = y.index_add(0, rows, gate[rows, None] * (h @ experts.w2[e] + experts.b2[e]))
    y = y.unflatten(0, (len(support) + len(tokens_of), -1))
    return 0.5 * (y[: len(support)].mean(0) + y[len(support) :].mean(0))[None]


def bare_step(method: MoERetriever, batch: Batch) -> None:
    """The products of one step: encoders, attention, experts asked, fusion; no padding."""
    mix = method.mix
    assert mix is not None
    d, p, heads, h = 128, 16, 4, 256
    present = batch.presence.sum(1)
    context = torch.cat([(2 * n).repeat(MODALITIES - n) for n in present])  # sizes S of queries
    support = int(context.sum()) // 2
    tokens = int(context.sum()) * p
    ask = tokens * mix.gate.k // (MODALITIES * 12)
    products = []
    for encoded in (BATCH * MODALITIES, support):
        products += [(encoded, FEATURES, 2 * d), (encoded, 2 * d, p * d)]
    products += [(tokens, d, 3 * d), (tokens, d, d), (tokens, d, 72)]
    products += [(ask, d, h), (ask, h, d)] * (MODALITIES * 12)
    fused = BATCH * MODALITIES * p
    products += [(fused, d, 3 * d), (fused, d, d), (fused, d, 2 * d), (fused, 2 * d, d)]
    for n, k, m in products:
        multiply(torch.ones(n, k), torch.ones(k, m))
    for size in [*(int(s) * p for s in context), *[MODALITIES * p] * BATCH]:
        q = torch.ones(heads, size, d // heads)
        multiply(q, q.transpose(1, 2))
        multiply(torch.ones(heads, size, size), q)


def multiply(a: Tensor, b: Tensor) -> None:
    """Forward, and both products of backward."""
    c = a @ b
    _ = c @ b.transpose(-1, -2)
    _ = a.transpose(-1, -2) @ c


def take(batch: Batch, i: int) -> Batch:
    """A batch of one."""
    return replace(
        batch,
        inputs={name: x[i : i + 1] for name, x in batch.inputs.items()},
        presence=batch.presence[i : i + 1],
        target=batch.target[i : i + 1],
        sample_id=batch.sample_id[i : i + 1],
    )


def timed(*runs: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Shortest wall time of each in seconds; by turns, so that other work hits all alike."""
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for at, run in enumerate(runs):
            start = perf_counter()
            run()
            best[at] = min(best[at], perf_counter() - start)
    return best


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple((f"field_{i}", ctypes.c_size_t) for i in range(10))
    IN_USE = ("field_4", "field_7")  # hblkhd, mapped blocks; uordblks, all others


def held_mib() -> float:
    """Memory in use now, without what the allocator keeps for later (glibc only)."""
    count = ctypes.CDLL("libc.so.6").mallinfo2
    count.restype = _Mallinfo2
    info = count()
    return float(sum(getattr(info, name) for name in info.IN_USE)) / 2**20


if __name__ == "__main__":
    main()
