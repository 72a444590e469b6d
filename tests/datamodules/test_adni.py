"""ADNI: newest scans at their places, nothing that gives the diagnosis away, fills of training."""

import gzip
import json
import struct

import numpy as np
import pandas as pd
import pytest

from datamodules.adni import MASK, SCANS, SUBJECTS, newest_scans, read_template
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.health import examine
from mmbench.registry import DATASETS

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture
def root(tmp_path):
    DATASETS.get("adni").write_twin(tmp_path)
    return tmp_path


def adni(root, **arguments):
    return DATASETS.get("adni")(root, SCENARIO, **arguments)


def by_name(data):
    """PTID -> (split, row of its samples, samples)."""
    found = {}
    names = data.names_of_ids()
    for split in SPLITS:
        samples = data.load(split)
        found |= {names[int(one)]: (split, k, samples) for k, one in enumerate(samples.sample_id)}
    return found


def edit(path, change):
    table = pd.read_csv(path)
    change(table).to_csv(path, index=False)


def test_columns_that_give_the_diagnosis_away_change_nothing_and_are_named(root):
    before = adni(root)
    clinical = root / "adni/clinical/clinical_merged.csv"
    edit(clinical, lambda t: t.assign(PTADDDX=range(len(t)), DXCURREN=1.5, ptcogbeg_month=7))
    edit(root / "adni/biospecimen/biospecimen_merged.csv", lambda t: t.assign(DIAGNOSIS=3))
    after = adni(root)
    assert after.describe() == before.describe()
    assert {m.name: m.shape for m in after.describe().modalities}["clinical"] == (3,)
    for split in SPLITS:
        for name in ("clinical", "biospecimen"):
            one, other = before.load(split).inputs[name], after.load(split).inputs[name]
            np.testing.assert_array_equal(one, other)
    said = " ".join(after.notes())
    for name in ("PTCOGBEG", "PTADDX", "PTADBEG_2004", "PTADDDX", "DXCURREN", "ptcogbeg_month"):
        assert name in said
    assert "biospecimen_merged.csv: left out DIAGNOSIS" in said


def test_a_person_is_the_newest_scan_with_each_voxel_at_its_place(root):
    mask = read_template(root / "adni" / MASK)
    scans = np.load(root / "adni" / SCANS)
    lines = (root / "adni" / SUBJECTS).read_text().split()
    newest = {}
    for row, line in enumerate(lines):
        name, date = line[:-11], line[-10:]
        if name not in newest or date > newest[name][0]:
            newest[name] = (date, row)
    assert len(newest) < len(lines)
    people = by_name(adni(root))
    for name, (_, k, samples) in people.items():
        assert samples.presence[k, 0] == (name in newest)
        if name not in newest:
            continue
        expected, position = np.zeros(mask.shape, np.float32), 0
        for place in np.ndindex(mask.shape):  # a slow loop in the order of the array
            if mask[place] == 150:
                expected[place] = scans[newest[name][1], position]
                position += 1
        np.testing.assert_array_equal(samples.inputs["image"][k, 0], expected)


def test_dates_decide_however_they_are_written_and_a_line_without_one_is_refused(tmp_path):
    lines = ["1_S_2_20110301", "1_S_2_20091005", "9_S_1_20100101"]
    assert newest_scans(lines, tmp_path) == {"1_S_2": 0, "9_S_1": 2}
    with pytest.raises(ValueError, match=r"row 2: '1_S_2' is not PTID_DATE"):
        newest_scans(["1_S_2_2011-03-01", "1_S_2"], tmp_path)


