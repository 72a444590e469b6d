"""Methods that break one promise each are caught by the check of that promise."""

import random
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmbench.checks.methods import METHOD_CHECKS
from mmbench.checks.report import check_method
from mmbench.checks.tasks import TASKS, sample_tasks
from mmbench.data.task import EncoderSpec
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.method import Applies, Method, Paper
from mmbench.search import Whole, ranges

TASK = TASKS[0]  # a vector, tokens and an image
BROKEN = {}


def breaks(check, message):
    """Register a method with the check that has to catch it and a part of what it says."""

    def register(cls):
        BROKEN[cls.__name__] = (cls, check, message)
        return cls

    return register


class Sound(Method):
    """Keeps every promise; the broken ones differ from it in one thing."""

    paper = Paper("A sound method")

    def __init__(self, task):
        super().__init__(task, lr=3e-3)
        self.encode = ModalityEncoders(task, 16)
        self.head = nn.Linear(16, task.num_outputs)

    def fused(self, batch):
        return masked_mean(self.encode(batch), batch.presence)

    def forward(self, batch):
        return self.head(self.fused(batch))


# --- what is absent --------------------------------------------------------------------------


@breaks("absent_is_absent", "outputs change when absent entries hold 1000000.0")
class PeeksAtRawInputs(Sound):
    def forward(self, batch):
        peek = batch.inputs["vector"].nan_to_num().mean(1, keepdim=True)
        return super().forward(batch) + peek


@breaks("absent_is_absent", "outputs change when absent entries hold nan")
class MultipliesByPresence(Sound):
    """Zero times NaN is NaN."""

    def forward(self, batch):
        peek = batch.inputs["vector"].mean(1) * batch.has("vector")
        return super().forward(batch) + 0 * peek[:, None]


@breaks("absent_is_absent", "outputs change when absent entries hold")
class PeeksAtAbsentTokens(Sound):
    def forward(self, batch):
        return super().forward(batch) + batch.inputs["words"].float().mean(1, keepdim=True)


@breaks("absent_is_absent", "the loss changes when absent entries hold 1000000.0")
class LearnsFromAbsentInputs(Sound):
    def loss(self, batch):
        raw = batch.inputs["vector"].nan_to_num()
        return super().loss(batch) | {"raw": raw.square().mean() * self.head.bias.sum()}


# --- what surrounds the idea -----------------------------------------------------------------


