"""What every method must keep, as rules that are tried on tiny made-up data."""

import hashlib
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmbench.checks.elsewhere import address, by_address, in_another_process
from mmbench.checks.rule import Rules
from mmbench.checks.tasks import OneBatch, all_patterns, make_batch, sample_tasks, with_gaps_inside
from mmbench.data.batch import Batch, LeakError
from mmbench.data.embeddings import BatchEmbeddings, Embeddings, Encode
from mmbench.data.task import Modality, Task, with_encoders
from mmbench.datamodule import Fitting
from mmbench.layers.encoders import KINDS, Encoder, StepTokens, encoder
from mmbench.method import Method

STEPS, EPOCHS = 25, 6  # of the training on a few samples, at most
GARBAGE = (float("nan"), 1e6)  # what an absent entry must be free to hold

METHOD_CHECKS = Rules()
rule = METHOD_CHECKS.rule


# A rule raises AssertionError with one line that says what was broken; anything else that a method
# raises breaks the rule that was being tried.


def build(cls: type[Method], task: Task, *, seed: int = 0) -> Method:
    """A method from its defaults, prepared on a few samples, in eval mode."""
    _seed(seed)
    method = cls(task)
    method.prepare([make_batch(task, all_patterns(task), seed=1)])
    method.begin(method.stages[-1])
    return method.eval()


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what a run seeds for third-party code


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


def _answers(method: Method, batch: Batch) -> dict[str, Tensor]:
    """Everything that evaluation asks of a method, by the name of the hook."""
    with torch.no_grad():
        answers = {
            "forward": method(batch),
            "stage_output": method.stage_output(batch),
            "stage_rows": method.stage_rows(batch),
            "candidates": method.candidates(batch),
        }
    return {name: answer for name, answer in answers.items() if answer is not None}


def _seen_at_selection(method: Method, task: Task, *, seed: int = 0) -> Batch:
    """A batch of the validation split as the epochs of the present stage are compared on it."""
    batch = make_batch(task, all_patterns(task), seed=seed)
    if method.stage != method.stages[-1].name:  # under full_access
        batch = replace(batch, teacher=make_batch(task, torch.ones_like(batch.presence), seed=seed))
    return batch.blind()


# --- form ------------------------------------------------------------------------------------


@rule(
    tried="looked up which class defines the steps of evaluation",
    mend="take the override away; a method says what it predicts in `forward`, and by what its "
    "epochs are compared in `stage_output`",
    scope="once",
)
def evaluation_is_ours(cls: type[Method], task: Task) -> None:
    """Validation and test steps are the suite's."""
    for name in ("validation_step", "test_step", "compare_candidates", "row_loss", "task_loss"):
        assert getattr(cls, name) is getattr(Method, name), f"{name} must not be overridden"


# beginnings of the names of Lightning's hooks
HOOKS = (
    *("on_train_", "on_validation_", "on_test_", "on_predict_"),
    *("on_fit_", "on_before_", "on_after_"),
)
UNCALLED = {
    "train_dataloader": "the batches are the data module's",
    "val_dataloader": "the batches are the data module's",
    "test_dataloader": "the batches are the data module's",
    "predict_dataloader": "the batches are the data module's",
    "predict_step": "predictions are what `forward` returns",
    "on_test_start": "the test split is predicted without a trainer",
    "on_test_epoch_start": "the test split is predicted without a trainer",
    "on_test_batch_start": "the test split is predicted without a trainer",
    "on_test_batch_end": "the test split is predicted without a trainer",
    "on_test_epoch_end": "the test split is predicted without a trainer",
    "on_test_end": "the test split is predicted without a trainer",
}


@rule(
    tried="compared the methods of the class with the hooks that are called",
    mend="move what it does to a hook that is called: `prepare`, `loss`, `training_step`, "
    "`configure_optimizers` or one of Lightning's for training",
    scope="once",
)
def hooks_are_called(cls: type[Method], task: Task) -> None:
    """No hook is overridden that is never called."""
    for name, reason in UNCALLED.items():
        ours = getattr(cls, name) is getattr(LightningModule, name)
        assert ours, f"{name} is overridden but never called: {reason}"
    for name in dir(cls):
        if name.startswith(HOOKS) and callable(getattr(cls, name)):
            known = hasattr(LightningModule, name)
            assert known, f"{name} is never called: Lightning has no hook of this name"


