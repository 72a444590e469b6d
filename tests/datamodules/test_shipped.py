import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules.assets import shipped
from datamodules.mfeat import Mfeat
from datamodules.openmoji import Openmoji
from datamodules.tabler import Tabler
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.registry import DATASETS

ASSETS = Path(str(files("datamodules"))) / "assets"
SETS = {"openmoji": Openmoji, "mfeat": Mfeat, "tabler": Tabler}
NAMES = list(SETS)


def arrays(name):
    return shipped.read(name, SETS[name].source.checksum)


def module(name):
    return SETS[name](
        Path("no such folder"), Scenario("natural", natural(), natural(), (natural(),))
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_registry_finds_the_class_by_the_name_of_its_file(name):
    assert DATASETS.get(name) is SETS[name]


def test_all_shipped_files_together_stay_below_eight_megabytes():
    sizes = {path.name: path.stat().st_size for path in ASSETS.glob("*.npz")}
    assert set(sizes) == {f"{name}.npz" for name in NAMES}
    assert sum(sizes.values()) < 8_000_000


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("openmoji", ["CC BY-SA 4.0", "share-alike", "New BSD License", "The MIT License"]),
        ("mfeat", ["CC BY 4.0", "Duin", "10.24432/C5HC70"]),
        ("tabler", ["MIT License", "Paweł Kuna", "above copyright notice"]),
    ],
)
def test_the_licence_lies_beside_the_file(name, terms):
    text = (ASSETS / f"LICENSE-{name}").read_text("utf-8")
    assert [term for term in terms if term not in text] == []


@pytest.mark.parametrize(
    ("name", "samples", "classes"),
    [
        ("openmoji", 1898, (9, 85, 385)),
        ("mfeat", 2000, (10, 200, 200)),
        ("tabler", 4835, (26, 50, 796)),
    ],
)
def test_samples_and_classes_are_as_many_as_documented(name, samples, classes):
    counts = np.bincount(arrays(name)["target"])
    assert counts.sum() == samples
    assert (len(counts), counts.min(), counts.max()) == classes


@pytest.mark.parametrize("name", NAMES)
def test_the_described_task_agrees_with_what_is_loaded(name):
    data = module(name)
    task = data.describe()
    assert task.outputs == tuple(arrays(name)["class_names"].tolist())
    for split in SPLITS:
        samples = data.load(split)
        assert samples.modalities == task.names
        assert set(np.unique(samples.target)) == set(range(task.num_outputs))
        for modality in task.modalities:
            values = samples.inputs[modality.name]
            assert values.shape[1:] == modality.shape
            if modality.kind == "tokens":
                assert values.min() == 0
                assert values.max() < modality.vocab_size
                assert len(arrays(name)[f"{modality.name}_vocabulary"]) == modality.vocab_size
                lengths = samples.lengths[modality.name]
                assert lengths.min() >= 1
                assert np.array_equal(values > 0, np.arange(values.shape[1]) < lengths[:, None])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_can_be_drawn_without_any_folder_of_the_user(name):
    batch = next(module(name).batches("val"))
    assert len(batch) == 64
    assert batch.modalities == module(name).task.names


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_sample_and_cover_all(name):
    ids = [module(name).load(split).sample_id for split in SPLITS]
    together = np.concatenate(ids)
    assert len(np.unique(together)) == len(together) == len(arrays(name)["sample_id"])


@pytest.mark.parametrize("name", NAMES)
def test_each_class_is_split_70_15_15_within_two_samples(name):
    target, split = arrays(name)["target"], arrays(name)["split"]
    off = {}
    for label, class_name in enumerate(arrays(name)["class_names"].tolist()):
        counts = np.bincount(split[target == label], minlength=3)
        wanted = counts.sum() * np.array([0.7, 0.15, 0.15])
        if (np.abs(counts - wanted) > 2).any():
            off[class_name] = counts.tolist()
    # four large families of icons that must not be torn apart
    assert off == ({"Communication": [82, 18, 23]} if name == "tabler" else {})


