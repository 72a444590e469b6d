"""The same encoders for all methods: one vector, or P tokens of width D, for each modality.

What an encoder is, the suite says (`EncoderSpec`), how wide it is, the method. It is called with
the inputs (batch, ...) and the lengths (batch,), or None for kinds that have none. It treats every
sample by itself and never lets padding through: there is no batch statistic, no wait for the
device and no loop over samples. A sample of length 0 gives finite values without meaning, which
`Batch.embed` replaces by zeros.

`KINDS` says once for all kinds of modality how it becomes one vector or P tokens (`encoder`), the
tokens of a transformer (`parts`), and features without weights (`raw`).

Notation: B batch, T steps, F features, P tokens, D width, C width of a trunk.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.data.embeddings import share_between_runs
from mmbench.data.task import EncoderSpec, Kind, Modality, Task
from mmbench.layers.attention import GatedAttentionPool, TransformerStack
from mmbench.layers.dropout import Dropout
from mmbench.layers.pooling import adaptive_mean, grid_weights, valid_steps, window_weights
from mmbench.layers.raw import Raw, RawCounts, RawMap, RawMean, RawVector
from mmbench.layers.vision import SmallCNN, Trunk, network

MAX_TOKENS = 32  # longer sequences and texts are averaged down to this many before they attend
PARTS = 8  # tokens of a flat vector, and of a bag, for a transformer


class ModalityEncoders(nn.Module):
    """One encoder for each modality of a task.

    Args:
        task: Whose modalities are encoded, each as its `EncoderSpec` says.
        dim: D, width of a vector or token.
        tokens: P, tokens for each modality; None = one vector without a token axis.
        patches: Whether tokens of a vector are patches of it, as in some released code, see
            `PatchTokens`; for variants `official` alone.
    """

    def __init__(
        self, task: Task, dim: int, *, tokens: int | None = None, patches: bool = False
    ) -> None:
        super().__init__()
        self.names = task.names
        # a ModuleDict would refuse modalities called "type", "values", "float" and the like
        self.in_order = nn.ModuleList(
            encoder(m, dim, tokens=tokens, patches=patches) for m in task.modalities
        )

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """Modality -> its encoder."""
        return dict(zip(self.names, self.in_order, strict=True))

    def forward(self, batch: Batch) -> Float[Tensor, "batch modality *tokens dim"]:
        """Encode all modalities.

        Returns:
            (B, M, D), or (B, M, P, D) with tokens; zeros where a modality is absent.
        """
        parts = [batch.embed(name, part) for name, part in self.encoders.items()]
        return torch.stack(parts, dim=1)


class Encoder(nn.Module):
    """A trunk that knows the kind of modality, and what brings its output to width D.

    While the trunk is frozen, `Batch.embed` runs it once for each sample, although `out` learns.

    Args:
        modality: What is encoded.
        trunk: Inputs (B, ...) and lengths -> (B, C), or (B, P, C).
        out: Those -> (B, D), or (B, P, D).
        dim: D.
        tokens: P; None = one vector.
    """

    def __init__(
        self, modality: Modality, trunk: nn.Module, out: nn.Module, dim: int, tokens: int | None
    ) -> None:
        super().__init__()
        self.modality, self.dim, self.tokens = modality, dim, tokens
        self.trunk = trunk
        self.out = out

    def forward(
        self, x: Tensor, lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch *tokens dim"]:
        """Encode; lengths in steps, None = no padding."""
        z: Tensor = self.out(self.trunk(x, lengths))
        return z


def encoder(
    modality: Modality, dim: int, *, tokens: int | None = None, patches: bool = False
) -> Encoder:
    """Build the encoder of one modality.

    Args:
        modality: Kind, shape and `EncoderSpec` decide which one.
        dim: D, width of a vector or token.
        tokens: P, number of tokens; None = one vector.
        patches: See `ModalityEncoders`.

    Returns:
        A module called with (batch, ...) and the lengths or None, giving (B, D) or (B, P, D).

    Raises:
        ValueError: If `tokens` or `dim` is below 1, or a backbone does not exist, does not fit, or
            its file does not hold its weights.
    """
    if dim < 1 or (tokens is not None and tokens < 1):
        raise ValueError(f"an encoder needs dim >= 1 and tokens >= 1, found {dim} and {tokens}")
    if patches and modality.kind == "vector":
        assert tokens is not None, "patches are tokens"
        trunk: nn.Module = PatchTokens(modality.shape[0], dim, tokens)
        return Encoder(modality, trunk, nn.Identity(), dim, tokens)
    trunk, out = KINDS[modality.kind].encoder(modality, dim, tokens)
    return Encoder(modality, trunk, out, dim, tokens)


class VectorTrunk(nn.Module):
    """Layers of 2D units that see all features: Linear, LayerNorm, GELU, dropout, each.

    The norm comes after the first product: before it, it would erase the scale of the input, and
    a single feature altogether.
    """

    def __init__(self, features: int, width: int, *, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Linear(width if layer else features, width),
                    nn.LayerNorm(width),
                    nn.GELU(),
                    Dropout(dropout),
                )
                for layer in range(layers)
            )
        )

    def forward(
        self, x: Float[Tensor, "batch feature"], lengths: None = None
    ) -> Float[Tensor, "batch width"]:
        """Encode; there are no lengths."""
        z: Tensor = self.layers(x)
        return z


class SideBySide(nn.Module):
    """P tokens from one vector by one Linear: each token has weights of its own.

    A vector of F features has no more than F things to tell: with F < P, the F tokens repeat in
    turn, so that all modalities have P.

    Args:
        width: C, of the vector.
        dim: D.
        tokens: P.
        features: F, of the input that the vector was made from.
    """

    def __init__(self, width: int, dim: int, tokens: int, features: int) -> None:
        super().__init__()
        self.different = min(tokens, features)
        self.tokens = tokens
        self.project = nn.Linear(width, self.different * dim)

    def forward(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch token dim"]:
        """Project and cut."""
        z: Tensor = self.project(x).unflatten(1, (self.different, -1))
        if self.different == self.tokens:
            return z
        return z.repeat(1, math.ceil(self.tokens / self.different), 1)[:, : self.tokens]


class PatchTokens(nn.Module):
    """P tokens from a flat vector: cut it into P patches, one Linear for all of them.

    F features are padded with zeros to P ⌈F/P⌉; there is no norm and no non-linearity, and no
    token sees the whole vector. With fewer features than tokens the last tokens hold padding only.

    Source: the "PatchEmbeddings" of Flex-MoE's released code (Yun et al., NeurIPS 2024) and of its
    successors.
    """

    def __init__(self, features: int, dim: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.patch = math.ceil(features / tokens)
        self.padding = tokens * self.patch - features
        self.project = nn.Linear(self.patch, dim)

    def forward(
        self, x: Float[Tensor, "batch feature"], lengths: None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Encode; there are no lengths."""
        patches = nn.functional.pad(x, (0, self.padding)).view(-1, self.tokens, self.patch)
        z: Tensor = self.project(patches)
        return z