@rule(
    tried="predicted all patterns of presence, a batch of one, a batch in which nobody has the "
    "first modality, and one with gaps inside modalities",
    mend="return (batch, output), finite for every pattern; beware of squeeze() and of means over "
    "nobody",
)
def outputs_have_the_right_shape(cls: type[Method], task: Task) -> None:
    """Outputs are finite and of the shape (batch, output), whatever is present."""
    method = build(cls, task)
    presence = all_patterns(task)
    nobody = presence[~presence[:, 0]] if len(task.modalities) > 1 else presence
    for rows in (presence, presence[:1], nobody):
        output = _outputs(method, make_batch(task, rows))
        expected = (len(rows), task.num_outputs)
        assert output.shape == expected, f"outputs are {tuple(output.shape)}, not {expected}"
        assert output.isfinite().all(), "outputs are not finite"
    inside = with_gaps_inside(make_batch(task, presence), task)
    finite = _outputs(method, inside).isfinite().all()
    assert finite, "outputs are not finite where entries inside modalities are gone"


# --- training --------------------------------------------------------------------------------


@rule(
    tried="took the loss of each stage in training mode: complete samples, all patterns, nobody "
    "with the first modality, a batch of one, a single class",
    mend="guard means over nobody, statistics over one sample (batch normalisation) and pairs that "
    "do not exist; the last batch of an epoch may hold one sample",
)
def loss_is_finite(cls: type[Method], task: Task) -> None:
    """Loss terms are finite numbers for every batch that a loader may give."""
    presence = all_patterns(task)
    nobody = presence[~presence[:, 0]] if len(task.modalities) > 1 else presence
    whole = torch.ones_like(presence)
    batches = {
        "": [make_batch(task, rows) for rows in (presence, whole, nobody)],
        " for a batch of one": [make_batch(task, whole[:1])],
        " for a single class": [
            make_batch(task, rows, one_class=True) for rows in (presence, whole)
        ],
    }
    for method in _begun(cls, task):
        for where, some in batches.items():
            for batch in some:
                try:
                    terms = method.loss(batch)
                except Exception as error:
                    error.args = (f"the loss cannot be taken{where}: {error}",)
                    raise
                for name, term in terms.items():
                    shape = tuple(term.shape)
                    assert shape == (), f"loss term {name} has the shape {shape}{where}"
                    assert term.isfinite(), f"loss term {name} is {term.item()}{where}"


@rule(
    tried="took the gradient of the loss of each stage on three batches of all patterns",
    mend="use the parameter, freeze it by a stage's `trains`, or take it away; beware of detach() "
    "and of slopes that are infinite at zero",
)
def gradients_reach_every_parameter(cls: type[Method], task: Task) -> None:
    """A finite gradient reaches everything that a stage trains."""
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


@rule(
    tried="trained each stage for a few steps and compared its parameters before and after",
    mend="give it to the optimiser in `configure_optimizers`",
    scope="task kind",
)
def training_moves_every_parameter(cls: type[Method], task: Task) -> None:
    """Every parameter that a stage trains is changed by its optimiser."""
    if not cls.applies.trains:
        return
    method = build(cls, task)
    batch = make_batch(task, all_patterns(task, repeat=4))
    for stage in method.stages:
        method.begin(stage)
        before = {n: p.detach().clone() for n, p in method.named_parameters() if p.requires_grad}
        _fit(method.train(), task, batch, steps=8, epochs=1)
        stuck = [n for n, p in method.named_parameters() if n in before and p.equal(before[n])]
        assert not stuck, f"{', '.join(stuck)} never learns in the stage {method.stage}"


