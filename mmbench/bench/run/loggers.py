"""Loggers by name: Lightning's own, beside the training curve that every record holds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from mmbench.bench.spec import RunSpec

# name -> packages of which one has to be installed; none is a dependency
PACKAGES: dict[str, tuple[str, ...]] = {
    "csv": (),  # the curve in the record
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}


def require_logger(name: object) -> None:
    """Refuse a logger that does not exist, or whose package is not installed.

    Raises:
        ValueError: If so, one line.
    """
    if not isinstance(name, str) or name not in PACKAGES:
        raise ValueError(f"trainer.logger must be one of {', '.join(PACKAGES)}, found {name!r}")
    packages = PACKAGES[name]
    if packages and not any(find_spec(package) for package in packages):
        raise ValueError(
            f"trainer.logger: {name} needs a package that is not installed: pip install "
            f"{packages[0]}, or leave the key out"
        )


@contextmanager
def loggers(spec: RunSpec, results: Path, stage: str = "") -> Iterator[list[Logger]]:
    """What else logs one training; closed at its end, so that the next run begins its own.

    Args:
        spec: The run. Its logger is called like the run and grouped by data and scenario.
        results: Folder of the suite; what a logger writes on this machine lies in `logs` there.
        stage: Name of the stage, where a method has several.
    """
    choice = spec.trainer_args.get("logger", "csv")
    require_logger(choice)
    name = f"{spec.title} {stage}".strip()
    group = f"{spec.data_label} / {spec.scenario_name}"
    logs, run = results / "logs", f"{spec.key}-{stage}" if stage else spec.key
    chosen: list[Logger] = []
    if choice == "tensorboard":
        parts = Path(*spec.folder.parts[:-1])
        chosen.append(TensorBoardLogger(logs / "tensorboard", name=str(parts), version=run))
    elif choice == "wandb":
        (logs / "wandb").mkdir(parents=True, exist_ok=True)
        chosen.append(
            WandbLogger(
                name=name, group=group, project=results.name, id=run, save_dir=logs / "wandb"
            )
        )
    elif choice == "mlflow":
        chosen.append(
            MLFlowLogger(
                experiment_name=results.name,
                run_name=name,
                tags={"group": group, "key": spec.key},
                save_dir=str(logs / "mlflow"),
            )
        )
    for logger in chosen:
        logger.log_hyperparams({"method": spec.method_label, "seed": spec.seed, "fold": spec.fold})
    try:
        yield chosen
    finally:
        for logger in chosen:
            logger.finalize("success" if sys.exception() is None else "failed")
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # or the next run of this process goes on with it
