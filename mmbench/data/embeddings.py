"""Embeddings by encoders with published weights: made once for all runs, kept as mapped files.

An encoder whose weights came from a file says so (`published`), since its outputs then depend on
nothing that a run decides. Files are named by the content of what was encoded, after scaling and
withholding, and of the weights: other data, other masks or other weights make another file.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.cache import cached

Parts = Callable[[], Iterable[tuple[Tensor, Tensor | None]]]


def is_published(encoder: object) -> bool:
    """Whether an encoder's weights came from a file, so that all runs may share its outputs."""
    return bool(getattr(encoder, "published", False))


@torch.no_grad()
def shared_embeddings(encoder: nn.Module, parts: Parts, count: int) -> Tensor:
    """Outputs of a frozen encoder, mapped from a file that the first who asks for it writes.

    Args:
        encoder: Frozen, treats every sample by itself. Called with inputs and lengths or None.
        parts: Called twice; gives the inputs (part, ...) and lengths (part,) or None, in order.
        count: Samples of all parts together, >= 1.

    Returns:
        (count, ...) on the CPU. What is written to it stays in this process.
    """
    words = {
        "what": "embeddings",
        "encoder": type(encoder).__qualname__,
        "weights": _digest(encoder.state_dict().values()),
        "inputs": _digest(x for part in parts() for x in part if x is not None),
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


def _digest(tensors: Iterable[Tensor]) -> str:
    found = hashlib.sha256()
    for x in tensors:
        x = x.detach().cpu().contiguous()
        found.update(f"{x.dtype} {tuple(x.shape)} ".encode())
        found.update(x.view(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b"")
    return found.hexdigest()
