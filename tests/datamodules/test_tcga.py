"""TCGA: who belongs to whom by barcode, what a report may say, and that patients stay together."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.tcga import COHORTS
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.health import examine
from mmbench.registry import DATASETS

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twin")
    DATASETS.get("tcga").write_twin(folder)
    return folder


@pytest.fixture
def root(twin, tmp_path):
    """The same files; one that is to be changed is taken away first."""
    shutil.copytree(twin / "tcga", tmp_path / "tcga", copy_function=os.link)
    return tmp_path


def tcga(root, **arguments):
    return DATASETS.get("tcga")(root, SCENARIO, **arguments)


def by_slide(data):
    names, found = data.names_of_ids(), {}
    for split in SPLITS:
        samples = data.load(split)
        found |= {names[int(one)]: (split, k, samples) for k, one in enumerate(samples.sample_id)}
    return found


def edit(path, change, **options):
    table = pd.read_csv(path, **options)
    path.unlink()
    change(table).to_csv(path, index=False)


@pytest.mark.parametrize("cohort", COHORTS)
def test_slides_genes_and_reports_join_by_barcode_and_lack_what_has_no_file(root, cohort):
    home = root / "tcga" / cohort.upper()
    data = tcga(root, cohort=cohort)
    genes = pd.read_csv(home / "rna_all.csv").set_index("index")
    genes.index = genes.index.str[:15]
    reports = pd.read_csv(home / "reports.csv")["patient_filename"].str[:12].tolist()
    labels = pd.read_csv(home / "labels.csv").set_index("slide_id")["label"]
    found = by_slide(data)
    assert set(labels.index) == set(found)
    for slide, (_, k, samples) in found.items():
        file = home / "feats_pt_wsi" / f"{slide}.pt"
        has = [file.is_file(), slide[:15] in genes.index, slide[:12] in reports]
        assert samples.presence[k].tolist() == has
        assert data.describe().outputs[samples.target[k]] == labels[slide]
        if has[0]:
            bag = torch.load(file, weights_only=True).numpy()
            assert samples.lengths["slide"][k] == len(bag)
            np.testing.assert_array_equal(samples.inputs["slide"][k, : len(bag)], bag)
        if has[1]:
            np.testing.assert_allclose(samples.inputs["rna"][k], genes.loc[slide[:15]], rtol=1e-6)


def test_of_several_rows_of_a_tumour_the_first_barcode_counts(root):
    home = root / "tcga/BRCA"
    before = by_slide(tcga(root))

    def twice(table):
        more = table.copy()
        more["index"] = more["index"].str.replace("-01A-11R", "-01A-12R")
        more.iloc[:, 1:] += 100
        return pd.concat([more, table])

    edit(home / "rna_all.csv", twice)
    data = tcga(root)
    after = by_slide(data)
    for slide, (_, k, samples) in after.items():
        _, row, old = before[slide]
        np.testing.assert_array_equal(samples.inputs["rna"][k], old.inputs["rna"][row])
    assert any("50 further rows of a tumour left out" in note for note in data.notes())


def test_patients_stay_together_in_every_fold_and_folds_test_everybody_once(root):
    tested = []
    for fold in range(5):
        data = tcga(root, fold=fold)
        parts = [set(data.subject_of(split).tolist()) for split in SPLITS]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 60
        tested += [slide for slide, (split, *_) in by_slide(data).items() if split == "test"]
    assert len(tested) == len(set(tested)) == 72


def test_fold_files_are_kept_to_and_a_patient_in_both_is_a_problem(root):
    home = root / "tcga/BRCA"
    data = tcga(root, partition="files", fold=2)
    test = pd.read_csv(home / "test_fold_2.csv")["filename"].tolist()
    assert {s for s, (split, *_) in by_slide(data).items() if split == "test"} == set(test)
    assert not examine(data).problems
    train = pd.read_csv(home / "train_fold_2.csv")
    patients = train["filename"].str[:12]
    moved = train["filename"][patients.duplicated(keep="first")].iloc[0]
    edit(home / "train_fold_2.csv", lambda t: t[t["filename"] != moved])
    extra = train[train["filename"] == moved]
    edit(home / "test_fold_2.csv", lambda t: pd.concat([t, extra]))
    data = tcga(root, partition="files", fold=2)
    assert any("and test share 1 subject, such as" in one for one in examine(data).problems)
    assert any("1 of its patients" in note for note in data.notes())
    edit(home / "test_fold_2.csv", lambda t: pd.concat([t, train.iloc[:1]]))
    with pytest.raises(ValueError, match=r"occurs twice in train_fold_2.csv and test_fold_2.csv"):
        tcga(root, partition="files", fold=2).load("test")


@pytest.mark.parametrize(("cohort", "word"), [("brca", "ductal"), ("rcc", "papillary")])
def test_words_that_name_a_subtype_are_read_by_nobody(root, cohort, word):
    """Reports that differ in these words alone give the same tokens; another word does not."""
    path = root / "tcga" / cohort.upper() / "reports.csv"
    before = by_slide(tcga(root, cohort=cohort))
    edit(path, lambda t: t.assign(text=f"{word.upper()}-{word}, " + t["text"]))
    data = tcga(root, cohort=cohort)
    after = by_slide(data)
    for slide, (_, k, samples) in after.items():
        _, row, old = before[slide]
        np.testing.assert_array_equal(samples.inputs["report"][k], old.inputs["report"][row])
    assert any("words that name a subtype left out" in note for note in data.notes())
    edit(path, lambda t: t.assign(text="benign " + t["text"]))
    assert tcga(root, cohort=cohort).describe() != data.describe()


def test_training_draws_other_patches_every_epoch_and_validation_never(root):
    def epoch(number, **arguments):
        data = tcga(root, most=9, **arguments)
        batches = data.train_dataloader(epoch=lambda: number)
        slides = {
            int(one): x
            for batch in batches
            for one, x in zip(batch.sample_id, batch.inputs["slide"], strict=True)
        }
        shown = torch.cat([batch.inputs["slide"] for batch in data.val_dataloader()])
        return slides, shown

    (first, val), (again, _), (second, later) = epoch(0), epoch(0, batch_size=5), epoch(1)
    (other, _) = epoch(0, order_seed=1)
    assert all(torch.equal(first[one], again[one]) for one in first)  # whatever the batch
    many = [one for one in first if not torch.equal(first[one], second[one])]
    assert len(many) > len(first) / 2
    assert any(not torch.equal(first[one], other[one]) for one in first)
    assert torch.equal(val, later)
    split = tcga(root, most=9).split("val")  # as it is copied to an accelerator
    copied = split.on(torch.device("cpu")).batch(torch.arange(len(split)))
    assert torch.equal(copied.inputs["slide"], val)


def test_what_a_frozen_encoder_makes_of_one_draw_serves_no_other_epoch(root):
    class Mean(torch.nn.Linear):
        def forward(self, x, lengths):
            return super().forward(x.mean(1))

    frozen = Mean(24, 2).requires_grad_(False).eval()
    some, every = (next(iter(tcga(root, most=n).train_dataloader())) for n in (9, 30))
    assert some.embeddings.embed("slide", frozen) is None
    assert every.embeddings.embed("slide", frozen) is not None


def test_more_patches_than_asked_for_are_drawn_alike_whatever_else_is_read(root):
    one, other = by_slide(tcga(root, most=9)), by_slide(tcga(root, most=9, fold=3))
    whole = by_slide(tcga(root))
    cut = 0
    for slide, (_, k, samples) in one.items():
        bag = samples.inputs["slide"][k]
        _, row, second = other[slide]
        np.testing.assert_array_equal(bag, second.inputs["slide"][row])
        _, row, every = whole[slide]
        rows = {tuple(x) for x in every.inputs["slide"][row][: every.lengths["slide"][row]]}
        assert {tuple(x) for x in bag[: samples.lengths["slide"][k]]} <= rows or not rows
        cut += every.lengths["slide"][row] > 9
    assert any(f"{cut} slides have more than 9" in note for note in tcga(root, most=9).notes())


def test_other_forms_of_slides_and_reports_are_read(root):
    data = tcga(root, slides="prototypes", reports="vector")
    shapes = {m.name: (m.kind, m.shape) for m in data.describe().modalities}
    assert shapes["slide"] == ("bag", (16, 24))
    assert shapes["report"] == ("vector", (24,))
    data = tcga(root, reports="prototypes")
    assert {m.name: m.kind for m in data.describe().modalities}["report"] == "bag"
    for split in SPLITS:
        data.load(split)


def test_hdf5_patches_are_those_of_pt(root):
    h5py = pytest.importorskip("h5py", reason="HDF5 is read by the extra h5py")
    home = root / "tcga/BRCA"
    (home / "h5_files").mkdir()  # CLAM's own name
    for file in (home / "feats_pt_wsi").glob("*.pt"):
        with h5py.File(home / "h5_files" / f"{file.stem}.h5", "w") as h5:
            h5["features"] = torch.load(file, weights_only=True).numpy()
    one, other = tcga(root).load("train"), tcga(root, slides="h5").load("train")
    np.testing.assert_array_equal(one.inputs["slide"], other.inputs["slide"])
    np.testing.assert_array_equal(one.presence, other.presence)


def test_labels_are_words_and_of_lung_the_authors_numbers(root):
    path = root / "tcga/NSCLC/labels.csv"
    before = by_slide(tcga(root, cohort="nsclc"))
    edit(path, lambda t: t.assign(label=t["label"].map({"LUAD": 1, "LUSC": 0})))
    after = by_slide(tcga(root, cohort="nsclc"))
    for slide, (_, k, samples) in after.items():
        _, row, old = before[slide]
        assert samples.target[k] == old.target[row]
    path = root / "tcga/BRCA/labels.csv"
    edit(path, lambda t: t.assign(label=0))
    with pytest.raises(ValueError, match=r"labels.csv row 2 .*the label is '0', not IDC or ILC"):
        tcga(root).load("train")


def test_the_whole_is_compared_with_the_published_counts(root):
    (root / "tcga/TWIN.txt").unlink()
    problems = examine(tcga(root)).problems
    assert any("72 samples, but 955 in the label table" in one for one in problems)
    assert any("of ILC, but 168 in" in one for one in problems)


def test_incomplete_slides_are_left_out_if_asked_and_the_others_stay_where_they_were(root):
    every, data = by_slide(tcga(root)), tcga(root, complete=True)
    full = {s: split for s, (split, k, part) in every.items() if part.presence[k].all()}
    assert {s: split for s, (split, *_) in by_slide(data).items()} == full
    assert sum(len(data.subject_of(split)) for split in SPLITS) == len(full) < len(every)
    less = len(every) - len(full)
    assert f"{less} slides that lack patches, RNA or a report left out" in data.notes()
