"""A trained method, as a run that kept its weights left it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.torch import load_file

from mmbench.bench.record import Run
from mmbench.bench.result import read_result
from mmbench.bench.run.build import bound_method, build_data, encoded_task
from mmbench.bench.spec import RunSpec
from mmbench.data.batch import Batch
from mmbench.data.scale import TargetScale
from mmbench.datamodule import DataModule
from mmbench.method import Method
from mmbench.store import damage

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Trained:
    """A method with the weights that a run selected, and the data that it was trained on.

    Args:
        spec: What the run was asked.
        method: In evaluation mode, on the CPU.
        data: Under the run's scenario; `batches("test")` gives the test split with natural gaps
            alone, and `Batch.hide` takes away more.
        scale: Of the targets of a regression; None for classes and labels.
    """

    spec: RunSpec
    method: Method
    data: DataModule
    scale: TargetScale | None

    @torch.no_grad()
    def predict(self, batch: Batch) -> Float[np.ndarray, "batch output"]:
        """Predict a batch as evaluation does, without its targets and ids.

        Returns:
            Logits (of survival the log risk, or those of hazards), float32; of a regression the
            values in the units of its targets, float64.
        """
        output = self.method(batch.blind().to(self.method.device))
        values: NDArray[Any] = output.float().cpu().numpy()
        return values if self.scale is None else self.scale.undo(values)


def load(run: Run | str | Path, *, data_root: str | Path = "data") -> Trained:
    """Build the method of a run that kept its weights (`keep_weights: true` in the suite).

    Args:
        run: One of `Sweep.runs`, or its folder.
        data_root: Folder of the user's data, which say what goes in.

    Raises:
        ValueError: If the run is not finished or damaged, kept no weights, or the data or the
            sources of the method are others than it was trained with.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    if not (folder / "done").is_file():
        raise ValueError(f"no finished run lies in {folder}")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} kept no weights; repeat the run with keep_weights=true and --overwrite"
        )
    if problem := damage(folder, "done", read_up_to=None):
        raise ValueError(f"{folder} is damaged: {problem}; run it again")
    try:
        spec = RunSpec.from_json(json.loads((folder / "spec.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / 'spec.json'} is no run of this version: {error}") from error
    scale = read_result(folder).target_scale
    cls, args = bound_method(spec)
    data = build_data(spec, Path(data_root))
    if spec.content and data.content() != spec.content:
        raise ValueError(
            f"the data set {spec.data} in {data_root} is not what {folder} was trained on"
        )
    data.setup()  # then the task says how pixels were scaled
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        method: Method = cls(encoded_task(spec, data), **args)
    method.begin(method.stages[-1])
    try:
        method.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {folder} do not fit {spec.method} as it is here: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    method.eval()
    return Trained(
        spec, method, data,
        None if scale is None else TargetScale(np.asarray(scale.mean), np.asarray(scale.std)),
    )  # fmt: skip
