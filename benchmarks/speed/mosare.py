"""How long MoSARe takes at the shapes of its released code, and how much memory.

    python benchmarks/speed/mosare.py [form ...] [--batch 2] [--threads 2]

2,048 patches of 1,024 features, 4,999 genes, a report of 16 sentences; D = 1,024, C = 16, 5
experts, dropout and both contrastive losses on. A step is a forward and a backward pass of all
losses. Every form runs in a process of its own, whose peak memory is the kernel's; `ready` is what
it holds before any step, with parameters and batch; tokens of the mixtures are computed before,
once for all epochs, as in every run. `cpu_s` is processor time, which other work
on the machine disturbs less than `step_s`; ratios are of it.

- reference: the equations as they stand (tests/mosare_reference.py), gene tokens, of which one
  passes the local experts
- genes: ours, the same; the same losses, which is checked to 1e-4
- encoder: ours, the suite's tokens, of which one passes
- encoder32: ours as by default, all tokens pass, for 32 samples, with the step and the state of
  AdamW
- mixture: 500 bags of 2,048 patches become 16 components, then are looked up in the cache
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

FORMS = ("reference", "genes", "encoder", "encoder32", "mixture")
BAGS, PATCHES, FEATURES, GENES = 500, 2048, 1024, 4999


def main() -> None:
    """Print one line for each form, then the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("only", nargs="*", metavar="form", help=", ".join(FORMS))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--inside", choices=FORMS)
    args = parser.parse_args()
    if args.inside:
        results = fit_mixture() if args.inside == "mixture" else steps(args.inside, args)
        print(json.dumps(results))
        return
    results = {}
    for form in args.only or FORMS:
        command = [sys.executable, __file__, "--inside", form, "--batch", str(args.batch)]
        command += ["--threads", str(args.threads), "--steps", str(args.steps)]
        env = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        process = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
        results[form] = json.loads(process.stdout.splitlines()[-1])
        print(
            form,
            *(f"{name} {value:.4g}" for name, value in results[form].items()),
            sep="   ",
            flush=True,
        )
    slow = results.get("reference")
    for form in ("genes", "encoder"):
        if slow and form in results:
            fast = results[form]
            print(
                f"{form}: {slow['cpu_s'] / fast['cpu_s']:.1f} times as fast as the reference, "
                f"{fast['peak_mib'] / slow['peak_mib']:.2f} of its memory"
            )
    if slow and "genes" in results:
        for name in ("task", "auxiliary", "reconstruction", "symmetric", "prototype"):
            difference = abs(slow[name] - results["genes"][name])
            assert difference <= 1e-4 * max(1.0, abs(slow[name])), f"{name} differs: {difference}"


def steps(form: str, args: argparse.Namespace) -> dict[str, float]:
    """Shortest step of a form, its peak memory, and its losses without dropout."""
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    import mosare_reference
    import torch

    from mmbench.bench.executors.local import keep_freed_memory
    from mmbench.data.batch import Batch
    from mmbench.data.embeddings import Embeddings
    from mmbench.data.task import Modality, Task
    from mmbench.methods.mosare import MoSARe

    keep_freed_memory()  # as every worker does
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    task = Task(
        "single_label",
        (
            Modality("slide", "bag", (PATCHES, FEATURES)),
            Modality("genes", "vector", (GENES,)),
            Modality("report", "bag", (16, FEATURES)),
        ),
        ("a", "b"),
    )
    batch_size = 32 if form == "encoder32" else args.batch
    tokens = "encoder" if form.startswith("encoder") else "genes"
    passing = None if form == "encoder32" else 1
    method = MoSARe(task, dim=1024, vector_tokens=tokens, active_k=passing)
    inputs = {m.name: torch.randn(batch_size, *m.shape) for m in task.modalities}
    presence = torch.ones(batch_size, 3, dtype=torch.bool)
    presence[0, 1] = False
    inputs["genes"][0] = 0
    batch = Batch(
        modalities=task.names,
        inputs=inputs,
        presence=presence,
        target=torch.arange(batch_size) % 2,
        sample_id=torch.arange(batch_size),
        lengths={n: torch.full((batch_size,), inputs[n].shape[1]) for n in ("slide", "report")},
    )
    method.align()
    method.train()
    batch = batch.with_embeddings(Embeddings(batch_size))
    for view in method.views:
        if view.mixture is not None:
            batch.embed(view.name, view.mixture)
    optimiser = method.configure_optimizers() if form == "encoder32" else None
    ready = peak_mib()

    def step() -> dict[str, torch.Tensor]:
        method.zero_grad()
        if form == "reference":
            return mosare_reference.step(method, batch)
        losses = method.loss(batch)
        torch.stack(list(losses.values())).sum().backward()
        if optimiser is not None:
            optimiser.step()
        return losses

    losses = {}
    if form in ("reference", "genes"):
        method.eval()
        with torch.no_grad():
            if form == "genes":
                losses = method.loss(batch)
            else:
                passed = mosare_reference.forward(method, batch)
                for goal in method.goals:
                    losses |= mosare_reference.LOSSES[goal](method, batch, passed)
    method.train()
    times = []
    for _ in range(1 if form in ("reference", "encoder32") else args.steps):
        start, worked = perf_counter(), process_time()
        step()
        times.append((process_time() - worked, perf_counter() - start))
    cpu_s, step_s = min(times)
    terms = {name: float(term) for name, term in losses.items()}
    return {"cpu_s": cpu_s, "step_s": step_s, "ready_mib": ready, "peak_mib": peak_mib(), **terms}


def fit_mixture() -> dict[str, float]:
    """Seconds to fit, and to find the fit again."""
    import torch

    from mmbench.layers.mixture import DiagonalMixture

    torch.manual_seed(0)
    centre = torch.randn(16, FEATURES)
    rows = []
    for _ in range(BAGS):  # a bag has the components in shares of its own
        share = torch.rand(16).square()
        which = torch.multinomial(share, PATCHES, replacement=True)
        rows.append(centre[which].add_(torch.randn(PATCHES, FEATURES)))
    with tempfile.TemporaryDirectory() as home:
        seconds = []
        for _ in range(2):
            start, worked = perf_counter(), process_time()
            DiagonalMixture(16, FEATURES).fit(rows, home=Path(home))
            seconds.append((perf_counter() - start, process_time() - worked))
        (file,) = Path(home).glob("*/last_round.npz")
        import numpy as np

        rounds = float(np.load(file)["round"])
    (fit_s, cpu_s), (again_s, _) = seconds
    return {
        "fit_s": fit_s,
        "cpu_s": cpu_s,
        "rounds": rounds,
        "again_s": again_s,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """Most memory that this process has held (Linux: KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
