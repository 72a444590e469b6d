"""Methods that train in several stages, with and without accidents between them."""

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import SoftFileLease
from safetensors.torch import load_file
from sweeps import MCAR
from torch import nn
from waiting import leases_of, wait_until_lost

from mmbench import store
from mmbench.bench.record import SHARED
from mmbench.bench.run.build import build_data
from mmbench.bench.run.identity import _trains
from mmbench.bench.run.run import run
from mmbench.bench.spec import RunSpec
from mmbench.data.batch import Batch
from mmbench.data.embeddings import Embeddings, is_frozen
from mmbench.layers.encoders import ModalityEncoders
from mmbench.method import Method, Paper, Stage
from mmbench.registry import METHODS

calls: list[int] = []  # batches that the encoders of TwoStages were asked to encode


class Counted(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, lengths):
        calls.append(len(x))
        return self.inner(x, lengths)


class TwoStages(Method):
    """Train encoders with one head, freeze them, train another head on them."""

    paper = Paper("two stages")
    dies: str = ""  # stage in which the training is cut off

    def __init__(
        self, task, *, shared: bool = False, before: bool = False, lr: float = 1e-3, dim: int = 8
    ) -> None:
        super().__init__(task, lr=lr)
        self.shared = shared
        self.encode = ModalityEncoders(task, dim)
        for number, encoder in enumerate(self.encode.in_order):
            self.encode.in_order[number] = Counted(encoder)
        self.first = nn.Linear(dim * len(task.modalities), task.num_outputs)
        self.second = nn.Linear(dim * len(task.modalities), task.num_outputs)
        self.more = nn.Linear(3, 3) if before else None

    @property
    def stages(self):
        return (
            Stage(
                "encoders",
                ("encode", "first"),
                epochs=2,
                shared_across=("before",) if self.shared else (),
            ),
            Stage("head", ("second",), epochs=3, select="last"),
        )

    def forward(self, batch):
        return self.second(self.encode(batch).flatten(1))

    def stage_output(self, batch):
        head = self.first if self.stage == "encoders" else self.second
        return head(self.encode(batch).flatten(1))

    def loss(self, batch):
        if self.stage == self.dies and self.current_epoch == 1:
            raise RuntimeError("cut off")
        return {self.stage: self.task_loss(self.stage_output(batch), batch.target)}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    known = METHODS.get
    monkeypatch.setattr(METHODS, "get", lambda name: TwoStages if name == "two" else known(name))
    monkeypatch.setattr(TwoStages, "dies", "")
    calls.clear()


def spec(**changes) -> RunSpec:
    words = {
        "method": "two",
        "data": "mfeat",
        "scenario": MCAR,
        "trainer_args": {"max_epochs": 9, "batch_size": 32, "accelerator": "cpu"},
        "select": {"metric": "accuracy", "on": "val"},
        "limit": 96,
        "method_label": "two",
        "data_label": "mfeat",
        "keep_weights": True,
    }
    return RunSpec(**(words | changes))


def done(made: RunSpec, runs: Path, root: Path) -> None:
    outcome = run(made, runs, root)
    assert outcome.state == "done", outcome.why


def record(made: RunSpec, runs: Path) -> dict:
    return json.loads((runs / made.folder / "metrics.json").read_text())


def logits(made: RunSpec, runs: Path) -> np.ndarray:
    return np.load(runs / made.folder / "predictions" / "complete.npz")["logits"]


def test_stages_follow_each_other_and_are_recorded(tmp_path):
    done(spec(), tmp_path, tmp_path)
    stages = record(spec(), tmp_path)["stages"]
    assert [words["stage"] for words in stages] == ["encoders", "head"]
    assert [words["selected"]["epoch"] for words in stages][1] == 2  # select="last" of 3 epochs
    outputs, width = 10, 8 * 6
    assert stages[1]["params_trainable"] == width * outputs + outputs
    assert stages[0]["params_trainable"] > stages[1]["params_trainable"]
    # the encoders are counted although their outputs come from memory by then
    assert stages[0]["flops_per_sample"] == stages[1]["flops_per_sample"] > 2 * width * outputs

    curve = pd.read_csv(tmp_path / spec().folder / "metrics.csv")
    assert sorted(curve["epoch"].unique()) == [0, 1, 2, 3, 4]  # 2 epochs and 3
    assert set(curve["stage"]) == {"encoders", "head"}
    left = {item.name for item in (tmp_path / spec().folder).iterdir()}
    assert not left & {"stages", "curves"}


