"""Train one method once and evaluate it under every test condition.

`run` is the only function that trains. Methods, data, scores and records meet here.
"""

import contextlib
import gc
import inspect
import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from mmbench.bench.record import LOCK, Outcome, clear, find, finish, write_arrays, write_json
from mmbench.bench.spec import RunSpec, bind
from mmbench.data.batch import Batch, Memo
from mmbench.data.cache import cached
from mmbench.data.missingness import dependence, realised
from mmbench.data.propensity import natural_weights
from mmbench.data.samples import Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.task import Task
from mmbench.datamodule import DataModule
from mmbench.method import Method, Stage
from mmbench.metrics.degradation import effective_sample_size
from mmbench.metrics.metric import find as find_metric
from mmbench.metrics.metric import higher_is_better, metrics_for, score, score_resampled
from mmbench.registry import DATASETS, METHODS, suggest

OURS = ("max_epochs", "batch_size", "patience")  # trainer settings that Lightning does not get
STAGES = "stages"  # finished stages of a run in flight, each in a folder of its own
CURVES = "curves"  # training curves by stage, of methods with several
CEILING_RESAMPLES = 100  # enough for a standard error to about 7 %
SAME = {"batch_size": 1}  # trainer settings that have no bearing on a ceiling
GIVEN_TO_DATA = ("root", "scenario", "fold", "batch_size", "order_seed", "limit")


class DivergedError(RuntimeError):
    """The method's outputs are no longer finite."""


class LeakError(RuntimeError):
    """The method knows more than what it was shown."""


def check(spec: RunSpec, root: Path) -> None:
    """Find a user's mistakes in a planned run before anything is written.

    Raises:
        ValueError: If the method or data set does not exist or import, an argument is wrong,
            the scenario cannot be laid over the data, or the selection metric does not fit.
    """
    _bound_method(spec)
    data = _data(spec, root)
    task = data.task
    data.scenario.check(task.names)
    metric = spec.select["metric"]
    if metric not in metrics_for(task.kind):
        raise ValueError(
            f"select.metric {metric!r} does not fit {spec.data_label}, a {task.kind} task"
            f"{suggest(metric, metrics_for(task.kind))}; "
            f"choose from {', '.join(metrics_for(task.kind))}"
        )
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    for name in spec.trainer_args:
        if name not in OURS and name not in known:
            raise ValueError(
                f"unknown key 'trainer.{name}'{suggest(name, [*OURS, *sorted(known)])}; "
                "known are max_epochs, batch_size, patience and the arguments of "
                "lightning.pytorch.Trainer"
            )


def run(spec: RunSpec, runs: Path, root: Path, *, overwrite: bool = False) -> Outcome:
    """Train, evaluate and record; whatever goes wrong ends in the record, not in the caller.

    Args:
        spec: What to run.
        runs: Folder of all runs of the suite.
        root: Folder of the user's data.
        overwrite: Whether a run that is already done is repeated.

    Returns:
        How it ended.
    """
    began = time.perf_counter()
    folder = runs / spec.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # a second: `status` holds the lock for a moment when it looks whether somebody else does
        held = FileLock(folder / LOCK).acquire(timeout=1)
    except Timeout:
        return Outcome("elsewhere", "another process is at it")
    with held:
        if not overwrite and find(spec, runs).state in ("done", "skipped"):
            return Outcome("done")
        clear(folder, keep=() if overwrite else (STAGES, CURVES))
        write_json(folder / "spec.json", spec.to_json())
        write_json(folder / "env.json", environment())
        with _log_to(folder / "log.txt"):
            try:
                skipped, work_s = _train_and_evaluate(spec, folder, root)
            except Exception as error:
                traceback.print_exc()
                why = classify(error)
                finish(folder, "failed.json", {"why": why, "traceback": traceback.format_exc()})
                return Outcome("failed", why, time.perf_counter() - began)
            finally:
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        if skipped:
            finish(folder, "skipped.json", {"why": skipped})
            return Outcome("skipped", skipped, time.perf_counter() - began)
        finish(folder, "done")
    return Outcome("done", "", time.perf_counter() - began, work_s)


