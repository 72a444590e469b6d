"""Made-up tasks and batches, tiny, that cover all that a method says it applies to."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mmbench.data.batch import Batch
from mmbench.data.missingness.fixed import natural
from mmbench.data.missingness.within import Gap
from mmbench.data.samples import Split
from mmbench.data.scenario import Scenario
from mmbench.data.task import Kind, Modality, Task, TaskKind
from mmbench.datamodule import DataModule, Source
from mmbench.method import ALL_KINDS, ROW_TASKS, Method

MODALITIES: dict[Kind, Modality] = {
    "vector": Modality("vector", "vector", (10,)),
    "tokens": Modality("words", "tokens", (6,), vocab_size=12),
    "image": Modality("image", "image", (3, 16, 16)),
    "sequence": Modality("sound", "sequence", (7, 5)),
    "bag": Modality("patches", "bag", (5, 6)),
    "volume": Modality("scan", "volume", (1, 8, 8, 8)),
}
OUTPUTS: dict[TaskKind, tuple[str, ...]] = {
    "single_label": ("a", "b", "c"),
    "multi_label": ("x", "y", "z"),
    "regression": ("score", "age"),
    "survival": ("hazard 1", "hazard 2", "hazard 3"),
}
MIXED: dict[TaskKind, tuple[Kind, ...]] = {
    "single_label": ("vector", "tokens", "image"),
    "multi_label": ("sequence", "bag"),
    "regression": ("vector", "volume"),
    "survival": ("vector", "sequence"),
}
TASKS = tuple(
    Task(kind, tuple(MODALITIES[k] for k in kinds), OUTPUTS[kind]) for kind, kinds in MIXED.items()
)


def sample_tasks(cls: type[Method]) -> list[Task]:
    """The fewest tasks that cover what a method applies to; none if it applies to nothing here.

    Covered are every kind of task, every kind of modality, data that have this kind alone, and a
    single modality.
    """
    covered: set[object] = set()
    tasks = []
    for task in _candidates(cls):
        if (new := set(_features(task)) - covered) and cls.reason_not(task) is None:
            covered |= new
            tasks.append(task)
    return tasks


def _candidates(cls: type[Method]) -> Iterator[Task]:
    """Mixed tasks first, which cover much at once, then those of one kind of modality."""
    yield from TASKS
    few, most = cls.applies.min_modalities, cls.applies.max_modalities or 8
    counts = [n for n in dict.fromkeys((max(2, few), few, 1)) if few <= n <= most]
    # kinds of task by turns, so that each kind of modality alone is tried with another one
    for count, (place, kind), turn in product(counts, enumerate(ALL_KINDS), range(3)):
        task_kind = ROW_TASKS[(place + turn) % len(ROW_TASKS)]
        yield Task(task_kind, tuple(_named(kind, i) for i in range(count)), OUTPUTS[task_kind])
    for kind in ALL_KINDS:  # beside one that it cannot do without
        for needed, task_kind in product(cls.applies.one_of, ROW_TASKS):
            if needed != kind:
                yield Task(task_kind, (MODALITIES[needed], MODALITIES[kind]), OUTPUTS[task_kind])
    if few > 1:
        for kinds in product(ALL_KINDS, repeat=min(few, 3)):
            named = tuple(_named(kind, i) for i, kind in enumerate(kinds))
            for task_kind in ROW_TASKS:
                yield Task(task_kind, named, OUTPUTS[task_kind])


def _named(kind: Kind, place: int) -> Modality:
    model = MODALITIES[kind]
    name = f"{model.name}{place + 1}" if place else model.name
    return Modality(name, kind, model.shape, vocab_size=model.vocab_size)


def _features(task: Task) -> Iterator[object]:
    """What a task covers."""
    kinds = {modality.kind for modality in task.modalities}
    yield task.kind
    yield from kinds
    if len(kinds) == 1:
        yield "alone", *kinds
    if len(task.modalities) == 1:
        yield "single modality"


def title(task: Task) -> str:
    """`single_label of vector, tokens, image`."""
    return f"{task.kind} of {', '.join(modality.kind for modality in task.modalities)}"


def make_batch(
    task: Task,
    presence: Tensor,
    *,
    seed: int = 0,
    garbage: float | None = None,
    one_class: bool = False,
) -> Batch:
    """Random samples whose modalities all carry the target.

    Args:
        task: What to make.
        presence: (batch, modality).
        seed: Same seed, same samples.
        garbage: What absent entries hold; None = zeros, as in every batch of a data module.
        one_class: Whether all samples have the same target.
    """
    g = torch.Generator().manual_seed(seed)
    n, c = len(presence), task.num_outputs
    if task.kind == "single_label":
        target = torch.zeros(n, dtype=torch.long) if one_class else torch.arange(n) % c
        code = torch.nn.functional.one_hot(target, c).float()
    elif task.kind == "multi_label":
        target = code = torch.randint(2, (n, c), generator=g).float()
    elif task.kind == "survival":
        target, code = _survival(n, c)
    else:
        target = code = torch.rand(n, c, generator=g)
    if one_class and task.kind != "single_label":
        target, code = target[:1].repeat(n, 1), code[:1].repeat(n, 1)
    inputs, lengths = {}, {}
    for column, modality in enumerate(task.modalities):
        x = torch.randn(n, *modality.shape, generator=g)
        if modality.kind == "tokens":
            x = (code @ (torch.arange(c).float() + 1) * 2 + 2).round().long().clamp(1)
            x = x[:, None] + torch.zeros(modality.shape[0], dtype=torch.long)
            x = (x % modality.vocab_size).clamp(1)
        else:
            flat = x.view(n, -1)
            flat[:, : c * (flat.shape[1] // c)] += 2 * code.repeat(1, flat.shape[1] // c)
        present = presence[:, column].view(-1, *[1] * (x.dim() - 1))
        if modality.has_lengths:
            steps = 1 + torch.arange(n) % modality.shape[0]
            padding = torch.arange(modality.shape[0]) >= steps[:, None]
            x = x.masked_fill(padding.view(*padding.shape, *[1] * (x.dim() - 2)), 0)
            lengths[modality.name] = torch.where(presence[:, column], steps, 0)
        if garbage is None or modality.kind == "tokens":
            fill = 0.0 if garbage is None else float(modality.vocab_size - 1)
        else:
            fill = garbage
        inputs[modality.name] = torch.where(present, x, torch.tensor(fill, dtype=x.dtype))
    return Batch(
        modalities=task.names,
        inputs=inputs,
        presence=presence,
        target=target,
        sample_id=torch.arange(n),
        lengths=lengths,
    )


def _survival(n: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Targets as a method meets them and the numbers that tell them; some are censored.

    Three of five have their event: in each interval, or at times in any order for a log risk.
    """
    turn = torch.arange(n)
    event = (turn % 5 > 1).float()
    if outputs == 1:
        time = 1 + (7 * turn % 11).float()
        return torch.stack([time, event], 1), 3 - time[:, None] / 2
    interval = (turn % outputs).float()
    return torch.stack([interval, event], 1), torch.eye(outputs)[turn % outputs]


