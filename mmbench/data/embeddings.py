"""Embeddings by encoders that several runs hold: made once for all of them, kept as mapped files.

Such are encoders with published weights, and those of a backbone that methods train in common.
Files are named by the content of what was encoded, after scaling and withholding, by that of the
weights, and by the sources of the encoder: if any of them is another, so is the file.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.cache import cached
from mmbench.sources import HOMES, distributions, sources

Parts = Iterable[tuple[Tensor, Tensor | None]]  # inputs (part, ...) and lengths (part,)

_shared: WeakSet[object] = WeakSet()


def share(module: nn.Module) -> None:
    """Say of all encoders in a module that other runs hold them, too, with the same weights."""
    _shared.update(module.modules())


def is_shared(encoder: object) -> bool:
    """Whether runs share what an encoder gives while it is frozen; others are a run's own."""
    return encoder in _shared


def content(tensors: Iterable[Tensor]) -> str:
    """Name of what tensors hold, in whatever pieces it comes; shapes are for the caller to name."""
    found = hashlib.sha256()
    for x in tensors:
        found.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@torch.no_grad()
def shared_embeddings(encoder: nn.Module, parts: Callable[[], Parts], count: int) -> Tensor:
    """Outputs of a frozen encoder, mapped from a file that the first who asks for it writes.

    Args:
        encoder: Frozen, treats every sample by itself. Called with inputs and lengths or None.
        parts: Called twice; gives the samples in order.
        count: Samples of all parts together, >= 1.

    Returns:
        (count, ...) on the CPU. What is written to it stays in this process.
    """
    weights = encoder.state_dict()
    words = {
        "what": "embeddings",
        "encoder": type(encoder).__qualname__,
        "structure": repr(encoder),
        "code": _made_of(encoder),
        "shapes": {name: list(x.shape) for name, x in weights.items()},
        "weights": content(weights.values()),
        "inputs": content(x for part in parts() for x in part if x is not None),
        "count": count,
    }
    device = next(encoder.parameters()).device

    def build(folder: Path) -> None:
        kept: np.memmap[Any, Any] | None = None
        start = 0
        for x, lengths in parts():
            z = encoder(x.to(device), None if lengths is None else lengths.to(device)).cpu().numpy()
            if kept is None:
                shape = (count, *z.shape[1:])
                kept = np.lib.format.open_memmap(
                    folder / "embeddings.npy", mode="w+", dtype=z.dtype, shape=shape
                )
            kept[start : start + len(z)] = z
            start += len(z)
        assert kept is not None, "there is nothing to encode"
        assert start == count, f"{start} samples were given, not {count}"
        kept.flush()

    folder = cached(words, build)
    # copy on write: torch wants an array that could be written to
    return torch.from_numpy(np.load(folder / "embeddings.npy", mmap_mode="c"))


def _made_of(encoder: nn.Module) -> dict[str, dict[str, str]]:
    """Files of ours or of a plugin that an encoder is made of, and versions of all libraries."""
    classes = {type(module) for module in encoder.modules()}
    followed = {*HOMES, type(encoder).__module__.partition(".")[0]} - {"torch"}
    own = [cls for cls in classes if cls.__module__.partition(".")[0] in followed]
    return {
        "sources": sources(*own),
        "distributions": distributions(*sorted({"torch", *(cls.__module__ for cls in classes)})),
    }