@rule(
    tried="trained each stage for two steps with a data module that refuses its test split and "
    "blinds validation",
    mend="take what you need from the batches of `loss` and `prepare`; training sees no test split "
    "and no target of validation",
    scope="task kind",
)
def training_sees_training_alone(cls: type[Method], task: Task) -> None:
    """Training reads neither the test split nor a target of validation."""
    if not cls.applies.trains:
        return
    method = build(cls, task)
    batch = make_batch(task, all_patterns(task, repeat=4))
    for stage in method.stages:
        method.begin(stage)
        try:
            _fit(method.train(), task, batch, steps=2, epochs=1)
        except LeakError as error:
            raise AssertionError(f"{error} ({_place(error, _home(cls))})") from error


@rule(
    tried="kept a copy of a batch and compared it after `prepare`, the loss and predictions",
    mend="work on a copy: no `x += ...`, no `x[rows] = ...` on what a batch holds",
)
def batches_stay_as_they_are(cls: type[Method], task: Task) -> None:
    """Nothing that a batch holds is changed in place."""
    presence = all_patterns(task)

    def require_unchanged(batch: Batch, seed: int, hook: str) -> None:
        copy = make_batch(task, presence, seed=seed)
        names = [n for n in task.names if not torch.equal(batch.inputs[n], copy.inputs[n])]
        names += [f"lengths of {n}" for n in copy.lengths if _changed(batch, copy, n)]
        for name in ("presence", "target", "sample_id"):
            if not torch.equal(getattr(batch, name), getattr(copy, name)):
                names.append(name)
        assert not names, f"{hook} changes {', '.join(names)} of a batch in place"

    batch = make_batch(task, presence, seed=1)
    _seed(0)
    cls(task).prepare([batch])
    require_unchanged(batch, 1, "prepare")
    for method in _begun(cls, task):
        batch = make_batch(task, presence)
        method.loss(batch)
        require_unchanged(batch, 0, "the loss")
        batch = make_batch(task, presence)
        target, sample_id = batch.target, batch.sample_id
        _answers(method.eval(), batch.blind())
        require_unchanged(replace(batch, target=target, sample_id=sample_id), 0, "evaluation")


def _changed(batch: Batch, copy: Batch, name: str) -> bool:
    return not torch.equal(batch.lengths[name], copy.lengths[name])


@rule(
    tried="trained on 24 samples, half of them without one modality",
    mend="see whether the terms of `loss` pull towards the target at the learning rate given",
    scope="task kind",
)
def fits_a_few_samples(cls: type[Method], task: Task) -> None:
    """Training halves the task loss of the untrained method on a few samples, at least."""
    if not cls.applies.trains:
        return
    method = build(cls, task)
    batch = _few_samples(cls, task)
    before = method.task_loss(_outputs(method, batch), batch.target)
    for stage in method.stages:
        method.begin(stage)
        _fit(method.train(), task, batch, enough=float(before) / 2)
    after = method.eval().task_loss(_outputs(method, batch), batch.target)
    steps = STEPS * EPOCHS
    assert after < before / 2, f"task loss {before:.3f} before and {after:.3f} after {steps} steps"


@rule(
    tried="trained on 24 samples by `precision: bf16-mixed` on the CPU",
    mend="give what is written into a tensor its dtype, and compute in float32 what has no half "
    "(linalg, cdist): `x.float()`, inside `torch.autocast(x.device.type, enabled=False)`",
    scope="once",
)
def trains_in_bfloat16(cls: type[Method], task: Task) -> None:
    """Under autocast to bfloat16, every loss is a finite number and training lowers it."""
    if not cls.applies.trains:
        return
    places: tuple[AbstractContextManager[object], ...] = (nullcontext(), _AsOnGpu())
    for place in places:
        method = build(cls, task)
        batch = _few_samples(cls, task)
        before = method.task_loss(_outputs(method, batch), batch.target)
        finite = _Finite()
        for stage in method.stages:
            method.begin(stage)
            enough = 0.8 * float(before)
            with place:
                _fit(
                    method.train(), task, batch,
                    steps=5, enough=enough, precision="bf16-mixed", callback=finite,
                )  # fmt: skip
        after = method.eval().task_loss(_outputs(method, batch), batch.target)
        assert finite.steps, "no step was taken"
        assert after < before, f"task loss {before:.3f} before and {after:.3f} after training"


