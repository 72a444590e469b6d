"""How long a run takes, told from two short ones."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path

from mmbench.bench.run.build import bound_method, build_data
from mmbench.bench.run.run import run
from mmbench.bench.spec import RunSpec

SHORT = (1, 3)  # epochs


def seconds_of(spec: RunSpec, root: Path) -> float | None:
    """Seconds that a run is going to take, as a fixed part and one for each epoch.

    Stages of a method with epochs of their own are in the fixed part. A suite that stops early
    (`patience`) may take less.

    Args:
        spec: The run.
        root: Folder of the user's data.

    Returns:
        None where the method does not apply, or fails.
    """
    trains = bound_method(spec)[0].applies.trains
    spent: list[float] = []
    for epochs in SHORT if trains else SHORT[:1]:
        settings = {k: v for k, v in spec.trainer_args.items() if k not in ("min_steps", "decay")}
        short = replace(spec, trainer_args={**settings, "max_epochs": epochs})
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(short, Path(folder), root)
        if outcome.state != "done":
            return None
        spent.append(outcome.wall_s)
    if not trains:
        return spent[0]
    each = max(0.0, (spent[1] - spent[0]) / (SHORT[1] - SHORT[0]))
    steps = len(build_data(spec, root).train_dataloader())
    least: int = math.ceil(spec.trainer_args.get("min_steps", 0) / steps)
    epochs = max(int(spec.trainer_args["max_epochs"]), least)
    return float(spent[0] + each * (epochs - SHORT[0]))
