import shutil
from dataclasses import replace

import pytest
import torch
from tiny_models import MEAN, MODELS, NAME, PIXELS, STD, around, config_of, save, shaken
from torch.nn.functional import pad
from transformers import ViltForMaskedLM

from mmbench.checks.tasks import make_batch
from mmbench.data import features
from mmbench.data.task import Modality, Pixels, Task
from mmbench.layers.memory import Memory
from mmbench.layers.named_backbone import backbone
from mmbench.methods.backbone_alone import BackboneAlone


def task(tokens=6, side=(16, 16), vocab=120):
    text = Modality("words", "tokens", (tokens,), vocab, NAME)
    image = Modality("photo", "image", (3, *side), pixels=PIXELS)
    return Task("single_label", (image, text), ("x", "y", "z"))


TASK = task()
BOTH = torch.ones(6, 2, dtype=torch.bool)
SOME = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [0, 1], [1, 0]]).bool()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save(kind, tmp_path_factory.mktemp(kind)) for kind in MODELS}


@pytest.fixture(scope="module")
def theirs(folders):
    return {kind: model.from_pretrained(folders[kind]).eval() for kind, model in MODELS.items()}


@pytest.fixture
def build(folders, theirs):
    """Our backbone and the model that it is made of."""

    def build(kind, of=TASK):
        return backbone(f"{kind}:{folders[kind]}", of).eval(), theirs[kind]

    return build


def batch_of(of=TASK, presence=BOTH):
    """Texts of 1 to 6 random words, each ending with the largest id, as CLIP's do."""
    batch = make_batch(of, presence, seed=3)
    g = torch.Generator().manual_seed(4)
    ids = torch.randint(1, 119, batch.inputs["words"].shape, generator=g)
    steps = torch.arange(ids.shape[1])
    lengths = batch.lengths["words"][:, None]
    ids = torch.where(steps == lengths - 1, 119, ids)
    batch.inputs["words"].copy_(torch.where(steps < lengths, ids, 0))
    return batch


def photos(batch):
    """Pixels as the model was trained on them, from those of the batch, one step at a time."""
    channels = []
    for c in range(3):
        unit = batch.inputs["photo"][:, c] * PIXELS.std[c] + PIXELS.mean[c]  # 0 black, 1 white
        channels.append((unit - MEAN[c]) / STD[c])
    return torch.stack(channels, 1)


def mask_of(batch):
    return (torch.arange(batch.inputs["words"].shape[1]) < batch.lengths["words"][:, None]).long()


def last(model, batch):
    """Tokens after the last layer, of each stream, before the final norm."""
    xs = []
    tokens, keys = model.tokens(batch), model.keys(batch)
    for stream, depth in enumerate(model.depths):
        x, read = model.sequence(stream, tokens, keys)
        for i in range(depth):
            x = model.layer(i, stream, x, read)
        xs.append(x)
    return xs


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("side", [(16, 16), (24, 40)])
def test_vilt_gives_what_transformers_gives(build, side):
    of = task(side=side)
    ours, theirs = build("vilt", of)
    batch = batch_of(of)
    size = {"pixel_mask": torch.ones(6, *side)}
    got = theirs(batch.inputs["words"], mask_of(batch), pixel_values=photos(batch), **size)
    close(ours(batch), got.pooler_output)
    [x] = last(ours, batch)
    x, there = ours.norms[0](x), mask_of(batch).bool()
    close(x[:, :6][there], got.last_hidden_state[:, :6][there])
    close(x[:, 6], got.last_hidden_state[:, 6])  # the image's [CLS]
    # transformers shuffles the patches, so that only their sum can be compared
    close(x[:, 7:].sum(1), got.last_hidden_state[:, 7:].sum(1))


@torch.no_grad()
def test_patches_of_vilt_keep_their_raster_order(build):
    ours, _ = build("vilt")
    batch = batch_of()
    tokens = ours.tokens(batch)["photo"]
    batch.inputs["photo"][:, :, :8, 8:] += 1  # upper right
    moved = (ours.tokens(batch)["photo"] - tokens).abs().amax(2) > 1e-6
    assert moved.tolist() == [[False, False, True, False, False]] * 6


@torch.no_grad()
def test_the_towers_of_clip_give_what_transformers_gives(build):
    ours, theirs = build("clip")
    batch = batch_of()
    text = theirs.text_model(batch.inputs["words"], mask_of(batch))
    image = theirs.vision_model(photos(batch))
    close(ours(batch), torch.cat([text.pooler_output, image.pooler_output], dim=1))
    words, patches = last(ours, batch)
    close(patches, image.last_hidden_state)
    for row, n in enumerate(batch.lengths["words"].tolist()):  # texts stand at the right end
        close(ours.norms[0](words[row, 6 - n :]), text.last_hidden_state[row, :n])


