"""Train a method, stage by stage; a stage that was trained before is loaded."""

import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file, save_file

from mmbench.bench.result import Selected, StageResult, read_stage, write_stage
from mmbench.bench.run.build import OURS
from mmbench.bench.run.checkpoint import Checkpoints
from mmbench.bench.run.claimed import WhileClaimed
from mmbench.bench.run.identity import stage_identity
from mmbench.bench.run.loggers import loggers
from mmbench.bench.run.meters import energy_j, flops_of_loss, metered
from mmbench.bench.run.schedule import Schedule
from mmbench.bench.run.selection import KeepBest, passes_an_epoch, still_rising
from mmbench.bench.spec import RunSpec
from mmbench.data.cache import cached_unless_lost
from mmbench.data.digest import digest
from mmbench.datamodule import DataModule, Fitting
from mmbench.method import Method, Stage
from mmbench.store import Claim, write_text

CURVE = "metrics.csv"
RECORD = "stage.json"


@dataclass(frozen=True)
class Training:
    """How a method was trained.

    Args:
        prepare_s: Seconds of looking at the data before any stage.
        stages: What the record says of each stage; none for a method without training.
        device: Where it was trained.
        energy_j: Joules that the GPU drew; None where that is not metered.
        writes_record: Whether this is the one of several processes that writes the record.
    """

    prepare_s: float
    stages: list[StageResult]
    device: torch.device
    energy_j: float | None = None
    writes_record: bool = True

    @property
    def seconds(self) -> float:
        """Seconds of fitting, those of an earlier attempt's stages included."""
        return self.prepare_s + sum(stage.train_s for stage in self.stages)

    @property
    def selected(self) -> Selected:
        """Epoch and score of the last stage."""
        if not self.stages:
            return Selected(epoch=None, score=None, epochs=0, rising=False)
        return self.stages[-1].selected


