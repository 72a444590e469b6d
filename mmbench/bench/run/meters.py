"""Meters: operations, energy, peak memory."""

import ctypes
import gc
import logging
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmbench.data.batch import Batch
from mmbench.datamodule import DataModule
from mmbench.method import Method

T = TypeVar("T")

# of this process; see proc(5)
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"


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
    counts: dict[str, float | None] = {}
    for row in patterns:
        name = "+".join(n for n, present in zip(names, row, strict=True) if present)
        rows = np.flatnonzero((test.presence & row).any(axis=1))[: data.batch_size].tolist()
        if not rows:
            counts[name] = None
            continue
        batch = test[rows].blind()
        absent = ~torch.tensor(row).expand_as(batch.presence)
        counts[name] = _count(method, batch.hide(absent).to(device))
    return counts


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
    """Joules that this run's GPUs have drawn since their driver started; None without NVML."""
    if not torch.cuda.is_available():
        return None
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    joules = 0.0
    for number in range(torch.cuda.device_count()):  # a slot shows a run its own GPUs alone
        # the uuid: NVML does not know of CUDA_VISIBLE_DEVICES
        uuid = f"GPU-{torch.cuda.get_device_properties(number).uuid}"
        device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        joules += float(pynvml.nvmlDeviceGetTotalEnergyConsumption(device)) / 1000
    return joules


def forget_peak() -> None:
    """Begin to look for the peak memory anew, so that a run's is not that of one before it.

    A warm worker keeps what its runs freed; that goes back first. Where the system cannot forget
    (any but Linux, and containers that forbid it), the peak is that of the process since it
    started, and the log of the run says so.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if sys.platform != "linux":
        _say_whose_peak(f"{sys.platform} cannot forget it")
        return
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    try:
        CLEAR_REFS.write_text(FORGET_PEAK)
    except OSError as error:
        _say_whose_peak(str(error))


def _say_whose_peak(why: str) -> None:
    logging.getLogger(__name__).warning(
        "the peak memory is that of this process since it started, runs before this one included: "
        "%s",
        why,
    )


def peak_mib(device: torch.device) -> float:
    """Peak memory since `forget_peak`: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024  # the kernel says kB and means KiB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
