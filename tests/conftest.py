"""Tests leave nothing in the user's cache, and no garbage collection visits what they import."""

import gc

import pytest
from slurm import cluster  # noqa: F401 - a fixture


@pytest.fixture(scope="session", autouse=True)
def own_cache_of_all(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.hookimpl(tryfirst=True)  # before tests are selected by marker
def pytest_collection_modifyitems(items):
    for item in items:
        if "fits_a_few_samples" in item.name or "trains_in_bfloat16" in item.name:
            item.add_marker(pytest.mark.slow)
        if "trains_in_bfloat16" in item.name:
            item.add_marker(pytest.mark.full)


def pytest_collection_finish():
    gc.collect()  # a run does so at its end, too; without the next line that takes seconds
    gc.freeze()