def test_what_a_stage_froze_runs_once_for_each_sample(tmp_path):
    done(spec(), tmp_path, tmp_path)
    # first stage: 2 epochs; second: 1 of 3; 6 modalities, 96 training and 96 validation samples;
    # then the test split once, and 3 batches to count operations in loss and 2 x 2 in forward
    learning = 2 * (96 + 96) * 6
    frozen = (96 + 96) * 6
    assert sum(calls[: 6 * 3 * 2 * 2]) == learning
    assert sum(calls) >= learning + frozen
    afterwards = calls[6 * 3 * 2 * 2 + 6 :]  # one batch counts operations
    assert sum(afterwards[: 6 * 3 * 2]) == frozen
    rest = sum(afterwards[6 * 3 * 2 :])
    # once for validation as the test conditions show it, and once for the test split; two more
    # epochs would add as much again
    assert rest < frozen * 2.5


@pytest.mark.slow
def test_a_run_that_is_cut_off_continues_with_the_stage_it_was_in(tmp_path, monkeypatch):
    done(spec(), tmp_path / "whole", tmp_path)

    monkeypatch.setattr(TwoStages, "dies", "head")
    assert run(spec(), tmp_path / "cut", tmp_path).state == "failed"
    monkeypatch.setattr(TwoStages, "dies", "encoders")  # must not be trained again
    done(spec(), tmp_path / "cut", tmp_path)
    assert np.array_equal(logits(spec(), tmp_path / "whole"), logits(spec(), tmp_path / "cut"))


def test_a_stage_in_common_is_trained_once(tmp_path, monkeypatch):
    one = spec(method_args={"shared": True}, method_label="one")
    two = spec(method_args={"shared": True, "before": True}, method_label="two")
    done(one, tmp_path, tmp_path)
    monkeypatch.setattr(TwoStages, "dies", "encoders")
    done(two, tmp_path, tmp_path)
    a, b = (load_file(tmp_path / s.folder / "weights.safetensors") for s in (one, two))
    for name in (n for n in a if n.startswith("encode")):
        assert torch.equal(a[name], b[name])
    assert record(two, tmp_path)["stages"][0] == record(one, tmp_path)["stages"][0]
    other = spec(method_args={"shared": True}, seed=1)
    assert run(other, tmp_path, tmp_path).state == "failed"  # another seed is another stage


@pytest.mark.parametrize(
    "changes",
    [
        {"method_args": {"shared": True, "lr": 2e-3}},
        {"method_args": {"shared": True, "dim": 9}},
        {"seed": 1},
        {"fold": 1},
        {"limit": 95},
        {"encoders": {"vector": {"depth": 1}}},
    ],
)
def test_what_may_change_a_stage_in_common_makes_another_one(tmp_path, monkeypatch, changes):
    done(spec(method_args={"shared": True}), tmp_path, tmp_path)
    monkeypatch.setattr(TwoStages, "dies", "encoders")  # would have to be trained
    assert run(spec(**{"method_args": {"shared": True}} | changes), tmp_path, tmp_path).state == (
        "failed"
    )


def test_a_default_that_is_written_out_and_kept_weights_share_a_stage(tmp_path, monkeypatch):
    done(spec(method_args={"shared": True}), tmp_path, tmp_path)
    monkeypatch.setattr(TwoStages, "dies", "encoders")
    done(
        spec(method_args={"shared": True, "lr": 1e-3}, keep_weights=False, method_label="lr"),
        tmp_path,
        tmp_path,
    )


PLUGIN = """
from torch import nn
from mmbench.layers.encoders import ModalityEncoders
from mmbench.method import Method, Paper, Stage


class Edited(Method):
    paper = Paper("edited")

    def __init__(self, task, *, more: int = 0) -> None:
        super().__init__(task)
        self.encode = ModalityEncoders(task, 8)
        self.first = nn.Linear(8 * len(task.modalities), task.num_outputs)
        self.second = nn.Linear(8 * len(task.modalities), task.num_outputs)

    @property
    def stages(self):
        first = Stage("encoders", ("encode", "first"), epochs=1, shared_across=("more",))
        return (first, Stage("head", ("second",), epochs=1))

    def forward(self, batch):
        return self.second(self.encode(batch).flatten(1))

    def stage_output(self, batch):
        head = self.first if self.stage == "encoders" else self.second
        return head(self.encode(batch).flatten(1))

    def loss(self, batch):
        return {"task": SCALE * self.task_loss(self.stage_output(batch), batch.target)}
"""