def classify(error: BaseException) -> str:
    """One line about a failure, its kind first (out of memory, diverged, leak, input, disk)."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"out of memory: {text}"
    if isinstance(error, DivergedError):
        return f"diverged: {text}"
    if isinstance(error, LeakError):
        return f"leak: {text}"
    if isinstance(error, ValueError):
        return f"input: {text}"
    if isinstance(error, OSError):
        return f"disk: {text}"
    return f"error: {type(error).__name__}: {text}"


def _bound_method(spec: RunSpec) -> tuple[type[Method], dict[str, Any]]:
    cls = METHODS.get(spec.method)
    return cls, bind(cls, spec.method_args, given=("task",))


def _data(spec: RunSpec, root: Path) -> DataModule:
    cls = DATASETS.get(spec.data)
    data: DataModule = cls(
        root=root,
        scenario=Scenario.parse(spec.scenario),
        fold=spec.fold,
        batch_size=spec.trainer_args["batch_size"],
        order_seed=spec.seed,
        limit=spec.limit,
        **bind(cls, spec.data_args, given=GIVEN_TO_DATA),
    )
    data.loaded = _loaded(spec.data, repr(sorted(spec.data_args.items())), spec.fold, root)
    return data


@lru_cache(maxsize=2)
def _loaded(data: str, args: str, fold: int, root: Path) -> dict[Split, Samples]:
    """Splits already read by this worker; the plan keeps runs on the same data together."""
    return {}


def _train_and_evaluate(spec: RunSpec, folder: Path, root: Path) -> tuple[str | None, float]:
    """Returns why the method does not apply, if so, and the seconds of fit and evaluation."""
    cls, args = _bound_method(spec)
    data = _data(spec, root)
    task = data.task
    if reason := cls.applies.reason_not(task):
        return reason, 0.0
    data.setup()
    train_presence = data.split("train").presence
    if cls.applies.complete_rows and not train_presence.all(axis=1).any():
        return "needs complete training samples, and the scenario leaves none", 0.0

    seed_everything(spec.seed)
    method: Method = cls(task, **args)
    method.prepare(data.batches("train"))
    device = torch.device("cpu")
    stages: list[dict[str, Any]] = []
    energy_j = None
    if cls.applies.trains:
        before_j = _energy_j()
        for number, stage in enumerate(method.stages):
            if number:
                # the same draws whether the stage before was trained, loaded or resumed
                seed_everything(spec.seed + 1_000_003 * number)
            words, trainer = _train(spec, folder, data, method, stage)
            stages.append(words)
            device = trainer.strategy.root_device
            if trainer.world_size > 1 and not trainer.is_global_zero:
                return None, 0.0  # one process writes the record
        after_j = _energy_j()
        energy_j = None if before_j is None or after_j is None else after_j - before_j
    train_s = sum(words["train_s"] for words in stages)
    began = time.perf_counter()
    ms_per_sample: list[float] = []
    logits = evaluate(method, data, device, ms_per_sample)
    eval_s = time.perf_counter() - began

    (folder / "predictions").mkdir()
    test = data.split("test").samples
    weights = _natural_weights(data)
    ceilings = _ceilings(spec, root)
    conditions = {}
    for name, output in logits.items():
        presence = data.condition_presence(name)
        write_arrays(
            folder / "predictions" / f"{name}.npz",
            {
                "logits": output,
                "target": test.target,
                "presence": presence,
                "sample_id": test.sample_id,
            },
        )
        missingness = data.conditions[name]
        best = ceilings.get(name)
        if best is not None:
            _require_no_leak(name, output, best.log_posterior, test.target)
        weighted = {} if weights is None else _weighted_scores(task, output, test.target, weights)
        conditions[name] = {
            "mechanism": missingness.mechanism,
            "missing_rate_nominal": missingness.nominal_rate,
            "realised": asdict(realised(presence, test.presence, task.names)),
            "dependence": asdict(dependence(presence, test)),
            "n": len(test),
            "effective_n": None if weights is None else effective_sample_size(weights),
            "scores": _scores(task, output, test.target) | weighted,
            "bayes": {} if best is None else best.scores,
            "bayes_se": {} if best is None else best.errors,
        }
    if shown := method.diagnostics():
        write_arrays(folder / "diagnostics.npz", shown)
    if spec.keep_weights:
        kept = {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items()}
        save_file(kept, folder / "weights.safetensors")
    parameters = list(method.parameters())
    flops = _flops(method, data, device)
    write_json(
        folder / "metrics.json",
        {
            "task": {"kind": task.kind, "outputs": task.outputs, "modalities": task.names},
            "selected": dict(spec.select)
            | (stages[-1]["selected"] if stages else {"epoch": None, "score": None}),
            "stages": stages,
            "train": asdict(
                realised(train_presence, data.split("train").samples.presence, task.names)
            ),
            "conditions": conditions,
            "cost": {
                "params_total": sum(p.numel() for p in parameters),
                "params_trainable": sum(p.numel() for p in parameters if p.requires_grad),
                "flops_per_sample": flops["+".join(task.names)],
                "train_s": train_s,
                "eval_s": eval_s,
                "infer_ms_per_sample": 1000 * eval_s / (len(test) * len(logits)),
                "infer_ms_std": float(np.std(ms_per_sample)),
                "peak_mib": _peak_mib(device),
                "energy_j": energy_j,
                "flops_per_pattern": flops,
            },
            "code": environment()["code"],
        },
    )
    _join_curves(folder, [words["stage"] for words in stages])
    shutil.rmtree(folder / STAGES, ignore_errors=True)
    return None, train_s + eval_s


def _join_curves(folder: Path, stages: list[str]) -> None:
    """One curve of all stages, epochs counted on; a stage that was loaded has none."""
    parts, epochs = [], 0
    for stage in stages:
        file = folder / CURVES / stage / "metrics.csv"
        if file.is_file():
            part = pd.read_csv(file)
            part["epoch"] += epochs
            epochs = int(part["epoch"].max()) + 1
            parts.append(part.assign(stage=stage))
    if parts:
        pd.concat(parts).to_csv(folder / "metrics.csv", index=False)
    shutil.rmtree(folder / CURVES, ignore_errors=True)


def _train(
    spec: RunSpec, folder: Path, data: DataModule, method: Method, stage: Stage
) -> tuple[dict[str, Any], Trainer]:
    """Train one stage, or load what an earlier attempt or another method made of it.

    Returns:
        What the record says of the stage, and the trainer, which knows the device.
    """
    method.begin(stage)
    method.train()
    task = data.task
    keep = KeepBest(
        task,
        spec.select["metric"],
        stage.select or spec.select["on"],
        spec.trainer_args.get("patience"),
    )
    alone = len(method.stages) == 1
    curves = folder if alone else folder / CURVES / stage.name
    trainer = _trainer(spec, curves, keep, stage.epochs)

    def fit() -> dict[str, Any]:
        began = time.perf_counter()
        trainer.fit(method, datamodule=data)
        if trainer.interrupted:
            raise KeyboardInterrupt
        train_s = time.perf_counter() - began
        flops = None if alone else _flops_of_loss(method, data)
        keep.restore(method)
        return {
            "stage": stage.name,
            "selected": {"epoch": keep.epoch, "score": keep.best},
            "train_s": train_s,
            "params_trainable": sum(p.numel() for p in method.parameters() if p.requires_grad),
            "flops_per_sample": flops,
            "shared": bool(stage.shared),
        }

    if alone or trainer.world_size > 1:  # with several processes, none may wait for the others
        return fit(), trainer

    def build(part: Path) -> None:
        words = fit()
        frozen = {name for name, p in method.named_parameters() if not p.requires_grad}
        kept = {
            name: value.detach().cpu().clone()
            for name, value in method.state_dict().items()
            if name not in frozen and (stage.covers(name) or not stage.shared)
        }
        save_file(kept, part / "weights.safetensors")
        write_json(part / "stage.json", words)

    # another commit's weights are another method's
    words: dict[str, Any] = {"stage": asdict(stage), "code": environment()["code"]}
    home = folder / STAGES
    if stage.shared:
        home = folder.parents[len(spec.folder.parts) - 1] / ".shared"
        same = replace(spec, method="", method_args={}, method_label="", data_label="")
        words |= same.to_json()
        seed_everything(spec.seed)  # whoever trains it comes from elsewhere
    made = cached(words, build, home=home)
    method.load_state_dict(load_file(made / "weights.safetensors"), strict=False)
    return dict(json.loads((made / "stage.json").read_text(encoding="utf-8"))), trainer


def _scores(task: Task, output: NDArray[Any], target: NDArray[Any]) -> dict[str, float]:
    return {name: score(name, output, target, task.kind) for name in metrics_for(task.kind)}


def _natural_weights(data: DataModule) -> Float[np.ndarray, " sample"] | None:
    """Inverse-probability weights of test samples whose gaps nature made by label.

    None where there are no natural gaps, the target is no class, or some pattern of the test
    split never occurs in training, so that no weight could speak for it.
    """
    test = data.split("test").samples
    if test.presence.all() or data.task.kind != "single_label":
        return None
    train = data.split("train").samples
    try:
        return natural_weights(train, test, classes=data.task.num_outputs)
    except ValueError as error:
        logging.getLogger(__name__).warning("no weighted scores: %s", error)
        return None


def _weighted_scores(
    task: Task, output: NDArray[Any], target: NDArray[Any], weights: NDArray[Any]
) -> dict[str, float]:
    """Scores as if gaps had fallen regardless of the class, `<metric>_ipw`."""
    return {
        f"{name}_ipw": score(name, output, target, task.kind, weights)
        for name in metrics_for(task.kind)
        if find_metric(name).weighted
    }


@dataclass(frozen=True)
class _Ceiling:
    """The best possible prediction of a test split, its scores and their sampling errors."""

    log_posterior: NDArray[Any]
    scores: dict[str, float]
    errors: dict[str, float]


def _ceilings(spec: RunSpec, root: Path) -> dict[str, _Ceiling]:
    """Best possible under each test condition, the same for all methods and seeds."""
    same = replace(spec, method="", method_args={}, method_label="", seed=0, trainer_args=SAME)
    return _ceilings_of(json.dumps(same.to_json(), sort_keys=True), root)


@lru_cache(maxsize=16)
def _ceilings_of(spec_json: str, root: Path) -> dict[str, _Ceiling]:
    """Condition -> ceiling; conditions whose best prediction is unknown are left out."""
    data = _data(RunSpec.from_json(json.loads(spec_json)), root)
    test, task = data.split("test").samples, data.task
    n = len(test)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=CEILING_RESAMPLES)
    found = {}
    for name, missingness in data.conditions.items():
        posterior = data.bayes_posterior(test, data.condition_presence(name), missingness)
        if posterior is None:
            continue
        best = np.log(posterior)
        errors = {
            metric: float(
                score_resampled(metric, best, test.target, task.kind, counts.astype(float)).std()
            )
            for metric in metrics_for(task.kind)
        }
        found[name] = _Ceiling(best, _scores(task, best, test.target), errors)
    return found


def _require_no_leak(
    condition: str, output: NDArray[Any], best: NDArray[Any], target: NDArray[Any]
) -> None:
    """Refuse an accuracy that beats the best possible one by more than chance allows.

    Raises:
        LeakError: If it does, by more than 3 standard errors of the paired difference.
    """
    gain = (output.argmax(1) == target).astype(float) - (best.argmax(1) == target)
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    if gain.mean() > 3 * error > 0:
        raise LeakError(
            f"accuracy under {condition} is {gain.mean():.3f} above the best possible one, "
            f"{gain.mean() / error:.1f} standard errors: something absent reaches the method"
        )


def seed_everything(seed: int) -> None:
    """Seed torch, and numpy's global generator for libraries that use it."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - not for us, for third-party code in a plugin


