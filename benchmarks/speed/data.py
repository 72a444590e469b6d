"""What data of real size costs, as ratios to bare decoding, each beside its limit.

    python benchmarks/speed/data.py [--pairs N] [--slides N]

A twin of Food-101 in size: N pairs of a small picture (JPEG, 160 x 160 pixels, brought to 64 x 64)
and a title, 90,688 in the original. Every step is a process of its own, as in a sweep.

1. Bare decoding: all pictures read one after the other, and nothing kept, by as many processes as
   there are cores.
2. Prepared: the data set `table`, from its files to splits whose pictures are mapped.
3. Found: the same once more, by another process.
4. An epoch: every training picture gathered, scaled and handed over in batches of 64.
5. Slides, a file each of 200 to 6,000 patches of 256 features (float16): prepared, and an epoch of
   at most 2,048 patches of each drawn and read in batches of 8.

Beside each time stands the processor time of the process and of those that it started: ratios of
that hold on a busy machine, too. Peak memory is that of the hungriest of these processes.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

SIDE, STORED = 160, 64  # pixels; the longer side of the original has 512
CLASSES = 101
EPOCHS = 2
PATCHES, FEATURES = (200, 6000), 256


def write_twin(root: Path, pairs: int) -> None:
    """Pictures of one smooth colour pattern each, in folders of a thousand, and titles."""
    rng = np.random.default_rng(0)
    names = [f"images/{k // 1000}/{k}.jpg" for k in range(pairs)]
    for k, name in enumerate(names):
        if k % 1000 == 0:
            (root / name).parent.mkdir(parents=True)
        small = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(root / name, quality=90)
    ids, label = np.arange(pairs), np.arange(pairs) % CLASSES
    title = [f"dish {k} of {k * 7919 % 5000} and {k * 104729 % 3000}" for k in label]
    split = np.where(ids % 10 < 7, "train", np.where(ids % 10 < 8, "val", "test"))
    table = pd.DataFrame({"id": ids, "label": [f"c{k}" for k in label], "split": split})
    table.to_csv(root / "labels.csv", index=False)
    pd.DataFrame({"id": ids, "file": names}).to_csv(root / "photo.csv", index=False)
    pd.DataFrame({"id": ids, "title": title}).to_csv(root / "title.csv", index=False)


def write_slides(root: Path, slides: int) -> float:
    """Features of slides, labels, and GiB of the features."""
    rng = np.random.default_rng(0)
    (root / "slides").mkdir()
    counts = rng.integers(*PATCHES, slides)
    for k, count in enumerate(counts):
        patches = rng.integers(-9, 9, (count, FEATURES)).astype(np.float16)
        np.save(root / "slides" / f"{k}.npy", patches)
    table = pd.DataFrame({"id": range(slides), "label": np.arange(slides) % 2})
    table.to_csv(root / "slide_labels.csv", index=False)
    return float(counts.sum()) * FEATURES * 2 / 2**30


def decode(files: list[Path]) -> float:
    """Decode and forget; processor seconds."""
    from mmbench.data.sample_files import read_picture

    began = time.process_time()
    for file in files:
        read_picture(file, (STORED, STORED))
    return time.process_time() - began


def cpu_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def bare(root: Path) -> tuple[float, float]:
    """Seconds of decoding all pictures by all cores, which are at work already, and of a core."""
    files = sorted(root.glob("images/*/*.jpg"))
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(decode, [files[:8]] * cores))  # everything is imported
        began = time.perf_counter()
        spent = sum(pool.map(decode, [files[k : k + 256] for k in range(0, len(files), 256)]))
        return time.perf_counter() - began, spent


def food(root: Path) -> Any:
    """The data set."""
    from datamodules.table import Table
    from mmbench.data.missingness.fixed import natural
    from mmbench.data.scenario import Scenario

    return Table(
        root,
        Scenario("natural", natural(), natural(), (natural(),)),
        files={"photo": "photo.csv", "title": "title.csv"},
        labels="labels.csv",
        kinds={"photo": "image", "title": "tokens"},
        split="split",
        size=STORED,
    )


def prepare(root: Path) -> tuple[float, float]:
    """Seconds until all splits can be read, imports aside, and of a core."""
    data = food(root)
    began, spent = time.perf_counter(), cpu_s()
    for split in ("train", "val", "test"):
        data.samples(split)
    return time.perf_counter() - began, cpu_s() - spent


def epoch(root: Path) -> tuple[float, float, float]:
    """Seconds, and of a core, to read a training picture in a batch; of fitting scales, before."""
    data = food(root)
    data.samples("train")
    began = time.perf_counter()
    data.setup()
    scales_s = time.perf_counter() - began
    loader = data.train_dataloader()
    began, spent = time.perf_counter(), cpu_s()
    samples = 0
    for _ in range(EPOCHS):
        for batch in loader:
            samples += len(batch.inputs["photo"])
    return (time.perf_counter() - began) / samples, (cpu_s() - spent) / samples, scales_s


def bags(root: Path) -> tuple[float, float]:
    """Seconds until slides can be read, and of an epoch."""
    from datamodules.table import Table
    from mmbench.data.missingness.fixed import natural
    from mmbench.data.scenario import Scenario

    began = time.perf_counter()
    data = Table(
        root,
        Scenario("natural", natural(), natural(), (natural(),)),
        files={"slide": "slides"},
        labels="slide_labels.csv",
        kinds={"slide": "bag"},
        batch_size=8,
    )
    data.setup()
    prepared_s = time.perf_counter() - began
    began = time.perf_counter()
    for batch in data.train_dataloader():
        batch.inputs["slide"]
    return prepared_s, time.perf_counter() - began


def measured(step: Callable[[Path], Any], root: Path) -> tuple[Any, float]:
    """What a step gives in a process of its own, and the GiB that it held at most."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(step, root, writer))
    process.start()
    writer.close()
    result: tuple[Any, float] = reader.recv()
    process.join()
    return result


