"""How fast presence tables are drawn, and what common masks are worth.

    python benchmarks/speed/presence.py [samples]

Prints, for mcar over 4 modalities, rows a second, peak MiB, and the time relative to the least
that any generator must do: a PCG64 uniform draw and a comparison, measured in the same process.
Then by how much the standard error of a difference between two methods shrinks when both are
tested on the same masks.
"""

import resource
import sys
import time
import tracemalloc

import numpy as np

from mmbench.data.missingness.mcar import Mcar
from mmbench.data.missingness.measure import realised
from mmbench.data.missingness.stream import Stream
from mmbench.data.samples import Samples

NAMES = ("audio", "image", "text", "video")
RATE = 0.3


def drawing(n: int) -> None:
    """Time one table of n samples against a bare draw of the same size."""
    nothing = np.broadcast_to(np.zeros(1, np.uint8), (n,))  # mcar looks at no value
    samples = Samples(
        modalities=NAMES,
        inputs=dict.fromkeys(NAMES, nothing),
        target=nothing,
        sample_id=np.arange(n, dtype=np.int64),
        presence=np.ones((n, len(NAMES)), bool),
    )
    start = time.perf_counter()
    presence = Mcar(RATE).draw(samples, Stream(0, "train"))
    ours = time.perf_counter() - start
    tracemalloc.start()  # a second draw, since counting takes time
    Mcar(RATE).draw(samples, Stream(0, "train"))
    added = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    # the largest resident set so far; Linux counts it in KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = realised(presence[:1_000_000], samples.presence[:1_000_000], NAMES).missing_rate

    generator = np.random.Generator(np.random.PCG64(0))
    bare = np.empty((n, len(NAMES)), bool)
    start = time.perf_counter()
    for first in range(0, n, 1 << 15):
        block = bare[first : first + (1 << 15)]
        np.greater_equal(generator.random(block.shape), RATE, out=block)
    least = time.perf_counter() - start
    print(f"mcar, {n:,} samples x {len(NAMES)} modalities, realised rate {rate:.4f}")
    print(f"  {n / ours:,.0f} rows/s, {ours:.2f} s, {ours / least:.1f} x a bare PCG64 draw")
    print(f"  the draw needs {added:.0f} MiB, its result included; the process {peak:.0f} MiB")


def common_masks(n: int = 400, draws: int = 400) -> None:
    """Compare two methods on shared and on independent masks of the same samples.

    A made-up method is right with a chance that falls with the number of absent modalities; two
    methods differ by a constant in that chance, and share what makes a sample hard.
    """
    rng = np.random.default_rng(0)
    ids = np.arange(n, dtype=np.int64)
    samples = Samples(
        modalities=NAMES,
        inputs={name: np.zeros(n) for name in NAMES},
        target=np.zeros(n, np.int64),
        sample_id=ids,
        presence=np.ones((n, len(NAMES)), bool),
    )
    weight = rng.dirichlet(np.ones(len(NAMES)), n)  # what each modality tells about each sample
    hard = rng.random(n)

    def accuracy(mask_seed: int, skill: float) -> float:
        presence = Mcar(0.5).draw(samples, Stream(mask_seed, "test"))
        return float((skill * (weight * presence).sum(axis=1) > hard * 0.8).mean())

    shared = [accuracy(i, 1.0) - accuracy(i, 0.9) for i in range(draws)]
    apart = [accuracy(i, 1.0) - accuracy(draws + i, 0.9) for i in range(draws)]
    print(f"difference of two methods over masks, {n} samples, missing rate 0.5, {draws} draws")
    print(f"  standard error: common masks {np.std(shared):.4f}, independent {np.std(apart):.4f}")
    print(f"  {np.std(apart) / np.std(shared):.1f} x smaller, worth "
          f"{np.var(apart) / np.var(shared):.0f} x as many test sets")  # fmt: skip


if __name__ == "__main__":
    drawing(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
    common_masks()
