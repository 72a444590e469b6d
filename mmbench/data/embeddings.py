"""Embeddings that are computed once: what an encoder makes of samples, kept as long as it holds.

Three scopes, one class for the first two:

- the conditions of a test batch, `Embeddings(len(batch), learning=False)`: any encoder runs once a
  batch, since none of them learns;
- this run, `Embeddings(count)` over a split: an encoder that is frozen runs once a sample;
- all runs, `stored_embeddings`: encoders that `share_between_runs` was told of, because their
  weights are published or those of a backbone that methods train in common. A mapped file, named
  by the content of what was encoded, after scaling and withholding, by that of the weights, and by
  the sources of the encoder: if any of them is another, so is the file.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mmbench.data.cache import cached
from mmbench.data.stored import Stored
from mmbench.sources import HOMES, distributions, sources
from mmbench.store import Claim

Encode = Callable[[Tensor, Tensor | None], Tensor]
Parts = Iterable[tuple[Tensor, Tensor | None]]  # inputs (part, ...) and lengths (part,)
CHUNK = 256  # samples at a time
MOST_BYTES = 4 * 2**30  # embeddings of one modality that would take more are not kept in memory

_shared: WeakSet[object] = WeakSet()


class Embeddings:
    """What encoders make of a fixed set of samples, each computed when first asked for.

    Args:
        count: Number of samples.
        parts: Inputs and lengths of a modality, over all samples in their order and as training
            may see them; None = nothing is shared with other runs.
        stored: Modality -> where its inputs lie, for banks that refer to them instead of copying;
            whatever presence withholds is in there, too. None = nowhere.
        at_once: Whether what a frozen encoder makes of all samples is computed when one is asked
            for: batches of versions of samples seldom come again.
        learning: Whether encoders may learn meanwhile, so that only what is frozen is kept. An
            encoder that consists of a `trunk` and an `out` need only have its trunk frozen.
    """

    def __init__(
        self,
        count: int,
        parts: Callable[[str], Parts] | None = None,
        stored: Mapping[str, Stored] | None = None,
        *,
        at_once: bool = False,
        learning: bool = True,
    ) -> None:
        self.count = count
        self.stored = stored
        self.learning = learning
        self.at_once = at_once
        self._parts = parts
        self._outputs: dict[tuple[int, str], Output] = {}

    def output(self, modality: str, encoder: Encode) -> "Output":
        """What is known of one encoder's output."""
        key = (id(encoder), modality)
        if key not in self._outputs:
            output = Output(encoder, self.count)
            if isinstance(encoder, nn.Module):
                output.values = self._known(modality, encoder)
            output.known[:] = output.values is not None
            self._outputs[key] = output
        return self._outputs[key]

    def _known(self, modality: str, encoder: nn.Module) -> Tensor | None:
        """All outputs of an encoder that has not run here yet, where something else tells them."""
        trunk, out = getattr(encoder, "trunk", None), getattr(encoder, "out", None)
        if isinstance(out, nn.Module) and getattr(trunk, "rests", False):
            # it has run already, before the rest was frozen
            assert isinstance(trunk, nn.Module)
            values = self._outside(self.output(modality, trunk), out)
            if values is not None:
                return values
        if self._parts is None:
            return None
        if is_shared_between_runs(encoder):
            return stored_embeddings(encoder, partial(self._parts, modality), self.count)
        return self._of_all(modality, encoder) if self.at_once else None

    @torch.no_grad()
    def _of_all(self, modality: str, encoder: nn.Module) -> Tensor | None:
        """Outputs of an encoder for all samples; None if they are too many."""
        assert self._parts is not None
        device = next(encoder.parameters()).device
        outputs: list[Tensor] = []
        for x, lengths in self._parts(modality):
            outputs.append(encoder(x.to(device), None if lengths is None else lengths.to(device)))
            if outputs[0][0].numel() * outputs[0].element_size() * self.count > MOST_BYTES:
                return None
        return torch.cat(outputs)

    @torch.no_grad()
    def _outside(self, trunk: "Output", out: nn.Module) -> Tensor | None:
        """Outputs of an encoder from those of its trunk; None if not all are known, or too many."""
        if trunk.values is None or not bool(trunk.known.all()):
            return None
        device = next(out.parameters(), trunk.values).device
        parts: list[Tensor] = []
        for part in torch.split(trunk.values, CHUNK):
            with exact(device):
                parts.append(out(part.to(device)))
            if parts[0][0].numel() * parts[0].element_size() * self.count > MOST_BYTES:
                return None
        return torch.cat(parts)

    def forget(self, modality: str, encoder: Encode) -> None:
        """Drop what is known of an encoder that learns again."""
        self._outputs.pop((id(encoder), modality), None)


class Output:
    """Output of one encoder, sample by sample.

    Args:
        encoder: Held, so that its id cannot be given to another.
        count: Number of samples.
    """

    def __init__(self, encoder: Encode, count: int) -> None:
        self.encoder = encoder
        self.known: Bool[Tensor, " sample"] = torch.zeros(count, dtype=torch.bool)
        self.values: Tensor | None = None  # (sample, ...)

    def get(self, rows: Tensor | None) -> Tensor | None:
        """Output of these samples, None = all; None if that of one is not known."""
        if self.values is None or not bool(
            (self.known if rows is None else self.known[rows]).all()
        ):
            return None
        return self.values if rows is None else self.values[rows.to(self.values.device)]

    def put(self, rows: Tensor | None, z: Tensor) -> None:
        """Keep output of these samples, None = all."""
        if z[0].numel() * z.element_size() * len(self.known) > MOST_BYTES:
            return
        if rows is None:
            self.values, self.known[:] = z, True
            return
        if self.values is None:
            self.values = z.new_zeros(len(self.known), *z.shape[1:])
        self.values[rows.to(z.device)] = z
        self.known[rows] = True


