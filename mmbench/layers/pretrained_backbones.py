"""Multimodal transformers with published weights, read from a local folder.

A folder holds `config.json`, `.safetensors`, `preprocessor_config.json` and the tokenizer's files
as `save_pretrained` of transformers writes them; nothing is downloaded and no pickle is read. Each
model takes one text and one image, as it was trained: token ids are those of its own tokenizer,
special tokens included (`Modality.tokenizer`), or it refuses; 8-bit pixels, which a data module
standardises by its training split, are brought back to 0..1 (`Modality.pixels`) and scaled as the
preprocessor says.

The parts are those of transformers. Only the lines around the attention are written again, since
prompts bring keys and values of their own. Positions are stretched once, when a model is built,
and image tokens keep their raster order.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Blip2ForImageTextRetrieval, CLIPModel, ViltModel

from mmbench.data.batch import Batch
from mmbench.data.features import (
    IMAGE_WIDTH,
    TEXT_TOKENIZER,
    image_map,
    image_network,
    text_network,
)
from mmbench.data.files import reading
from mmbench.data.pieces import tokenizer_of, vocabulary_name
from mmbench.data.task import Modality, Task
from mmbench.layers.attention import Prefix, prepend
from mmbench.layers.backbones import Backbone
from mmbench.layers.encoders import rest
from mmbench.layers.pixels import Affine, Scaling, rescaling, to_unit
from mmbench.layers.pooling import grid_weights, valid_steps

BERT_EMPTY = (101, 102)  # [CLS] [SEP] in the vocabulary of BERT, which ViLT and BLIP-2 share
CELLS = 16  # tokens of an image in the packaged backbone, 4 x 4


class PretrainedBackbone(Backbone):
    """A backbone from transformers that reads one text and one image, the text's tokens first.

    Args:
        task: With one modality of kind tokens and one of kind image.
        texts: Embedder of the text.
        images: Embedder of the image.
        layers: Of each stream, or one list that both streams have in common.
        norms: After the last layer of each stream; as many as there are streams.
        pooler: See `Backbone`.
        empty_text: Token ids of a text that says nothing.

    Raises:
        ValueError: If the task has other modalities.
    """

    def __init__(
        self,
        task: Task,
        *,
        texts: "TextTokens",
        images: "ImageTokens | MapTokens",
        layers: Sequence[Sequence["Layer"]],
        norms: Sequence[nn.Module],
        pooler: nn.Module,
        empty_text: tuple[int, ...],
    ) -> None:
        super().__init__()
        text, image = text_and_image(task)
        self.modalities = {m.name: m for m in (text, image)}
        self.names = tuple(self.modalities)
        self.streams = (self.names,) if len(norms) == 1 else tuple((n,) for n in self.names)
        self.embedders = nn.ModuleList([texts, images])
        self.widths = {text.name: texts.width, image.name: images.width}
        self.counts = {text.name: texts.count, image.name: images.count}
        self.layers = nn.ModuleList(nn.ModuleList(stream) for stream in layers)
        self.depths = tuple(len(layers[i % len(layers)]) for i in range(len(norms)))
        self.norms = nn.ModuleList(norms)
        self.pooler = pooler
        self.causal = texts.causal
        self.empty_text = empty_text

    def embedder(self, name: str) -> nn.Module:
        """See `Backbone`."""
        return self.embedders[self.names.index(name)]

    def unscaled(self, name: str) -> Callable[[Tensor, Tensor | None], Tensor]:
        """See `Backbone`."""
        part = self.embedder(name)
        return part if isinstance(part, TextTokens) else part.scaled  # type: ignore[return-value]

    def real(self, name: str, batch: Batch) -> Bool[Tensor, "batch token"]:
        """See `Backbone`."""
        steps = torch.arange(self.counts[name], device=batch.presence.device)
        if name not in batch.lengths:
            return torch.ones_like(steps, dtype=torch.bool).expand(len(batch), -1)
        if self.causal:
            steps = steps.flip(0)
        return steps < batch.lengths[name][:, None]

    def tokens(self, batch: Batch) -> dict[str, Float[Tensor, "batch _ _"]]:
        """See `Backbone`; where the text is absent, its [CLS] still stands.

        It says nothing, and no other token may read it, but in a single stream it is the token
        that is read at the end.
        """
        tokens = super().tokens(batch)
        if len(self.streams) == 1:
            text = self.names[0]
            cls = self.blank(text)[0][:1].expand(len(batch), 1, -1)
            first = torch.where(batch.has(text)[:, None, None], tokens[text][:, :1], cls)
            tokens[text] = torch.cat([first, tokens[text][:, 1:]], dim=1)
        return tokens

    def layer(
        self,
        i: int,
        stream: int,
        x: Float[Tensor, "batch token dim"],
        keys: Bool[Tensor, "batch token"],
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """See `Backbone`."""
        if self.causal and stream == 0:
            past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            # padding reads itself, as a softmax over nothing is no number
            itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
            readable = keys[:, None, :] & past | itself
        else:
            readable = (keys | ~keys.any(1, keepdim=True))[:, None, :]
        tower: Any = self.layers[stream % len(self.layers)]
        z: Tensor = tower[i](x, readable[:, None], prefix)
        return z

    def pool(
        self,
        xs: Sequence[Float[Tensor, "batch _ _"]],
        reads: Sequence[Bool[Tensor, "batch _"]],
        at: int | None = None,
    ) -> Float[Tensor, "batch pooled"]:
        """See `Backbone`."""
        read = []
        for stream, x in enumerate(xs):
            end = x.shape[1] - sum(self.counts[name] for name in self.streams[stream])
            if self.causal and stream == 0:
                end = -1  # the end of the text, which alone has read all of it
            read.append(self.norms[stream](x[:, end if at is None else at]))
        z: Tensor = self.pooler(torch.cat(read, dim=1))
        return z


def vilt(task: Task, folder: Path) -> PretrainedBackbone:
    """ViLT: one transformer over words and image patches; the text's [CLS] is read at the end.

    Texts longer than the model's table of positions stretch it.

    Source: Kim et al., "ViLT: Vision-and-Language Transformer Without Convolution or Region
    Supervision", ICML 2021.

    Args:
        task: With one modality of kind tokens and one of kind image.
        folder: Of a `ViltModel`, such as dandelin/vilt-b32-mlm.

    Raises:
        ValueError: If the task does not fit, or the folder does not hold the model.
    """
    text, image = text_and_image(task)
    model = _load(ViltModel, folder, made_here=("pooler.",))
    scaling = scaling_of(image, folder)
    require_ids(text, folder)
    words, of_text = model.embeddings.text_embeddings, model.embeddings.token_type_embeddings.weight
    places = model.embeddings.position_embeddings[0] + of_text[1]
    position = words.position_embeddings.weight
    if text.shape[0] > len(position):
        position = nn.functional.interpolate(
            position.T[None], text.shape[0], mode="linear", align_corners=False
        )[0].T
    with torch.no_grad():
        words.LayerNorm.bias += of_text[0]  # what every token gets after the norm
    heads = model.config.num_attention_heads
    return PretrainedBackbone(
        task,
        texts=TextTokens(
            text,
            words.word_embeddings,
            position + words.token_type_embeddings.weight[0],
            norm=words.LayerNorm,
        ),
        images=ImageTokens(
            image,
            model.embeddings.patch_embeddings.projection,
            model.embeddings.cls_token,
            places,
            stretch="bilinear",
            scaling=scaling,
        ),
        layers=[[ViltLayer(block, heads) for block in model.encoder.layer]],
        norms=[model.layernorm],
        pooler=nn.Sequential(model.pooler.dense, nn.Tanh()),
        empty_text=BERT_EMPTY,
    )


def clip(task: Task, folder: Path) -> PretrainedBackbone:
    """CLIP: two towers; the end of the text and the image's [CLS] are read at the end.

    Words read only what comes before them. Texts stand at the right end of their places, so that
    they all end at the last one.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision", ICML 2021.

    Args:
        task: With one modality of kind tokens and one of kind image.
        folder: Of a `CLIPModel`, such as openai/clip-vit-large-patch14.

    Raises:
        ValueError: If the task does not fit, or the folder does not hold the model.
    """
    text, image = text_and_image(task)
    model = _load(CLIPModel, folder)
    scaling = scaling_of(image, folder)
    require_ids(text, folder)
    words, patches = model.text_model.embeddings, model.vision_model.embeddings
    heads = [c.num_attention_heads for c in (model.config.text_config, model.config.vision_config)]
    towers = (model.text_model.encoder.layers, model.vision_model.encoder.layers)
    vocabulary = words.token_embedding.num_embeddings
    return PretrainedBackbone(
        task,
        texts=TextTokens(text, words.token_embedding, words.position_embedding.weight, causal=True),
        images=ImageTokens(
            image,
            patches.patch_embedding,
            patches.class_embedding,
            patches.position_embedding.weight,
            stretch="bicubic",
            scaling=scaling,
            norm=model.vision_model.pre_layrnorm,
        ),
        layers=[
            [ClipLayer(block, h) for block in tower] for tower, h in zip(towers, heads, strict=True)
        ],
        norms=[model.text_model.final_layer_norm, model.vision_model.post_layernorm],
        pooler=nn.Identity(),
        empty_text=(vocabulary - 2, vocabulary - 1),  # begin and end are the last two
    )


class ClipProjection(nn.Module):
    """One tower of CLIP and its projection: what texts and images are compared by.

    Args:
        tower: The text or the vision model.
        project: What follows it.
        scale: From a batch's pixels to the model's; None for texts.
        side: Pixels of the images that the model reads.
    """

    def __init__(
        self, tower: nn.Module, project: nn.Module, scale: "Affine | None", side: int
    ) -> None:
        super().__init__()
        self.tower: Any = tower
        self.project = project
        self.scale = scale
        self.side = side

    def forward(
        self, x: Tensor, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch width"]:
        """Project images, or token ids with the lengths of the texts."""
        if self.scale is None:
            valid = valid_steps(lengths, x)
            z = self.tower(torch.where(valid, x, 0).long(), valid.long()).pooler_output
        else:
            pixels = self.scale(x.expand(-1, 3, -1, -1))
            sides = (self.side, self.side)
            pixels = nn.functional.interpolate(pixels, sides, mode="bicubic", antialias=True)
            z = self.tower(pixels).pooler_output
        projected: Tensor = self.project(z)
        return projected


def clip_projection(modality: Modality, folder: Path) -> tuple[ClipProjection, int]:
    """What CLIP makes of one modality, frozen, and its width; runs share what it gives.

    Source: as `clip`; the retrieval features of RAGPT and REDEEM.

    Args:
        modality: Of kind tokens or image.
        folder: Of a `CLIPModel`.

    Raises:
        ValueError: If it is of another kind, does not fit, or the folder does not hold the model.
    """
    if modality.kind not in ("tokens", "image"):
        raise ValueError(
            f"CLIP reads texts and images, but modality {modality.name!r} is of kind "
            f"{modality.kind}; retrieve by a file of vectors"
        )
    model = _load(CLIPModel, folder)
    if modality.kind == "tokens":
        require_ids(modality, folder)
        made = ClipProjection(model.text_model, model.text_projection, None, 0)
    else:
        scale, side = Affine(scaling_of(modality, folder)), model.config.vision_config.image_size
        made = ClipProjection(model.vision_model, model.visual_projection, scale, side)
    rest(made.eval())
    return made, model.config.projection_dim


def blip2(task: Task, folder: Path) -> PretrainedBackbone:
    """BLIP-2: the vision tower, and the Q-Former as a tower for texts; [CLS] of both are read.

    Source: Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image
    Encoders and Large Language Models", ICML 2023.

    Args:
        task: With one modality of kind tokens and one of kind image.
        folder: Of a `Blip2ForImageTextRetrieval`, such as Salesforce/blip2-itm-vit-g.

    Raises:
        ValueError: If the task does not fit, or the folder does not hold the model.
    """
    text, image = text_and_image(task)
    model = _load(Blip2ForImageTextRetrieval, folder)
    scaling = scaling_of(image, folder)
    require_ids(text, folder)
    words, patches = model.embeddings, model.vision_model.embeddings
    blocks = model.qformer.encoder.layer
    for block in blocks:  # what only the queries of the Q-Former use
        for part in ("crossattention", "intermediate_query", "output_query"):
            if hasattr(block, part):
                delattr(block, part)
    text_heads = model.config.qformer_config.num_attention_heads
    heads = model.config.vision_config.num_attention_heads
    return PretrainedBackbone(
        task,
        texts=TextTokens(
            text,
            words.word_embeddings,
            words.position_embeddings.weight,
            norm=model.qformer.layernorm,
        ),
        images=ImageTokens(
            image,
            patches.patch_embedding,
            patches.class_embedding,
            patches.position_embedding[0],
            stretch="bicubic",
            scaling=scaling,
        ),
        layers=[
            [QFormerLayer(block, text_heads) for block in blocks],
            [Blip2Layer(block, heads) for block in model.vision_model.encoder.layers],
        ],
        norms=[nn.Identity(), model.vision_model.post_layernorm],
        pooler=nn.Identity(),
        empty_text=BERT_EMPTY,
    )


def packaged(task: Task) -> "PackagedBackbone":
    """Two streams through MiniLM's layers, from networks that install as packages.

    Raises:
        ValueError: If the packages are not installed, the task does not fit, or the text's ids are
            not those of MiniLM's tokenizer.
    """
    text, image = text_and_image(task)
    net: Any = text_network()
    require_vocabulary(
        text,
        TEXT_TOKENIZER,
        "take `features: pieces` of a data set that has it, or, in the data set table, "
        "`tokenizer: packaged`",
    )
    words, heads = net.embeddings, net.config.num_attention_heads
    layers = [BertLayer(block, heads) for block in net.encoder.layer]
    texts = TextTokens(
        text,
        words.word_embeddings,
        words.position_embeddings.weight + words.token_type_embeddings.weight[0],
        norm=words.LayerNorm,
    )
    for part in (*layers, texts):
        rest(part)
    return PackagedBackbone(
        task,
        texts=texts,
        images=MapTokens(image, texts.width),
        layers=[layers],
        norms=[nn.Identity(), nn.Identity()],
        pooler=nn.Identity(),
        empty_text=BERT_EMPTY,
    )


class PackagedBackbone(PretrainedBackbone):
    """A test-bed of published weights that needs no download; extra `pretrained`.

    Two streams, as the two towers of CLIP, that never attend to each other: the word pieces of
    MiniLM (6 layers, D = 384), and the last map of EfficientNet-Lite0, averaged to 4 x 4 cells and
    brought to D by a projection. Both run through MiniLM's layers, so prompts of both enter layers
    that are pretrained. At the end a stream is read by the mean over its own tokens that may be
    read, prompts left out, as MiniLM was trained (or by one token, where a method says which); both
    means stand side by side, and nothing is applied to them. Only the projection, its norm and the
    image's positions learn, while the backbone warms.

    Source: Wang et al., "MiniLM", NeurIPS 2020; Reimers and Gurevych, "Sentence-BERT", EMNLP 2019,
    for the mean; Lu et al., "Frozen Pretrained Transformers as Universal Computation Engines", AAAI
    2022, for other modalities in the layers of a language model.
    """

    def pool(
        self,
        xs: Sequence[Float[Tensor, "batch _ _"]],
        reads: Sequence[Bool[Tensor, "batch _"]],
        at: int | None = None,
    ) -> Float[Tensor, "batch pooled"]:
        """See `Backbone`; the mean over a stream that nobody may read is zero."""
        if at is not None:
            return super().pool(xs, reads, at)
        means = []
        for x, read, [name] in zip(xs, reads, self.streams, strict=True):
            tokens, present = x[:, -self.counts[name] :], read[:, -self.counts[name] :]
            weight = present / present.sum(1, keepdim=True).clamp_min(1)
            means.append((weight[:, None].to(x) @ tokens).squeeze(1))
        return torch.cat(means, 1)


class MapTokens(nn.Module):
    """Cells of EfficientNet-Lite0's map, normed, projected and given positions, as tokens.

    The network rests, so `Batch.embed` runs it once for each sample, although `out` learns.

    Args:
        image: Modality of kind image, 8-bit.
        width: D.
    """

    def __init__(self, image: Modality, width: int) -> None:
        super().__init__()
        self.trunk = FrozenMap(image)
        rest(self.trunk)
        self.out = nn.Sequential(nn.LayerNorm(IMAGE_WIDTH), nn.Linear(IMAGE_WIDTH, width), Places())
        self.count, self.width = CELLS, width

    def forward(
        self, x: Float[Tensor, "batch channel height width"], lengths: None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Embed a batch's pixels."""
        z: Tensor = self.out(self.trunk(x))
        return z

    def scaled(
        self, x: Float[Tensor, "batch channel height width"], lengths: None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Embed pixels from 0 (black) to 1."""
        z: Tensor = self.out(self.trunk.cells_of(x))
        return z


class FrozenMap(nn.Module):
    """The last map of EfficientNet-Lite0, averaged to 4 x 4 cells: (B, 16, 1280)."""

    means: Tensor

    def __init__(self, image: Modality) -> None:
        super().__init__()
        if image.shape[0] not in (1, 3):
            raise ValueError(
                f"the packaged backbone reads 1 or 3 channels, but modality {image.name!r} has "
                f"{image.shape[0]}"
            )
        self.scale = Affine(to_unit(image))
        self.net = image_network()
        self.register_buffer("means", grid_weights((7, 7), CELLS), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch channel height width"], lengths: None = None
    ) -> Float[Tensor, "batch cell feature"]:
        """Read a batch's pixels."""
        return self.cells_of(self.scale(x))

    def cells_of(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch cell feature"]:
        """Read pixels from 0 to 1."""
        z = image_map(self.net, 255 * x.expand(-1, 3, -1, -1)).flatten(2)
        return self.means @ z.transpose(1, 2)


class Places(nn.Module):
    """Learned positions of an image's tokens, after a norm as MiniLM's own tokens have it."""

    def __init__(self, count: int = CELLS, width: int = 384) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(count, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Add and norm."""
        z: Tensor = self.norm(x + self.position)
        return z


class TextTokens(nn.Module):
    """Word vectors and positions, then a norm where the model has one.

    Args:
        text: Modality of kind tokens.
        words: Vectors of the model's vocabulary.
        position: Of each place, (place, D).
        norm: After the sum.
        causal: Whether words read only what comes before them; then texts are moved to the right
            end of their places, and padding comes first.

    Raises:
        ValueError: If the vocabulary or the longest text of the data is larger than the model's.
    """

    def __init__(
        self,
        text: Modality,
        words: nn.Embedding,
        position: Float[Tensor, "place dim"],
        *,
        norm: nn.Module | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if text.vocab_size > words.num_embeddings:
            raise ValueError(
                f"the model knows {words.num_embeddings} token ids, but modality {text.name!r} "
                f"has {text.vocab_size}; cut its texts with the model's own tokenizer"
            )
        if text.shape[0] > len(position):
            raise ValueError(
                f"the model reads texts of at most {len(position)} tokens, but those of modality "
                f"{text.name!r} have up to {text.shape[0]}; shorten them"
            )
        self.words = words
        self.position = nn.Parameter(position.detach()[: text.shape[0]].clone())
        self.norm = norm or nn.Identity()
        self.causal = causal
        self.count, self.width = self.position.shape

    def forward(
        self, x: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch time dim"]:
        """Embed token ids; padding gives tokens without meaning."""
        valid = valid_steps(lengths, x)
        z: Tensor = self.norm(self.words(torch.where(valid, x, 0).long()) + self.position)
        if not self.causal or lengths is None:
            return z
        steps = torch.arange(x.shape[1], device=x.device)
        source = (steps - (x.shape[1] - lengths[:, None])).clamp_min(0)
        return z.gather(1, source[:, :, None].expand_as(z))


class ImageTokens(nn.Module):
    """[CLS] and the patches of an image in raster order, with positions.

    Args:
        image: Modality of kind image.
        project: Convolution from patches to tokens.
        cls: The model's [CLS], D numbers.
        position: Of [CLS] and of a square of patches, (1 + patch, D).
        stretch: How positions are interpolated for images of another size.
        scaling: From a batch's pixels to the model's, see `scaling_of`.
        norm: After the sum.

    Raises:
        ValueError: If patches of the model do not fit the images.
    """

    def __init__(
        self,
        image: Modality,
        project: nn.Conv2d,
        cls: Tensor,
        position: Float[Tensor, "place dim"],
        *,
        stretch: str,
        scaling: Scaling,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _, *sides = image.shape
        patch = project.kernel_size
        grid = [side // p for side, p in zip(sides, patch, strict=True)]
        if any(side % p for side, p in zip(sides, patch, strict=True)):
            raise ValueError(
                f"the model cuts images into patches of {patch[0]} x {patch[1]}, but those of "
                f"modality {image.name!r} are {sides[0]} x {sides[1]}; take multiples of a patch"
            )
        side = round((len(position) - 1) ** 0.5)
        cells = position.detach()[1:].T.reshape(-1, side, side)
        if grid != [side, side]:
            corners = stretch == "bilinear"  # as in transformers
            cells = nn.functional.interpolate(
                cells[None], grid, mode=stretch, align_corners=corners
            )[0]
        self.scale = Affine(scaling)
        self.project = project
        self.cls = nn.Parameter(cls.detach().flatten() + position.detach()[0])
        self.position = nn.Parameter(cells.flatten(1).T.contiguous())
        self.norm = norm or nn.Identity()
        self.count, self.width = 1 + len(self.position), len(self.cls)

    def forward(
        self, x: Float[Tensor, "batch channel height width"], lengths: None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Embed a batch's pixels; a single channel is shown to the model as often as it has."""
        return self.scaled(self.scale(x.expand(-1, self.project.in_channels, -1, -1)))

    def scaled(
        self, x: Float[Tensor, "batch channel height width"], lengths: None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Embed pixels that are scaled as the model was trained."""
        x = x.expand(-1, self.project.in_channels, -1, -1)
        patches = self.project(x).flatten(2).transpose(1, 2) + self.position
        z: Tensor = self.norm(torch.cat([self.cls.expand(len(x), 1, -1), patches], dim=1))
        return z


class Layer(nn.Module):
    """A layer of transformers whose attention also takes keys and values from outside.

    Args:
        block: The layer.
        heads: Of its attention.
    """

    def __init__(self, block: nn.Module, heads: int) -> None:
        super().__init__()
        self.block: Any = block
        self.heads = heads

    def attend(
        self,
        q: Float[Tensor, "batch token dim"],
        k: Float[Tensor, "batch token dim"],
        v: Float[Tensor, "batch token dim"],
        readable: Bool[Tensor, "batch 1 query token"],
        prefix: Prefix | None,
    ) -> Float[Tensor, "batch token dim"]:
        """Attention between projection of the inputs and of the output."""
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v))
        if prefix is not None:
            k, v = prepend(prefix[0], k), prepend(prefix[1], v)
            readable = nn.functional.pad(readable, (k.shape[2] - q.shape[2], 0), value=True)
        z = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=readable)
        return z.transpose(1, 2).flatten(2)


class ViltLayer(Layer):
    """`transformers.models.vilt.modeling_vilt.ViltLayer`."""

    def forward(self, x: Tensor, readable: Tensor, prefix: Prefix | None) -> Tensor:
        """Update tokens (B, N, D); `readable` (B, 1, 1, N), True = may be read."""
        at, h = self.block.attention, self.block.layernorm_before(x)
        q, k, v = at.attention.query(h), at.attention.key(h), at.attention.value(h)
        x = x + at.output(self.attend(q, k, v, readable, prefix), x)
        z: Tensor = self.block.output(self.block.intermediate(self.block.layernorm_after(x)), x)
        return z


class ClipLayer(Layer):
    """`transformers.models.clip.modeling_clip.CLIPEncoderLayer`."""

    def forward(self, x: Tensor, readable: Tensor, prefix: Prefix | None) -> Tensor:
        """Update tokens (B, N, D); `readable` (B, 1, 1 or N, N), True = may be read."""
        at, h = self.block.self_attn, self.block.layer_norm1(x)
        read = self.attend(at.q_proj(h), at.k_proj(h), at.v_proj(h), readable, prefix)
        x = x + at.out_proj(read)
        z: Tensor = x + self.block.mlp(self.block.layer_norm2(x))
        return z


class Blip2Layer(Layer):
    """`transformers.models.blip_2.modeling_blip_2.Blip2EncoderLayer`."""

    def forward(self, x: Tensor, readable: Tensor, prefix: Prefix | None) -> Tensor:
        """Update tokens (B, N, D); `readable` (B, 1, 1, N), True = may be read."""
        at = self.block.self_attn
        q, k, v = at.qkv(self.block.layer_norm1(x)).chunk(3, dim=2)
        x = x + at.projection(self.attend(q, k, v, readable, prefix))
        z: Tensor = x + self.block.mlp(self.block.layer_norm2(x))
        return z


class QFormerLayer(Layer):
    """`transformers.models.blip_2.modeling_blip_2.Blip2QFormerLayer`, as it reads a text."""

    def forward(self, x: Tensor, readable: Tensor, prefix: Prefix | None) -> Tensor:
        """Update tokens (B, N, D); `readable` (B, 1, 1, N), True = may be read."""
        at = self.block.attention
        q, k, v = at.attention.query(x), at.attention.key(x), at.attention.value(x)
        x = at.output(self.attend(q, k, v, readable, prefix), x)  # its norm comes after the sum
        z: Tensor = self.block.output(self.block.intermediate(x), x)
        return z


class BertLayer(Layer):
    """`transformers.models.bert.modeling_bert.BertLayer`."""

    def forward(self, x: Tensor, readable: Tensor, prefix: Prefix | None) -> Tensor:
        """Update tokens (B, N, D); `readable` (B, 1, 1, N), True = may be read."""
        at = self.block.attention
        q, k, v = at.self.query(x), at.self.key(x), at.self.value(x)
        x = at.output(self.attend(q, k, v, readable, prefix), x)  # its norm comes after the sum
        z: Tensor = self.block.output(self.block.intermediate(x), x)
        return z


def scaling_of(image: Modality, folder: Path) -> Scaling:
    """Factor and shift from the pixels of a batch to those that a model was trained on.

    Args:
        image: Says how the data module standardised its pixels.
        folder: With `preprocessor_config.json`.

    Raises:
        ValueError: If there is no such file, it does not say how pixels are scaled, the images have
            other channels, or it is not known how the data module scaled them.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        raise ValueError(
            f"no preprocessor_config.json in {folder}, which says how the model's pixels are "
            "scaled; a model's folder comes with it"
        )
    with reading(file, "JSON file"):
        said = json.loads(file.read_text(encoding="utf-8"))
    try:
        mean, std = ([float(x) for x in said[f"image_{word}"]] for word in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no image_mean and image_std, a list of numbers") from error
    return rescaling(image, mean, std)


def require_ids(text: Modality, folder: Path) -> None:
    """Refuse token ids that are not those of the tokenizer of a model's folder.

    Raises:
        ValueError: If they are others, or the folder has no tokenizer.
    """
    name = vocabulary_name(tokenizer_of(folder))
    require_vocabulary(
        text,
        name,
        f"cut its texts with the tokenizer in {folder} (in the data set table: "
        f"`tokenizer: {folder}`)",
    )


def require_vocabulary(text: Modality, name: str, how: str) -> None:
    """Refuse token ids of another vocabulary.

    Raises:
        ValueError: If they are not of this one.
    """
    if text.tokenizer != name:
        whose = f"of the vocabulary {text.tokenizer}" if text.tokenizer else "the data set's own"
        raise ValueError(
            f"the token ids of modality {text.name!r} are {whose}, but the model's word vectors "
            f"belong to the ids of its own tokenizer ({name}); {how}"
        )


def text_and_image(task: Task) -> tuple[Modality, Modality]:
    """The two modalities that these models read.

    Raises:
        ValueError: If the task has other modalities.
    """
    kinds = {m.kind: m for m in task.modalities}
    if len(task.modalities) != 2 or set(kinds) != {"tokens", "image"}:
        modalities = ", ".join(f"{m.name} ({m.kind})" for m in task.modalities)
        raise ValueError(
            "pretrained backbones read one modality of kind tokens and one of kind image, "
            f"found {modalities}; take the backbone small"
        )
    return kinds["tokens"], kinds["image"]


def _load(model: Any, folder: Path, made_here: tuple[str, ...] = ()) -> Any:
    """Load a model; parts that begin with `made_here` may be missing and start at random."""
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"no model at {folder}: a folder with config.json and safetensors is needed; "
            "nothing is downloaded"
        )
    if torch.get_default_device().type == "meta":  # shapes are all that is asked for
        return model(model.config_class.from_pretrained(folder, local_files_only=True)).eval()
    try:
        loaded, report = model.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # a damaged file may fail in any way
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{folder} does not hold a {model.__name__}: {line}") from error
    missing = [name for name in report["missing_keys"] if not name.startswith(made_here)]
    if missing:
        raise ValueError(
            f"{folder} does not hold a {model.__name__}: {len(missing)} of its weights are not "
            f"there, {sorted(missing)[0]} among them"
        )
    return loaded.eval()
