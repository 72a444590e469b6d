"""Tests leave nothing in the user's cache, and no garbage collection visits what they import."""

import gc
import sys
import warnings

import pytest
from slurm import cluster  # noqa: F401 - a fixture


@pytest.fixture(scope="session", autouse=True)
def own_cache_of_all(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def mmbench(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, output and errors."""

    from mmbench.cli import main  # not above: shapes are checked of what is imported after this

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["mmbench", *map(str, words)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return call


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
