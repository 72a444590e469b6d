"""Published models in the smallest size, with random weights, as folders to load from."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    ViltConfig,
    ViltModel,
)

from mmbench.data.pieces import vocabulary_name
from mmbench.data.task import Pixels

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
IMAGE = {"image_size": 16, "patch_size": 8}
TEXTS = {"vocab_size": 120, "max_position_embeddings": 9}


def shaken(model, seed=0):
    """Every weight moved, so that no zero or one of the start hides a mistake."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=g)
    return model.eval()


def config_of(kind):
    if kind == "vilt":
        return ViltConfig(**SIZES, **IMAGE, **TEXTS)
    if kind == "clip":
        text = {**SIZES, **TEXTS, "eos_token_id": 119}
        return CLIPConfig(text_config=text, vision_config={**SIZES, **IMAGE, "hidden_size": 24})
    return Blip2Config(
        vision_config={**SIZES, **IMAGE, "hidden_size": 24, "num_hidden_layers": 3},
        qformer_config={
            **SIZES,
            **TEXTS,
            "encoder_hidden_size": 24,
            "use_qformer_text_input": True,
        },
        text_config={"model_type": "opt", **SIZES, "ffn_dim": 32, "vocab_size": 8},
        num_query_tokens=2,
    )


MODELS = {"vilt": ViltModel, "clip": CLIPModel, "blip2": Blip2ForImageTextRetrieval}


MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.2, 0.4)  # by which the models' pixels are scaled
PIXELS = Pixels((0.3, 0.6, 0.4), (0.25, 0.1, 0.3))  # and by which a data module scaled them


def tokenizer():
    """Words w3, w4, ... in the vocabulary of 120; [CLS] and [SEP] where BERT has them."""
    pieces = {f"w{i}": i for i in range(120)}
    for i, special in ((0, "[PAD]"), (1, "[UNK]"), (101, "[CLS]"), (102, "[SEP]")):
        pieces[special] = pieces.pop(f"w{i}")
    made = Tokenizer(models.WordLevel(pieces, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")


NAME = vocabulary_name(tokenizer())


def around(folder):
    """What stands beside a model's weights: its tokenizer, and how its pixels are scaled."""
    tokenizer().save_pretrained(folder)
    said = {"do_normalize": True, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def save(kind, folder):
    torch.manual_seed(1)
    shaken(MODELS[kind](config_of(kind))).save_pretrained(folder)
    around(folder)
    return folder
