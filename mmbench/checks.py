"""What every method must keep, as checks that run on tiny made-up data.

The tests of mmbench put every registered method through these; `mmbench check` does so with a
plugin. A check raises AssertionError with one line that says what was broken.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmbench.data.batch import Batch, LeakError
from mmbench.data.embeddings import BatchEmbeddings, Embeddings, Encode
from mmbench.data.task import Modality, Task, with_encoders
from mmbench.layers.encoders import KINDS, Encoder, StepTokens, encoder
from mmbench.method import Method

Check = Callable[[type[Method], Task], None]
STEPS, EPOCHS = 25, 6  # of the training on a few samples, at most
GARBAGE = (float("nan"), 1e6)  # what an absent entry must be free to hold

MODALITIES = {
    "vector": Modality("vector", "vector", (10,)),
    "tokens": Modality("words", "tokens", (6,), vocab_size=12),
    "image": Modality("image", "image", (3, 16, 16)),
    "sequence": Modality("sound", "sequence", (7, 5)),
    "bag": Modality("patches", "bag", (5, 6)),
    "volume": Modality("scan", "volume", (1, 8, 8, 8)),
}
TASKS = (
    Task("single_label", tuple(MODALITIES[k] for k in ("vector", "tokens", "image")), tuple("abc")),
    Task("multi_label", tuple(MODALITIES[k] for k in ("sequence", "bag")), tuple("xyz")),
    Task("regression", tuple(MODALITIES[k] for k in ("vector", "volume")), ("score", "age")),
)


def sample_tasks(cls: type[Method]) -> list[Task]:
    """Tasks that cover every kind of task and of modality, as far as the method applies."""
    return [task for task in TASKS if cls.reason_not(task) is None]


def make_batch(
    task: Task, presence: Tensor, *, seed: int = 0, garbage: float | None = None
) -> Batch:
    """Random samples whose modalities all carry the target.

    Args:
        task: What to make.
        presence: (batch, modality).
        seed: Same seed, same samples.
        garbage: What absent entries hold; None = zeros, as in every batch of a data module.
    """
    g = torch.Generator().manual_seed(seed)
    n, c = len(presence), task.num_outputs
    if task.kind == "single_label":
        target = torch.arange(n) % c
        code = torch.nn.functional.one_hot(target, c).float()
    elif task.kind == "multi_label":
        target = code = torch.randint(2, (n, c), generator=g).float()
    else:
        target = code = torch.rand(n, c, generator=g)
    inputs, lengths = {}, {}
    for column, modality in enumerate(task.modalities):
        x = torch.randn(n, *modality.shape, generator=g)
        if modality.kind == "tokens":
            x = (code @ (torch.arange(c).float() + 1) * 2 + 2).round().long().clamp(1)
            x = (
                x[:, None] + torch.zeros(modality.shape[0], dtype=torch.long)
            ) % modality.vocab_size
            x = x.clamp(1)
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


def all_patterns(task: Task, repeat: int = 2) -> Tensor:
    """Every non-empty pattern, `repeat` times, (batch, modality)."""
    rows = [row for row in product((True, False), repeat=len(task.modalities)) if any(row)]
    return torch.tensor(rows * repeat)


def build(cls: type[Method], task: Task, *, seed: int = 0) -> Method:
    """A method from its defaults, prepared on a few samples, in eval mode."""
    torch.manual_seed(seed)
    method = cls(task)
    method.prepare([make_batch(task, all_patterns(task), seed=1)])
    method.begin(method.stages[-1])
    return method.eval()


def _begun(cls: type[Method], task: Task) -> Iterator[Method]:
    """A fresh method at the beginning of each of its stages, in training mode."""
    for number in range(len(build(cls, task).stages)):
        method = build(cls, task)
        for stage in method.stages[: number + 1]:
            method.begin(stage)
        yield method.train()


def _outputs(method: Method, batch: Batch) -> Tensor:
    with torch.no_grad():
        output: Tensor = method(batch)
    return output


def evaluation_is_ours(cls: type[Method], task: Task) -> None:
    """Validation and test steps are the suite's."""
    for name in ("validation_step", "test_step", "compare_candidates", "row_loss", "task_loss"):
        assert getattr(cls, name) is getattr(Method, name), f"{name} must not be overridden"


def outputs_have_the_right_shape(cls: type[Method], task: Task) -> None:
    """Every pattern, a batch of one, and a modality that nobody in the batch has."""
    method = build(cls, task)
    presence = all_patterns(task)
    nobody = presence[~presence[:, 0]] if len(task.modalities) > 1 else presence
    for rows in (presence, presence[:1], nobody):
        output = _outputs(method, make_batch(task, rows))
        expected = (len(rows), task.num_outputs)
        assert output.shape == expected, f"outputs are {tuple(output.shape)}, not {expected}"
        assert output.isfinite().all(), "outputs are not finite"


