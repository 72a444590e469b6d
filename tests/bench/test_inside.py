"""A run whose test conditions hide parts of modalities: predictions, and what the record says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from arrays import Arrays, alike
from sweeps import NO_DATA, specs

from mmbench.bench.leaderboard import leaderboard
from mmbench.bench.record import find_run, read_predictions
from mmbench.bench.result import read_result
from mmbench.bench.run.build import build_data
from mmbench.bench.run.evaluation import evaluate
from mmbench.bench.run.run import run
from mmbench.data.missingness.within import Gap, realised_inside
from mmbench.data.samples import Samples
from mmbench.method import Method, Paper

NATURAL = {"mechanism": "natural"}
FEATURES = {"mechanism": "features", "feature_rate": [0.0, 0.5]}


class Sums(Method):
    """Predicts the sum of what it sees, past `Batch.embed` or through it."""

    paper = Paper("Sums")

    def forward(self, batch):
        seen = [
            batch.embed(m, lambda x, _: x.flatten(1).sum(1, keepdim=True)) for m in batch.inputs
        ]
        raw = [batch.inputs[m].flatten(1).sum(1, keepdim=True) for m in batch.inputs]
        return torch.cat([sum(seen), sum(raw)], 1)


def test_each_condition_is_evaluated_on_what_it_leaves_and_on_nothing_remembered():
    rng = np.random.default_rng(0)
    inputs = {"a": rng.standard_normal((70, 9)), "b": rng.standard_normal((70, 4))}
    splits = alike(inputs, np.arange(70) % 2)
    data = Arrays(splits, scenario={"train": NATURAL, "test": [FEATURES, NATURAL]}, batch_size=16)
    data.setup()
    outputs = evaluate(Sums(data.task), data)
    assert set(outputs) == {"natural", "features_0.5"}
    gaps = data.condition_gaps("features_0.5")
    assert gaps
    start = 0
    for batch in data.batches("test"):
        rows = torch.arange(start, start := start + len(batch))
        hidden = batch.with_gaps(gaps, rows)
        expected = sum(x.flatten(1).sum(1) for x in hidden.inputs.values())
        for column in (0, 1):
            np.testing.assert_allclose(
                outputs["features_0.5"][rows, column], expected, rtol=1e-4, atol=1e-4
            )
    assert not np.allclose(outputs["natural"], outputs["features_0.5"])


def test_a_run_records_what_was_hidden_inside(tmp_path):
    spec = specs()[1]
    spec = replace(spec, scenario={"name": "inside", "train": NATURAL, "test": [FEATURES]})
    outcome = run(spec, tmp_path, NO_DATA)
    assert outcome.state == "done", outcome.why
    found = find_run(spec, tmp_path)
    whole, half = (read_predictions(found, c)["logits"] for c in ("natural", "features_0.5"))
    assert not np.allclose(whole, half)
    condition = read_result(found.folder).conditions["features_0.5"]
    assert condition.mechanism == "features"
    assert condition.missing_rate_nominal == 0.5
    assert "mmbench.data.missingness.within" in read_result(found.folder).sources
    assert read_result(found.folder).conditions["natural"].inside == {}
    data = build_data(spec, NO_DATA)
    data.setup()
    seen = [gap.observed for gap in data.condition_gaps("features_0.5").values()]
    gone, total = sum((~one).sum() for one in seen), sum(one.size for one in seen)
    assert 0.45 < gone / total < 0.55
    assert condition.inside_rate == gone / total
    board = leaderboard([found]).drop_duplicates("condition").set_index("condition")
    assert board["inside_rate_realised"]["features_0.5"] == pytest.approx(gone / total)
    assert np.isnan(board["inside_rate_realised"]["natural"])


def test_what_went_inside_is_counted_of_what_is_there_without_padding():
    samples = Samples(
        modalities=("sound", "lab"),
        inputs={"sound": np.zeros((3, 4, 2)), "lab": np.zeros((3, 5))},
        target=np.zeros(3, int),
        sample_id=np.arange(3),
        presence=np.ones((3, 2), bool),
        lengths={"sound": np.array([4, 2, 3])},
    )
    presence = np.array([[True, True], [True, False], [False, True]])
    sound = np.array([[1, 0, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]], bool)  # padding is never there
    gaps = {"sound": Gap(sound), "lab": Gap(noise=None)}
    assert realised_inside(gaps, samples, presence) == {"sound": (2, 6)}
