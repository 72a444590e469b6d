"""Multimodal transformers into which prompt methods insert tokens.

A backbone turns each modality into tokens, runs layers over them and reads one token at the end.
`SmallBackbone` works for any modalities and is trained here. Others, with published weights, build
on this file, and `mmbench.layers.named_backbone` chooses one by its name.

Notation: B batch, N tokens of a sequence, N_m tokens of modality m, D width, P width of what is
read at the end, L layers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.data.task import Modality, Task
from mmbench.layers.attention import Prefix, PreNormBlock
from mmbench.layers.encoders import KINDS

Insert = Callable[[int, int], Float[Tensor, "batch extra dim"] | None]
Prefixes = Callable[[int, int], Prefix | None]


class Backbone(nn.Module, ABC):
    """A multimodal transformer into which prompt methods insert tokens.

    A stream is one sequence of tokens that attend to each other: all modalities in one stream,
    or a stream for each modality in a model of two towers. Tokens that are inserted stand before
    a stream's own ones and stay there to the end.

    Attributes:
        modalities: By name, in the order of their tokens.
        names: Their names.
        widths: Modality -> D of its stream.
        counts: Modality -> N_m, padding included.
        streams: The modalities of each stream.
        depths: Layers of each stream.
        empty_text: Token ids of a text that says nothing.
        pooler: What is applied to the token that is read. It learns with the prompts; all other
            parts are those that get frozen.
    """

    modalities: Mapping[str, Modality]
    names: tuple[str, ...]
    empty_text: tuple[int, ...] = ()
    widths: Mapping[str, int]
    counts: Mapping[str, int]
    streams: tuple[tuple[str, ...], ...]
    depths: tuple[int, ...]
    pooler: nn.Module

    @property
    def depth(self) -> int:
        """L, layers that every stream has."""
        return min(self.depths)

    @property
    def pooled_width(self) -> int:
        """P, width of what `pool` returns."""
        return sum(self.widths[stream[0]] for stream in self.streams)

    @abstractmethod
    def embedder(self, name: str) -> nn.Module:
        """What turns the inputs (B, ...) and lengths of a modality into tokens (B, N_m, D)."""

    @abstractmethod
    def real(self, name: str, batch: Batch) -> Bool[Tensor, "batch token"]:
        """Which tokens of a modality are no padding, for the samples that have it."""

    def tokens(self, batch: Batch) -> dict[str, Float[Tensor, "batch _ _"]]:
        """Tokens of each modality before the first layer; zeros where it is absent."""
        return {name: batch.embed(name, self.embedder(name)) for name in self.names}

    def keys(self, batch: Batch) -> dict[str, Bool[Tensor, "batch _"]]:
        """Which tokens may be read: False for padding and for absent modalities."""
        return {n: self.real(n, batch) & batch.has(n)[:, None] for n in self.names}

    def blank(
        self, name: str, value: float = 0.0
    ) -> tuple[Float[Tensor, "token dim"], Bool[Tensor, " token"]]:
        """Tokens of an input that says nothing, and which of them are no padding.

        Args:
            name: Modality; of kind tokens, the input is an empty text.
            value: What all numbers of any other input are, scaled as the backbone reads them.
        """
        modality, device = self.modalities[name], next(self.parameters()).device
        length = modality.shape[0]
        if modality.kind == "tokens":
            x = torch.zeros(1, length, dtype=torch.long, device=device)
            length = min(length, len(self.empty_text))
            for place, token in enumerate(self.empty_text[:length]):
                x[0, place] = token
        else:
            x = torch.full((1, *modality.shape), value, device=device)
        lengths = {name: torch.tensor([length], device=device)} if modality.has_lengths else {}
        present = torch.ones(1, 1, dtype=torch.bool, device=device)
        nobody = torch.zeros(1, dtype=torch.long, device=device)
        batch = Batch((name,), {name: x}, present, nobody, nobody, lengths)
        return batch.embed(name, self.unscaled(name))[0], self.real(name, batch)[0]

    def unscaled(self, name: str) -> Callable[[Tensor, Tensor | None], Tensor]:
        """The same as `embedder`, for inputs that are scaled as the backbone reads them."""
        return self.embedder(name)

    def sequence(
        self, stream: int, tokens: Mapping[str, Tensor], keys: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch token dim"], Bool[Tensor, "batch token"]]:
        """Join the modalities of a stream, and whatever the model itself puts before them."""
        names = self.streams[stream]
        return torch.cat([tokens[n] for n in names], 1), torch.cat([keys[n] for n in names], 1)

    @abstractmethod
    def layer(
        self,
        i: int,
        stream: int,
        x: Float[Tensor, "batch token dim"],
        keys: Bool[Tensor, "batch token"],
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Layer i of a stream.

        Args:
            i: In 0..depths[stream] - 1.
            stream: Which one.
            x: Tokens, inserted ones first.
            keys: Which of them may be read.
            prefix: Further keys and values for the attention, as they are after projection.
        """

    @abstractmethod
    def pool(
        self,
        xs: Sequence[Float[Tensor, "batch _ _"]],
        reads: Sequence[Bool[Tensor, "batch _"]],
        at: int | None = None,
    ) -> Float[Tensor, "batch pooled"]:
        """Read one token of each stream after the last layer: final norm, then `pooler`.

        Args:
            xs: Last tokens of each stream.
            reads: Which of them may be read.
            at: Place of the token, counted from the first inserted one; None = the token that the
                model itself reads, wherever inserted ones have moved it.

        Returns:
            (B, P), streams side by side.
        """

    def run(
        self,
        tokens: Mapping[str, Float[Tensor, "batch _ _"]],
        keys: Mapping[str, Bool[Tensor, "batch _"]],
        insert: Insert | None = None,
        at: int | None = None,
        prefix: Prefixes | None = None,
    ) -> Float[Tensor, "batch pooled"]:
        """Run all layers and pool.

        Args:
            tokens: Modality -> tokens, as of `tokens` or with gaps filled in.
            keys: Modality -> which of them may be read, as of `keys` or with gaps filled in.
            insert: Called with (layer, stream) before each layer; returns tokens to put before
                the stream from that layer on, or None. They may always be read.
            at: See `pool`.
            prefix: Called with (layer, stream); returns keys and values for that layer, or None.
        """
        xs, reads = [], []
        for stream, depth in enumerate(self.depths):
            x, read = self.sequence(stream, tokens, keys)
            for i in range(depth):
                more = None if insert is None else insert(i, stream)
                if more is not None:
                    x = torch.cat([more, x], dim=1)
                    read = nn.functional.pad(read, (more.shape[1], 0), value=True)
                x = self.layer(i, stream, x, read, None if prefix is None else prefix(i, stream))
            xs.append(x)
            reads.append(read)
        return self.pool(xs, reads, at)

    def forward(self, batch: Batch) -> Float[Tensor, "batch pooled"]:
        """Without any prompt: what the backbone makes of the modalities that are there."""
        return self.run(self.tokens(batch), self.keys(batch))