class BatchEmbeddings:
    """`Embeddings` of one batch, whose inputs are read where an encoder has not seen them yet.

    Args:
        whole: Those of all samples.
        inputs: Modality -> (batch, ...), everything that may be seen of the batch's samples.
        lengths: Modality -> (batch,), for kinds that have lengths.
        rows: Which samples they are, on the CPU; None = all, in order.
    """

    def __init__(
        self,
        whole: Embeddings,
        inputs: Mapping[str, Tensor],
        lengths: Mapping[str, Tensor],
        rows: Tensor | None,
    ) -> None:
        self.whole, self.rows = whole, rows
        self._inputs, self._lengths = inputs, lengths

    def embed(self, modality: str, encoder: Encode) -> Tensor | None:
        """Output of an encoder for the batch; None for one that learns."""
        if self.whole.learning and not (isinstance(encoder, nn.Module) and is_frozen(encoder)):
            self.whole.forget(modality, encoder)
            trunk = getattr(encoder, "trunk", None)
            if not isinstance(trunk, nn.Module) or not is_frozen(trunk):
                return None
            assert isinstance(encoder, nn.Module)
            out: Tensor = encoder.get_submodule("out")(self.embed(modality, trunk))
            return out
        output = self.whole.output(modality, encoder)
        known = output.get(self.rows)
        weights = next(encoder.parameters(), None) if isinstance(encoder, nn.Module) else None
        if known is not None:
            return known if weights is None else known.to(weights.device)
        x, lengths = self._inputs[modality], self._lengths.get(modality)
        device = x.device if weights is None else weights.device
        with torch.no_grad(), exact(device):
            z = encoder(x.to(device), None if lengths is None else lengths.to(device))
        output.put(self.rows, z)
        return z


class AugmentedEmbeddings(BatchEmbeddings):
    """Those of a batch of which some modalities are augmented.

    Args:
        plain: Those of the same batch, were it not augmented.
        modalities: Which are.
        views: Embeddings of their versions, by version of a sample; None = they are not kept.
    """

    def __init__(
        self,
        plain: BatchEmbeddings,
        modalities: Collection[str],
        views: BatchEmbeddings | None,
    ) -> None:
        super().__init__(plain.whole, plain._inputs, plain._lengths, plain.rows)
        self._modalities, self._views = modalities, views

    def embed(self, modality: str, encoder: Encode) -> Tensor | None:
        """See `BatchEmbeddings`; None for versions that are not kept, too."""
        if modality not in self._modalities:
            return super().embed(modality, encoder)
        return None if self._views is None else self._views.embed(modality, encoder)


def exact(device: torch.device) -> torch.autocast:
    """What is kept serves trainings of every precision and evaluation: no autocast in the body."""
    return torch.autocast(device.type, enabled=False)


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters, none of them learns, and it is in eval mode."""
    if module.training:  # the cheapest question first: an encoder that learns is asked in each step
        return False
    learns = [parameter.requires_grad for parameter in module.parameters()]
    return bool(learns) and not any(learns)


def share_between_runs(module: nn.Module) -> None:
    """Say of all encoders in a module that other runs hold them, too, with the same weights."""
    _shared.update(module.modules())


def is_shared_between_runs(encoder: object) -> bool:
    """Whether runs share what an encoder gives while it is frozen; others are a run's own."""
    return encoder in _shared


def content(tensors: Iterable[Tensor]) -> str:
    """Name of what tensors hold, in whatever pieces it comes; shapes are for the caller to name."""
    digest = hashlib.sha256()
    for x in tensors:
        digest.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def stored_embeddings(encoder: nn.Module, parts: Callable[[], Parts], count: int) -> Tensor:
    """Outputs of a frozen encoder, mapped from a file that the first who asks for it writes.

    Args:
        encoder: Frozen, treats every sample by itself. Called with inputs and lengths or None.
        parts: Called twice; gives the samples in order.
        count: Samples of all parts together, >= 1.

    Returns:
        (count, ...) on the CPU. What is written to it stays in this process.
    """
    spec = {
        "what": "embeddings",
        **described(encoder),
        "inputs": content(x for part in parts() for x in part if x is not None),
        "count": count,
    }
    device = next(encoder.parameters()).device

    def build(folder: Path, held: Claim) -> None:
        array: np.memmap[Any, Any] | None = None
        start = 0
        for x, lengths in parts():
            held.require()
            with exact(device):
                z = encoder(x.to(device), None if lengths is None else lengths.to(device))
            z = z.cpu().numpy()
            if array is None:
                shape = (count, *z.shape[1:])
                array = np.lib.format.open_memmap(
                    folder / "embeddings.npy", mode="w+", dtype=z.dtype, shape=shape
                )
            array[start : start + len(z)] = z
            start += len(z)
        assert array is not None, "there is nothing to encode"
        assert start == count, f"{start} samples were given, not {count}"
        array.flush()

    folder = cached(spec, build)
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