def loss_is_finite(cls: type[Method], task: Task) -> None:
    """For complete samples, for all patterns, and with a modality that nobody has."""
    presence = all_patterns(task)
    nobody = presence[~presence[:, 0]] if len(task.modalities) > 1 else presence
    for method, rows in product(
        list(_begun(cls, task)), (presence, torch.ones_like(presence), nobody)
    ):
        for name, term in method.loss(make_batch(task, rows)).items():
            assert term.shape == (), f"loss term {name} has the shape {tuple(term.shape)}"
            assert term.isfinite(), f"loss term {name} is {term.item()}"


def gradients_reach_every_parameter(cls: type[Method], task: Task) -> None:
    """A few steps on all patterns move everything that a stage trains, and nothing else."""
    if not cls.applies.trains:
        return
    for method in _begun(cls, task):
        seen = {name: False for name, p in method.named_parameters() if p.requires_grad}
        for step in range(3):
            method.zero_grad()
            batch = make_batch(task, all_patterns(task, repeat=4), seed=step)
            torch.stack(list(method.loss(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
            for name, p in method.named_parameters():
                if p.grad is not None:
                    assert p.grad.isfinite().all(), f"the gradient of {name} is not finite"
                    seen[name] = seen[name] or bool(p.grad.abs().sum() > 0)
        dead = [name for name, reached in seen.items() if not reached]
        assert not dead, f"no gradient reaches {', '.join(dead)} in the stage {method.stage}"


def absent_is_absent(cls: type[Method], task: Task) -> None:
    """What absent entries hold changes no output bit in evaluation and no loss in training."""
    method = build(cls, task)
    presence = all_patterns(task)
    clean = make_batch(task, presence)
    for garbage in GARBAGE:
        dirty = make_batch(task, presence, garbage=garbage)
        same = torch.equal(_outputs(method, clean), _outputs(method, dirty))
        assert same, f"outputs change when absent entries hold {garbage}"
        for begun in _begun(cls, task) if cls.applies.trains else ():
            losses = []
            for batch in (clean, dirty):
                torch.manual_seed(0)
                losses.append(sum(begun.loss(batch).values(), torch.zeros(())))
            assert torch.equal(*losses), f"the loss changes when absent entries hold {garbage}"


def evaluation_is_blind(cls: type[Method], task: Task) -> None:
    """Predictions need neither the target nor the sample's id, which evaluation takes away."""
    method = build(cls, task)
    batch = make_batch(task, all_patterns(task)).blind()
    try:
        output = _outputs(method, batch)
    except LeakError as error:
        raise AssertionError(str(error)) from error
    except (IndexError, RuntimeError) as error:
        raise AssertionError(f"fails on samples whose ids it never saw: {error}") from error
    assert output.isfinite().all(), "outputs of samples whose ids it never saw are not finite"


def samples_are_independent(cls: type[Method], task: Task) -> None:
    """A prediction depends neither on the other samples of the batch nor on their order."""
    if cls.applies.neighbours:
        return
    method = build(cls, task)
    presence = all_patterns(task)
    batch = make_batch(task, presence)
    output = _outputs(method, batch)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(3))
    shuffled = _outputs(method, batch.take(order))
    assert torch.allclose(shuffled, output[order], atol=1e-5), "outputs depend on the order"
    for row in range(0, len(batch), 3):
        alone = _outputs(method, batch.take(torch.tensor([row])))
        assert torch.allclose(alone[0], output[row], atol=1e-5), (
            f"sample {row} is predicted differently alone than in a batch"
        )


def shared_encodings_change_nothing(cls: type[Method], task: Task) -> None:
    """Encoding once for all test conditions gives what each condition gives by itself."""
    method = build(cls, task)
    full = make_batch(task, torch.ones_like(all_patterns(task)))
    absent = ~all_patterns(task)
    once = full.with_embeddings(Embeddings(len(full), learning=False))
    for flip in (0, 1):
        hidden = absent.roll(flip, dims=0)
        alone, shared = _outputs(method, full.hide(hidden)), _outputs(method, once.hide(hidden))
        assert torch.allclose(alone, shared, atol=1e-6), (
            "outputs differ when encodings are shared; encode through Batch.embed, each sample "
            "and modality by itself"
        )


class _Seen(BatchEmbeddings):
    """Remembers nothing, and notes what with weights reads which modality."""

    def __init__(self) -> None:
        self.readers: dict[str, set[object]] = {}

    def embed(self, modality: str, encoder: Encode) -> None:
        if not isinstance(encoder, nn.Module) or list(encoder.parameters()):
            self.readers.setdefault(modality, set()).add(encoder)


def encoders_are_those_of_the_suite(cls: type[Method], task: Task) -> None:
    """Every modality is read by what the suite reads it with, at the method's width."""
    if cls.own_encoders or not cls.applies.trains:
        return
    task = with_encoders(task, {"vector": {"layers": 2}, "dropout": 0.2})
    seen = _Seen()
    batch = make_batch(task, torch.ones_like(all_patterns(task)))
    _outputs(build(cls, task), replace(batch, embeddings=seen))
    for modality in task.modalities:
        readers = seen.readers.get(modality.name, set())
        assert readers or cls.applies.one_of, (
            f"{modality.name} is read past Batch.embed; encode it by ModalityEncoders, or say in "
            "own_encoders why the paper does otherwise"
        )
        for reader in readers:
            found, expected = _as_the_suite(reader, modality)
            assert found == expected, (
                f"{modality.name} is read by other layers than those of the suite "
                f"({found} instead of {expected}); take mmbench.layers.encoders, or say in "
                "own_encoders why the paper does otherwise"
            )


def _as_the_suite(reader: object, modality: Modality) -> tuple[object, object]:
    """Shapes of the weights of an encoder, and what they are in the suite's at its width."""
    for part in reader.modules() if isinstance(reader, nn.Module) else ():
        if isinstance(part, Encoder):
            return shapes_of(part), shapes_of(encoder(modality, part.dim, tokens=part.tokens))
        if isinstance(part, StepTokens):
            width = next(part.parameters()).shape[-1 if modality.kind == "tokens" else 0]
            return shapes_of(part), shapes_of(KINDS[modality.kind].parts(modality, width)[0])
    return type(reader).__name__, "an encoder of mmbench.layers.encoders"


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of everything that a module learns."""
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def same_seed_same_method(cls: type[Method], task: Task) -> None:
    """Building twice gives equal weights, and evaluating twice equal outputs."""
    first, second = build(cls, task, seed=5), build(cls, task, seed=5)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), f"{name} differs between two methods built from one seed"
    batch = make_batch(task, all_patterns(task))
    assert torch.equal(_outputs(first, batch), _outputs(first, batch)), "evaluation is random"


def weights_are_the_whole_method(cls: type[Method], task: Task) -> None:
    """Loading saved weights into a fresh, unprepared method restores its outputs."""
    method = build(cls, task, seed=1)
    torch.manual_seed(2)
    fresh = cls(task).eval()
    fresh.load_state_dict(method.state_dict())
    batch = make_batch(task, all_patterns(task))
    assert torch.equal(_outputs(method, batch), _outputs(fresh, batch)), (
        "outputs change after saving and loading: something learned is no parameter or buffer"
    )


def fits_a_few_samples(cls: type[Method], task: Task) -> None:
    """Training halves the task loss of the untrained method on 24 samples, at least."""
    if not cls.applies.trains:
        return
    method = build(cls, task)
    presence = torch.ones(24, len(task.modalities), dtype=torch.bool)
    if len(task.modalities) > 1 and not cls.applies.complete_rows:
        # a method for a single modality has nothing to learn from samples without it; one for any
        # kind reads the first
        read = cls.applies.one_of
        gap = next((c for c, m in enumerate(task.modalities) if m.kind not in read), -1)
        presence[12:, gap] = False
    batch = make_batch(task, presence)
    before = method.task_loss(_outputs(method, batch), batch.target)
    for stage in method.stages:
        method.begin(stage)
        _fit(method.train(), batch, enough=float(before) / 2)
    after = method.eval().task_loss(_outputs(method, batch), batch.target)
    steps = STEPS * EPOCHS
    assert after < before / 2, f"task loss {before:.3f} before and {after:.3f} after {steps} steps"


def _fit(method: Method, batch: Batch, enough: float) -> None:
    def loader(batch: Batch, times: int) -> DataLoader[Batch]:
        return DataLoader(_Repeat(batch, times), batch_size=None)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers and sizes of this toy loader
        trainer = Trainer(
            max_epochs=EPOCHS,
            callbacks=[_Enough(batch, enough)],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(method, loader(batch, STEPS), loader(batch.blind(), 1))


class _Enough(Callback):
    """Ends a training whose epoch left a task loss that is low enough."""

    def __init__(self, batch: Batch, enough: float) -> None:
        self.batch, self.enough = batch, enough

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Method)
        pl_module.compare_candidates([(self.batch.blind(), self.batch.target)])

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        assert isinstance(pl_module, Method)
        loss = pl_module.task_loss(outputs["output"], self.batch.target)
        trainer.should_stop = bool(loss < self.enough)


class _Repeat(torch.utils.data.IterableDataset[Batch]):
    def __init__(self, batch: Batch, times: int) -> None:
        self.batch, self.times = batch, times

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.times)


METHOD_CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        evaluation_is_ours,
        outputs_have_the_right_shape,
        loss_is_finite,
        gradients_reach_every_parameter,
        absent_is_absent,
        evaluation_is_blind,
        samples_are_independent,
        shared_encodings_change_nothing,
        encoders_are_those_of_the_suite,
        same_seed_same_method,
        weights_are_the_whole_method,
        fits_a_few_samples,
    )
}