class SequenceTrunk(nn.Module):
    """A GRU over the steps, averaged over the valid ones, or over P windows of them.

    The GRU runs forward only: padding comes after the valid steps and cannot reach them, so
    nothing has to be sorted, packed or copied to the host. On one CPU core it takes half the
    time of a transformer layer of the same width.
    """

    def __init__(
        self, features: int, width: int, *, layers: int, dropout: float, tokens: int | None
    ) -> None:
        super().__init__()
        self.tokens = tokens
        between = dropout if layers > 1 else 0.0
        self.gru = nn.GRU(features, width, layers, batch_first=True, dropout=between)

    def forward(
        self, x: Float[Tensor, "batch time feature"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *tokens width"]:
        """Encode; lengths in steps, None = no padding."""
        valid = valid_steps(lengths, x)
        steps, _ = self.gru(torch.where(valid[:, :, None], x, 0.0))
        return adaptive_mean(steps, lengths, self.tokens)


class TextTrunk(nn.Module):
    """Token and position embeddings, transformer layers, averaged over the valid tokens.

    A text of more than 32 tokens (or P, if that is more) is first averaged down to as many
    windows, which makes a step on one CPU core three times as fast for texts of 100 tokens.
    Embeddings start from N(0, 0.02²), as in BERT.
    """

    def __init__(
        self,
        vocab_size: int,
        longest: int,
        width: int,
        *,
        layers: int,
        dropout: float,
        tokens: int | None,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.most = min(longest, max(MAX_TOKENS, tokens or 1))
        self.embed = Words(vocab_size, width)
        self.position = nn.Parameter(torch.empty(longest, width))
        nn.init.normal_(self.position, std=0.02)
        # as many heads of width 64 as there is room for, but 4 where they divide the width
        heads = math.gcd(width, max(4, width // 64))
        self.layers = TransformerStack(width, layers, heads=heads, expansion=2, dropout=dropout)

    def forward(
        self, x: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *tokens width"]:
        """Encode token ids; lengths in tokens, None = no padding."""
        valid = valid_steps(lengths, x)
        steps = self.embed(torch.where(valid, x, 0)) + self.position[: x.shape[1]]
        if x.shape[1] > self.most:
            lengths = valid.sum(1)
            counts = lengths.clamp_max(self.most)  # a short text keeps its tokens as they are
            steps = window_weights(lengths, x.shape[1], self.most, counts).to(steps) @ steps
            lengths, valid = counts, valid_steps(counts, steps)
        return adaptive_mean(self.layers(steps, valid), lengths, self.tokens)


class BagTrunk(nn.Module):
    """Gated attention pooling of instances in no order; P tokens are P attention heads.

    Source: Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018.
    """

    def __init__(self, features: int, width: int, *, dropout: float, tokens: int | None) -> None:
        super().__init__()
        self.tokens = tokens
        self.project = nn.Sequential(nn.Linear(features, width), nn.ReLU(), Dropout(dropout))
        self.pool = GatedAttentionPool(width, heads=tokens or 1)

    def forward(
        self, x: Float[Tensor, "batch instance feature"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *tokens width"]:
        """Encode; lengths in instances, None = no padding."""
        valid = valid_steps(lengths, x)
        instances = self.project(torch.where(valid[:, :, None], x, 0.0))
        z: Tensor = self.pool(instances, valid)
        return z if self.tokens else z.squeeze(1)


class MapTrunk(nn.Module):
    """A network, its map averaged over the whole or over P cells in raster order.

    Args:
        network: Images or volumes -> map.
        tokens: P; None = one mean over all of it.
        frozen: Whether the network keeps its weights: no stage of a method trains it, and runs
            share what it gives.
    """

    means: Tensor

    def __init__(self, network: Trunk, tokens: int | None, *, frozen: bool) -> None:
        super().__init__()
        self.network = network
        self.tokens = tokens
        self.register_buffer("means", grid_weights(network.cells, tokens or 1), persistent=False)
        if frozen:
            rest(self)

    def forward(
        self, x: Float[Tensor, "batch channel *side"], lengths: None = None
    ) -> Float[Tensor, "batch *tokens width"]:
        """Encode standardised pixels or voxels; there are no lengths."""
        flat = self.network(x).flatten(2)  # (B, C, cells)
        z: Tensor = (flat @ self.means.T).transpose(1, 2)
        return z if self.tokens else z.squeeze(1)


def rest(module: nn.Module) -> None:
    """Freeze a module for good: no stage of a method trains it, and runs share what it gives."""
    module.rests = True  # type: ignore[assignment] # torch takes attributes for tensors
    module.requires_grad_(False)
    share_between_runs(module)


class Words(nn.Embedding):
    """Word vectors, N(0, 0.02²) at the start as in BERT."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__(vocab_size, dim)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, input: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time dim"]:
        """Look up token ids of any integer type."""
        return super().forward(input.long())


class StepTokens(nn.Module):
    """One token a step or word, averaged down to `most` where there are more.

    Args:
        project: Steps (B, T, F), or token ids (B, T) -> (B, T, D).
        most: Tokens at most.
    """

    def __init__(self, project: nn.Module, most: int) -> None:
        super().__init__()
        self.project = project
        self.most = most

    def forward(
        self, x: Tensor, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch token dim"]:
        """Project; tokens of padding have no meaning."""
        valid = valid_steps(lengths, x)
        visible = torch.where(valid.view(*valid.shape, *[1] * (x.dim() - 2)), x, 0)
        z: Tensor = self.project(visible)
        if x.shape[1] <= self.most:
            return z
        count = valid.sum(1)
        weights = window_weights(count, x.shape[1], self.most, count.clamp_max(self.most))
        return weights.to(z) @ z


Parts = tuple[nn.Module, nn.Module]  # trunk and out of an encoder
Tokens = tuple[nn.Module, int]  # what makes tokens, and how many


@dataclass(frozen=True, slots=True)
class HowRead:
    """How a kind of modality is read.

    Args:
        encoder: Modality, D and P (or None) -> trunk and out of its encoder.
        parts: Modality and D -> what makes tokens for a transformer, and how many.
        raw: Modality -> features that exist before any training.
    """

    encoder: Callable[[Modality, int, int | None], Parts]
    parts: Callable[[Modality, int], Tokens]
    raw: Callable[[Modality], Raw]


def _vector(m: Modality, dim: int, tokens: int | None) -> Parts:
    (features,) = m.shape
    layers = m.encoder.layers
    width = 2 * dim if layers else features
    trunk = VectorTrunk(features, width, layers=layers, dropout=m.encoder.dropout)
    if tokens is not None:
        return trunk, SideBySide(width, dim, tokens, features)
    return trunk, nn.Linear(width, dim) if layers or width != dim else nn.Identity()


def _sequence(m: Modality, dim: int, tokens: int | None) -> Parts:
    layers, dropout = m.encoder.layers, m.encoder.dropout
    trunk = SequenceTrunk(m.shape[1], dim, layers=layers, dropout=dropout, tokens=tokens)
    return trunk, _projection(dim, dim, dropout)


def _text(m: Modality, dim: int, tokens: int | None) -> Parts:
    layers, dropout = m.encoder.layers, m.encoder.dropout
    trunk = TextTrunk(m.vocab_size, m.shape[0], dim, layers=layers, dropout=dropout, tokens=tokens)
    return trunk, _projection(dim, dim, dropout)


def _bag(m: Modality, dim: int, tokens: int | None) -> Parts:
    trunk = BagTrunk(m.shape[1], dim, dropout=m.encoder.dropout, tokens=tokens)
    return trunk, nn.Linear(dim, dim)


def _map(m: Modality, dim: int, tokens: int | None) -> Parts:
    return _map_of(_network(m), m.encoder, dim, tokens)


def _map_of(made: Trunk, spec: EncoderSpec, dim: int, tokens: int | None) -> Parts:
    trunk = MapTrunk(made, tokens, frozen=spec.frozen)
    # features of published weights that have width D are read as they are
    as_it_is = spec.backbone and made.channels == dim
    return trunk, nn.Identity() if as_it_is else _projection(made.channels, dim, spec.dropout)


def _network(m: Modality) -> Trunk:
    return network(m.encoder.backbone, m) if m.encoder.backbone else SmallCNN(m.shape)


def _projection(width: int, dim: int, dropout: float) -> nn.Module:
    return nn.Sequential(Dropout(dropout), nn.Linear(width, dim))


def _vector_parts(m: Modality, dim: int) -> Tokens:
    count = min(PARTS, m.shape[0])
    return encoder(m, dim, tokens=count), count


def _bag_parts(m: Modality, dim: int) -> Tokens:
    return encoder(m, dim, tokens=PARTS), PARTS


def _map_parts(m: Modality, dim: int) -> Tokens:
    made = _network(m)
    cells = math.prod(made.cells)
    return Encoder(m, *_map_of(made, m.encoder, dim, cells), dim, cells), cells


def _step_parts(m: Modality, dim: int) -> Tokens:
    most = min(m.shape[0], MAX_TOKENS)
    return StepTokens(nn.Linear(m.shape[1], dim), most), most


def _word_parts(m: Modality, dim: int) -> Tokens:
    most = min(m.shape[0], MAX_TOKENS)
    return StepTokens(Words(m.vocab_size, dim), most), most


def untrained(m: Modality) -> tuple[nn.Module, int]:
    """What turns a modality into features (B, W) without any training, and W.

    That is the suite's frozen backbone where it has one, else `HowRead.raw`.
    """
    if m.encoder.backbone and m.encoder.frozen:
        trunk = encoder(m, 1).trunk
        assert isinstance(trunk, MapTrunk)
        return trunk, trunk.network.channels
    raw = KINDS[m.kind].raw(m)
    return raw, raw.width


KINDS: Mapping[Kind, HowRead] = {
    "vector": HowRead(_vector, _vector_parts, RawVector),
    "sequence": HowRead(_sequence, _step_parts, RawMean),
    "image": HowRead(_map, _map_parts, RawMap),
    "volume": HowRead(_map, _map_parts, RawMap),
    "tokens": HowRead(_text, _word_parts, RawCounts),
    "bag": HowRead(_bag, _bag_parts, RawMean),
}