def test_empty_cells_are_filled_by_the_median_of_training_alone(root):
    path = root / "adni/clinical/clinical_merged.csv"
    people = by_name(adni(root))
    table = pd.read_csv(path).set_index("PTID")
    train = [name for name, (split, *_) in people.items() if split == "train"]
    median = table.loc[train, "MEMORY"].median()
    filled = 0
    for name, (_, k, samples) in people.items():
        value = table.loc[name, "MEMORY"]
        filled += np.isnan(value)
        expected = median if np.isnan(value) else value
        assert samples.inputs["clinical"][k, 1] == pytest.approx(expected)
    assert filled > 5
    other = [name for name in people if name not in train]
    table.loc[other, "MEMORY"] = 1e3  # what is not for training moves no fill
    table.reset_index().to_csv(path, index=False)
    again = by_name(adni(root))
    np.testing.assert_array_equal(
        again[train[0]][2].inputs["clinical"], people[train[0]][2].inputs["clinical"]
    )


def test_the_file_of_parts_is_kept_to_and_refused_where_it_is_wrong(root):
    path = root / "adni/PTID_splits.json"
    lists = json.loads(path.read_text())
    people = by_name(adni(root, partition="file"))
    words = {"train": "training", "val": "validation", "test": "testing"}
    assert all(name in lists[words[split]] for name, (split, *_) in people.items())
    path.write_text(json.dumps({**lists, "testing": [*lists["testing"], lists["training"][0]]}))
    with pytest.raises(ValueError, match=f"{lists['training'][0]} is in two of its lists"):
        adni(root, partition="file").load("test")
    path.write_text(json.dumps({**lists, "training": lists["training"][1:]}))
    with pytest.raises(ValueError, match=f"{lists['training'][0]} of label.csv is in none"):
        adni(root, partition="file").load("test")
    with pytest.raises(ValueError, match="fold 1 of adni was asked for"):
        adni(root, partition="file", fold=1)


def test_files_that_do_not_belong_together_are_refused_in_a_line(root):
    scans = np.load(root / "adni" / SCANS)
    np.save(root / "adni" / SCANS, scans[:, 1:])
    with pytest.raises(ValueError, match="voxels of grey matter"):
        adni(root).load("train")
    np.save(root / "adni" / SCANS, scans)
    edit(root / "adni/label.csv", lambda t: t.assign(DIAGNOSIS=t["DIAGNOSIS"] + 1))
    with pytest.raises(ValueError, match=r"label.csv row \d+ .*DIAGNOSIS is '4', not 1, 2 or 3"):
        adni(root).load("train")


def test_a_set_without_the_mark_of_a_twin_is_compared_with_the_paper(root):
    assert not examine(adni(root)).problems
    (root / "adni/TWIN.txt").unlink()
    (problem,) = examine(adni(root)).problems
    assert problem.startswith("all splits: 120 samples, but 2,380 in ")


def test_a_template_reads_in_either_byte_order_and_nothing_else_passes_for_one(tmp_path):
    volume = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    head = bytearray(352)
    struct.pack_into(">i", head, 0, 348)
    struct.pack_into(">8h", head, 40, 4, 2, 3, 4, 1, 1, 1, 1)
    struct.pack_into(">2h", head, 70, 4, 16)
    struct.pack_into(">f", head, 108, 352)
    head[344:348] = b"n+1\0"
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(head) + volume.tobytes(order="F")))
    np.testing.assert_array_equal(read_template(path), volume)
    path.write_bytes(gzip.compress(bytes(head) + volume.tobytes(order="F")[:-1]))
    with pytest.raises(ValueError, match=r"a.nii.gz is no readable NIfTI file"):
        read_template(path)
    path.write_bytes(gzip.compress(b"no" + bytes(head)))
    with pytest.raises(ValueError, match="does not begin like one"):
        read_template(path)


def test_genes_come_from_h5ad_if_it_is_there(root):
    anndata = pytest.importorskip("anndata", reason="h5ad is read by the extra anndata")
    before = adni(root)
    path = root / "adni/genomic/genomic_merged.csv"
    table = pd.read_csv(path).set_index("PTID")
    anndata.AnnData(table.astype("float32")).write_h5ad(path.with_suffix(".h5ad"))
    path.unlink()
    after = adni(root)
    for split in SPLITS:
        one, other = before.load(split), after.load(split)
        np.testing.assert_array_equal(one.inputs["genetic"], other.inputs["genetic"])
        np.testing.assert_array_equal(one.presence, other.presence)
