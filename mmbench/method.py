"""The contract of a method: what is predicted, and what is minimised."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate
from mmbench.data.batch import Batch
from mmbench.data.task import Kind, Task, TaskKind
from mmbench.diagnostics import Diagnostic
from mmbench.layers.survival import survival_loss
from mmbench.search import Draw, ranges

# kinds whose loss knows one sample alone; that of survival may compare them, so methods declare it
ROW_TASKS: tuple[TaskKind, ...] = ("single_label", "multi_label", "regression")
ALL_TASKS: tuple[TaskKind, ...] = (*ROW_TASKS, "survival")
ALL_KINDS: tuple[Kind, ...] = ("vector", "sequence", "image", "volume", "tokens", "bag")


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method comes from; a baseline without a paper leaves all but the title empty."""

    title: str
    venue: str = ""
    year: int | None = None
    url: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the trainings that a method consists of; most methods have a single one.

    Args:
        name: Letters, digits and `_`; the method finds it in `self.stage`.
        trains: Names of the method's parts that learn, dotted if they lie deeper; all else is
            frozen. None = all that the constructor left trainable.
        epochs: Passes over the training split, >= 1; None = as the suite says.
        select: Which epoch is kept, by the score of `stage_output`; None = as the suite says.
        shared_across: Arguments of the constructor that make no difference to it: runs that differ
            in these alone, or in the subclass of an abstract method that says its stages, train
            it once; the others load it. Empty = a run's own.
    """

    name: str
    trains: tuple[str, ...] | None = None
    epochs: int | None = None
    select: Literal["best", "last"] | None = None
    shared_across: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.trains or not self.shared_across, "a shared stage has to say what it trains"

    def covers(self, parameter: str) -> bool:
        """Whether a parameter of this name belongs to one of the parts in `trains`."""
        return any(
            parameter == part or parameter.startswith(f"{part}.") for part in self.trains or ()
        )


@dataclass(frozen=True, slots=True)
class Applies:
    """What a method cannot do without; a pair that does not apply is a dash in the table.

    Args:
        tasks: Task kinds that it can learn; `ALL_TASKS` where every loss of a prediction is a
            `task_loss`, or takes rows of a `row_loss` that was told which.
        kinds: Modality kinds that it can read.
        one_of: Kinds of which at least one modality has to be; empty = any.
        min_modalities: Fewest modalities.
        max_modalities: Most modalities; None = any number.
        complete_rows: Whether some training samples must have every modality.
        neighbours: Whether a prediction may depend on the other samples of the batch.
        trains: Whether it has parameters to fit by gradient.
    """

    tasks: tuple[TaskKind, ...] = ROW_TASKS
    kinds: tuple[Kind, ...] = ALL_KINDS
    one_of: tuple[Kind, ...] = ()
    min_modalities: int = 1
    max_modalities: int | None = None
    complete_rows: bool = False
    neighbours: bool = False
    trains: bool = True

    def reason_not(self, task: Task) -> str | None:
        """Why a method does not apply to a task; None if it does."""
        if task.kind not in self.tasks:
            return f"learns {', '.join(self.tasks)}, not {task.kind}"
        for modality in task.modalities:
            if modality.kind not in self.kinds:
                return f"reads {', '.join(self.kinds)}, but {modality.name} is {modality.kind}"
        if self.one_of and not any(modality.kind in self.one_of for modality in task.modalities):
            return f"needs a modality of kind {' or '.join(self.one_of)}"
        if len(task.modalities) < self.min_modalities:
            return f"needs {self.min_modalities} modalities, found {len(task.modalities)}"
        if self.max_modalities is not None and len(task.modalities) > self.max_modalities:
            return f"takes at most {self.max_modalities} modalities, found {len(task.modalities)}"
        return None


class Method(LightningModule, ABC):
    """A method for multimodal data in which modalities are missing.

    A subclass says what it predicts (`forward`) and, if that is not the task's own loss, what
    it minimises (`loss`). Steps, optimisers and hooks around them may be changed as in any
    LightningModule; the loaders are the data module's, so `train_dataloader` and the like are
    never called on a method; evaluation
    may not: it only collects the outputs of `forward`.

    Args:
        task: What goes in and what is predicted.
        lr: Learning rate of AdamW, > 0.
        weight_decay: Decoupled weight decay of AdamW, >= 0.
    """

    paper: ClassVar[Paper]
    applies: ClassVar[Applies] = Applies()
    search: ClassVar[Mapping[str, Draw]] = ranges()  # what `--tune` may draw besides `COMMON`
    own_encoders: ClassVar[str] = ""  # why its paper reads inputs by parts of its own, if it does

    def __init__(self, task: Task, *, lr: LearningRate = 1e-3, weight_decay: Decay = 1e-2) -> None:
        super().__init__()
        self.task = task
        self.lr = lr
        self.weight_decay = weight_decay
        self.stage = ""  # name of the last stage that began
        self._trainable: frozenset[str] | None = None
        self._term_sums: dict[str, Tensor] = {}
        self._steps = 0

    @classmethod
    def reason_not(cls, task: Task, **args: Any) -> str | None:
        """Why the method, built with these arguments, cannot be had for a task; None if it can.

        Asked before it is built. What a method cannot do without is said in `applies`; a method
        extends this where the answer depends on its arguments or on what is installed.
        """
        return cls.applies.reason_not(task)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Trainings in their order, each from the weights that the one before selected."""
        return (Stage("fit"),)

    def begin(self, stage: Stage) -> None:
        """Freeze all but what a stage trains; the runner calls this before each of them."""
        if self._trainable is None:
            self._trainable = frozenset(n for n, p in self.named_parameters() if p.requires_grad)
        self.stage = stage.name
        # trunks that the suite froze are no part of any stage
        resting = {
            id(parameter)
            for module in self.modules()
            if getattr(module, "rests", False)
            for parameter in module.parameters()
        }
        for name, parameter in self.named_parameters():
            learns = name in self._trainable if stage.trains is None else stage.covers(name)
            parameter.requires_grad_(learns and id(parameter) not in resting)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Method":
        """Set the mode of all parts; those of which every parameter is frozen stay in eval."""
        super().train(mode)
        if mode:
            _rest_frozen(self)
        return self

    @abstractmethod
    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present.

        Returns:
            Logits for classes or labels, values for regression; for survival the log risk of Cox or
            logits of the hazards of intervals.
        """

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms whose sum is minimised; by default the task's own loss alone."""
        return {"task": self.task_loss(self(batch), batch.target)}

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Outputs by which the epochs of the present stage are compared: the prediction.

        The batch is of the validation split: its target cannot be read, its ids are opaque. In
        stages before the last it has a `teacher` under `full_access`, the regime that lets
        training see complete samples; the last stage is compared on what the scenario shows.
        """
        output: Tensor = self(batch)
        return output

    def stage_rows(self, batch: Batch) -> Bool[Tensor, " batch"] | None:
        """Which samples `stage_output` is scored on, the same in every epoch; None = all."""
        return None

    def candidates(self, batch: Batch) -> Float[Tensor, "batch candidate output"] | None:
        """Predictions among which validation decides; None = only one.

        It does so before each epoch is scored, and once for a method without training, after
        `prepare`: such is how hyperparameters are chosen. The test split is never shown.
        The batch is as in `stage_output`; a method is told the losses alone, by `choose`.
        """
        return None

    def choose(self, losses: Float[Tensor, " candidate"]) -> None:
        """Take note of the validation losses of `candidates`, sums over samples, in a buffer."""

    def prepare(self, train: Iterable[Batch]) -> None:
        """Look once at the training split before fitting: priors, prototypes, memories.

        What is kept must be a buffer, so that saved weights are the whole method. A part that is
        large and never changes says `constant = True`, see `learned_state`.

        Args:
            train: All training batches in order of sample, on the CPU.
        """

    @final
    def learned_state(self) -> dict[str, Tensor]:
        """What changes while a method is trained, by its name in the state: kept at a better epoch.

        That is what the present stage trains, and all buffers but those of parts that are
        `constant`: filled in `prepare` and never written to again, such as a bank of samples.
        """
        constant = [name for name, part in self.named_modules() if getattr(part, "constant", False)]
        state: dict[str, Tensor] = {n: p for n, p in self.named_parameters() if p.requires_grad}
        for owner, part in self.named_modules():
            if any(owner == name or owner.startswith(f"{name}.") for name in constant):
                continue
            not_saved = part._non_persistent_buffers_set
            state |= {
                name: buffer
                for name, buffer in part.named_buffers(owner, recurse=False)
                if name.rpartition(".")[2] not in not_saved
            }
        return state

    def completed(self, batch: Batch) -> Mapping[str, Float[Tensor, "batch _"]]:
        """Modality -> what the method goes on with: its embedding, or what was put in its place.

        For methods that recover what is missing; under `full_access` the runner shows what they
        make of training samples beside what they make of the same samples when all is there.
        """
        return {}

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """What the method shows of itself after evaluation, such as how a router shares work."""
        return {}

    @final
    def row_loss(
        self,
        output: Float[Tensor, "batch output"],
        target: Tensor,
        among: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Each sample's cross-entropy, binary cross-entropy or squared error, by kind of task.

        Of survival its negative log (partial) likelihood. That of Cox compares samples: whoever
        takes a part of the rows has to say of which.

        Args:
            output: As from `forward`.
            target: Of the same samples.
            among: Who is compared; None = all. Rows of others hold any number.
        """
        if self.task.kind == "single_label":
            return F.cross_entropy(output, target, reduction="none")
        if self.task.kind == "multi_label":
            return F.binary_cross_entropy_with_logits(output, target, reduction="none").mean(1)
        if self.task.kind == "survival":
            return survival_loss(output, target, among)
        return F.mse_loss(output, target, reduction="none").mean(1)

    @final
    def task_loss(self, output: Float[Tensor, "batch output"], target: Tensor) -> Float[Tensor, ""]:
        """Mean of `row_loss`."""
        return self.row_loss(output, target).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum the terms of `loss`; they are logged once an epoch, without a host sync a step."""
        terms = self.loss(batch)
        for name, term in terms.items():
            past = self._term_sums.get(name)
            value = term.detach().float()  # a sum of many is none in bfloat16
            self._term_sums[name] = value if past is None else past + value
        self._steps += 1
        return torch.stack(list(terms.values())).sum()

    def on_train_epoch_end(self) -> None:
        """Log the mean of each loss term over the epoch as `train/<term>`."""
        for name, total in self._term_sums.items():
            self.log(f"train/{name}", total / self._steps, sync_dist=True)
        self._term_sums = {}
        self._steps = 0

    @final
    @torch.no_grad()
    def compare_candidates(self, validation: Iterable[tuple[Batch, Tensor]]) -> None:
        """Compare the candidates by their loss; the runner calls this, see `candidates`.

        Args:
            validation: Blind batches, each with the target that the method does not see.
        """
        losses = []
        for batch, target in validation:
            output = self.candidates(batch)
            if output is None:
                return
            rows = [self.row_loss(one, target).sum() for one in output.unbind(1)]
            losses.append(torch.stack(rows))
        if losses:
            self.choose(torch.stack(losses).sum(0))

    @final
    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor | None]:
        """Predict for the present stage; the runner scores the rows that count."""
        if self.stage not in [stage.name for stage in self.stages[:-1]]:
            batch = replace(batch, teacher=None)
        return {"output": self.stage_output(batch), "rows": self.stage_rows(batch)}

    @final
    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predict; the runner scores."""
        output: Tensor = self(batch)
        return output

    def configure_optimizers(self) -> Any:
        """AdamW on everything trainable."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(trainable, lr=self.lr, weight_decay=self.weight_decay, fused=True)


def _rest_frozen(module: nn.Module) -> None:
    for child in module.children():
        learns = [parameter.requires_grad for parameter in child.parameters()]
        if learns and not any(learns):
            child.eval()  # no dropout, and statistics stay what they are
        else:
            _rest_frozen(child)
