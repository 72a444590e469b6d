"""Meters: operations, energy, peak memory."""

import logging
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmbench.data.batch import Batch
from mmbench.datamodule import DataModule
from mmbench.method import Method

T = TypeVar("T")


def metered(what: str, measure: Callable[[], T]) -> T | None:
    """Measure something, or say in the log why that failed: a meter must not cost the run.

    Args:
        what: Name for the log.
        measure: Called once.

    Returns:
        What it returns; None if it raised, whatever that was.
    """
    try:
        return measure()
    except Exception as error:
        traceback.print_exc()
        logging.getLogger(__name__).warning(
            "%s could not be measured and are left out: %s: %s", what, type(error).__name__, error
        )
        return None


@torch.no_grad()
def flops_by_pattern(
    method: Method, data: DataModule, device: torch.device
) -> dict[str, float | None]:
    """Floating-point operations to predict one sample, as torch counts them, by pattern.

    Matrix products, convolutions and attention count; recurrent layers on a CPU do not.
    With more than four modalities: natural gaps alone, and each modality withheld.
    Counted on as many test samples as a batch holds; those that have nothing of a pattern are
    passed over. None where no test sample has any of it.
    """
    test = data.split("test")
    names = data.task.names
    patterns = list(product((True, False), repeat=len(names)))[:-1]  # complete ones first
    if len(names) > 4:
        patterns = [row for row in patterns if sum(row) >= len(names) - 1]
    found: dict[str, float | None] = {}
    for row in patterns:
        name = "+".join(n for n, shown in zip(names, row, strict=True) if shown)
        rows = np.flatnonzero((test.presence & row).any(axis=1))[: data.batch_size].tolist()
        if not rows:
            found[name] = None
            continue
        batch = test[rows].blind()
        absent = ~torch.tensor(row).expand_as(batch.presence)
        found[name] = _count(method, batch.hide(absent).to(device))
    return found


@torch.no_grad()
def flops_of_loss(method: Method, data: DataModule) -> float:
    """Operations of a stage's loss for one training sample, nothing taken from memory."""
    batch = replace(next(data.batches("train")), embeddings=None)
    with torch.random.fork_rng():
        return _count(method.loss, batch.to(next(method.parameters()).device))


def _count(call: Callable[[Batch], Any], batch: Batch) -> float:
    with FlopCounterMode(display=False) as counter:
        call(batch)
    return float(counter.get_total_flops()) / len(batch)


def energy_j() -> float | None:
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


def peak_mib(device: torch.device) -> float:
    """Peak memory: of the GPU where there is one, else of this process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
