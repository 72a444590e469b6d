"""Predictions of the test split under all conditions; the same for every method."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from numpy.typing import NDArray

from mmbench.bench.run.failures import DivergedError
from mmbench.data.embeddings import Embeddings
from mmbench.datamodule import DataModule
from mmbench.store import write_arrays


@torch.no_grad()
def evaluate(
    method: LightningModule,
    data: DataModule,
    device: torch.device | str = "cpu",
    ms_per_sample: list[float] | None = None,
) -> dict[str, Float[np.ndarray, "sample output"]]:
    """Predict the test split under all its conditions in one pass.

    Each modality of a batch is encoded once and shared by the conditions wherever the method
    encodes through `Batch.embed`; entries that no condition shows are gone before that, and so
    are targets and ids (`Batch.blind`).

    Args:
        method: What predicts.
        data: Whose test split.
        device: Where.
        ms_per_sample: Gets, for each batch, the milliseconds for one sample and condition.

    Returns:
        Condition -> outputs in order of the test split: float32, or the values of a regression in
        units (`DataModule.in_units`).

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
        source = batch.hide(~shown[rows]).blind().to(device)
        source = source.with_embeddings(Embeddings(len(source), learning=False))
        for name, presence in tables.items():
            parts[name].append(method(source.hide(~presence[rows].to(device))))
        if ms_per_sample is not None:
            if source.presence.is_cuda:
                torch.cuda.synchronize()
            spent = time.perf_counter() - began
            ms_per_sample.append(1000 * spent / (len(batch) * len(tables)))
    logits = {name: torch.cat(part).float().cpu().numpy() for name, part in parts.items()}
    for name, output in logits.items():
        if not np.isfinite(output).all():
            raise DivergedError(f"outputs under the condition {name} are not finite")
    return {name: data.in_units(output) for name, output in logits.items()}


def write_predictions(folder: Path, data: DataModule, logits: Mapping[str, NDArray[Any]]) -> None:
    """Write a file a condition: outputs beside target, presence and id of each test sample."""
    (folder / "predictions").mkdir()
    test = data.split("test").samples
    for name, output in logits.items():
        write_arrays(
            folder / "predictions" / f"{name}.npz",
            {
                "logits": output,
                "target": test.target,
                "presence": data.condition_presence(name),
                "sample_id": test.sample_id,
            },
        )