ONE_RUN = """
import sys
from pathlib import Path
from mmbench.bench.run.run import run
from mmbench.bench.spec import RunSpec
import json

made = RunSpec.from_json(json.loads(sys.argv[1]))
outcome = run(made, Path("runs"), Path())
assert outcome.state == "done", outcome.why
"""


@pytest.mark.slow
@pytest.mark.full
def test_two_edits_of_one_method_never_share_a_stage_and_two_runs_of_one_edit_do(tmp_path):
    """In a process each, as a user's next command is; no commit tells the edits apart."""
    made = []
    for scale, more in (("1.0", 0), ("1.0", 1), ("1.5", 0), ("1.0", 0)):
        (tmp_path / "edited.py").write_text(PLUGIN.replace("SCALE", scale))
        words = spec(
            method="edited.Edited", method_args={"more": more}, method_label=f"{len(made)}"
        ).to_json()
        subprocess.run(
            [sys.executable, "-c", ONE_RUN, json.dumps(words)],
            cwd=tmp_path,
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )
        made.append({item.name for item in (tmp_path / "runs" / SHARED).glob("[!.]*")})
    assert [len(found) for found in made] == [1, 1, 2, 2]


SHARED_ACROSS = {  # another value of each argument that is said to make no difference
    "cross_modal_proxy_tokens": {"alignment": 1.0},
    "imder": {"variant": "official", "steps": 3, "recover": 1.0},
    "corr_kd": {"contrast": 0.5, "prototype": 0.5, "response": 0.5, "margin": 0.5},
    "cp_imoe": {"prompt": "none", "status": "learned", "drop": "synergistic"},
    "if_mmin": {"variant": "official", "blocks": 2, "imagination": 2.0, "invariance": 2.0},
    "mce": {
        "variant": "official",
        "heads": 2,
        "depth": 2,
        "completion": 0.5,
        "separate": 0.5,
        "subset": 0.5,
    },
    "momke": {"regime": "per_condition", "router": "own", "freeze_experts": True},
    "maps": {"frozen": "warm_frozen", "lr": 1e-2, "weight_decay": 0.5},
}
PROMPTED = ("backbone_alone", "dcp", "maps", "msps", "ragpt", "redeem")
SMALL = {name: {"dim": 8} for name in SHARED_ACROSS} | {
    name: {"dim": 8, "depth": 2, "warm_epochs": 1} for name in PROMPTED
}
for name in ("dcp", "maps", "msps"):
    SMALL[name]["layers"] = 1