class SmallBackbone(Backbone):
    """A generic pre-norm transformer over the tokens of any modalities.

    A modality's tokens are its parts, normalised, plus learned positions, behind a learned
    [CLS]_m. Parts are the steps of a sequence and the words of a text (averaged down to 32 where
    there are more), 8 tokens of a vector, each of which sees all of it, the cells of a map of an
    image or volume, and 8 attention-weighted means of a bag. A global [CLS] comes first and is
    read at the end.

    Args:
        task: Whose modalities are read.
        dim: D.
        depth: L.
        heads: Have to divide `dim`.
        dropout: While the backbone learns, in [0, 1).
    """

    def __init__(
        self,
        task: Task,
        *,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.modalities = {m.name: m for m in task.modalities}
        self.names = task.names
        embedders = [_Embedder(m, dim) for m in task.modalities]
        self.embedders = nn.ModuleList(embedders)
        self.widths = dict.fromkeys(self.names, dim)
        self.counts = {n: part.count for n, part in zip(self.names, embedders, strict=True)}
        self.streams = (self.names,)
        self.depths = (depth,)
        self.cls = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.cls, std=0.02)
        self.layers = nn.ModuleList(
            PreNormBlock(dim, heads=heads, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.pooler = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())

    def embedder(self, name: str) -> nn.Module:
        """See `Backbone`."""
        return self.embedders[self.names.index(name)]

    def real(self, name: str, batch: Batch) -> Bool[Tensor, "batch token"]:
        """See `Backbone`."""
        steps = torch.arange(self.counts[name], device=batch.presence.device)
        if name not in batch.lengths or self.modalities[name].kind == "bag":
            return torch.ones_like(steps, dtype=torch.bool).expand(len(batch), -1)
        return steps <= batch.lengths[name][:, None]  # [CLS]_m and as many parts as steps

    def sequence(
        self, stream: int, tokens: Mapping[str, Tensor], keys: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch token dim"], Bool[Tensor, "batch token"]]:
        """See `Backbone`; the global [CLS] comes first."""
        x, read = super().sequence(stream, tokens, keys)
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1)
        return x, nn.functional.pad(read, (1, 0), value=True)

    def layer(
        self,
        i: int,
        stream: int,
        x: Float[Tensor, "batch token dim"],
        keys: Bool[Tensor, "batch token"],
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """See `Backbone`."""
        z: Tensor = self.layers[i](x, keys, prefix)
        return z

    def pool(
        self,
        xs: Sequence[Float[Tensor, "batch _ _"]],
        reads: Sequence[Bool[Tensor, "batch _"]],
        at: int | None = None,
    ) -> Float[Tensor, "batch pooled"]:
        """See `Backbone`."""
        [x] = xs
        end = x.shape[1] - 1 - sum(self.counts.values())
        z: Tensor = self.pooler(self.norm(x[:, end if at is None else at]))
        return z


class _Embedder(nn.Module):
    """[CLS]_m and the parts of one modality, normalised, with positions.

    The norm comes after the first layer: before it, it would erase the scale of the input.
    """

    def __init__(self, modality: Modality, dim: int) -> None:
        super().__init__()
        self.cut, parts = KINDS[modality.kind].parts(modality, dim)
        self.count = 1 + parts
        self.norm = nn.LayerNorm(dim)
        self.cls = nn.Parameter(torch.empty(dim))
        self.position = nn.Parameter(torch.empty(parts, dim))
        for start in (self.cls, self.position):
            nn.init.normal_(start, std=0.02)

    def forward(
        self, x: Tensor, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch token dim"]:
        """Turn inputs into N_m tokens; those of padding have no meaning."""
        z: Tensor = self.cut(x, lengths)
        z = self.norm(z) + self.position
        return torch.cat([self.cls.expand(len(z), 1, -1), z], dim=1)