class _AsOnGpu(TorchFunctionMode):
    """Under autocast a GPU computes these in float32, of which a processor leaves some in halves.

    As torch lists them, "CUDA Ops that can autocast to float32".
    """

    FLOAT32 = frozenset({
        "__pow__", "__rdiv__", "__rpow__", "acos", "asin", "binary_cross_entropy_with_logits",
        "cosh", "cdist", "cosine_similarity", "cross_entropy", "cumprod", "cumsum", "dist",
        "erfinv", "exp", "expm1", "group_norm", "kl_div", "l1_loss", "layer_norm", "log", "log10",
        "log_softmax", "log1p", "log2", "mse_loss", "nll_loss", "norm", "normalize", "pdist",
        "pow", "prod", "reciprocal", "rsqrt", "sinh", "smooth_l1_loss", "softmax", "softmin",
        "softplus", "sum", "tan",
    })  # fmt: skip

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func.__name__ in self.FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = [one.float() if _is_half(one) else one for one in args]
            kwargs = {n: one.float() if _is_half(one) else one for n, one in (kwargs or {}).items()}
            with torch.autocast("cpu", enabled=False):
                return func(*args, **kwargs)
        return func(*args, **(kwargs or {}))


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16


class _Finite(Callback):
    """Looks at every loss of a training."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        loss = outputs["loss"]
        assert loss.isfinite(), f"the loss is {loss.item()} after {self.steps} steps"
        self.steps += 1


def _few_samples(cls: type[Method], task: Task) -> Batch:
    """Samples to learn by heart, half of them without one modality where a method allows it."""
    presence = torch.ones(24, len(task.modalities), dtype=torch.bool)
    if len(task.modalities) > 1 and not cls.applies.complete_rows:
        # a method for a single modality has nothing to learn from samples without it; one for any
        # kind reads the first
        read = cls.applies.one_of
        gap = next((c for c, m in enumerate(task.modalities) if m.kind not in read), -1)
        presence[12:, gap] = False
    return make_batch(task, presence)


def _fit(
    method: Method,
    task: Task,
    batch: Batch,
    *,
    steps: int = STEPS,
    epochs: int = EPOCHS,
    enough: float = 0.0,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    callback: Callback | None = None,
) -> None:
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers and sizes of this toy loader
        trainer = Trainer(
            max_epochs=epochs,
            callbacks=[_Enough(batch, enough), *([callback] if callback else [])],
            accelerator="cpu",
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(method, datamodule=Fitting(OneBatch(task, batch, steps)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning says nothing of devices and of trainings that end."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


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


# --- what a method may not see ---------------------------------------------------------------


@rule(
    tried="wrote NaN and 1e6 into absent entries, in evaluation and in the loss of each stage",
    mend="read inputs through `Batch.embed`, or zero what is absent by `torch.where`: a product "
    "with presence keeps NaN",
)
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
                _seed(0)
                losses.append(sum(begun.loss(batch).values(), torch.zeros(())))
            assert torch.equal(*losses), f"the loss changes when absent entries hold {garbage}"


@rule(
    tried="predicted, compared epochs and asked for candidates in each stage, from batches whose "
    "target cannot be read and whose ids are opaque",
    mend="predict from inputs and presence; evaluation has no target, and an id tells nothing",
)
def evaluation_is_blind(cls: type[Method], task: Task) -> None:
    """Evaluation needs neither the target nor the sample's id."""
    for method in _begun(cls, task):
        batch = _seen_at_selection(method.eval(), task)
        try:
            answers = _answers(method, batch)
        except LeakError as error:
            raise AssertionError(f"{error} ({_place(error, _home(cls))})") from error
        except (IndexError, RuntimeError) as error:
            raise AssertionError(f"fails on samples whose ids it never saw: {error}") from error
        finite = answers["forward"].isfinite().all()
        assert finite, "outputs of samples whose ids it never saw are not finite"