@pytest.mark.parametrize("name", NAMES)
def test_neighbouring_samples_are_not_sorted_by_class(name):
    target = arrays(name)["target"].astype(int)
    same = (target[1:] == target[:-1]).mean()
    chance = ((np.bincount(target) / len(target)) ** 2).sum()
    assert abs(same - chance) < 0.03


@pytest.mark.parametrize(("name", "picture"), [("openmoji", "image"), ("tabler", "outline")])
def test_no_picture_of_a_class_lies_on_both_sides_of_a_split(name, picture):
    data = arrays(name)
    sides = {}
    for pixels, label, split in zip(data[picture], data["target"], data["split"], strict=True):
        sides.setdefault((pixels.tobytes(), int(label)), set()).add(int(split))
    assert [key[1] for key, splits in sides.items() if len(splits) > 1] == []


def test_women_men_and_persons_doing_the_same_lie_in_one_split():
    code = arrays("openmoji")["code_points"].tolist()
    split = dict(zip(code, arrays("openmoji")["split"].tolist(), strict=True))
    doctors = ["1F9D1-200D-2695-FE0F", "1F468-200D-2695-FE0F", "1F469-200D-2695-FE0F"]
    runners = ["1F3C3", "1F3C3-200D-2640-FE0F", "1F3C3-200D-2642-FE0F-200D-27A1-FE0F"]
    assert len({split[one] for one in doctors}) == 1
    assert len({split[one] for one in runners}) == 1


def test_no_emoji_has_a_skin_tone():
    tones = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
    assert not any(tones & set(code.split("-")) for code in arrays("openmoji")["code_points"])


def test_an_icon_and_its_off_variant_lie_in_one_split():
    data = arrays("tabler")
    place = {n: i for i, n in enumerate(data["names"].tolist())}
    apart = [
        name
        for name, row in place.items()
        if (off := place.get(f"{name}-off")) is not None
        and data["target"][row] == data["target"][off]
        and data["split"][row] != data["split"][off]
    ]
    assert apart == []


def test_sample_ids_are_the_hash_of_the_published_name():
    for name, key in (("openmoji", "code_points"), ("tabler", "names")):
        data = arrays(name)
        digest = hashlib.blake2b(str(data[key][0]).encode(), digest_size=8).digest()
        assert data["sample_id"][0] == int.from_bytes(digest, "big") >> 1
    assert sorted(arrays("mfeat")["sample_id"]) == list(range(2000))


@pytest.mark.parametrize("language", ["english", "german"])
def test_tokens_of_a_name_spell_the_stored_name(language):
    data = arrays("openmoji")
    vocabulary = data[f"{language}_vocabulary"]
    differ = 0
    for ids, text in zip(data[language], data[f"{language}_text"].tolist(), strict=True):
        spelled = "".join(vocabulary[ids[ids > 0]].tolist())
        if 1 in ids:  # a letter that training never shows
            differ += 1
        else:
            assert spelled == f" {text.lower()}"
    assert differ <= 0.02 * len(data["target"])


def test_tokens_of_tags_spell_the_stored_tags():
    data = arrays("tabler")
    vocabulary = data["tags_vocabulary"].tolist()
    for ids, text in zip(data["tags"].tolist(), data["tags_text"].tolist(), strict=True):
        stored = text.replace(",", "").split()
        read = [vocabulary[number] for number in ids if number]
        assert len(read) == len(stored)
        assert all(a in (b, vocabulary[1]) for a, b in zip(read, stored, strict=True))


@pytest.mark.parametrize(
    ("name", "tokens", "text"),
    [
        ("openmoji", "english", "english_text"),
        ("openmoji", "german", "german_text"),
        ("tabler", "tags", "tags_text"),
    ],
)
def test_every_token_of_the_vocabulary_occurs_in_training(name, tokens, text):
    data = arrays(name)
    in_training = set(np.unique(data[tokens][data["split"] == 0]).tolist())
    assert set(range(2, len(data[f"{tokens}_vocabulary"]))) <= in_training


