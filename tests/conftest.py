"""Tests leave nothing in the user's cache."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache_of_all(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