@rule(
    tried="asked in the last stage what its epochs are compared by, and on which samples",
    mend="override `stage_output` and `stage_rows` for stages before the last alone: the last "
    "score on validation is recorded as the method's, and by it settings are chosen",
)
def the_last_stage_is_scored_by_the_prediction(cls: type[Method], task: Task) -> None:
    """What a method is trained to in the end is compared by what it predicts, on all samples."""
    if not cls.applies.trains:
        return
    method = build(cls, task)
    method.begin(method.stages[-1])
    answers = _answers(method.eval(), _seen_at_selection(method, task))
    assert "stage_rows" not in answers, "stage_rows leaves samples out of the last score"
    same = torch.allclose(answers["stage_output"], answers["forward"], atol=1e-5)
    assert same, "stage_output of the last stage is not what forward predicts"


@rule(
    tried="predicted the same samples under other ids",
    mend="leave the id out; draws that are keyed by it, the same in every batch, may stay",
    warns=True,
)
def predictions_do_not_know_the_id(cls: type[Method], task: Task) -> None:
    """A prediction does not depend on the number that a sample has."""
    method = build(cls, task)
    batch = make_batch(task, all_patterns(task)).blind()
    other = replace(batch, sample_id=batch.sample_id - 7919)
    same = torch.allclose(_outputs(method, batch), _outputs(method, other), atol=1e-5)
    assert same, "outputs change with the ids of the samples"


# --- other samples ---------------------------------------------------------------------------


@rule(
    tried="predicted samples in another order, and some of them alone",
    mend="normalise over features, not over the batch; or declare `applies = "
    "Applies(neighbours=True)` if that is the method's idea",
)
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


class _Seen(BatchEmbeddings):
    """Remembers nothing, and notes what reads which modality."""

    def __init__(self) -> None:
        self.encoders: dict[str, set[Encode]] = {}

    def embed(self, modality: str, encoder: Encode) -> None:
        self.encoders.setdefault(modality, set()).add(encoder)


@rule(
    tried="called every encoder that `Batch.embed` was given on a batch and on its samples alone",
    mend="keep statistics over the batch out of encoders: what they return is shared by conditions "
    "and kept between epochs",
)
def encoders_read_samples_by_themselves(cls: type[Method], task: Task) -> None:
    """What an encoder behind `Batch.embed` makes of a sample depends on that sample alone."""
    method = build(cls, task)
    seen = _Seen()
    batch = make_batch(task, torch.ones_like(all_patterns(task)))
    _outputs(method, replace(batch, embeddings=seen))
    for name, encoders in seen.encoders.items():
        for read in encoders:
            with torch.no_grad():
                whole = read(batch.inputs[name], batch.lengths.get(name))
                for row in (0, len(batch) - 1):
                    one = batch.take(torch.tensor([row]))
                    alone = read(one.inputs[name], one.lengths.get(name))
                    same = torch.allclose(alone[0], whole[row], atol=1e-5)
                    assert same, f"the encoder of {name} mixes samples"