@torch.no_grad()
def evaluate(
    method: LightningModule,
    data: DataModule,
    device: torch.device | str = "cpu",
    ms_per_sample: list[float] | None = None,
) -> dict[str, Float[np.ndarray, "sample output"]]:
    """Predict the test split under all its conditions in one pass.

    Each modality of a batch is encoded once and shared by the conditions wherever the method
    encodes through `Batch.embed`; entries that no condition shows are gone before that.

    Args:
        method: What predicts.
        data: Whose test split.
        device: Where.
        ms_per_sample: Gets, for each batch, the milliseconds for one sample and condition.

    Returns:
        Condition -> float32 outputs in order of the test split.

    Raises:
        DivergedError: If an output is not finite.
    """
    method.eval().to(device)
    tables = {c: torch.from_numpy(data.condition_presence(c)) for c in data.conditions}
    shown = torch.stack(list(tables.values())).any(dim=0)
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in tables}
    start = 0
    for batch in data.batches("test"):
        began = time.perf_counter()
        rows = slice(start, start := start + len(batch))
        source = batch.hide(~shown[rows]).to(device)
        memo = Memo(source)
        for name, presence in tables.items():
            seen = replace(source.hide(~presence[rows].to(device)), memo=memo)
            parts[name].append(method(seen))
        if ms_per_sample is not None:
            if source.presence.is_cuda:
                torch.cuda.synchronize()
            spent = time.perf_counter() - began
            ms_per_sample.append(1000 * spent / (len(batch) * len(tables)))
    logits = {name: torch.cat(part).float().cpu().numpy() for name, part in parts.items()}
    for name, output in logits.items():
        if not np.isfinite(output).all():
            raise DivergedError(f"outputs under the condition {name} are not finite")
    return logits


