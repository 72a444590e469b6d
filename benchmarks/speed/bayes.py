"""How long the exact posterior of synthetic data takes, and how much a plain loop would.

    python benchmarks/speed/bayes.py [samples]

100,000 samples by default, 4 modalities, 64 classes, 4,096 words of bits; the loop is Bayes' rule
word by word with scipy's density and is timed on 200 samples of the complete pattern. The two
differ by up to 1e-6, since exact ties are broken by factors of that size.
"""

import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import multivariate_normal

from datamodules.synthetic import Synthetic
from mmbench.data.missingness.dependent import MnarLabel, MnarValue
from mmbench.data.missingness.mcar import Mcar
from mmbench.data.missingness.stream import Stream
from mmbench.data.scenario import Scenario

LOOPED = 200


def main() -> None:
    """Print seconds for each mechanism, then the ratio to the loop."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    scenario = Scenario("speed", Mcar(0.0), Mcar(0.0), (Mcar(0.0),))
    data = Synthetic(
        Path(), scenario, num_modalities=4, unique=(1, 1, 1), synergistic=2, n_test=n
    )  # fmt: skip
    world = data.world
    start = time.perf_counter()
    samples = data.samples("test")
    print(f"draw {n:,} samples: {time.perf_counter() - start:.2f} s")
    for mechanism in (Mcar(0.0), Mcar(0.3), MnarLabel(0.3), MnarValue(0.3), MnarValue(0.5)):
        presence = mechanism.draw(samples, Stream(0, "test"))
        start = time.perf_counter()
        data.bayes_posterior(samples, presence, mechanism)
        seconds = time.perf_counter() - start
        print(f"posterior, {mechanism.label}: {seconds:.2f} s, {1e6 * seconds / n:.1f} us a sample")

    few = samples.take(np.arange(min(LOOPED, n)))
    complete = np.ones((len(few), 4), bool)
    posterior = data.bayes_posterior(few, complete, Mcar(0.0))
    whole = samples.presence
    start = time.perf_counter()
    data.bayes_posterior(samples, whole, Mcar(0.0))
    ours = (time.perf_counter() - start) / n
    start = time.perf_counter()
    u = np.concatenate([world.latent(few, m, np.arange(len(few))) for m in range(4)], axis=1)
    covariance = world.covariance(range(4))
    joint = np.zeros((len(few), world.num_classes))
    for word, label, prior in zip(world.words, world.word_class, world.word_prior, strict=True):
        mean = np.concatenate([world.codes[m] @ word[world.seen[m]] for m in range(4)])
        joint[:, label] += prior * multivariate_normal(mean, covariance).pdf(u)
    looped = (time.perf_counter() - start) / len(few)
    assert posterior is not None
    difference = np.abs(posterior - joint / joint.sum(axis=1, keepdims=True)).max()
    print(f"loop over words: {1e6 * looped:.0f} us a sample, {looped / ours:.0f} times as long")
    print(f"largest difference of a probability: {difference:.1e}")


if __name__ == "__main__":
    main()
