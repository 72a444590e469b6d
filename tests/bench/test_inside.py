"""A run whose test conditions hide parts of modalities: predictions, and what the record says."""

from dataclasses import replace

import numpy as np
import torch
from arrays import Arrays, alike
from sweeps import NO_DATA, specs

from mmbench.bench.record import find_run, read_predictions
from mmbench.bench.result import read_result
from mmbench.bench.run.evaluation import evaluate
from mmbench.bench.run.run import run
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