@contextmanager
def _beside_slurm() -> Iterator[None]:
    """Where Slurm is installed Lightning advises srun, though the trainer pins its environment."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")
        yield


@_beside_slurm()
def train(spec: RunSpec, folder: Path, data: DataModule, method: Method, held: Claim) -> Training:
    """Prepare a method and train its stages; it ends with the weights that the last one selected.

    A method without training is shown the validation split once, to choose among its candidates.

    Raises:
        LostClaimError: If the claim `held` of the run, or that of a stage, is lost in between.
    """
    stages: list[StageResult] = []
    curves: list[Path] = []
    device = torch.device("cpu")
    began = time.perf_counter()
    method.prepare(data.batches("train"))
    if not method.applies.trains:
        val = data.split("val")
        batches = data.val_dataloader()
        method.eval().compare_candidates((b, val.target_of(b.sample_id)) for b in batches)
        return Training(time.perf_counter() - began, stages, device)
    prepare_s = time.perf_counter() - began
    before_j = metered("joules", energy_j)
    is_first = True
    for number, stage in enumerate(method.stages):
        if number:
            # the same draws whether the stage before was trained, loaded or resumed
            seed_everything(spec.seed + 1_000_003 * number)
        result, trainer, curve = _train_stage(spec, folder, data, method, stage, held)
        stages.append(result)
        curves.append(curve)
        device, is_first = trainer.strategy.root_device, trainer.is_global_zero
    if not is_first:
        return Training(prepare_s, stages, device, writes_record=False)
    if len(stages) > 1:
        _join_curves(folder / CURVE, [result.stage for result in stages], curves)
    after_j = metered("joules", energy_j)
    spent_j = None if before_j is None or after_j is None else after_j - before_j
    return Training(prepare_s, stages, device, spent_j)


def _train_stage(
    spec: RunSpec, folder: Path, data: DataModule, method: Method, stage: Stage, held: Claim
) -> tuple[StageResult, Trainer, Path]:
    """Train one stage, or load what an earlier attempt or another method made of it.

    Returns:
        What the record says of the stage, the trainer, which knows the device, and the curve.
    """
    method.begin(stage)
    method.train()
    passes = passes_an_epoch(spec.trainer_args, len(data.train_dataloader()))
    patience = spec.trainer_args.get("patience")
    keep = KeepBest(
        data,
        spec.select["metric"],
        stage.select or spec.select["on"],
        patience and patience * passes,
    )
    alone = len(method.stages) == 1
    logs = folder if alone else folder / f".{stage.name}"
    identity, home = stage_identity(spec, folder, data, method, stage)
    minutes = spec.trainer_args.get("checkpoint_minutes", 1.0)
    checkpoints = Checkpoints(home / f".{digest(identity)}.ckpt", minutes, logs / CURVE)
    claimed = WhileClaimed(held)
    callbacks = [claimed, keep, *_schedule(spec), checkpoints]
    trainer = make_trainer(spec, logs, callbacks, stage.epochs, passes)

    def fit() -> StageResult:
        if stage.shared_across:
            seed_everything(spec.seed)  # whoever trains it comes from elsewhere
        going_on = checkpoints.newest
        results = folder.parents[len(spec.folder.parts)]
        try:
            with loggers(spec, results, "" if alone else stage.name) as others:
                trainer.loggers = [*trainer.loggers, *others]  # the first writes the curve
                if trainer.global_rank:  # the same weights, and draws of its own
                    torch.manual_seed(torch.initial_seed() + trainer.global_rank)
                fitting = Fitting(data, trainer.strategy.root_device)
                trainer.fit(method, datamodule=fitting, ckpt_path=going_on, weights_only=True)
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes one the other
                raise KeyboardInterrupt from error
            raise
        train_s = checkpoints.seconds
        checkpoints.finish()
        flops = None if alone else metered("operations", lambda: flops_of_loss(method, data))
        keep.restore(method)
        return StageResult(
            stage=stage.name,
            selected=Selected(
                epoch=keep.epoch,
                score=keep.best,
                epochs=keep.passes,
                rising=still_rising(keep.curve, keep.sign),
            ),
            train_s=train_s,
            params_trainable=sum(p.numel() for p in method.parameters() if p.requires_grad),
            flops_per_sample=flops,
            shared=bool(stage.shared_across),
        )

    if alone or trainer.world_size > 1:  # with several processes, none may wait for the others
        return fit(), trainer, logs / CURVE

    def build(part: Path, of_stage: Claim) -> None:
        claimed.held.append(of_stage)
        record = fit()
        weights = {
            name: value.detach().cpu().clone()
            for name, value in method.learned_state().items()
            if stage.covers(name) or not stage.shared_across
        }
        save_file(weights, part / "weights.safetensors")
        write_stage(part / RECORD, record)
        shutil.move(logs / CURVE, part / CURVE)
        logs.rmdir()

    made = cached_unless_lost(identity, build, home=home)
    method.load_state_dict(load_file(made / "weights.safetensors"), strict=False)
    return read_stage(made / RECORD), trainer, made / CURVE


def _schedule(spec: RunSpec) -> list[Callback]:
    warm_up, decay = (spec.trainer_args.get(name) for name in ("warm_up", "decay"))
    if not warm_up and decay is None:
        return []
    return [Schedule(warm_up or 0.0, decay)]


def make_trainer(
    spec: RunSpec,
    folder: Path,
    callbacks: list[Callback],
    epochs: int | None,
    passes: int,
) -> Trainer:
    """The trainer of one stage.

    Args:
        spec: Its settings.
        folder: Gets the curve.
        callbacks: What happens meanwhile, in this order.
        epochs: Of the stage; None = as the run says.
        passes: Over the training split in an epoch.
    """
    settings: dict[str, Any] = {
        "max_epochs": passes * (epochs or spec.epochs()),
        "check_val_every_n_epoch": passes,
        "devices": spec.devices,
        # experts that no sample of a batch went to have no gradient
        "strategy": "ddp_find_unused_parameters_true" if spec.devices > 1 else "auto",
        "use_distributed_sampler": False,  # the loader shares out every batch
        "plugins": [_local_environment()],
        "accelerator": "auto",
        "logger": CSVLogger(folder, name="", version=""),
        "callbacks": callbacks,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10**9,  # methods log once an epoch
    }
    arguments = {name: value for name, value in spec.trainer_args.items() if name not in OURS}
    return Trainer(**settings | arguments)


def _local_environment() -> LightningEnvironment:
    """One process, or those of `together`, whatever a cluster says of the job it is part of."""
    environment = LightningEnvironment()
    environment.set_global_rank(0)  # of a task of a Slurm job, Lightning takes the rank at import
    return environment


def seed_everything(seed: int) -> None:
    """Seed torch, and numpy's global generator for libraries that use it."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - not for us, for third-party code in a plugin


def _join_curves(joined: Path, stages: Sequence[str], curves: Sequence[Path]) -> None:
    """Write one curve of all stages, epochs counted on."""
    parts, epochs = [], 0
    for stage, file in zip(stages, curves, strict=True):
        part = pd.read_csv(file)
        part["epoch"] += epochs
        epochs = int(part["epoch"].max()) + 1
        parts.append(part.assign(stage=stage))
    write_text(joined, pd.concat(parts).to_csv(index=False))
