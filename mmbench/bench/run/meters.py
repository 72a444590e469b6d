"""Meters: operations, energy, peak memory."""

import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmbench.data.batch import Batch
from mmbench.datamodule import DataModule
from mmbench.method import Method


@torch.no_grad()
def flops_by_pattern(method: Method, data: DataModule, device: torch.device) -> dict[str, float]:
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
def flops_of_loss(method: Method, data: DataModule) -> float:
    """Operations of a stage's loss for one training sample, nothing taken from memory."""
    batch = replace(next(data.batches("train")), memo=None)
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
