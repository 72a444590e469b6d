"""The traps of UPMC Food-101."""

import csv
import json

import numpy as np
import pytest

from datamodules.food101 import VAL, Food101
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture
def root(tmp_path):
    Food101.write_twin(tmp_path)
    return tmp_path


def data_of(root, **changes):
    return Food101(root, SCENARIO, **{"size": 8} | changes)


def titles(root, part):
    with (root / "food101" / "texts" / f"{part}_titles.csv").open(newline="") as file:
        return list(csv.reader(file))


def write(root, part, rows):
    with (root / "food101" / "texts" / f"{part}_titles.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def names_of(data, split):
    names = data.names_of_ids()
    return {names[one] for one in data.load(split).sample_id.tolist()}


def test_validation_has_the_share_of_maps_in_every_dish_and_the_test_is_the_official_one(root):
    data = data_of(root)
    train, val, test = (names_of(data, split) for split in SPLITS)
    listed = {row[0] for row in titles(root, "train")}
    assert train | val == listed
    assert test == {row[0] for row in titles(root, "test")}
    assert abs(len(val) - VAL * len(listed)) < 1
    counts = np.bincount(data.load("val").target, minlength=6)
    assert counts.max() - counts.min() <= 1
    rows = titles(root, "train")
    write(root, "train", rows[::-1])  # the order of lines decides nothing
    assert names_of(data_of(root), "val") == val


def test_a_header_is_no_pair_and_the_first_pair_is_no_header(root):
    first = titles(root, "train")[0][0]
    bare = data_of(root)
    assert first in names_of(bare, "train") | names_of(bare, "val")
    write(root, "train", [("image", "text", "label"), *titles(root, "train")])
    with_header = data_of(root)
    for split in SPLITS:
        assert names_of(with_header, split) == names_of(bare, split)


def test_split_json_decides_where_it_lies(root):
    rows = [row[0] for row in titles(root, "train")]
    lists = {"train": rows[:60], "val": rows[60:-1], "test": [r[0] for r in titles(root, "test")]}
    path = root / "food101" / "split.json"
    path.write_text(json.dumps(lists))
    data = data_of(root)
    for split in SPLITS:
        assert names_of(data, split) == set(lists[split])
    assert "1 pictures that split.json lacks left out" in data.notes()
    assert "food101/split.json" in data.ingredients()["files"]
    path.write_text(json.dumps(lists | {"val": lists["val"] + rows[:1]}))
    with pytest.raises(ValueError, match=f"{rows[0]} is in two lists, or twice in one"):
        data_of(root).describe()
    path.write_text(json.dumps({"train": rows}))
    with pytest.raises(ValueError, match="must hold lists of pictures under train, val and test"):
        data_of(root).describe()


def test_titles_that_name_their_dish_are_counted_and_those_without_words_left_out(root):
    rows = titles(root, "train")
    rows[0][1] = "  "
    write(root, "train", rows)
    data = data_of(root)
    train = names_of(data, "train")
    said = [row[2].replace("_", " ") in row[1].lower() for row in rows if row[0] in train]
    assert 0.3 < np.mean(said) < 0.9
    assert data.notes() == (
        "1 pictures without a title left out",
        f"{100 * np.mean(said):.1f} % of the training titles name their dish",
    )


@pytest.mark.parametrize("cell", ["../up.jpg", "a/b.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(root, cell):
    rows = titles(root, "test")
    rows[4][0] = cell
    write(root, "test", rows)
    with pytest.raises(ValueError, match=r"test_titles.csv row 5: picture is '.*', no name"):
        data_of(root).describe()
    write(root, "test", [row[:2] for row in rows])
    with pytest.raises(ValueError, match="has 2 columns, but picture, title and dish"):
        data_of(root).describe()