def _report(step: Callable[[Path], Any], root: Path, writer: Any) -> None:
    import torch

    torch.set_num_threads(1)
    value = step(root)
    writer.send((value, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5000, help="90688 for the whole of it")
    parser.add_argument("--slides", type=int, default=60, help="231 for a cohort")
    args = parser.parse_args()
    pairs = args.pairs
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["MMBENCH_CACHE"] = str(root / "cache")
        write_twin(root, pairs)
        run = partial(measured, root=root)
        (bare_s, bare_cpu), _ = run(bare)
        cores = len(os.sched_getaffinity(0))
        say(f"{pairs:,} pairs, decoded by {cores} cores in {bare_s:.1f} s ({bare_cpu:.1f} of one)")
        (prepared_s, prepared_cpu), prepared_gib = run(prepare)
        say(
            f"prepared in {prepared_s:.1f} s ({prepared_cpu:.1f}): {bare_s / prepared_s:.2f} x as "
            f"fast ({bare_cpu / prepared_cpu:.2f}; at least 0.8)"
        )
        (again_s, again_cpu), again_gib = run(prepare)
        say(f"found by a second process in {again_s:.2f} s ({again_cpu:.2f}; at most 2)")
        (sample_s, sample_cpu, scales_s), epoch_gib = run(epoch)
        epoch_s, epoch_cpu = pairs * sample_s, pairs * sample_cpu
        say(
            f"read once in {epoch_s:.1f} s ({epoch_cpu:.1f}): {bare_s / epoch_s:.1f} x faster than "
            f"decoding ({bare_cpu / epoch_cpu:.1f}; at least 5)"
        )
        peak = max(prepared_gib, again_gib, epoch_gib)
        say(f"scales fitted in {scales_s:.2f} s; peak memory {peak:.2f} GiB (at most 2)")
        slides_gib = write_slides(root, args.slides)
        (slides_s, patches_s), bags_gib = run(bags)
        say(
            f"{args.slides} slides of {slides_gib:.2f} GiB prepared in {slides_s:.1f} s, read once "
            f"in {patches_s:.1f} s; peak memory {bags_gib:.2f} GiB, {bags_gib - slides_gib:.2f} "
            "beside the mapped file (at most 2)"
        )


if __name__ == "__main__":
    main()