@breaks("encoders_are_those_of_the_suite", "vector is read by other layers than those of the suite")
class BringsAnEncoderOfItsOwn(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.own = nn.Linear(*task.modalities[0].shape, 16)

    def fused(self, batch):
        z = self.encode(batch)
        better = batch.embed("vector", lambda x, _: self.own(x))
        return masked_mean(torch.cat([better[:, None], z[:, 1:]], 1), batch.presence)


@breaks("encoders_are_those_of_the_suite", "vector is read by other layers than those of the suite")
class IgnoresWhatTheSuiteSays(Sound):
    def __init__(self, task):
        super().__init__(task)
        plain = [replace(modality, encoder=EncoderSpec()) for modality in task.modalities]
        self.encode = ModalityEncoders(replace(task, modalities=tuple(plain)), 16)


@breaks("encoders_are_those_of_the_suite", "vector is read past Batch.embed")
class ReadsPastTheBatch(Sound):
    def fused(self, batch):
        z = [
            part(batch.inputs[n], batch.lengths.get(n)) for n, part in self.encode.encoders.items()
        ]
        return masked_mean(torch.stack(z, 1), batch.presence)


# --- what evaluation takes away ----------------------------------------------------------------


@breaks("evaluation_is_blind", "the target of a validation or test batch was read")
class ReturnsTheTarget(Sound):
    def forward(self, batch):
        return super().forward(batch) + nn.functional.one_hot(batch.target, 3)


@breaks("evaluation_is_blind", "fails on samples whose ids it never saw")
class EmbedsTheId(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.table = nn.Embedding(100, task.num_outputs)

    def forward(self, batch):
        return super().forward(batch) + self.table(batch.sample_id)


@breaks("evaluation_is_blind", "the target of a validation or test batch was read")
class ReturnsTheTargetWhenEpochsAreCompared(Sound):
    def stage_output(self, batch):
        return nn.functional.one_hot(batch.target, 3).float()


@breaks("evaluation_is_blind", "the target of a validation or test batch was read")
class OffersTheTargetAsACandidate(Sound):
    def candidates(self, batch):
        return nn.functional.one_hot(batch.target, 3).float()[:, None]


@breaks("the_last_stage_is_scored_by_the_prediction", "is not what forward predicts")
class IsComparedByOneModality(Sound):
    def stage_output(self, batch):
        others = torch.ones_like(batch.presence)
        others[:, 0] = False
        return super().stage_output(batch.hide(others))


@breaks("the_last_stage_is_scored_by_the_prediction", "stage_rows leaves samples out")
class IsComparedOnCompleteSamples(Sound):
    def stage_rows(self, batch):
        return batch.presence.all(1)


@breaks("predictions_do_not_know_the_id", "outputs change with the ids of the samples")
class HashesTheId(Sound):
    """Ids that are numbered class by class tell the class."""

    def forward(self, batch):
        return super().forward(batch) + (batch.sample_id % 3)[:, None]


@breaks(
    "training_sees_training_alone",
    "the test split was asked for while the method was fitted",
)
class LooksAtTheTestSplit(Sound):
    def on_train_start(self):
        self.seen = [batch.inputs for batch in self.trainer.datamodule.test_dataloader()]


@breaks("training_sees_training_alone", "the target of a validation or test batch was read")
class ReadsTheTargetsOfValidation(Sound):
    def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
        self.seen = batch.target.float().mean()


@breaks("evaluation_leaves_no_trace", "forward of a batch changes after another was evaluated")
class RemembersTestRows(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, batch):
        z = self.fused(batch)
        if not self.training:
            self.mean.lerp_(z.mean(0).detach(), 0.5)
            return self.head(z) + 0 * self.mean.sum() + (self.mean.sum() > 0.5)
        return self.head(z)


@breaks("evaluation_leaves_no_trace", "evaluation changes count")
class CountsTestRows(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, batch):
        if not self.training:
            self.count += len(batch)
        return super().forward(batch)


# --- other samples of the batch --------------------------------------------------------------


@breaks("samples_are_independent", "is predicted differently alone than in a batch")
class NormalisesAcrossTheBatch(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.norm = nn.BatchNorm1d(16, track_running_stats=False)

    def forward(self, batch):
        z = self.fused(batch)
        return self.head(self.norm(z) if len(z) > 1 else z)


class Centring(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(10, 16)

    def forward(self, x, lengths):
        return self.net(x - x.mean(0))


@breaks("encoders_read_samples_by_themselves", "the encoder of vector mixes samples")
class MixesSamplesInAnEncoder(Sound):
    applies = Applies(neighbours=True)

    def __init__(self, task):
        super().__init__(task)
        self.centre = Centring()

    def fused(self, batch):
        return super().fused(batch) + batch.embed("vector", self.centre)


@breaks("samples_are_independent", "outputs depend on the order")
class CountsPlaces(Sound):
    def forward(self, batch):
        return super().forward(batch) + torch.arange(len(batch))[:, None]


# --- what is learned -------------------------------------------------------------------------


@breaks("weights_are_the_whole_method", "something learned is no parameter or buffer")
class RemembersOutsideItsBuffers(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.prior = torch.zeros(task.num_outputs)

    def prepare(self, train):
        self.prior = torch.cat([batch.target for batch in train]).bincount().float()

    def forward(self, batch):
        return super().forward(batch) + self.prior


@breaks("weights_are_the_whole_method", "something learned is no parameter or buffer")
class HidesAModuleInAList(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.heads = [nn.Linear(16, task.num_outputs)]

    def forward(self, batch):
        return self.heads[0](self.fused(batch))


@breaks("weights_are_the_whole_method", "forward changes after saving and loading what came of the")
class LearnsAPlainAttributeInTheLoss(Sound):
    prior = 0.0

    def loss(self, batch):
        self.prior = batch.target.float().mean() + 1
        return super().loss(batch)

    def forward(self, batch):
        return super().forward(batch) + self.prior


@breaks("weights_are_the_whole_method", "stage_output changes after saving and loading")
class KnowsTheTargetWhenEpochsAreCompared(Sound):
    """The targets of the last training batch, kept where no state sees them."""

    past = None

    def loss(self, batch):
        self.past = nn.functional.one_hot(batch.target, 3).float()
        return super().loss(batch)

    def stage_output(self, batch):
        output = super().stage_output(batch)
        return output if self.past is None else output + self.past[: len(output)]


@breaks("training_moves_every_parameter", "head.weight, head.bias never learns")
class ForgetsTheHeadInItsOptimiser(Sound):
    def configure_optimizers(self):
        return torch.optim.Adam(self.encode.parameters())


@breaks("gradients_reach_every_parameter", "no gradient reaches unused.weight, unused.bias")
class HasADeadParameter(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.unused = nn.Linear(2, 2)


@breaks("gradients_reach_every_parameter", "no gradient reaches encode.")
class CutsTheGradient(Sound):
    def forward(self, batch):
        return self.head(self.fused(batch).detach())


@breaks("gradients_reach_every_parameter", "the gradient of scale is not finite")
class HasAnInfiniteGradient(Sound):
    """The square root has no slope at zero."""

    def __init__(self, task):
        super().__init__(task)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return super().forward(batch) + self.scale.sqrt()


@breaks("fits_a_few_samples", "task loss .* before and .* after 150 steps")
class LearnsNothing(Sound):
    def loss(self, batch):
        return {"task": -1e-3 * super().loss(batch)["task"]}


@breaks("trains_in_bfloat16", "the loss is inf after 0 steps")
class RoundsToOne(Sound):
    """Between 0.996 and 1 there is no number of that format."""

    def loss(self, batch):
        almost_one = self(batch) * 0 + 0.999
        return super().loss(batch) | {"entropy": -(1 - almost_one).log().mean()}


@breaks("batches_stay_as_they_are", "the loss changes target of a batch in place")
class SmoothsTheTargetInPlace(Sound):
    def loss(self, batch):
        batch.target.fill_(0)
        return super().loss(batch)


@breaks("batches_stay_as_they_are", "evaluation changes vector of a batch in place")
class NormalisesInputsInPlace(Sound):
    def forward(self, batch):
        if not self.training:
            batch.inputs["vector"].div_(2)
        return super().forward(batch)


@breaks("batches_stay_as_they_are", "prepare changes words of a batch in place")
class SortsTokensInPlace(Sound):
    def prepare(self, train):
        for batch in train:
            batch.inputs["words"].clamp_(max=3)


# --- chance and sharing ----------------------------------------------------------------------


@breaks("same_seed_same_method", "evaluation is random")
class EvaluatesAtRandom(Sound):
    def forward(self, batch):
        return nn.functional.dropout(super().forward(batch), 0.5, training=True)


@breaks("same_seed_same_method", "head.bias differs between two methods built from one seed")
class IgnoresTheSeed(Sound):
    built = 0

    def __init__(self, task):
        super().__init__(task)
        IgnoresTheSeed.built += 1
        nn.init.constant_(self.head.bias, IgnoresTheSeed.built)


@breaks("same_seed_same_method", "loss term task differs between two trainings from one seed")
class DrawsFromPythonsGenerator(Sound):
    def loss(self, batch):
        return {"task": super().loss(batch)["task"] * (1 + random.random())}


@breaks("another_process_builds_the_same", "head.bias differs between two processes")
class SeedsByHash(Sound):
    def __init__(self, task):
        super().__init__(task)
        g = torch.Generator().manual_seed(hash(task.names) % 2**31)
        self.head.bias.data = torch.rand(task.num_outputs, generator=g)


@breaks("forward_waits_for_no_device", "forward waits for the device: item in line")
class WaitsForANumber(Sound):
    def forward(self, batch):
        return super().forward(batch) * (1.0 if batch.presence.sum().item() else 0.0)


@breaks("forward_waits_for_no_device", "forward waits for the device: __bool__ in line")
class BranchesOnATensor(Sound):
    def forward(self, batch):
        if batch.presence.all():
            return super().forward(batch)
        return self.head(self.fused(batch))


@breaks("forward_waits_for_no_device", "forward waits for the device: __getitem__ in line")
class LooksUpAList(Sound):
    def forward(self, batch):
        columns = list(range(batch.presence.shape[1]))
        some = batch.presence[:, columns].any(1, keepdim=True)
        return torch.where(some, super().forward(batch), 0.0)


@breaks("forward_waits_for_no_device", "forward waits for the device: __setitem__ in line")
class WritesWhereAMaskIs(Sound):
    def forward(self, batch):
        output = super().forward(batch).clone()
        output[~batch.presence.any(1)] = 0.0
        return output


class MixingEncoder(nn.Module):
    """Multiplies an embedding by how much else the sample has."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(10, 16)

    def forward(self, x, lengths):
        return self.net(x) * self.others


@breaks("shared_encodings_change_nothing", "outputs differ when encodings are shared")
class EncodesOneModalityByTheOthers(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.mix = MixingEncoder()

    def forward(self, batch):
        self.mix.others = batch.presence.sum(1, keepdim=True)
        return self.head(self.fused(batch) + batch.embed("vector", self.mix))


# --- form ------------------------------------------------------------------------------------


@breaks("outputs_have_the_right_shape", "outputs are (1, 1), not (1, 3)")
class SqueezesABatchOfOne(Sound):
    def forward(self, batch):
        output = super().forward(batch)
        return output if len(batch) > 1 else output[:, :1]


@breaks("outputs_have_the_right_shape", "outputs are not finite")
class DividesByWhatNobodyHas(Sound):
    def forward(self, batch):
        return super().forward(batch) / batch.has("vector").any()


@breaks("loss_is_finite", "loss term vector is nan")
class AveragesOverNobody(Sound):
    def loss(self, batch):
        rows = self.row_loss(self(batch), batch.target)
        return {"vector": rows[batch.has("vector")].mean()}


@breaks("loss_is_finite", "the loss cannot be taken for a batch of one: Expected more than 1 value")
class NormalisesABatchOfOne(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.norm = nn.BatchNorm1d(16)

    def fused(self, batch):
        return self.norm(super().fused(batch))


@breaks("loss_is_finite", "loss term balance is nan for a single class")
class DividesByTheSpreadOfTheTarget(Sound):
    def loss(self, batch):
        y = batch.target.float()
        spread = y.std(correction=0) if len(batch) > 1 else 1.0
        return super().loss(batch) | {"balance": ((y - y.mean()) / spread).mean()}


@breaks("hooks_are_called", "train_dataloader is overridden but never called")
class BringsItsOwnLoader(Sound):
    def train_dataloader(self):
        raise RuntimeError("this would balance the classes")


@breaks("hooks_are_called", "on_train_epoch_stop is never called")
class MisspellsAHook(Sound):
    def on_train_epoch_stop(self):
        self.head.bias.data.zero_()


@breaks("loss_is_finite", "loss term task has the shape (14,)")
class ForgetsToAverage(Sound):
    def loss(self, batch):
        return {"task": self.row_loss(self(batch), batch.target)}


@breaks("evaluation_is_ours", "test_step must not be overridden")
class EvaluatesByItself(Sound):
    def test_step(self, batch, batch_idx):
        return torch.nn.functional.one_hot(batch.target, self.task.num_outputs).float()


# --- what may be drawn -----------------------------------------------------------------------


@breaks("a_search_can_be_built", "the lower ends of `search` cannot be built: .*depth")
class SearchesWhatItDoesNotTake(Sound):
    search = ranges(depth=Whole(1, 4))


# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_is_caught_by_the_check_of_that_name(name):
    cls, check, message = BROKEN[name]
    pattern = message if ".*" in message else re.escape(message)
    # what a library raises breaks a rule as well
    with pytest.raises((AssertionError, ValueError), match=pattern) as error:
        METHOD_CHECKS[check](cls, TASK)
    assert "\n" not in str(error.value).partition("\nassert")[0]


@pytest.mark.parametrize("check", METHOD_CHECKS)
def test_the_method_that_they_differ_from_passes_every_check(check):
    for task in sample_tasks(Sound):
        METHOD_CHECKS[check](Sound, task)


def test_every_check_catches_something_and_says_what_holds_what_was_tried_and_how_to_mend():
    assert {check for _, check, _ in BROKEN.values()} == set(METHOD_CHECKS)
    for rule in METHOD_CHECKS.values():
        assert rule.statement.endswith(".")
        assert rule.tried
        assert rule.mend


def test_declared_exceptions_are_granted():
    class Declared(NormalisesAcrossTheBatch):
        applies = Applies(neighbours=True)

    METHOD_CHECKS["samples_are_independent"](Declared, TASK)

    class Untrained(HasADeadParameter):
        applies = Applies(trains=False)

    METHOD_CHECKS["gradients_reach_every_parameter"](Untrained, TASK)


class RaisesOnVectors(Sound):
    """An omics method whose forward raises: no mixed task would ever reach it."""

    applies = Applies(tasks=("single_label",), kinds=("vector",), min_modalities=2)

    def forward(self, batch):
        raise SystemExit("forward was never run")


def test_a_method_of_one_kind_is_tried_and_every_rule_is_tried_after_one_that_fails():
    report = check_method("mine", RaisesOnVectors)
    outcomes = {finding.rule: finding for finding in report.findings}
    assert set(outcomes) == set(METHOD_CHECKS)
    shape = outcomes["outputs_have_the_right_shape"]
    assert shape.outcome == "broken"
    assert shape.happened.startswith("SystemExit: forward was never run (line ")
    assert "raise SystemExit" in shape.happened
    assert shape.tried.endswith("with single_label of vector, vector")
    assert outcomes["evaluation_is_ours"].outcome == "passed"
    assert outcomes["another_process_builds_the_same"].outcome == "passed"
    assert report.broken >= 10
    assert shape.mend.startswith("mend what raises")
    # one mistake is told once, not by every rule that it breaks
    text = " ".join(report.text().split())
    first = next(one.rule for one in report.findings if one.happened == shape.happened)
    assert text.count("forward was never run (line ") == 1
    assert text.count(f"the same as {first}: mend that first") >= 10


def test_a_warning_is_no_broken_rule():
    class Waits(WaitsForANumber):
        applies = Applies(tasks=("single_label",), kinds=("vector",), min_modalities=2)

    report = check_method("mine", Waits)
    [warned] = [one for one in report.findings if one.outcome == "warning"]
    assert warned.rule == "forward_waits_for_no_device"
    # a class inside a function cannot be found again elsewhere
    assert [one.rule for one in report.findings if one.outcome == "broken"] == [
        "another_process_builds_the_same"
    ]


KINDS = ("vector", "sequence", "image", "volume", "tokens", "bag")


@pytest.mark.parametrize(
    "applies",
    [
        Applies(),
        Applies(kinds=("vector",)),
        Applies(kinds=("volume", "tokens"), tasks=("regression",)),
        Applies(min_modalities=2, max_modalities=2),
        Applies(min_modalities=3, max_modalities=4, kinds=("image", "bag")),
        Applies(max_modalities=1, one_of=("bag",)),
        Applies(one_of=("image", "tokens"), tasks=("single_label", "multi_label")),
        Applies(min_modalities=4),
    ],
)
def test_sample_tasks_cover_every_kind_of_task_and_of_modality_alone_too(applies):
    class Limited(Sound):
        pass

    Limited.applies = applies
    tasks = sample_tasks(Limited)
    assert all(applies.reason_not(task) is None for task in tasks)
    assert {task.kind for task in tasks} == set(applies.tasks)
    readable = set(applies.kinds if applies.max_modalities != 1 else applies.one_of)
    assert {m.kind for task in tasks for m in task.modalities} >= readable
    alone = {
        task.modalities[0].kind for task in tasks if len({m.kind for m in task.modalities}) == 1
    }
    assert alone == (set(applies.one_of) or readable)
    if applies.min_modalities == 1:
        assert min(len(task.modalities) for task in tasks) == 1


def test_no_task_fits_what_applies_to_nothing():
    class Nothing(Sound):
        @classmethod
        def reason_not(cls, task, **args):
            return "reads smells"

    with pytest.raises(ValueError, match=r"^nothing cannot be checked: it reads smells$"):
        check_method("nothing", Nothing)
