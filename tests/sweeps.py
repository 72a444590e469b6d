"""Small suites that tests of the sweep share."""

import os
from pathlib import Path

from mmbench.bench.plan import plan
from mmbench.bench.spec import Suite, parse

MCAR = {
    "name": "mcar30",
    "train": {"mechanism": "mcar", "missing_rate": 0.3},
    "test": {"mechanism": "mcar", "missing_rate": [0.0, 0.3]},
}


def suite(**changes):
    """Two methods on a few samples of mfeat, one epoch, one seed."""
    words = {
        "name": "tiny",
        "data": [{"name": "mfeat", "args": {"modalities": ["fou", "kar"]}}],
        "methods": ["majority", {"name": "zero_fill", "args": {"dim": 8}}],
        "scenarios": [MCAR],
        "seeds": 1,
        "trainer": {"max_epochs": 1},
        "select": {"metric": "accuracy"},
        "limit": 64,
    }
    return parse(Suite, words | changes, "test suite")


def specs(**changes):
    """The runs of `suite`."""
    return plan(suite(**changes))


NO_DATA = Path("no-data")  # shipped sets do not look at the user's folder


def visible():
    """What a worker sees; here, since a package `tests` of others would hide ours from it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")
