"""Embeddings by encoders that several runs hold: made once for all of them, kept as mapped files.

Such are encoders with published weights, and those of a backbone that methods train in common.
Files are named by the content of what was encoded, after scaling and withholding, by that of the
weights, and by the sources of the encoder: if any of them is another, so is the file.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.data.cache import cached, content
from mmbench.sources import HOMES, distributions, sources
from mmbench.store import Claim

Parts = Iterable[tuple[Tensor, Tensor | None]]  # inputs (part, ...) and lengths (part,)

_shared: WeakSet[object] = WeakSet()


def share(module: nn.Module) -> None:
    """Say of all encoders in a module that other runs hold them, too, with the same weights."""
    _shared.update(module.modules())


def is_shared(encoder: object) -> bool:
    """Whether runs share what an encoder gives while it is frozen; others are a run's own."""
    return encoder in _shared


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
    words = {
        "what": "embeddings",
        **described(encoder),
        "inputs": content(x for part in parts() for x in part if x is not None),
        "count": count,
    }
    device = next(encoder.parameters()).device

    def build(folder: Path, held: Claim) -> None:
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


def described(whole: nn.Module, counts: Callable[[str], bool] | None = None) -> dict[str, Any]:
    """All that can be seen of what a module computes; nothing has to be declared by it.

    Args:
        whole: The module.
        counts: Says by their names which of its parts, parameters and buffers are described; None
            = all.

    Returns:
        In JSON's types: class and settings of each part; files and libraries that they are made
        of; content and shapes of parameters and buffers.
    """
    chosen = counts or (lambda name: True)
    parts = {name: part for name, part in whole.named_modules() if chosen(name)}
    named = (*whole.named_parameters(), *whole.named_buffers())
    state = {name: x for name, x in named if chosen(name)}
    return {
        "structure": {name: _settings(part) for name, part in parts.items()},
        "code": _made_of({type(part) for part in parts.values()}, type(whole).__module__),
        "shapes": {name: list(x.shape) for name, x in state.items()},
        "weights": content(state.values()),
    }


def _settings(part: nn.Module) -> dict[str, str]:
    """Class of a module, and those of its attributes that are plain values."""
    return {"class": type(part).__qualname__} | {
        name: repr(value)
        for name, value in sorted(vars(part).items())
        if name != "training" and not name.startswith("_") and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(one) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return isinstance(value, bool | int | float | str | torch.dtype | None)


def _made_of(classes: Iterable[type], home: str) -> dict[str, dict[str, str]]:
    """Files of ours or of a plugin's package that classes are of, and versions of all libraries."""
    followed = {*HOMES, home.partition(".")[0]} - {"torch"}
    return {
        "sources": sources(*(c for c in classes if c.__module__.partition(".")[0] in followed)),
        "distributions": distributions(*sorted({"torch", *(c.__module__ for c in classes)})),
    }
