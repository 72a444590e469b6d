"""Embeddings by encoders with published weights: made once for all runs, kept as mapped files.

What an encoder gives whose weights came from a file depends on nothing that a run decides. Files
are named by the content of what was encoded, after scaling and withholding, and of the weights:
other data, other masks or other weights make another file.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.cache import cached, content

Parts = Iterable[tuple[Tensor, Tensor | None]]  # inputs (part, ...) and lengths (part,)


class Published(nn.Module):
    """An encoder whose weights came from a file; all runs share its outputs, unless it learns."""

    published = True


def is_published(encoder: object) -> bool:
    """Whether all runs may share what an encoder gives."""
    return isinstance(encoder, Published) and encoder.published


def unpublish(module: nn.Module) -> None:
    """Share with no other run what encoders in a module give, since they learn in this one."""
    for part in module.modules():
        if isinstance(part, Published):
            part.published = False


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
