"""Methods without training: what they choose on, what they cost, when they are a dash."""

import json

import pytest
import torch
from safetensors.torch import load_file
from sweeps import NO_DATA, specs

from mmbench.bench.record import find_run
from mmbench.bench.run.build import build_data
from mmbench.bench.run.run import run
from mmbench.methods.late_logistic import STRENGTHS, LateLogistic
from mmbench.methods.logistic import Logistic


def finished(tmp_path, method):
    [spec] = specs(methods=[method], keep_weights=True)
    assert run(spec, tmp_path, NO_DATA).state == "done"
    folder = find_run(spec, tmp_path).folder
    return spec, load_file(folder / "weights.safetensors"), folder


def test_a_setting_is_chosen_on_validation_and_the_record_counts_the_time(tmp_path):
    spec, weights, folder = finished(tmp_path, "logistic")
    data = build_data(spec, NO_DATA)
    method = Logistic(data.task)
    method.prepare(data.batches("train"))
    losses = {}
    for split in ("train", "val"):
        total = 0.0
        for batch in data.batches(split):
            outputs = method.candidates(batch).unbind(1)
            total = total + torch.stack([method.row_loss(o, batch.target).sum() for o in outputs])
        losses[split] = total
    assert weights["chosen"] == losses["val"].argmin()
    assert weights["chosen"] != losses["train"].argmin()  # which hardly regularises
    cost = json.loads((folder / "metrics.json").read_text())["cost"]
    assert cost["train_s"] > 0


def test_the_test_split_has_no_part_in_what_is_learned(tmp_path):
    _, weights, _ = finished(tmp_path, "late_logistic")
    [spec] = specs(methods=["late_logistic"])
    data = build_data(spec, NO_DATA)
    data.setup()
    method = LateLogistic(data.task)
    method.prepare(data.batches("train"))
    paths = list(method._paths)
    for m, (weight, _, _) in enumerate(paths):
        kept = [torch.allclose(weights[f"experts.{m}.weight"], w.T) for w in weight]
        assert sum(kept) == 1  # one of those fitted on training
    assert len(STRENGTHS) == len(paths[0][0])


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"name": "unimodal", "args": {"modality": "pix"}}, "no modality named 'pix'"),
        ("tabpfn", "needs the package tabpfn|needs weights=FILE"),
    ],
)
def test_what_cannot_be_had_for_a_data_set_is_a_dash_with_its_reason(tmp_path, entry, why):
    [spec] = specs(methods=[entry])
    outcome = run(spec, tmp_path, NO_DATA)
    assert outcome.state == "skipped"
    assert any(part in outcome.why for part in why.split("|"))