def test_no_tag_and_no_german_name_gives_the_class_away():
    data = arrays("tabler")
    labels = {word for c in data["class_names"].tolist() for word in c.lower().split("-")}
    labels |= {label.removesuffix("s") for label in labels if label.endswith("s")}
    labels -= {"e", "currencie"}
    labels |= {"currency"}
    words = {word for row in data["tags_text"].tolist() for word in row.replace(",", "").split()}
    assert words & labels == set()
    flags = arrays("openmoji")["target"] == 2
    assert not any(t.startswith("flagge") for t in arrays("openmoji")["german_text"][flags])


def test_filled_icons_are_missing_by_nature_and_how_often_depends_on_the_class():
    data = arrays("tabler")
    share = {
        name: data["has_filled"][data["target"] == label].mean()
        for label, name in enumerate(data["class_names"].tolist())
    }
    assert data["has_filled"].mean() == pytest.approx(0.2006, abs=1e-4)
    assert share["Currencies"] == 0
    assert share["Math"] == pytest.approx(2 / 88)
    assert share["Nature"] == pytest.approx(0.36)
    assert max(share, key=share.get) == "Letters"
    assert share["Letters"] == pytest.approx(104 / 214)
    samples = module("tabler").load("val")
    column = samples.modalities.index("filled")
    drawn = samples.inputs["filled"].reshape(len(samples), -1).any(axis=1)
    assert np.array_equal(samples.presence[:, column], drawn)
    assert samples.presence[:, [0, 2]].all()


def features(samples, modality):
    values = samples.inputs[modality.name]
    if modality.kind != "tokens":
        return values.reshape(len(values), -1).astype(float)
    bags = np.zeros((len(values), modality.vocab_size))
    np.add.at(bags, (np.arange(len(values))[:, None], values), 1)
    bags[:, 0] = 0
    return bags


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "modality", "least"),
    [
        ("openmoji", "image", 0.5),
        ("openmoji", "english", 0.5),
        ("openmoji", "german", 0.45),
        *(("mfeat", m, 0.65) for m in ("fou", "fac", "kar", "pix", "zer", "mor")),
        ("tabler", "outline", 0.22),
        ("tabler", "filled", 0.22),
        ("tabler", "tags", 0.6),
    ],
)
def test_a_linear_probe_on_one_modality_beats_the_majority_clearly(name, modality, least):
    data = module(name)
    column = data.task.names.index(modality)
    described = data.task.modalities[column]
    parts = {split: data.load(split) for split in ("train", "test")}
    parts = {split: part.take(part.presence[:, column]) for split, part in parts.items()}
    x = {split: features(part, described) for split, part in parts.items()}
    probe = LogisticRegression(C=1e-3 if described.kind == "image" else 1.0, max_iter=500)
    if described.kind != "tokens":
        probe = make_pipeline(StandardScaler(), probe)
    probe.fit(x["train"], parts["train"].target)
    score = probe.score(x["test"], parts["test"].target)
    majority = np.bincount(parts["test"].target).max() / len(parts["test"])
    assert score > max(least, majority + 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_refused_in_one_line(name, tmp_path, monkeypatch):
    content = bytearray((ASSETS / f"{name}.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / f"{name}.npz").write_bytes(content)
    monkeypatch.setattr(shipped, "files", lambda package: tmp_path)
    shipped.read.cache_clear()
    with pytest.raises(ValueError, match=r"is damaged: .*install mmbench again$"):
        module(name).load("train")


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "files", lambda package: tmp_path)
    shipped.read.cache_clear()
    with pytest.raises(ValueError, match=r"mfeat\.npz is not there; install mmbench again$"):
        module("mfeat").load("train")
