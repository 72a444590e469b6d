"""Published models in the smallest size, with random weights, as folders to load from."""

import torch
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    ViltConfig,
    ViltModel,
)

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


def save(kind, folder):
    torch.manual_seed(1)
    shaken(MODELS[kind](config_of(kind))).save_pretrained(folder)
    return folder
