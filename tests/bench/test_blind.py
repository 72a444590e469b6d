"""A method is told neither targets nor names in evaluation, and cannot reach the test split."""

import numpy as np
import pytest
import torch
from arrays import Arrays, alike, fit

from mmbench.bench.run.evaluation import evaluate
from mmbench.bench.run.meters import flops_by_pattern
from mmbench.bench.run.selection import KeepBest
from mmbench.data.batch import LeakError
from mmbench.datamodule import DataModule, Fitting
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.method import Method, Paper, Stage


def noise(n=60, **arguments):
    """Features say nothing; ids are sorted by class."""
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    return Arrays(alike({"x": x, "y": x[:, ::-1].copy()}, np.arange(n) // (n // 2)), **arguments)


class Honest(Method):
    paper = Paper("an honest method")

    def __init__(self, task):
        super().__init__(task, lr=1e-2)
        self.encode = ModalityEncoders(task, 8)
        self.head = torch.nn.Linear(8, task.num_outputs)

    def forward(self, batch):
        return self.head(masked_mean(self.encode(batch), batch.presence))


class ReturnsTheTarget(Honest):
    def forward(self, batch):
        return super().forward(batch) + 9 * torch.nn.functional.one_hot(batch.target, 2)


class EmbedsTheId(Honest):
    def __init__(self, task):
        super().__init__(task)
        self.table = torch.nn.Embedding(3000, task.num_outputs)

    def forward(self, batch):
        return super().forward(batch) + self.table(batch.sample_id)


class UsesTheIdAsANumber(Honest):
    """Later samples are of the second class, in every split."""

    def __init__(self, task):
        super().__init__(task)
        self.line = torch.nn.Parameter(torch.zeros(2))

    def forward(self, batch):
        late = (batch.sample_id % 1000).float() / 120 - 1
        return super().forward(batch) + 3 * late[:, None] * self.line

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class ReadsTheTestSplit(Honest):
    how = staticmethod(lambda data: data.split("test"))

    def loss(self, batch):
        self.how(self.trainer.datamodule)
        return super().loss(batch)


class KeepsWhatValidationIsGiven(Honest):
    def on_validation_batch_start(self, batch, batch_idx):
        self.seen = batch.target.float().mean()


def trained(cls, data, epochs=1):
    torch.manual_seed(0)
    method = cls(data.task)
    fit(method, data, KeepBest(data, "accuracy", "val", None), epochs)
    return method


@pytest.mark.parametrize("cls", [ReturnsTheTarget, KeepsWhatValidationIsGiven])
def test_a_method_that_reads_the_target_in_evaluation_fails(cls):
    with pytest.raises(LeakError, match="target of a validation or test batch was read"):
        trained(cls, noise())


def test_a_method_that_returns_the_target_fails_on_the_test_split_too():
    data = noise()
    data.setup()
    with pytest.raises(LeakError, match="target of a validation or test batch was read"):
        evaluate(ReturnsTheTarget(data.task), data)


def test_a_method_that_looks_up_the_id_fails():
    with pytest.raises(IndexError):
        trained(EmbedsTheId, noise())


def test_a_method_that_learns_from_the_id_has_nothing_of_it_in_evaluation():
    data = noise(240, batch_size=48)
    method = trained(UsesTheIdAsANumber, data, epochs=4)
    batch = data.split("train")[list(range(240))]
    assert (method(batch).argmax(1) == batch.target).float().mean() > 0.9  # it has learned
    right = evaluate(method, data)["natural"].argmax(1) == data.samples("test").target
    assert 0.4 < right.mean() < 0.6


@pytest.mark.parametrize(
    "how",
    [
        lambda data: data.split("test"),
        lambda data: data.samples("test"),
        lambda data: data.load("test"),
        lambda data: data.test_dataloader(),
        lambda data: data.batches("val"),
        lambda data: data.loaded,
        lambda data: data.condition_presence("natural"),
    ],
)
def test_a_method_that_reaches_for_a_split_while_it_is_fitted_fails(how):
    class Reaches(ReadsTheTestSplit):
        pass

    Reaches.how = staticmethod(how)
    with pytest.raises(LeakError, match="asked for while the method was fitted"):
        trained(Reaches, noise())


def test_an_honest_method_passes():
    data = noise()
    assert evaluate(trained(Honest, data), data)["natural"].shape == (60, 2)


def test_everything_of_a_data_module_is_refused_but_what_fits():
    view = Fitting(noise())
    for name in vars(DataModule):
        if name.startswith("_") or name in ("train_dataloader", "val_dataloader", "setup"):
            continue
        with pytest.raises(LeakError):
            getattr(view, name)()
    with pytest.raises(AttributeError):
        view.nothing  # noqa: B018


def test_stand_ins_for_ids_depend_on_the_id_alone_and_lead_back():
    data = noise()
    val = data.split("val")
    whole = torch.cat([batch.sample_id for batch in data.val_dataloader()])
    assert (whole < 0).all()
    assert len(whole.unique()) == len(whole)
    part = val[[7, 3]].blind()
    assert torch.equal(part.sample_id, whole[[7, 3]])
    assert val.rows_of(part.sample_id).tolist() == [7, 3]
    halves = whole.argsort().argsort().float()  # no order of theirs tells the class
    assert abs(halves[:30].mean() - halves[30:].mean()) < 15


class Staged(Honest):
    """Notes in which stages it was given a teacher for validation."""

    def __init__(self, task):
        super().__init__(task)
        self.seen = []

    @property
    def stages(self):
        return (Stage("first", epochs=1), Stage("last", epochs=1))

    def stage_output(self, batch):
        self.seen.append((self.stage, batch.teacher))
        return self(batch)

    def forward(self, batch):
        if not self.training and self.stage == "":
            assert batch.teacher is None
        return super().forward(batch)


MCAR = {"mechanism": "mcar", "missing_rate": 0.4}


def test_validation_has_a_teacher_under_full_access_in_early_stages_alone():
    data = noise(scenario={"train": MCAR, "test": MCAR, "regime": "full_access"})
    method = Staged(data.task)
    for stage in method.stages:
        method.begin(stage)
        fit(method, data, KeepBest(data, "accuracy", "val", None), 1)
    first = [teacher for name, teacher in method.seen if name == "first"]
    assert first
    for teacher in first:
        assert teacher.presence.all()
        with pytest.raises(LeakError):
            teacher.target.sum()
        assert (teacher.sample_id < 0).all()
    assert [teacher for name, teacher in method.seen if name == "last"] == [None]
    assert all(batch.teacher is None for batch in data.test_dataloader())
    withheld = noise(scenario={"train": MCAR, "test": MCAR})
    assert all(batch.teacher is None for batch in withheld.val_dataloader())


def test_what_validation_remembers_of_a_teacher_is_not_what_it_remembers_of_its_batch():
    """A frozen encoder, asked for the shown batch, must not answer from the whole sample."""
    data = noise(scenario={"train": MCAR, "test": MCAR, "regime": "full_access"})
    encoder = torch.nn.Linear(4, 3).requires_grad_(False).eval()

    class Takes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = encoder

        def forward(self, x, lengths):
            return self.inner(x)

    takes = Takes().eval()
    for batch in data.val_dataloader():
        whole = batch.teacher.embed("x", takes)
        shown = batch.embeddings.embed("x", takes)  # before rows are zeroed
        gap = ~batch.has("x")
        assert gap.any()
        assert torch.equal(shown[gap], encoder.bias.expand(int(gap.sum()), -1))
        assert not torch.allclose(whole[gap], shown[gap])
        assert torch.allclose(batch.embed("x", takes)[~gap], whole[~gap])


class RowsThatCount(Staged):
    """Right on the even samples, wrong on the odd ones; the early stage counts the even ones."""

    def stage_output(self, batch):
        truth = batch.inputs["y"][:, 0] > 0
        even = batch.inputs["x"][:, 0] > 0
        return torch.nn.functional.one_hot((truth == even).long(), 2) + 0 * super().forward(batch)

    def stage_rows(self, batch):
        return batch.inputs["x"][:, 0] > 0 if self.stage == "first" else None


def test_an_early_stage_is_scored_on_the_rows_that_it_says():
    n = 40
    target, even = np.arange(n) % 2, (np.arange(n) // 2) % 2
    inputs = {"x": even[:, None].astype(np.float32), "y": target[:, None].astype(np.float32)}
    data = Arrays(alike(inputs, target))
    method = RowsThatCount(data.task)
    best = []
    for stage in method.stages:
        method.begin(stage)
        keep = KeepBest(data, "accuracy", "val", None)
        fit(method, data, keep, 1)
        best.append(keep.best)
    assert best == [1.0, 0.5]


def test_a_stage_that_counts_no_row_selects_nothing():
    data = noise()

    class CountsNobody(Staged):
        def stage_rows(self, batch):
            return torch.zeros(len(batch), dtype=torch.bool)

    method = CountsNobody(data.task)
    method.begin(method.stages[0])
    with pytest.raises(ValueError, match=r"no number after epoch 0 \(0 samples were scored\)"):
        fit(method, data, KeepBest(data, "accuracy", "val", None), 1)


def test_operations_are_counted_on_rows_that_keep_a_modality():
    class NeedsOne(Honest):
        def forward(self, batch):
            assert batch.presence.any(1).all()
            return super().forward(batch)

    whole = noise(20)
    presence = np.ones((20, 2), bool)
    presence[:12, 1] = False  # the first batch has x alone
    gaps = noise(20, batch_size=10)
    gaps.splits = {
        split: type(part)(part.modalities, part.inputs, part.target, part.sample_id, presence)
        for split, part in gaps.splits.items()
    }
    full = flops_by_pattern(NeedsOne(whole.task), whole, torch.device("cpu"))
    found = flops_by_pattern(NeedsOne(gaps.task), gaps, torch.device("cpu"))
    assert set(found) == {"x+y", "x", "y"}
    assert found["y"] == full["y"] > 0
    presence[:] = [True, False]
    never = noise(20)
    never.splits = gaps.splits
    assert flops_by_pattern(NeedsOne(never.task), never, torch.device("cpu"))["y"] is None