@torch.no_grad()
def test_the_towers_of_blip2_give_what_transformers_gives(build):
    ours, theirs = build("blip2")
    batch = batch_of()
    words = theirs.embeddings(batch.inputs["words"])
    text = theirs.qformer(words, query_length=0, attention_mask=mask_of(batch)).last_hidden_state
    image = theirs.vision_model(photos(batch)).last_hidden_state
    close(ours(batch), torch.cat([text[:, 0], image[:, 0]], dim=1))
    got, patches = last(ours, batch)
    close(got[mask_of(batch).bool()], text[mask_of(batch).bool()])
    close(ours.norms[1](patches), image)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "blip2"])
def test_images_of_another_size_stretch_the_positions_once(build, kind):
    ours, theirs = build(kind, task(side=(24, 40)))
    batch = batch_of(task(side=(24, 40)))
    image = theirs.vision_model(photos(batch), interpolate_pos_encoding=True)
    close(
        ours.norms[1](last(ours, batch)[1][:, 0]),
        theirs.vision_model.post_layernorm(image.last_hidden_state[:, 0])
        if kind == "clip"
        else image.last_hidden_state[:, 0],
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_keys_and_values_from_outside_are_read_like_those_of_a_token(build, kind):
    """A token that is put in front gives a key and a value; the same two as a prefix."""
    ours, _ = build(kind)
    batch = batch_of()
    for stream in range(len(ours.streams)):
        x, keys = ours.sequence(stream, ours.tokens(batch), ours.keys(batch))
        more = torch.randn(6, 2, x.shape[2])
        layer = ours.layers[stream][0]
        seen = []
        whole = layer.attend
        layer.attend = lambda q, k, v, *rest, seen=seen, whole=whole: (
            seen.append((k, v)),
            whole(q, k, v, *rest),
        )[1]
        keyed = pad(keys, (2, 0), value=True)
        inserted = ours.layer(0, stream, torch.cat([more, x], 1), keyed)[:, 2:]
        del layer.attend
        prefix = tuple(z[:, :2] for z in seen[0])
        close(ours.layer(0, stream, x, keys, prefix)[keys], inserted[keys])


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_padding_and_absent_inputs_never_matter(build, kind):
    ours, _ = build(kind)
    clean, dirty = batch_of(presence=SOME), batch_of(presence=SOME)
    dirty.inputs["photo"][~SOME[:, 0]] = torch.nan
    padding = torch.arange(6) >= dirty.lengths["words"][:, None]
    dirty.inputs["words"][padding] = 7
    assert torch.equal(ours(clean), ours(dirty))
    assert ours(clean).isfinite().all()


@torch.no_grad()
def test_without_a_text_vilt_still_reads_its_cls(build):
    ours, theirs = build("vilt")
    batch = batch_of(presence=SOME)
    absent = ~SOME[:, 1]
    first = ours.tokens(batch)["words"][absent][:, 0]
    embed = theirs.embeddings.text_embeddings(torch.tensor([[101]]))[0, 0]
    close(first, (embed + theirs.embeddings.token_type_embeddings.weight[0]).expand_as(first))
    assert not ours.keys(batch)["words"][absent].any()


@torch.no_grad()
def test_words_of_clip_read_only_what_comes_before(build):
    ours, _ = build("clip")
    batch = batch_of()
    x, keys = ours.sequence(0, ours.tokens(batch), ours.keys(batch))
    moved = x.clone()
    moved[:, 3] += torch.randn(16)
    changed = (ours.layer(0, 0, x, keys) - ours.layer(0, 0, moved, keys)).abs().amax(2) > 1e-6
    assert not changed[:, :3].any()
    assert changed[batch.lengths["words"] >= 3, 3:].all()


@torch.no_grad()
def test_a_longer_text_stretches_the_positions_of_vilt(build):
    of = task(tokens=18)
    ours, theirs = build("vilt", of)
    table = theirs.embeddings.text_embeddings.position_embeddings.weight[:9]
    kinds = theirs.embeddings.text_embeddings.token_type_embeddings.weight[0]
    found = ours.embedder("words").position - kinds
    # twice as many places: they stand a quarter of a step beside the old ones
    close(found[1], 0.75 * table[0] + 0.25 * table[1])
    close(found[2], 0.25 * table[0] + 0.75 * table[1])
    close(found[0], table[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_an_empty_text_is_the_special_tokens_alone(build, kind):
    ours, _ = build(kind)
    tokens, keys = ours.blank("words")
    ids = (118, 119) if kind == "clip" else (101, 102)
    batch = batch_of()
    batch.inputs["words"][0] = torch.tensor([*ids, 0, 0, 0, 0])
    batch.lengths["words"][0] = 2
    there = ours.keys(batch)["words"][0]
    assert torch.equal(keys, there)
    close(tokens[there], ours.tokens(batch)["words"][0][there])
    white, keys = ours.blank("photo", 1.0)
    for c in range(3):  # what the model's own scaling makes a one
        batch.inputs["photo"][:, c] = (STD[c] + MEAN[c] - PIXELS.mean[c]) / PIXELS.std[c]
    assert keys.all()
    close(white, ours.tokens(batch)["photo"][0])


def test_a_folder_that_does_not_fit_is_refused_in_one_line(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weightless").mkdir()
    config_of("vilt").save_pretrained(tmp_path / "weightless")
    for text, words in {
        "vilt": "no backbone 'vilt'; take small, packaged, or vilt:/folder",
        "bert:/x": "no backbone 'bert:/x'",
        f"vilt:{tmp_path}/none": "nothing is downloaded",
        f"vilt:{tmp_path}/empty": "config.json",
        f"vilt:{tmp_path}/weightless": "does not hold a ViltModel",
        f"vilt:{folders['clip']}": "does not hold a ViltModel",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            backbone(text, TASK)
        assert "\n" not in str(error.value)


def with_(modality):
    others = [m for m in TASK.modalities if m.name != modality.name]
    return Task("single_label", (modality, *others), ("x", "y", "z"))


def test_a_folder_says_how_its_pixels_and_its_words_are_numbered_or_is_refused(folders, tmp_path):
    for file, words in {
        "preprocessor_config.json": "no preprocessor_config.json in",
        "tokenizer.json": "holds no tokenizer",
    }.items():
        folder = tmp_path / file
        shutil.copytree(folders["vilt"], folder)
        (folder / file).unlink()
        with pytest.raises(ValueError, match=words):
            backbone(f"vilt:{folder}", TASK)
    folder = tmp_path / "preprocessor_config.json"
    (folder / "preprocessor_config.json").write_text('{"image_mean": 0.5}')
    with pytest.raises(ValueError, match="holds no image_mean and image_std"):
        backbone(f"vilt:{folder}", TASK)


def test_a_task_that_does_not_fit_is_refused_in_one_line(folders):
    vector = Modality("age", "vector", (3,))
    photo, words_of = TASK.modalities
    two = replace(photo, shape=(2, 16, 16), pixels=Pixels((0.5, 0.5), (1.0, 1.0)))
    for of, words in {
        task(vocab=121): "knows 120 token ids, but modality 'words' has 121",
        task(side=(16, 20)): "patches of 8 x 8, but those of modality 'photo' are 16 x 20",
        Task("regression", (*TASK.modalities, vector), ("y",)): "found photo .image., words",
        Task("regression", (vector, TASK.modalities[0]), ("y",)): "take the backbone small",
        with_(replace(words_of, tokenizer="")): "words' are the data set's own, but the model's",
        with_(replace(words_of, tokenizer="0123")): f"vocabulary 0123.*own tokenizer .{NAME}",
        with_(
            replace(photo, pixels=None)
        ): "how those of modality 'photo' were scaled is not known",
        with_(two): "images of 3 channels, but modality 'photo' has 2",
    }.items():
        with pytest.raises(ValueError, match=words):
            backbone(f"vilt:{folders['vilt']}", of)
    with pytest.raises(ValueError, match="texts of at most 9 tokens"):
        backbone(f"clip:{folders['clip']}", task(tokens=10))


def test_vilt_loads_from_a_masked_language_model_without_a_pooler(tmp_path):
    model = shaken(ViltForMaskedLM(config_of("vilt")))
    model.save_pretrained(tmp_path)
    around(tmp_path)
    ours = backbone(f"vilt:{tmp_path}", TASK)
    close(ours.norms[0].weight, model.vilt.layernorm.weight)
    assert not [name for name, _ in ours.named_parameters() if "mlm" in name]


def there():
    try:
        features.installed()
    except ValueError:
        return False
    return True


needs_packages = pytest.mark.skipif(not there(), reason="the extra `pretrained` is not installed")


@pytest.fixture(scope="module")
def words():
    return features.text_pieces(["a red car", "an old dog in the snow", "tea"], steps=9)


def packaged_task(channels=3, tokenizer=features.TEXT_TOKENIZER):
    text = Modality("words", "tokens", (9,), features.TEXT_PIECES, tokenizer)
    pixels = Pixels(PIXELS.mean[:channels], PIXELS.std[:channels])
    image = Modality("photo", "image", (channels, 20, 20), pixels=pixels)
    return Task("single_label", (text, image), ("x", "y", "z"))


def packaged_batch(words, presence=None):
    rows, lengths = words
    presence = torch.ones(3, 2).bool() if presence is None else presence
    batch = make_batch(packaged_task(), presence, seed=0)
    batch.inputs["words"].copy_(torch.from_numpy(rows))
    batch.lengths["words"].copy_(torch.from_numpy(lengths))
    return batch.hide(~presence)


@needs_packages
@torch.no_grad()
def test_the_packaged_text_stream_is_minilm_read_by_the_mean_over_its_pieces(words):
    ours = backbone("packaged", packaged_task()).eval()
    batch = packaged_batch(words)
    got = ours(batch)
    assert ours.streams == (("words",), ("photo",))
    assert (ours.depth, got.shape) == (6, (3, 768))
    texts = ["a red car", "an old dog in the snow", "tea"]
    theirs = torch.from_numpy(features.text_features(texts))
    close(torch.nn.functional.normalize(got[:, :384], dim=1), theirs)


@needs_packages
@torch.no_grad()
def test_the_packaged_image_stream_reads_the_map_of_its_network_in_cells(words):
    ours = backbone("packaged", packaged_task()).eval()
    batch = packaged_batch(words)
    x = batch.inputs["photo"]
    unit = torch.stack([x[:, c] * PIXELS.std[c] + PIXELS.mean[c] for c in range(3)], 1)
    z = features.image_map(features.image_network(), 255 * unit)
    cells = torch.nn.functional.adaptive_avg_pool2d(z, 4).flatten(2).transpose(1, 2)
    embed = ours.embedder("photo")
    torch.testing.assert_close(embed.trunk(x), cells, atol=1e-4, rtol=1e-4)
    close(embed(x, None), embed.out(embed.trunk(x)))
    x = embed(x, None)
    for layer in ours.layers[0]:  # the layers that the words run through
        x = layer(x, torch.ones(3, 1, 1, 16).bool(), None)
    close(ours(batch)[:, 384:], x.mean(1))


@needs_packages
@torch.no_grad()
def test_a_stream_of_the_packaged_backbone_knows_nothing_of_the_other_one(words):
    ours = backbone("packaged", packaged_task()).eval()
    both = ours(packaged_batch(words))
    one = ours(packaged_batch(words, torch.tensor([[1, 0], [0, 1], [1, 1]]).bool()))
    close(one[0, :384], both[0, :384])
    close(one[1, 384:], both[1, 384:])
    close(one[2], both[2])
    assert not one[0, 384:].any()
    assert not one[1, :384].any()


@needs_packages
def test_of_the_packaged_backbone_only_what_is_not_published_learns():
    method = BackboneAlone(packaged_task(), backbone="packaged").train()
    warm, prompt = method.stages
    method.begin(warm)
    learning = {name for name, p in method.named_parameters() if p.requires_grad}
    out = {n for n in learning if n.startswith("backbone.embedders.1.out.")}
    assert learning == out | {"warm_head.weight", "warm_head.bias"}
    assert out
    assert not method.backbone.layers[0][0].block.training
    method.begin(prompt)
    assert all(n.startswith("head.") for n, p in method.named_parameters() if p.requires_grad)


@needs_packages
def test_texts_of_other_numbers_are_refused_by_the_packaged_backbone():
    with pytest.raises(ValueError, match=r"the data set's own, but .*take `features: pieces`"):
        backbone("packaged", packaged_task(tokenizer=""))
    with pytest.raises(ValueError, match="1 or 3 channels, but modality 'photo' has 2"):
        backbone("packaged", packaged_task(channels=2))


VECTOR = Task("regression", (Modality("v", "vector", (3,)),), ("y",))


@torch.no_grad()
@pytest.mark.parametrize("name", ["words", "photo"])
def test_samples_are_alike_by_what_clip_projects_them_to(folders, theirs, name):
    bank = Memory(TASK, 2, retrieve_by=f"clip:{folders['clip']}")
    batch = batch_of()
    bank.fill([batch])
    model = theirs["clip"]
    text = model.text_projection(
        model.text_model(batch.inputs["words"], mask_of(batch)).pooler_output
    )
    image = model.visual_projection(model.vision_model(photos(batch)).pooler_output)
    [part] = [part for part in bank.features if part.name == name]
    close(part.of(batch), text if name == "words" else image)
    assert part.what == f"projections of the CLIP in {folders['clip'].name}"
    with pytest.raises(ValueError, match="CLIP reads texts and images"):
        Memory(VECTOR, 2, retrieve_by="clip:/x")
