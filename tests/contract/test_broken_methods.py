"""Methods that break one promise each are caught by the check of that promise."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmbench.checks import METHOD_CHECKS, TASKS, sample_tasks
from mmbench.data.task import EncoderSpec
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.method import Applies, Method, Paper

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


# --- other samples of the batch --------------------------------------------------------------


@breaks("samples_are_independent", "is predicted differently alone than in a batch")
class NormalisesAcrossTheBatch(Sound):
    def __init__(self, task):
        super().__init__(task)
        self.norm = nn.BatchNorm1d(16, track_running_stats=False)

    def forward(self, batch):
        z = self.fused(batch)
        return self.head(self.norm(z) if len(z) > 1 else z)


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


@breaks("loss_is_finite", "loss term task has the shape (14,)")
class ForgetsToAverage(Sound):
    def loss(self, batch):
        return {"task": self.row_loss(self(batch), batch.target)}


@breaks("evaluation_is_ours", "test_step must not be overridden")
class EvaluatesByItself(Sound):
    def test_step(self, batch, batch_idx):
        return torch.nn.functional.one_hot(batch.target, self.task.num_outputs).float()


# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_is_caught_by_the_check_of_that_name(name):
    cls, check, message = BROKEN[name]
    pattern = message if ".*" in message else re.escape(message)
    with pytest.raises(AssertionError, match=pattern) as error:
        METHOD_CHECKS[check](cls, TASK)
    assert "\n" not in str(error.value).partition("\nassert")[0]


@pytest.mark.parametrize("check", METHOD_CHECKS)
def test_the_method_that_they_differ_from_passes_every_check(check):
    for task in sample_tasks(Sound):
        METHOD_CHECKS[check](Sound, task)


def test_every_check_catches_something():
    assert {check for _, check, _ in BROKEN.values()} == set(METHOD_CHECKS)


def test_declared_exceptions_are_granted():
    class Declared(NormalisesAcrossTheBatch):
        applies = Applies(neighbours=True)

    METHOD_CHECKS["samples_are_independent"](Declared, TASK)

    class Untrained(HasADeadParameter):
        applies = Applies(trains=False)

    METHOD_CHECKS["gradients_reach_every_parameter"](Untrained, TASK)


def test_sample_tasks_are_those_that_a_method_applies_to():
    class Classifier(Sound):
        applies = Applies(tasks=("single_label",), max_modalities=3)

    class Volumes(Sound):
        applies = Applies(kinds=("vector", "volume"))

    assert sample_tasks(Sound) == list(TASKS)
    assert sample_tasks(Classifier) == [TASKS[0]]
    assert sample_tasks(Volumes) == [TASKS[2]]
    assert {m.kind for task in TASKS for m in task.modalities} == {
        "vector", "tokens", "image", "sequence", "bag", "volume",
    }  # fmt: skip
