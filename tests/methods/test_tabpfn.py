"""The package's weights cannot be shipped: a stand-in of the package says what it was asked."""

import sys

import numpy as np
import pytest
import torch

from mmbench.checks.methods import METHOD_CHECKS
from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.tabpfn import TabPFN

PACKAGE = """
from pathlib import Path

from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier

def fetch():
    raise AssertionError("a download was asked for")

class Asked:
    def __init__(self, *, model_path="auto", device="auto", ignore_pretraining_limits=False,
                 random_state=0):
        if model_path == "auto":
            fetch()
        assert Path(model_path).read_text() == "weights"
        assert device == "cpu" and 0 <= random_state < 2**31

    def fit(self, x, y):
        self.nan = x != x
        self.inner.fit(self.filled(x), y)
        self.classes_ = getattr(self.inner, "classes_", None)
        return self

    def filled(self, x):
        x = x.copy()
        x[x != x] = 0
        return x

    def predict_proba(self, x):
        return self.inner.predict_proba(self.filled(x))

    def predict(self, x):
        return self.inner.predict(self.filled(x))

class TabPFNClassifier(Asked):
    inner = property(lambda self: self.__dict__.setdefault("made", KNeighborsClassifier(3)))

class TabPFNRegressor(Asked):
    inner = property(lambda self: self.__dict__.setdefault("made", LinearRegression()))
"""
TASK = Task("single_label", tuple(Modality(m, "vector", (2,)) for m in "ab"), ("x", "y"))
# a class inside a test cannot be found by another process
RULES = sorted(name for name, rule in METHOD_CHECKS.items() if rule.scope != "once")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of weights, with the stand-in installed."""
    (tmp_path / "tabpfn.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tabpfn", raising=False)
    (tmp_path / "weights.ckpt").write_text("weights")
    yield str(tmp_path / "weights.ckpt")
    sys.modules.pop("tabpfn", None)


def test_without_a_file_of_weights_it_is_a_dash(weights):
    reason = TabPFN.reason_not(TASK)
    assert reason == "needs weights=FILE, a local file of TabPFN's weights; none is downloaded"
    assert TabPFN.reason_not(TASK, weights=weights) is None


def test_without_the_package_it_is_a_dash(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert TabPFN.reason_not(TASK, weights="any") == "needs the package tabpfn"


def test_a_file_that_is_not_there_is_refused_before_the_package_could_fetch_it(tmp_path):
    with pytest.raises(ValueError, match="there is no file of TabPFN's weights at"):
        TabPFN(TASK, weights=str(tmp_path / "none.ckpt"))


def test_gaps_reach_it_as_gaps(weights):
    method = TabPFN(TASK, weights=weights)
    train = make_batch(TASK, all_patterns(TASK, repeat=4))
    method.prepare([train])
    method(train)
    [part] = method._fits[0].parts
    there = np.repeat(train.presence.numpy(), 2, axis=1)
    np.testing.assert_array_equal(part.nan[:, :4], ~there)
    assert not part.nan[:, 4:].any()


@pytest.mark.parametrize(
    "task", [t for t in TASKS if t.kind in TabPFN.applies.tasks], ids=lambda task: task.kind
)
@pytest.mark.parametrize("check", RULES)
def test_it_keeps_the_contract(check, task, weights):
    class WithWeights(TabPFN):
        def __init__(self, task):
            super().__init__(task, weights=weights)

    METHOD_CHECKS[check](WithWeights, task)


def test_it_predicts_with_the_package(weights):
    torch.manual_seed(0)
    method = TabPFN(TASK, weights=weights)
    train = make_batch(TASK, torch.ones(40, 2, dtype=torch.bool))
    method.prepare([train])
    assert (method(train).argmax(1) == train.target).float().mean() > 0.8