def with_gaps_inside(batch: Batch, task: Task) -> Batch:
    """Half of the entries inside each modality that a mechanism of mmbench can hide, gone."""
    g = torch.Generator().manual_seed(0)
    gaps = {}
    for modality in task.modalities:
        if modality.kind in ("vector", "sequence", "tokens", "image"):
            size = modality.shape[-2:] if modality.kind == "image" else modality.shape[:1]
            seen = torch.rand(len(batch), *size, generator=g) < 0.5
            seen.view(len(batch), -1)[:, 0] = True
            gaps[modality.name] = Gap(seen.numpy())
    return batch.with_gaps(gaps, torch.arange(len(batch)))


def all_patterns(task: Task, repeat: int = 2) -> Tensor:
    """Every non-empty pattern, `repeat` times, (batch, modality)."""
    rows = [row for row in product((True, False), repeat=len(task.modalities)) if any(row)]
    return torch.tensor(rows * repeat)


class OneBatch(DataModule):
    """A data set whose training split is one batch, over and over, as a trainer reaches it.

    Args:
        task: What it is of.
        batch: The batch.
        times: How often an epoch shows it.
    """

    source = Source("made up")

    def __init__(self, task: Task, batch: Batch, times: int) -> None:
        nothing = natural()
        super().__init__(Path(), Scenario("nothing", nothing, nothing, (nothing,)))
        self._task, self.batch, self.times = task, batch, times

    def describe(self) -> Task:
        """The task."""
        return self._task

    def load(self, split: Split) -> NoReturn:
        """Refuse: there are no files."""
        raise AssertionError("made-up data were loaded")

    def train_dataloader(self, *_: Any, **__: Any) -> DataLoader[Batch]:
        """The batch, `times` times."""
        return DataLoader(_Repeat(self.batch, self.times), batch_size=None)

    def val_dataloader(self, *_: Any) -> DataLoader[Batch]:
        """The batch without its target."""
        return DataLoader(_Repeat(self.batch.blind(), 1), batch_size=None)


class _Repeat(IterableDataset[Batch]):
    def __init__(self, batch: Batch, times: int) -> None:
        self.batch, self.times = batch, times

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.times)