def stages_of(runs: Path, method: str, **args) -> dict[str, dict[str, torch.Tensor]]:
    """Stages in common that a run leaves, by their names, which say what decides them."""
    made = spec(
        method=method,
        data_args={"modalities": ["fou", "kar"]},
        method_args=SMALL[method] | args,
        trainer_args={"max_epochs": 1, "batch_size": 32, "accelerator": "cpu"},
        method_label=method,
        limit=64,
    )
    done(made, runs, runs)
    return {
        folder.name: load_file(folder / "weights.safetensors")
        for folder in (runs / SHARED).glob("[!.]*")
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", SHARED_ACROSS)
def test_an_argument_that_a_stage_is_shared_across_changes_no_bit_of_it(tmp_path, method):
    expected = stages_of(tmp_path / "base", method)
    for name, value in SHARED_ACROSS[method].items():
        stages = stages_of(tmp_path / name, method, **{name: value})
        assert stages
        assert stages.keys() <= expected.keys()
        for key, weights in stages.items():
            for part, x in weights.items():
                assert torch.equal(x, expected[key][part]), (name, part)


@pytest.mark.slow
def test_prompt_methods_warm_one_backbone_for_all(tmp_path):
    made = [stages_of(tmp_path, method).keys() for method in PROMPTED]
    assert made == [made[0]] * len(PROMPTED)
    assert len(made[0]) == 1


def test_every_argument_that_a_stage_is_shared_across_is_tried():
    task = build_data(spec(), Path()).task
    for name in METHODS.names():
        method = METHODS.get(name)
        if method.reason_not(task) is None:
            across = {a for stage in method(task).stages for a in stage.shared_across}
            known = "maps" if name in PROMPTED else name
            assert across == SHARED_ACROSS.get(known, {}).keys(), name


def test_a_subclass_shares_with_the_abstract_method_that_says_its_stages_and_with_no_other():
    class Base(TwoStages, ABC):
        @property
        def stages(self):
            return super().stages

        @abstractmethod
        def more_of_it(self): ...

    class Plain(Base):
        def more_of_it(self): ...

    class Changed(Plain):
        def loss(self, batch):
            return super().loss(batch)

    class Concrete(TwoStages):
        pass

    assert [_trains(cls) for cls in (Plain, Changed, Concrete)] == [Base, Changed, Concrete]


def test_a_stage_whose_claim_is_taken_over_stops_at_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LEASE_S", 2.0)
    monkeypatch.setattr(store, "HEARTBEAT_S", 0.05)
    leases = leases_of(monkeypatch)
    known, steps, others = TwoStages.loss, [], []

    def taken_over(method, batch):
        steps.append(method.stage)
        if len(steps) == 2:
            [file] = (tmp_path / SHARED).glob(".*.claim")
            file.unlink()  # what a contender does with a claim that fell silent
            others.append(SoftFileLease(file, lease_duration=2.0, heartbeat_interval=0.05))
            others[0].acquire(timeout=0)
            wait_until_lost(leases)
        return known(method, batch)

    monkeypatch.setattr(TwoStages, "loss", taken_over)
    made = spec(method_args={"shared": True})
    outcome = run(made, tmp_path, tmp_path)
    assert (outcome.state, outcome.why) == ("elsewhere", "another process took it over")
    assert len(steps) == 2
    assert not list((tmp_path / SHARED).glob("[!.]*"))
    others[0].release()
    monkeypatch.setattr(TwoStages, "loss", known)
    done(made, tmp_path, tmp_path)


def test_frozen_parts_neither_learn_nor_drop_out():
    task = build_data(spec(), Path()).task
    method = TwoStages(task)
    first, second = method.stages
    method.begin(first)
    method.train()
    assert method.encode.training
    assert not method.second.training
    method.begin(second)
    method.train()
    assert not any(module.training for module in method.encode.modules())
    assert [n for n, p in method.named_parameters() if p.requires_grad] == [
        "second.weight",
        "second.bias",
    ]


def test_memory_serves_frozen_encoders_alone_and_forgets_those_that_learn_again():
    x = torch.randn(4, 3)
    batch = Batch(
        modalities=("a",),
        inputs={"a": x},
        presence=torch.tensor([[True], [True], [False], [True]]),
        target=torch.zeros(4, dtype=torch.long),
        sample_id=torch.arange(4),
    )
    embeddings = Embeddings(10)
    rows = torch.tensor([7, 1, 2, 3])

    class Encoder(nn.Linear):
        def forward(self, x, lengths=None):
            calls.append(len(x))
            return super().forward(x)

    encoder = Encoder(3, 2)
    shown = batch.with_embeddings(embeddings, rows)
    assert not is_frozen(encoder)
    first = shown.embed("a", encoder)
    shown.embed("a", encoder)
    assert len(calls) == 2
    assert first.requires_grad

    encoder.requires_grad_(False).eval()
    assert is_frozen(encoder)
    for _ in range(3):
        again = shown.embed("a", encoder)
    assert len(calls) == 3
    assert torch.equal(again, first.detach())
    assert (again[2] == 0).all()
    assert not (again[0] == 0).all()
    part = batch.with_embeddings(embeddings, torch.tensor([7, 8, 2, 3]))
    part.embed("a", encoder)
    assert len(calls) == 4  # row 8 is new

    encoder.requires_grad_(True).train()
    shown.embed("a", encoder)
    with torch.no_grad():
        encoder.weight.add_(1.0)
    encoder.requires_grad_(False).eval()
    assert not torch.equal(shown.embed("a", encoder), again)