class KeepBest(Callback):
    """Keep the weights of the epoch with the best validation score; the earliest on ties."""

    def __init__(self, task: Task, metric: str, on: str, patience: int | None) -> None:
        self.task = task
        self.metric = metric
        self.sign = 1.0 if higher_is_better(metric) else -1.0
        self.on = on
        self.patience = patience
        self.best: float | None = None
        self.epoch: int | None = None
        self._state: dict[str, torch.Tensor] = {}
        self._parts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Collect predictions."""
        self._parts.append((outputs, batch.target))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the epoch, and copy the weights if it is the best so far."""
        output, target = (
            torch.cat(x).float().cpu().numpy() for x in zip(*self._parts, strict=True)
        )
        self._parts = []
        if not np.isfinite(output).all():
            raise DivergedError(
                f"validation outputs of epoch {trainer.current_epoch} are not finite"
            )
        if self.task.kind == "single_label":
            target = target.astype(np.int64)
        value = score(self.metric, output, target, self.task.kind)
        pl_module.log(f"val/{self.metric}", value)
        better = self.best is None or self.sign * value > self.sign * self.best
        if better or self.on == "last":
            self.best, self.epoch = value, trainer.current_epoch
            frozen = {n for n, p in pl_module.named_parameters() if not p.requires_grad}
            state = pl_module.state_dict()
            self._state = {k: v.detach().clone() for k, v in state.items() if k not in frozen}
        elif self.patience is not None and self.epoch is not None:
            trainer.should_stop = trainer.current_epoch - self.epoch >= self.patience

    def restore(self, method: LightningModule) -> None:
        """Put the kept weights back."""
        method.load_state_dict(self._state, strict=False)


