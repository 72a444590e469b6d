"""Predictions of the test split under all conditions; the same for every method."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from numpy.typing import NDArray

from mmbench.bench.record import CALIBRATION, safe_csv
from mmbench.bench.run.failures import DivergedError
from mmbench.data.embeddings import Embeddings
from mmbench.data.survival import SurvivalScale
from mmbench.datamodule import DataModule
from mmbench.metrics.metric import Calibration, metrics_for
from mmbench.store import ALONE, Claim, write_arrays, write_text

CALIBRATING = 1000  # validation samples: coverage spreads by 1 % then, and more cost more


@torch.no_grad()
def evaluate(
    method: LightningModule,
    data: DataModule,
    device: torch.device | str = "cpu",
    ms_per_sample: list[float] | None = None,
    held: Claim = ALONE,
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
        held: Claim of the run; looked at before each batch.

    Returns:
        Condition -> outputs in order of the test split: float32, or the values of a regression in
        units, or log cumulative hazards (`DataModule.in_units`).

    Raises:
        DivergedError: If an output is not finite.
        LostClaimError: If another process took the run over.
    """
    method.eval().to(device)
    tables = {c: torch.from_numpy(data.condition_presence(c)) for c in data.conditions}
    gaps = {c: data.condition_gaps(c) for c in data.conditions}
    visible = torch.stack(list(tables.values())).any(dim=0)
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in tables}
    start = 0
    for batch in data.batches("test"):
        held.require()
        began = time.perf_counter()
        rows = slice(start, start := start + len(batch))
        source = batch.hide(~visible[rows]).blind().to(device)
        source = source.with_embeddings(Embeddings(len(source), learning=False))
        for name, presence in tables.items():
            seen = source.hide(~presence[rows].to(device))
            if gaps[name]:  # what is inside a modality is another, and is encoded anew
                seen = seen.with_gaps(gaps[name], torch.arange(rows.start, rows.stop))
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
    _fit_baseline(method, data, device)
    return {name: data.in_units(output) for name, output in logits.items()}


def _fit_baseline(method: LightningModule, data: DataModule, device: torch.device | str) -> None:
    """Give a Cox model the baseline hazard that goes with its log risks of training samples."""
    scale = data.target_scale
    if not isinstance(scale, SurvivalScale) or scale.baseline is None:
        return
    train = (replace(batch, teacher=None).blind().to(device) for batch in data.batches("train"))
    log_risk = torch.cat([method(batch)[:, 0] for batch in train]).float().cpu().numpy()
    if not np.isfinite(log_risk).all():
        raise DivergedError("log risks of training samples are not finite")
    data.target_scale = scale.with_baseline(data.raw_target("train"), log_risk)


def calibrations(
    method: LightningModule, data: DataModule, device: torch.device | str, held: Claim
) -> dict[str, Calibration]:
    """Predict validation samples under all test conditions, where a metric of the task asks for it.

    Returns:
        Condition -> at most `CALIBRATING` predictions, of the same samples for all. Empty where
        no metric asks, or a condition cannot be laid over validation samples, which is logged: a
        table from a file may name test samples alone.

    Raises:
        DivergedError: If an output is not finite.
        LostClaimError: If another process took the run over.
    """
    if not metrics_for(data.task.kind, calibrated=True):
        return {}
    validation = data.on_validation(CALIBRATING)
    try:
        for condition in validation.conditions:
            validation.condition_presence(condition)
    except ValueError as error:
        logging.getLogger(__name__).warning("nothing to calibrate by: %s", error)
        return {}
    target = validation.split("test").samples.target
    logits = evaluate(method, validation, device, held=held)
    return {condition: Calibration(output, target) for condition, output in logits.items()}


@torch.no_grad()
def predict_unlabelled(
    method: LightningModule, data: DataModule, device: torch.device | str = "cpu"
) -> pd.DataFrame | None:
    """Predict the samples that have no label, with natural gaps alone.

    Args:
        method: What predicts.
        data: Whose samples.
        device: Where.

    Returns:
        A row a sample: `id`, for classes and labels what is `predicted`, and an output each: a
        probability, or a value in units; for survival the probability to survive each time at
        which predictions are scored. None if all samples have a label.
    """
    method.eval().to(device)
    ids, parts = [], []
    for batch in data.unlabelled_batches():
        ids += batch.sample_id.tolist()
        source = batch.blind().to(device)
        source = source.with_embeddings(Embeddings(len(source), learning=False))
        parts.append(method(source).float().cpu())
    if not parts:
        return None
    task, output = data.task, torch.cat(parts)
    outputs = list(task.outputs)
    names = data.names_of_ids()
    table: dict[str, Any] = {"id": [names.get(one, one) for one in ids]}
    if task.kind == "regression":
        return pd.DataFrame(table).join(
            pd.DataFrame(data.in_units(output.numpy()), columns=outputs)
        )
    if task.kind == "survival":
        survival = np.exp(-np.exp(data.in_units(output.numpy())))
        return pd.DataFrame(table).join(
            pd.DataFrame(survival, columns=[f"survival {t}" for t in _scored_outputs(data)])
        )
    if task.kind == "single_label":
        chance = output.softmax(1).numpy()
        table["predicted"] = [outputs[k] for k in chance.argmax(1)]
    else:
        chance = output.sigmoid().numpy()
        table["predicted"] = ["|".join(np.array(outputs)[row > 0.5]) for row in chance]
    return pd.DataFrame(table).join(pd.DataFrame(chance, columns=outputs), rsuffix=" (probability)")


def _scored_outputs(data: DataModule) -> tuple[str, ...]:
    """Names of the columns of stored predictions: of survival the times."""
    scale = data.target_scale
    if isinstance(scale, SurvivalScale):
        return tuple(f"{time:.9g}" for time in scale.times)
    return data.task.outputs


def write_predictions(
    folder: Path,
    data: DataModule,
    logits: Mapping[str, NDArray[Any]],
    unlabelled: pd.DataFrame | None = None,
    calibration: Mapping[str, Calibration] | None = None,
) -> None:
    """Write a file a condition: outputs beside target, presence and id of each test sample.

    Beside the ids lie the names that the data set has for them, if it has, and those of the
    outputs; of survival the targets of training, which its scores need. Samples without a label
    get a CSV file, what one calibrates by a file beside the folder.
    """
    if calibration:
        logits_of = [one.logits for one in calibration.values()]
        arrays = {"condition": np.array([*calibration]), "logits": np.stack(logits_of)}
        target = next(iter(calibration.values())).target
        write_arrays(folder / CALIBRATION, arrays | {"target": target})
    (folder / "predictions").mkdir()
    if unlabelled is not None:
        text = safe_csv(unlabelled, digits=9)
        write_text(folder / "predictions" / "unlabelled.csv", text)
    test, names = data.split("test").samples, data.names_of_ids()
    known = {"id": np.array([names[one] for one in test.sample_id.tolist()])} if names else {}
    if data.task.kind == "survival":
        known["train"] = data.raw_target("train")
    for name, output in logits.items():
        write_arrays(
            folder / "predictions" / f"{name}.npz",
            {
                "logits": output,
                "target": test.target,
                "presence": data.condition_presence(name),
                "sample_id": test.sample_id,
                "outputs": np.array(_scored_outputs(data)),
                **known,
            },
        )
