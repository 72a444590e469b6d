"""Train a method, stage by stage; a stage that was trained before is loaded."""

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file, save_file

from mmbench.bench.record import write_json
from mmbench.bench.run.build import OURS
from mmbench.bench.run.meters import energy_j, flops_of_loss, metered
from mmbench.bench.run.provenance import environment
from mmbench.bench.run.selection import KeepBest
from mmbench.bench.spec import RunSpec
from mmbench.data.cache import cached
from mmbench.datamodule import DataModule, Fitting
from mmbench.method import Method, Stage

STAGES = "stages"  # finished stages of a run in flight, each in a folder of its own
CURVES = "curves"  # training curves by stage, of methods with several


@dataclass(frozen=True)
class Training:
    """How a method was trained.

    Args:
        stages: What the record says of each stage; none for a method without training.
        device: Where it was trained.
        energy_j: Joules that the GPU drew; None where that is not metered.
        writes_record: Whether this is the one of several processes that writes the record.
    """

    stages: list[dict[str, Any]]
    device: torch.device
    energy_j: float | None = None
    writes_record: bool = True

    @property
    def seconds(self) -> float:
        """Seconds of fitting, those of an earlier attempt's stages included."""
        return float(sum(stage["train_s"] for stage in self.stages))

    @property
    def selected(self) -> dict[str, Any]:
        """Epoch and score of the last stage."""
        if not self.stages:
            return {"epoch": None, "score": None}
        return dict(self.stages[-1]["selected"])


def train(spec: RunSpec, folder: Path, data: DataModule, method: Method) -> Training:
    """Train all stages of a method; it ends with the weights that the last one selected."""
    stages: list[dict[str, Any]] = []
    device = torch.device("cpu")
    if not method.applies.trains:
        return Training(stages, device)
    before_j = metered("joules", energy_j)
    for number, stage in enumerate(method.stages):
        if number:
            # the same draws whether the stage before was trained, loaded or resumed
            seed_everything(spec.seed + 1_000_003 * number)
        words, trainer = _train_stage(spec, folder, data, method, stage)
        stages.append(words)
        device = trainer.strategy.root_device
        if trainer.world_size > 1 and not trainer.is_global_zero:
            return Training(stages, device, writes_record=False)
    after_j = metered("joules", energy_j)
    spent_j = None if before_j is None or after_j is None else after_j - before_j
    return Training(stages, device, spent_j)


def _train_stage(
    spec: RunSpec, folder: Path, data: DataModule, method: Method, stage: Stage
) -> tuple[dict[str, Any], Trainer]:
    """Train one stage, or load what an earlier attempt or another method made of it.

    Returns:
        What the record says of the stage, and the trainer, which knows the device.
    """
    method.begin(stage)
    method.train()
    keep = KeepBest(
        data,
        spec.select["metric"],
        stage.select or spec.select["on"],
        spec.trainer_args.get("patience"),
    )
    alone = len(method.stages) == 1
    curves = folder if alone else folder / CURVES / stage.name
    trainer = _trainer(spec, curves, keep, stage.epochs)

    def fit() -> dict[str, Any]:
        began = time.perf_counter()
        trainer.fit(method, datamodule=Fitting(data))
        if trainer.interrupted:
            raise KeyboardInterrupt
        train_s = time.perf_counter() - began
        flops = None if alone else metered("operations", lambda: flops_of_loss(method, data))
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
        kept = {
            name: value.detach().cpu().clone()
            for name, value in method.learned_state().items()
            if stage.covers(name) or not stage.shared
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


def seed_everything(seed: int) -> None:
    """Seed torch, and numpy's global generator for libraries that use it."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - not for us, for third-party code in a plugin


def join_curves(folder: Path, stages: list[str]) -> None:
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
