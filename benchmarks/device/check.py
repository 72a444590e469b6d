"""Every method on a GPU against the same method on the processor, and what sharing a GPU brings.

    python benchmarks/device/check.py [--device cpu] [--runs N] [METHOD ...]

Every method trains two epochs on a tiny set, on the processor and on the device, there in float32
and in bfloat16 as well, from the same seed and with the same random draws: the device's are drawn
on the processor, in the same order. A method agrees where probabilities of test samples differ by
at most `TOLERANCE` on average. Calls of a forward pass that wait for the device are counted as
CUDA itself reports them. Then a small method takes its steps with data that are kept on the device
and with data that are copied there, and short runs go one a GPU, and as many as find room. Methods
are compared by several processes, half as many as there are cores, and none begins after
`BUDGET_S`; what comes then runs alone. `--device cpu` tries the script itself. Prints one table.

Exit code 0: all agree; 1: a method does not, fails, or there was no time for it; 2: no GPU is here.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from mmbench import datamodule
from mmbench.bench.executors.local import default_workers, execute
from mmbench.bench.executors.queue import Queue
from mmbench.bench.plan import plan
from mmbench.bench.record import find_run, read_predictions
from mmbench.bench.result import read_result
from mmbench.bench.run.run import run
from mmbench.bench.spec import RunSpec, load_suite
from mmbench.checks.methods import build
from mmbench.checks.tasks import all_patterns, make_batch, sample_tasks
from mmbench.layers import attention
from mmbench.layers.dropout import Dropout
from mmbench.registry import METHODS

TOLERANCE = {"32-true": 0.01, "bf16-mixed": 0.05}  # mean difference of a probability
BUDGET_S = 400.0  # for methods; what comes after takes a minute more
ROOT = Path()  # shipped data lie elsewhere
aten = torch.ops.aten
INTO = (aten.bernoulli_, aten.uniform_, aten.normal_, aten.exponential_, aten.random_)
NEW = (
    *(aten.rand, aten.randn, aten.randint, aten.randperm, aten.rand_like, aten.randn_like),
    *(aten.randint_like, aten.bernoulli, aten.multinomial, aten.normal),
)


class DrawnHere(TorchDispatchMode):
    """Random numbers of a device are drawn on the processor, as a training there draws them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Draw here and copy; all else goes its way."""
        kwargs = dict(kwargs or {})
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        device = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
        if device.type == "cpu":
            return func(*args, **kwargs)
        if func.overloadpacket is aten.native_dropout:
            x, p, train = args
            if not train:
                return x, torch.ones_like(x, dtype=torch.bool)
            mask = torch.empty(x.shape, dtype=x.dtype).bernoulli_(1 - p).to(device)
            return x * mask / (1 - p), mask.bool()
        # a generator of the device cannot draw here
        here = [None if isinstance(one, torch.Generator) else one for one in args]
        here = [one.cpu() if isinstance(one, torch.Tensor) else one for one in here]
        if "generator" in kwargs:
            kwargs["generator"] = None
        if func.overloadpacket in INTO:
            return args[0].copy_(func(*here, **kwargs))
        if func.overloadpacket in NEW:
            kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
            if kwargs.get("device") is not None:
                kwargs["device"] = torch.device("cpu")
            return func(*here, **kwargs).to(device)
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Row:
    """What came of a method.

    Args:
        name: Of the method.
        differences: Precision -> mean difference of a probability; None = it failed.
        seconds: Of the runs on the device.
        waits: Where a forward pass waits for the device, call by call; None = not looked for.
        peak_mib: Peak memory of the float32 run.
        why: Why it does not agree; empty if it does.
    """

    name: str
    differences: Mapping[str, float]
    seconds: float = 0.0
    waits: Sequence[str] | None = None
    peak_mib: float = 0.0
    why: str = ""

    def cells(self) -> list[str]:
        """As a row of the table."""
        differ = [f"{self.differences[p]:.4f}" if p in self.differences else "-" for p in TOLERANCE]
        waits = "-" if self.waits is None else str(len(self.waits))
        if self.waits:
            waits += f" ({', '.join(dict.fromkeys(self.waits))})"
        more = [waits, f"{self.peak_mib:.0f}", f"{self.seconds:.1f}", self.why or "yes"]
        return [f"`{self.name}`", *differ, *more]


def tiny(method: str, accelerator: str, precision: str, steps: str = "null") -> RunSpec:
    """Two epochs, or so many steps, of a method on 64 samples; of each, 30 % is missing."""
    task_data = "synthetic" if METHODS.get(method).applies.one_of else "mfeat"
    data = {
        "mfeat": "{name: mfeat, args: {modalities: [fou, kar]}}",
        "synthetic": "{name: synthetic, args: {kinds: [sequence, vector], unique: [1, 1]}}",
    }
    [spec] = plan(
        load_suite(
            "quickstart",
            [
                f"data=[{data[task_data]}]",
                f"methods=[{method}]",
                "scenarios=[{name: mcar30, train: {mechanism: mcar, missing_rate: 0.3}, "
                "test: {mechanism: mcar, missing_rate: [0.0, 0.3]}}]",
                "seeds=1",
                "limit=64",
                "trainer.max_epochs=2",
                f"trainer.min_steps={steps}",
                "trainer.batch_size=16",
                f"trainer.accelerator={accelerator}",
                f"trainer.precision={precision}",
            ],
        )
    )
    return spec


def probabilities(spec: RunSpec, runs: Path) -> np.ndarray[Any, Any]:
    """Of all test samples and conditions.

    Raises:
        ValueError: If the run did not end well.
    """
    outcome = find_run(spec, runs)
    if outcome.state != "done":
        raise ValueError(f"{outcome.state}: {outcome.why}")
    parts = []
    for condition in read_result(outcome.folder).conditions:
        logits = torch.from_numpy(read_predictions(outcome, condition)["logits"])
        parts.append(logits.softmax(1).numpy())
    return np.concatenate(parts)


def dropped(self: Dropout, x: Tensor) -> Tensor:
    """`Dropout.forward` as on a processor, where numbers are drawn as float32, on any device."""
    if not (self.training and self.p):
        return x
    return thinned(x, self.p)


def attended(
    q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None, dropout_p: float
) -> Tensor:
    """`scaled_dot_product_attention`, whose weights are dropped as on a processor."""
    if not dropout_p:
        return scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
    scores = q * q.shape[-1] ** -0.5 @ k.mT
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return thinned(scores.softmax(-1), dropout_p) @ v


def thinned(x: Tensor, p: float) -> Tensor:
    """Without a share of its elements."""
    mask = torch.rand(x.shape, device=x.device) >= p
    return x * mask.to(x.dtype) * (1 / (1 - p))


def compare(method: str, *, device: str, until: float) -> Row:
    """Train a method on the processor and on the device, unless it is too late for that."""
    if time.time() > until:
        return Row(method, {}, why="no: no time was left")
    differences: dict[str, float] = {}
    seconds, peak_mib = 0.0, 0.0
    drawn = DrawnHere() if device == "cuda" else nullcontext()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=False),  # a chain's dropout is drawn inside it
            patch.object(Dropout, "forward", dropped),
            patch.object(attention, "scaled_dot_product_attention", attended),
        ):
            here = tiny(method, "cpu", "32-true")
            run(here, Path(folder) / "here", ROOT)
            expected = probabilities(here, Path(folder) / "here")
            for precision in TOLERANCE:
                spec = tiny(method, "gpu" if device == "cuda" else "cpu", precision)
                began = time.perf_counter()
                with drawn:
                    run(spec, Path(folder) / precision, ROOT)
                seconds += time.perf_counter() - began
                got = probabilities(spec, Path(folder) / precision)
                differences[precision] = float(np.abs(got - expected).mean())
                if precision == "32-true":
                    record = read_result(find_run(spec, Path(folder) / precision).folder)
                    peak_mib = record.cost.peak_mib
        waits = waits_of(method) if device == "cuda" else None
    except Exception as error:  # whatever a method does, the others are compared, too
        why = (str(error).splitlines() or [""])[0] or type(error).__name__
        return Row(method, differences, seconds, why=f"no: {why}")
    beyond = [p for p, limit in TOLERANCE.items() if differences[p] > limit]
    why = f"no: more than {TOLERANCE[beyond[0]]} in {beyond[0]}" if beyond else ""
    return Row(method, differences, seconds, waits, peak_mib, why)


def waits_of(method: str) -> list[str]:
    """Where one prediction waits for the GPU, as CUDA reports it: a file and line each time."""
    cls = METHODS.get(method)
    task = sample_tasks(cls)[0]
    built = build(cls, task).to("cuda")
    batch = make_batch(task, all_patterns(task)).blind().to(torch.device("cuda"))
    places = []

    def reported(message: Warning | str, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            ours = [at for at in traceback.extract_stack() if "mmbench" in Path(at.filename).parts]
            places.append(f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "torch")

    with torch.no_grad():
        built(batch)  # kernels are made
        torch.cuda.synchronize()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this mode is new, each time it is set
            torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.showwarning = reported
                built(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return places


def step_ms(device: str, steps: int, *, share: float) -> float:
    """Of a small method whose data are kept on the device if `share` of its free memory allows."""
    spec = tiny("zero_fill", "gpu" if device == "cuda" else "cpu", "32-true", str(steps))
    with tempfile.TemporaryDirectory() as folder, patch.object(datamodule, "SHARE", share):
        run(spec, Path(folder), ROOT)
        return 1000 * read_result(find_run(spec, Path(folder)).folder).cost.train_s / steps


def runs_an_hour(count: int, device: str, *, shared: bool) -> float:
    """Of short runs from a cold start: one a GPU, or as many as find room; here, one or two."""
    specs = plan(
        load_suite(
            "quickstart",
            [
                "data=[mfeat]",
                "methods=[zero_fill]",
                f"seeds={list(range(count))}",
                f"trainer.min_steps={1000 if device == 'cuda' else 10}",
                "trainer.max_epochs=1",
            ],
        )
    )
    per_gpu = None if shared else 1
    workers = default_workers(per_gpu) if device == "cuda" else 1 + shared
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for event in execute(Queue(specs, Path(folder)), ROOT, workers=workers, per_gpu=per_gpu):
            outcome = event.outcome
            if outcome is not None and outcome.state != "done":
                raise RuntimeError(f"{event.spec.title}: {outcome.why}")
    return 3600 * count / (time.perf_counter() - began)


def figure(what: str, value: str) -> None:
    """Print a row of the table that is no method's."""
    print(f"| {what} | {value} | | | | | |", flush=True)


