"""Generated twins of the sets that users bring, through the command line as their owner would."""

import filecmp
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.registry import DATASETS

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
SMALL = {"size": 16}
# arguments that make the reading of a set quick
ASKED = {
    "adni": {},
    "avmnist": {},
    "cmu_mosi": {},
    "derm7pt": SMALL,
    "enrico": {"size": [18, 10]},
    "food101": SMALL,
    "harvard_glaucoma": SMALL,
    "hateful_memes": SMALL,
    "mimic_iv": {},
    "mmc_amd": SMALL,
    "mmimdb": SMALL,
    "tcga": {},
}
TABLES = ["rosmap", "three_sources", "hundred_leaves", "bbc4view"]  # see test_user_data.py, too
if importlib.util.find_spec("rdata") is not None:
    TABLES.append("breast_tcga")
LARGEST = 5 * 2**20  # bytes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All twins in one folder."""
    folder = tmp_path_factory.mktemp("twins")
    for name in ASKED:
        DATASETS.get(name).write_twin(folder)
    return folder


@pytest.fixture
def mmbench(mmbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return mmbench


def module(name, root, **changes):
    return DATASETS.get(name)(root, SCENARIO, **ASKED[name] | changes)


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def features(data, split):
    """Everything that is present as one vector: means over what has no place of its own."""
    samples, parts = data.load(split), []
    for column, modality in enumerate(data.describe().modalities):
        x = samples.inputs[modality.name]
        if modality.kind == "tokens":
            x = np.stack([(x == number).any(axis=1) for number in range(2, modality.vocab_size)], 1)
        elif modality.kind != "vector":
            x = np.asarray(x).reshape(len(x), x.shape[1], -1).mean(axis=2)
        x = np.where(samples.presence[:, [column]], x, 0).astype(np.float64)
        parts.append(x)
    x = np.concatenate(parts, axis=1)
    return x, samples.target


@pytest.mark.parametrize("name", [*ASKED, *TABLES])
def test_a_twin_is_small_says_what_it_is_and_equals_its_seed_byte_for_byte(name, mmbench, tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        code, out, _ = mmbench("data", "twin", name, "--out", folder, "--seed", seed)
        assert code == 0
        assert out.startswith("wrote    ")
    one, other, third = (tmp_path / folder for folder in "abc")
    files = files_of(one)
    assert files == files_of(other)
    assert sum((one / file).stat().st_size for file in files) < LARGEST
    assert filecmp.cmpfiles(one, other, files, shallow=False)[0] == files
    assert len(filecmp.cmpfiles(one, third, files, shallow=False)[0]) < len(files)
    [note] = [file for file in files if file.name == "TWIN.txt"]
    said = (one / note).read_text().splitlines()
    assert len(said) == 2
    assert "generated" in said[0]
    assert f"mmbench data twin {name}" in said[1]
    code, _, error = mmbench("data", "twin", name, "--out", "a")
    assert code == 2
    assert "holds files; take another folder with --out" in error
    assert files_of(one) == files


@pytest.mark.parametrize("name", ASKED)
def test_a_twin_is_whole_described_and_has_a_signal(name, mmbench, root):
    words = [
        name,
        *(f"{key}={json.dumps(value)}" for key, value in ASKED[name].items()),
        "--data-root",
        root,
    ]
    code, out, error = mmbench("data", "check", *words)
    assert (code, error) == (0, "")
    assert out.endswith(f"{name} is whole\n")
    assert "this is a generated twin" in out
    code, out, _ = mmbench("data", "describe", *words)
    assert code == 0
    data = module(name, root)
    for modality in data.describe().modalities:
        assert modality.name in out
    if data.describe().kind == "single_label":
        (x, target), (test, truth) = features(data, "train"), features(data, "test")
        scale = x.std(axis=0) + 1e-6
        probe = LogisticRegression(C=0.1, max_iter=500).fit(x / scale, target)
        chance = np.bincount(truth).max() / len(truth)
        assert probe.score(test / scale, truth) > chance + 0.05


@pytest.mark.parametrize("name", TABLES)
def test_a_twin_of_tables_is_whole(name, mmbench):
    assert mmbench("data", "twin", name, "--out", ".")[0] == 0
    code, out, error = mmbench("data", "check", name, "--data-root", ".")
    assert (code, error) == (0, "")
    assert out.endswith(f"{name} is whole\n")


@pytest.mark.parametrize("name", ASKED)
def test_a_set_that_is_not_there_is_described_with_its_tree_terms_and_papers(name, mmbench):
    code, out, _ = mmbench("data", "describe", name, "--data-root", "nowhere")
    assert code == 0
    cls = DATASETS.get(name)
    assert cls.source.citation in out
    assert cls.source.licence in out
    assert all(line in out for line in cls.source.papers)
    assert cls.source.papers
    for file in cls.files:
        assert Path(file).parts[0] == name
    assert f"`{name}/`" in out
    for heading in ("Missing by nature:", "Split", "Where to get it:"):
        assert heading in out
    code, _, error = mmbench("data", "check", name, "--data-root", ".")
    assert code == 1
    assert error.count("\n") == 1
    assert f"of {len(cls.files)} files are missing from ." in error


@pytest.mark.parametrize("name", ASKED)
def test_another_twin_is_another_content_and_names_are_unique(name, root, tmp_path):
    DATASETS.get(name).write_twin(tmp_path, seed=1)
    one, again, other = module(name, root), module(name, root), module(name, tmp_path)
    assert one.content() == again.content() != other.content()
    ids = np.concatenate([one.load(split).sample_id for split in SPLITS])
    assert set(ids.tolist()) <= set(one.names_of_ids())
    assert len(set(ids.tolist())) == len(ids)


def test_bad_pictures_may_pass_in_a_run_as_in_a_check(mmbench, tmp_path):
    DATASETS.get("enrico").write_twin(tmp_path)
    words = ["enrico", "size=[18,10]", "--data-root", "."]
    next((tmp_path / "enrico" / "screenshots").iterdir()).write_bytes(b"")
    code, out, error = mmbench("data", "check", *words)
    assert code == 1
    assert "of 160: " in out
    assert "skip_bad: 1 lets it pass" in out
    assert "with --skip-bad 1000 all are counted" in out
    assert "enrico is not whole: 1 problem" in error
    code, out, _ = mmbench("data", "check", *words, "--skip-bad", 1)
    assert code == 0
    assert "1 bad samples left out by skip_bad: 1: picture" in out
    code, out, _ = mmbench("data", "describe", *words, "--skip-bad", 1)
    assert code == 0
    assert "1 bad samples left out by skip_bad: 1" in out
    suite = {"name": "one", "data": [{"name": "enrico", "args": {"size": [18, 10]}}, "mfeat"],
             "methods": ["majority"], "scenarios": ["complete"], "seeds": 1}  # fmt: skip
    (tmp_path / "one.yaml").write_text(json.dumps(suite))
    words = ["run", "one.yaml", "--data-root", ".", "--dry-run"]
    code, _, error = mmbench(*words)
    assert code == 2
    assert "is no readable picture" in error
    code, out, _ = mmbench(*words, "--skip-bad", 1)
    assert code == 0
    code, _, error = mmbench("run", "quickstart", "--dry-run", "--skip-bad", 1)
    assert code == 2
    assert "--skip-bad is for data sets with the argument skip_bad, not for openmoji" in error


@pytest.mark.slow  # the suites of the papers train on them, too
@pytest.mark.full
@pytest.mark.parametrize("name", ASKED)
def test_a_method_trains_on_a_twin(name, root, mmbench, tmp_path):
    suite = {
        "name": "tiny",
        "data": [{"name": name, "args": ASKED[name]}],
        "methods": [{"name": "zero_fill", "args": {"dim": 8}}],
        "scenarios": [
            {"name": "mcar", "train": {"mechanism": "natural + mcar", "missing_rate": 0.2},
             "test": {"mechanism": "natural + mcar", "missing_rate": 0.2}}
        ],
        "seeds": 1,
        "trainer": {"max_epochs": 1},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(json.dumps(suite))
    metric = "micro_f1" if module(name, root).describe().kind == "multi_label" else "macro_f1"
    words = ["--data-root", root, "--workers", 1, f"select.metric={metric}"]
    code, out, error = mmbench("run", "tiny.yaml", *words)
    assert code == 0, error
    assert "zero_fill" in out