@rule(
    tried="evaluated conditions with encodings that were computed once, and each by itself",
    mend="encode through `Batch.embed`, each sample and modality by itself",
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


@rule(
    tried="compared the layers that read each modality with those of the suite",
    mend="encode by `ModalityEncoders`, or say in `own_encoders` why the paper does otherwise",
)
def encoders_are_those_of_the_suite(cls: type[Method], task: Task) -> None:
    """Every modality is read by what the suite reads it with, at the method's width."""
    if cls.own_encoders or not cls.applies.trains:
        return
    vector = {"vector": {"layers": 2}} if any(m.kind == "vector" for m in task.modalities) else {}
    task = with_encoders(task, vector | {"dropout": 0.2})
    seen = _Seen()
    batch = make_batch(task, torch.ones_like(all_patterns(task)))
    _outputs(build(cls, task), replace(batch, embeddings=seen))
    for modality in task.modalities:
        readers = {
            reader
            for reader in seen.encoders.get(modality.name, set())
            if not isinstance(reader, nn.Module) or list(reader.parameters())
        }
        assert readers or cls.applies.one_of, (
            f"{modality.name} is read past Batch.embed; encode it by ModalityEncoders, or say in "
            "own_encoders why the paper does otherwise"
        )
        for reader in readers:
            layers, expected = _as_the_suite(reader, modality)
            assert layers == expected, (
                f"{modality.name} is read by other layers than those of the suite "
                f"({layers} instead of {expected}); take mmbench.layers.encoders, or say in "
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


# --- chance and state ------------------------------------------------------------------------


@rule(
    tried="built it twice from one seed, took the loss of each stage twice, and predicted twice",
    mend="draw from torch's generator; no dropout, noise or clock in evaluation",
)
def same_seed_same_method(cls: type[Method], task: Task) -> None:
    """One seed gives one method, one loss and one prediction."""
    first, second = build(cls, task, seed=5), build(cls, task, seed=5)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), f"{name} differs between two methods built from one seed"
    batch = make_batch(task, all_patterns(task))
    assert torch.equal(_outputs(first, batch), _outputs(first, batch)), "evaluation is random"
    for one, other in zip(_begun(cls, task), _begun(cls, task), strict=True):
        losses = []
        for method in (one, other):
            _seed(6)
            losses.append(method.loss(batch))
        for name, term in losses[0].items():
            assert torch.equal(term, losses[1][name]), (
                f"loss term {name} differs between two trainings from one seed"
            )


@rule(
    tried="built it in a second process, where hash() of a text is another number",
    mend="derive no seed from hash(), a clock or the process; draw from torch's generator",
    scope="once",
)
def another_process_builds_the_same(cls: type[Method], task: Task) -> None:
    """Weights do not depend on the process that drew them."""
    others = weights_in_another_process(cls)
    for task, here, other in zip(sample_tasks(cls), weights_of(*address(cls)), others, strict=True):
        differ = [name for name, digest in here.items() if other.get(name) != digest]
        assert not differ, f"{', '.join(differ)} differs between two processes ({task.kind})"


@lru_cache(maxsize=256)
def weights_in_another_process(cls: type[Method]) -> list[dict[str, str]]:
    """What `weights_of` says elsewhere."""
    answer: list[dict[str, str]] = in_another_process(
        "mmbench.checks.methods:weights_of", *address(cls)
    )
    return answer


def weights_of(module: str, file: str, qualname: str) -> list[dict[str, str]]:
    """Digests of what a method is built from, by name, for each of its sample tasks."""
    cls = by_address(module, file, qualname)
    return [
        {
            name: hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()[:16]
            for name, value in build(cls, task).state_dict().items()
        }
        for task in sample_tasks(cls)
    ]


def weights_of_all(addresses: dict[str, list[str]]) -> dict[str, list[dict[str, str]]]:
    """`weights_of` for several methods, by name."""
    return {name: weights_of(*where) for name, where in addresses.items()}


@rule(
    tried="took the loss in each stage, loaded its weights into a fresh method, and compared what "
    "evaluation asks",
    mend="keep what is learned or remembered in parameters or buffers (register_buffer), and "
    "modules in a ModuleList",
)
def weights_are_the_whole_method(cls: type[Method], task: Task) -> None:
    """Loading saved weights into a fresh, unprepared method restores what it predicts."""
    for number, method in enumerate(_begun(cls, task)):
        _seed(2)
        fresh = cls(task).eval()
        for stage in method.stages[: number + 1]:
            fresh.begin(stage)
        batch = _seen_at_selection(method, task)
        for after in ("preparing", "the loss"):
            if after == "the loss":
                method.train().loss(make_batch(task, all_patterns(task)))
            fresh.load_state_dict(method.eval().state_dict())
            answers, others = _answers(method, batch), _answers(fresh, batch)
            # candidates are chosen among before weights are kept
            for name in (name for name in answers if name != "candidates"):
                assert torch.equal(answers[name], others[name]), (
                    f"{name} changes after saving and loading what came of {after}: something "
                    "learned is no parameter or buffer"
                )


@rule(
    tried="predicted one batch, then another, then the first again",
    mend="keep nothing of what is evaluated: no bank, no running mean, no cache in `forward`",
)
def evaluation_leaves_no_trace(cls: type[Method], task: Task) -> None:
    """Predicting some samples changes neither the method nor what it predicts of others."""
    for method in _begun(cls, task):
        method.eval()
        batch, other = (_seen_at_selection(method, task, seed=seed) for seed in (0, 5))
        before = {name: value.clone() for name, value in method.state_dict().items()}
        answers = _answers(method, batch)
        _answers(method, other)
        again = _answers(method, batch)
        for name, answer in answers.items():
            assert torch.equal(answer, again[name]), (
                f"{name} of a batch changes after another was evaluated: it is remembered"
            )
        for name, value in method.state_dict().items():
            assert torch.equal(value, before[name]), f"evaluation changes {name}"


@rule(
    tried="watched a prediction for calls that wait for the device",
    mend="keep numbers in tensors; no item(), tolist(), cpu(), numpy(), bool() or `if tensor`, and "
    "no list or mask as an index: `index_select` and `where` do not wait",
    warns=True,
    scope="task kind",
)
def forward_waits_for_no_device(cls: type[Method], task: Task) -> None:
    """A prediction never makes the processor wait for a GPU."""
    if not cls.applies.trains:
        return  # such as trees, which read numbers on the processor
    method = build(cls, task)
    batch = make_batch(task, all_patterns(task)).blind()
    with _Waiting(_home(cls)) as waiting:
        _outputs(method, batch)
    assert not waiting.calls, f"forward waits for the device: {', '.join(waiting.calls)}"


@rule(
    tried="built with either end of every range in `search`",
    mend="name arguments of the constructor in `search`, and ranges with which it can be built",
    scope="once",
)
def a_search_can_be_built(cls: type[Method], task: Task) -> None:
    """What a search may draw is taken by the constructor."""
    for share, end in ((0.0, "lower"), (1.0, "upper")):
        drawn: dict[str, Any] = {name: draw.at(share) for name, draw in cls.search.items()}
        try:
            cls(task, **drawn)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"the {end} ends of `search` cannot be built: {error}") from error


