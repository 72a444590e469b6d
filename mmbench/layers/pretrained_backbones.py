"""Multimodal transformers with published weights, read from a local folder.

A folder holds `config.json` and `.safetensors` as `save_pretrained` of transformers writes them;
nothing is downloaded and no pickle is read. Each model takes one text and one image. The text's
token ids must come from the model's own tokenizer, special tokens included.

The parts are those of transformers. Only the lines around the attention are written again, since
prompts bring keys and values of their own. Positions are stretched once, when a model is built,
and image tokens keep their raster order.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Blip2ForImageTextRetrieval, CLIPModel, ViltModel

from mmbench.data.batch import Batch
from mmbench.data.task import Modality, Task
from mmbench.layers.attention import Prefix, prepend
from mmbench.layers.backbones import Backbone
from mmbench.layers.pooling import valid_steps

BERT_EMPTY = (101, 102)  # [CLS] [SEP] in the vocabulary of BERT, which ViLT and BLIP-2 share


class PretrainedBackbone(Backbone):
    """A backbone from transformers that reads one text and one image, the text's tokens first.

    Args:
        task: With one modality of kind tokens and one of kind image.
        texts: Embedder of the text.
        images: Embedder of the image.
        layers: Of each stream.
        norms: After the last layer of each stream.
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
        images: "ImageTokens",
        layers: Sequence[Sequence["Layer"]],
        norms: Sequence[nn.Module],
        pooler: nn.Module,
        empty_text: tuple[int, ...],
    ) -> None:
        super().__init__()
        text, image = text_and_image(task)
        self.modalities = {m.name: m for m in (text, image)}
        self.names = tuple(self.modalities)
        self.streams = (self.names,) if len(layers) == 1 else tuple((n,) for n in self.names)
        self.embedders = nn.ModuleList([texts, images])
        self.widths = {text.name: texts.width, image.name: images.width}
        self.counts = {text.name: texts.count, image.name: images.count}
        self.layers = nn.ModuleList(nn.ModuleList(stream) for stream in layers)
        self.depths = tuple(len(stream) for stream in layers)
        self.norms = nn.ModuleList(norms)
        self.pooler = pooler
        self.causal = texts.causal
        self.empty_text = empty_text

    def embedder(self, name: str) -> nn.Module:
        """See `Backbone`."""
        return self.embedders[self.names.index(name)]

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
        tower: Any = self.layers[stream]
        z: Tensor = tower[i](x, readable[:, None], prefix)
        return z

    def pool(
        self, xs: Sequence[Float[Tensor, "batch _ _"]], at: int | None = None
    ) -> Float[Tensor, "batch pooled"]:
        """See `Backbone`."""
        read = []
        for stream, x in enumerate(xs):
            own = x.shape[1] - sum(self.counts[name] for name in self.streams[stream])
            if self.causal and stream == 0:
                own = -1  # the end of the text, which alone has read all of it
            read.append(self.norms[stream](x[:, own if at is None else at]))
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
            norm=model.vision_model.pre_layrnorm,
        ),
        layers=[
            [ClipLayer(block, h) for block in tower] for tower, h in zip(towers, heads, strict=True)
        ],
        norms=[model.text_model.final_layer_norm, model.vision_model.post_layernorm],
        pooler=nn.Identity(),
        empty_text=(vocabulary - 2, vocabulary - 1),  # begin and end are the last two
    )


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
        ),
        layers=[
            [QFormerLayer(block, text_heads) for block in blocks],
            [Blip2Layer(block, heads) for block in model.vision_model.encoder.layers],
        ],
        norms=[nn.Identity(), model.vision_model.post_layernorm],
        pooler=nn.Identity(),
        empty_text=BERT_EMPTY,
    )


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
        norm: After the sum.

    Raises:
        ValueError: If patches or channels of the model do not fit the images.
    """

    def __init__(
        self,
        image: Modality,
        project: nn.Conv2d,
        cls: Tensor,
        position: Float[Tensor, "place dim"],
        *,
        stretch: str,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        channels, *sides = image.shape
        patch = project.kernel_size
        grid = [side // p for side, p in zip(sides, patch, strict=True)]
        if any(side % p for side, p in zip(sides, patch, strict=True)):
            raise ValueError(
                f"the model cuts images into patches of {patch[0]} x {patch[1]}, but those of "
                f"modality {image.name!r} are {sides[0]} x {sides[1]}; take multiples of a patch"
            )
        if channels not in (1, project.in_channels):
            raise ValueError(
                f"the model reads images of {project.in_channels} channels, but modality "
                f"{image.name!r} has {channels}"
            )
        side = round((len(position) - 1) ** 0.5)
        cells = position.detach()[1:].T.reshape(-1, side, side)
        if grid != [side, side]:
            corners = stretch == "bilinear"  # as in transformers
            cells = nn.functional.interpolate(
                cells[None], grid, mode=stretch, align_corners=corners
            )[0]
        self.project = project
        self.cls = nn.Parameter(cls.detach().flatten() + position.detach()[0])
        self.position = nn.Parameter(cells.flatten(1).T.contiguous())
        self.norm = norm or nn.Identity()
        self.count, self.width = 1 + len(self.position), len(self.cls)

    def forward(
        self, x: Float[Tensor, "batch channel height width"], lengths: None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Embed pixels, standardised; a single channel is shown to the model as often as it has."""
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


def text_and_image(task: Task) -> tuple[Modality, Modality]:
    """The two modalities that these models read.

    Raises:
        ValueError: If the task has other modalities.
    """
    kinds = {m.kind: m for m in task.modalities}
    if len(task.modalities) != 2 or set(kinds) != {"tokens", "image"}:
        found = ", ".join(f"{m.name} ({m.kind})" for m in task.modalities)
        raise ValueError(
            "pretrained backbones read one modality of kind tokens and one of kind image, "
            f"found {found}; take the backbone small"
        )
    return kinds["tokens"], kinds["image"]


def _load(model: Any, folder: Path, made_here: tuple[str, ...] = ()) -> Any:
    """Load a model; parts that begin with `made_here` may be missing and start at random."""
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"no model at {folder}: a folder with config.json and safetensors is needed; "
            "nothing is downloaded"
        )
    try:
        loaded, report = model.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(f"{folder} does not hold a {model.__name__}: {line}") from error
    missing = [name for name in report["missing_keys"] if not name.startswith(made_here)]
    if missing:
        raise ValueError(
            f"{folder} does not hold a {model.__name__}: {len(missing)} of its weights are not "
            f"there, {sorted(missing)[0]} among them"
        )
    return loaded.eval()