def main(words: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--runs", type=int, default=24)
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is here; --device cpu tries the script itself", file=sys.stderr)
        return 2
    began = time.perf_counter()
    name = torch.cuda.get_device_name() if options.device == "cuda" else "the processor itself"
    limits = ", ".join(f"{p} {limit}" for p, limit in TOLERANCE.items())
    print(f"{name}, torch {torch.__version__}; allowed: {limits}\n")
    print("| method | float32 | bfloat16 | waits a forward | peak, MiB | device, s | agrees |")
    print("|---|---:|---:|---:|---:|---:|---|")
    trained = [name for name in METHODS.names() if METHODS.get(name).applies.trains]
    agree = True
    until = time.time() + BUDGET_S
    compared = partial(compare, device=options.device, until=until)
    with ProcessPoolExecutor(
        max(1, len(os.sched_getaffinity(0)) // 2),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        for row in pool.map(compared, options.methods or trained):
            agree &= not row.why
            print(f"| {' | '.join(row.cells())} |", flush=True)
    steps = 1000 if options.device == "cuda" else 20
    copied, resident = (step_ms(options.device, steps, share=share) for share in (0.0, 0.25))
    figure("a step, data copied", f"{copied:.2f} ms")
    figure("a step, data on the device", f"{resident:.2f} ms")
    figure("copied / on the device", f"{copied / resident:.2f}")
    names = ("one a GPU", "--per-gpu auto") if options.device == "cuda" else ("one", "two")
    for name, shared in zip(names, (False, True), strict=True):
        rate = runs_an_hour(options.runs, options.device, shared=shared)
        figure(f"{options.runs} short runs, {name}", f"{rate:.0f} an hour")
    print(f"\n{time.perf_counter() - began:.0f} s")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