def _trainer(spec: RunSpec, folder: Path, keep: KeepBest, epochs: int | None) -> Trainer:
    settings: dict[str, Any] = {
        "max_epochs": epochs or spec.trainer_args["max_epochs"],
        "devices": 1,
        "accelerator": "auto",
        "logger": CSVLogger(folder, name="", version=""),
        "callbacks": [keep],
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10**9,  # methods log once an epoch
    }
    settings |= {k: v for k, v in spec.trainer_args.items() if k not in OURS}
    return Trainer(**settings)


@torch.no_grad()
def _flops(method: Method, data: DataModule, device: torch.device) -> dict[str, float]:
    """Floating-point operations to predict one sample, as torch counts them, by pattern.

    Matrix products, convolutions and attention count; recurrent layers on a CPU do not.
    With more than four modalities: as nature left the sample, and each modality withheld.
    """
    batch = next(data.batches("test")).to(device)
    names = data.task.names
    patterns = list(product((True, False), repeat=len(names)))[:-1]  # complete ones first
    if len(names) > 4:
        patterns = [row for row in patterns if sum(row) >= len(names) - 1]
    found = {}
    for row in patterns:
        absent = ~torch.tensor(row, device=device).expand_as(batch.presence)
        name = "+".join(n for n, shown in zip(names, row, strict=True) if shown)
        found[name] = _count(method, replace(batch.hide(absent), memo=None))
    return found


@torch.no_grad()
def _flops_of_loss(method: Method, data: DataModule) -> float:
    """Operations of a stage's loss for one training sample, nothing taken from memory."""
    batch = replace(next(data.batches("train")), memo=None)
    with torch.random.fork_rng():
        return _count(method.loss, batch.to(next(method.parameters()).device))


def _count(call: Callable[[Batch], Any], batch: Batch) -> float:
    with FlopCounterMode(display=False) as counter:
        call(batch)
    return float(counter.get_total_flops()) / len(batch)


def _energy_j() -> float | None:
    """Joules that this process's GPU has drawn since its driver started; None without NVML."""
    if not torch.cuda.is_available():
        return None
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    # the uuid: NVML does not know of CUDA_VISIBLE_DEVICES
    uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(device)) / 1000


def _peak_mib(device: torch.device) -> float:
    """Peak memory: of the GPU where there is one, else of this process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Versions, commit and machine; nothing that names a user or a path."""
    packages = ("mmbench", "torch", "torchvision", "lightning", "numpy", "transformers")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "code": _commit(),
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _commit() -> str:
    """Version, and the commit if this is a checkout; `+` = with uncommitted changes."""
    release = version("mmbench")
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return release

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True)
        return done.stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{release}-{git('rev-parse', '--short=10', 'HEAD')}{changed}"


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send everything that is printed, logged or warned of into one file."""
    with path.open("w", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
        past: Mapping[logging.Logger, list[logging.Handler]] = {
            logger: logger.handlers[:] for logger in loggers
        }
        for logger in loggers:
            logger.handlers = [handler]
        try:
            with (
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
                warnings.catch_warnings(),
            ):
                for meant in (
                    "does not have many workers",  # data lies in memory
                    "in eval mode at the start of training",  # parts that a stage froze
                    "smaller than the logging interval",  # methods log once an epoch
                    "Experiment logs directory .* exists",  # the curve goes to the run's folder
                ):
                    warnings.filterwarnings("ignore", f".*{meant}")
                yield
        finally:
            for logger, handlers in past.items():
                logger.handlers = handlers