class _Waiting(TorchFunctionMode):
    """Notes calls by which Python waits for a number, made by a file or one beside it.

    Layers of mmbench know why they wait, where they do.
    """

    CALLS = (
        *(Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__bool__),
        *(Tensor.__int__, Tensor.__float__, Tensor.__index__, torch.equal, torch.allclose),
    )
    INDEXED = (Tensor.__getitem__, Tensor.__setitem__)

    def __init__(self, home: str) -> None:
        super().__init__()
        self.home = home
        self.calls: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in self.CALLS or (func in self.INDEXED and _waits(args[1])):
            frame = _caller()
            if self.home and Path(frame.filename).is_relative_to(Path(self.home).parent):
                file = "" if frame.filename == self.home else f" of {Path(frame.filename).name}"
                call = f"{func.__name__} in line {frame.lineno}{file}"
                if call not in self.calls:
                    self.calls.append(call)
        return func(*args, **(kwargs or {}))


def _waits(index: Any) -> bool:
    """Whether an index has to be copied to the device, or its length to be asked for there."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(
        isinstance(part, list | np.ndarray)
        or (isinstance(part, Tensor) and part.dtype == torch.bool and part.dim() > 0)
        for part in parts
    )


def _caller() -> traceback.FrameSummary:
    """Who made the call that `_Waiting` sees; tests wrap this module in checks of shapes."""
    stack = traceback.extract_stack()
    internal = (__file__, "<")
    return next(
        frame
        for frame in reversed(stack)
        if not frame.filename.startswith(internal) and "jaxtyping" not in frame.filename
    )


def _home(cls: type[Method]) -> str:
    """File of a class; empty if it has none."""
    return address(cls)[1]


def _place(error: BaseException, home: str) -> str:
    """Line of a file on the way to an error."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == home]
    return f"line {lines[-1]} of {Path(home).name}" if lines else "not in the method's own file"
