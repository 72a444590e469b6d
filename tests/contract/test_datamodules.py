"""Every data set keeps the promises of `DataModule`, simply by being there."""

import importlib.util
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from twins import TWINS, WRITE

from mmbench.data.batch import opaque_ids
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.data.task import AXES
from mmbench.registry import DATASETS

SHIPPED = ("gaussian", "mfeat", "openmoji", "synthetic", "tabler")
WITHOUT_FILES = (*SHIPPED, "table")
HAS_RDATA = importlib.util.find_spec("rdata") is not None
NAMES = [
    *WITHOUT_FILES,
    *(
        pytest.param(
            name,
            marks=[
                pytest.mark.skipif(not HAS_RDATA, reason="breast_tcga is read by the extra rdata")
            ]
            if name == "breast_tcga"
            else [],
        )
        for name in WRITE | TWINS
    ),
]
ARGUMENTS = {
    "gaussian": {"n_train": 150, "n_val": 60, "n_test": 90},
    "synthetic": {
        "num_modalities": 4,
        "kinds": ("vector", "sequence", "bag", "image"),
        "n_train": 150,
        "n_val": 60,
        "n_test": 90,
    },
    "table": {"files": {"lab": "lab.csv", "ecg": "ecg.csv"}, "labels": "labels.csv"},
    **{name: {"size": 12} for name in TWINS if name not in ("adni", "avmnist", "mimic_iv", "tcga")},
}
MCAR = {"mechanism": "mcar", "missing_rate": 0.4}
SCENARIOS = {
    "natural": {"train": {"mechanism": "natural"}, "test": {"mechanism": "every_pattern"}},
    "mcar": {"train": MCAR, "test": {"mechanism": "mcar", "missing_rate": [0.0, 0.2, 0.45]}},
    "natural_mcar": {
        "train": MCAR | {"mechanism": "natural + mcar"},
        "val": {"mechanism": "natural"},
        "test": MCAR,
    },
    "mnar": {
        "train": {"mechanism": "mnar_label", "missing_rate": 0.3, "strength": 2},
        "test": [
            {"mechanism": "mnar_value", "missing_rate": 0.3, "strength": 2},
            {"mechanism": "mar", "missing_rate": 0.3, "strength": 2, "given": "primary"},
        ],
    },
    "full_access": {"train": MCAR, "test": MCAR, "regime": "full_access"},
}
LOADED = {}


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Twins of the sets that users bring, and two CSV files for `table`."""
    folder = tmp_path_factory.mktemp("data")
    for name, write in (WRITE | TWINS).items():
        if name != "breast_tcga" or HAS_RDATA:
            write(folder, np.random.default_rng(0))
    ids, rng = [f"p{k}" for k in range(80)], np.random.default_rng(0)
    pd.DataFrame({"id": ids, "label": np.arange(80) % 2}).to_csv(folder / "labels.csv", index=False)
    for name, without in (("lab", 3), ("ecg", 5)):
        x = pd.DataFrame({"id": ids, "x": rng.standard_normal(80), "y": rng.random(80)})
        x.drop(index=without).to_csv(folder / f"{name}.csv", index=False)
    return folder


def module(name, root, scenario="mcar", *, mask_seed=0, **arguments):
    spec = scenario if isinstance(scenario, dict) else SCENARIOS[scenario]
    spec = Scenario.parse({"name": "test", "mask_seed": mask_seed} | spec)
    data = DATASETS.get(name)(root, spec, **(ARGUMENTS.get(name, {}) | arguments))
    if "modalities" not in arguments:  # files are read once, as by a worker with many runs
        data.loaded = LOADED.setdefault(name, data.loaded)
    return data


def presence_of(batches):
    return {
        int(one): row.tolist()
        for batch in batches
        for one, row in zip(batch.sample_id, batch.presence, strict=True)
    }


def same(one, other):
    return (
        torch.equal(one.sample_id, other.sample_id)
        and torch.equal(one.presence, other.presence)
        and torch.equal(one.target, other.target)
        and all(torch.equal(one.inputs[m], other.inputs[m]) for m in one.modalities)
        and all(torch.equal(one.lengths[m], other.lengths[m]) for m in one.lengths)
    )


def spoilt(samples, entries, *, nan=False):
    """Other raw values in these entries, (sample, modality); NaN where asked for and possible."""
    inputs, lengths = {}, {}
    for column, name in enumerate(samples.modalities):
        x, rows = np.array(samples.inputs[name]), entries[:, column]
        if np.issubdtype(x.dtype, np.floating):
            x[rows] = np.nan if nan else 3 * x[rows] + 100
        elif name in samples.lengths:  # token ids
            x[rows] = np.minimum(x[rows], 1)
        else:
            x[rows] = 255 - x[rows]
        inputs[name] = x
        if name in samples.lengths:
            lengths[name] = np.where(rows, 1, samples.lengths[name])
    return replace(samples, inputs=inputs, lengths=lengths)


def test_every_data_set_is_tested_here():
    assert {*WITHOUT_FILES, *WRITE, *TWINS} == set(DATASETS.names())


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_sample(name, root):
    data = module(name, root)
    ids = np.concatenate([data.split(split).samples.sample_id for split in SPLITS])
    assert len(np.unique(ids)) == len(ids)
    assert ids.dtype == np.int64


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", NAMES)
def test_batches_are_as_the_task_says_and_hold_nothing_that_is_absent(name, scenario, root):
    data = module(name, root, scenario)
    task = data.task
    for split in SPLITS:
        rows = 0
        for batch in data.batches(split):
            rows += len(batch)
            assert batch.modalities == task.names == tuple(batch.inputs)
            assert batch.presence.shape == (len(batch), len(task.names))
            assert batch.presence.dtype == torch.bool
            assert batch.presence.any(1).all()
            assert batch.sample_id.dtype == torch.int64
            if task.kind == "single_label":
                assert batch.target.dtype == torch.int64
                assert batch.target.shape == (len(batch),)
                assert batch.target.min() >= 0
                assert batch.target.max() < task.num_outputs
            else:
                assert batch.target.dtype == torch.float32
                assert batch.target.shape == (len(batch), task.num_outputs)
            assert set(batch.lengths) == {m.name for m in task.modalities if m.has_lengths}
            for modality in task.modalities:
                x, there = batch.inputs[modality.name], batch.has(modality.name)
                assert x.shape == (len(batch), *modality.shape)
                assert len(modality.shape) == len(AXES[modality.kind])
                assert not x[~there].any()
                assert x.isfinite().all()
                if modality.kind == "tokens":
                    assert x.dtype == torch.int64
                    assert x.min() >= 0
                    assert x.max() < modality.vocab_size
                else:
                    assert x.dtype == torch.float32
                if modality.has_lengths:
                    steps = batch.lengths[modality.name]
                    assert steps.dtype == torch.int64
                    assert not steps[~there].any()
                    for row, length in zip(x, steps.tolist(), strict=True):
                        assert length <= modality.shape[0]
                        assert not row[length:].any()
                    assert (steps[there] >= 1).all()
        assert rows == len(data.split(split)) == len(data.samples(split))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", NAMES)
def test_masks_do_not_know_batch_size_order_or_limit(name, scenario, root):
    data = module(name, root, scenario)
    other = module(name, root, scenario, batch_size=7, order_seed=5)
    few = module(name, root, scenario, limit=17)
    for split in SPLITS:
        whole = presence_of(data.batches(split))
        assert presence_of(other.batches(split)) == whole
        part = presence_of(few.batches(split))
        assert len(part) == min(17, len(whole))
        assert part.items() <= whole.items()
    assert presence_of(other.train_dataloader()) == presence_of(data.batches("train"))
    blind = [batch.blind() for batch in data.batches("val")]
    assert presence_of(data.val_dataloader()) == presence_of(blind)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", NAMES)
def test_test_conditions_hide_from_what_nature_left_and_do_not_know_the_limit(name, scenario, root):
    data, few = module(name, root, scenario), module(name, root, scenario, limit=17)
    data.setup()
    few.setup()
    assert list(data.conditions) == list(few.conditions)
    natural = data.samples("test").presence
    ids = opaque_ids(torch.from_numpy(data.samples("test").sample_id)).tolist()
    assert presence_of(data.test_dataloader()) == dict(zip(ids, natural.tolist(), strict=True))
    kept = np.isin(data.split("test").samples.sample_id, few.split("test").samples.sample_id)
    for condition in data.conditions:
        shown = data.condition_presence(condition)
        assert shown.shape == natural.shape
        assert not (shown & ~natural).any()
        assert shown.any(axis=1).all()
        assert np.array_equal(shown[kept], few.condition_presence(condition))


@pytest.mark.parametrize("name", NAMES)
def test_masks_depend_on_the_mask_seed_and_are_drawn_alike_again(name, root):
    masks = [presence_of(module(name, root, mask_seed=seed).batches("train")) for seed in (0, 0, 1)]
    assert masks[0] == masks[1] != masks[2]


@pytest.mark.parametrize("regime", ["withheld", "full_access"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_withheld_moves_no_bit_of_what_is_shown(name, regime, root):
    spec = SCENARIOS["mcar"] | {"regime": regime}
    clean, dirty = module(name, root, spec), module(name, root, spec)
    clean.setup()
    dirty.loaded = {
        split: spoilt(data.samples, data.samples.presence & ~data.presence)
        for split in SPLITS
        for data in [clean.split(split)]
    }
    changed = False
    for split in SPLITS:
        for one, other in zip(clean.batches(split), dirty.batches(split), strict=True):
            assert same(one, other)
            if one.teacher is not None:
                changed |= not same(one.teacher, other.teacher)
    assert changed is (regime == "full_access")  # the teacher alone sees it


WITHIN = {
    "sequence": ("segments", {"segment_rate": 0.4}),
    "tokens": ("tokens", {"token_rate": 0.4}),
    "image": ("patches", {"patch_rate": 0.4, "patch_size": 3}),
    "vector": ("features", {"feature_rate": 0.4}),
}


def within(task):
    """Modality loss, and everything that can go inside the modalities of a task."""
    kinds = {modality.kind for modality in task.modalities}
    inside = [WITHIN[kind] for kind in WITHIN if kind in kinds]
    keys = {key: value for _, settings in inside for key, value in settings.items()}
    mechanism = " + ".join(["natural", "mcar", *(name for name, _ in inside)])
    entry = {"mechanism": mechanism, "missing_rate": 0.2, **keys}
    return {"train": entry, "test": [entry, {"mechanism": "natural"}]}


def spoilt_inside(data, split, samples):
    """Other raw values in entries that are gone inside a modality."""
    inputs = dict(samples.inputs)
    for name, stored in data.split(split)._stored.items():
        if stored.gap is None:
            continue
        seen = stored.observed(torch.arange(len(samples))).numpy()
        x = samples.inputs[name].copy()
        gone = ~(seen[:, None] if x.ndim == 4 else seen.reshape(*seen.shape, *[1] * (x.ndim - 2)))
        gone = np.broadcast_to(gone, x.shape)
        if np.issubdtype(x.dtype, np.floating):
            x[gone] = 3 * x[gone] + 100
        elif name in samples.lengths:
            x[gone] = 1
        else:
            x[gone] = 255 - x[gone]
        inputs[name] = x
    return replace(samples, inputs=inputs)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_gone_inside_a_modality_moves_no_bit_and_batches_say_what_it_is(name, root):
    spec = within(module(name, root).task)
    clean, dirty, whole = (module(name, root, one) for one in (spec, spec, "natural_mcar"))
    clean.setup()
    dirty.loaded = {
        split: spoilt_inside(clean, split, clean.samples(split)) if split != "test" else samples
        for split in SPLITS
        for samples in [clean.samples(split)]
    }
    raw, spoilt_raw = clean.samples("train").inputs, dirty.loaded["train"].inputs
    assert not all(np.array_equal(spoilt_raw[m], raw[m]) for m in clean.task.names)
    hidden = 0
    for split in ("train", "val"):
        for one, other in zip(clean.batches(split), dirty.batches(split), strict=True):
            assert same(one, other)
            for m, seen in one.observed.items():
                x = one.inputs[m]
                assert not seen[~one.has(m)].any()
                assert seen[one.has(m)].flatten(1).any(1).all()  # something is always left
                wide = (
                    seen[:, None] if x.dim() == 4 else seen.view(*seen.shape, *[1] * (x.dim() - 2))
                )
                assert not (x * ~wide).any()
                hidden += int((~seen[one.has(m)]).sum())
    assert hidden > 0
    assert all(not batch.observed for batch in whole.batches("train"))
    assert all(not batch.observed for batch in clean.batches("test"))
    condition, *_ = clean.conditions
    gaps = clean.condition_gaps(condition)
    assert gaps
    batch = next(clean.batches("test"))
    seen = batch.with_gaps(gaps, torch.arange(len(batch)))
    for m in gaps:
        assert seen.observed[m][batch.has(m)].flatten(1).any(1).all()
        if batch.inputs[m].any():  # some have no test sample in this batch
            assert not torch.equal(seen.inputs[m], batch.inputs[m])


@pytest.mark.parametrize("name", NAMES)
def test_what_nature_left_out_may_hold_anything(name, root):
    clean, dirty = (module(name, root, "full_access") for _ in range(2))
    dirty.loaded = {
        split: spoilt(clean.samples(split), ~clean.samples(split).presence, nan=True)
        for split in SPLITS
    }
    for split in SPLITS:
        for one, other in zip(clean.batches(split), dirty.batches(split), strict=True):
            assert same(one, other)
            assert one.teacher is None or same(one.teacher, other.teacher)


@pytest.mark.parametrize("name", NAMES)
def test_scales_come_from_training_alone(name, root):
    clean, dirty = module(name, root), module(name, root)
    dirty.loaded = {
        split: samples if split == "train" else spoilt(samples, samples.presence)
        for split in SPLITS
        for samples in [clean.samples(split)]
    }
    for one, other in zip(clean.batches("train"), dirty.batches("train"), strict=True):
        assert same(one, other)
    assert not same(next(clean.batches("val")), next(dirty.batches("val")))


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_looks_the_same_whoever_is_evaluated_beside_it(name, root):
    data, few = module(name, root, "natural"), module(name, root, "natural")
    few.loaded = {
        split: samples if split == "train" else samples.take(np.arange(3))
        for split in SPLITS
        for samples in [data.samples(split)]
    }
    for split in ("val", "test"):
        assert same(data.split(split)[[0, 1, 2]], few.split(split)[[0, 1, 2]])


@pytest.mark.parametrize("scenario", ["mcar", "natural_mcar"])
@pytest.mark.parametrize("name", NAMES)
def test_what_training_shows_is_standardised_by_feature_or_channel(name, scenario, root):
    data = module(name, root, scenario)
    batches = list(data.batches("train"))
    for modality in data.task.modalities:
        if modality.kind == "tokens":
            continue
        rows = []  # (values of one feature or channel a column)
        for batch in batches:
            for i in torch.nonzero(batch.has(modality.name)).flatten():
                x = batch.inputs[modality.name][i]
                if modality.has_lengths:
                    x = x[: batch.lengths[modality.name][i]]
                if modality.kind in ("image", "volume"):
                    x = x.flatten(1).T
                rows.append(x.reshape(-1, x.shape[-1]))
        values = torch.cat(rows).double()
        assert values.mean(0).abs().max() < 1e-3
        std = values.std(0, correction=0)
        # a feature that never changes in training is zero there
        assert torch.minimum((std - 1).abs(), std).max() < 1e-3
        assert (std > 0.5).any()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_restriction_keeps_masks_and_values_of_the_modalities_that_stay(name, root):
    names = module(name, root).task.names
    first, last = names[0], names[-1]  # nature left every sample both
    rate = {"mechanism": "mcar", "missing_rate": {first: 0.4}}
    scenario = {"train": rate, "test": rate}
    whole = module(name, root, scenario)
    part = module(name, root, scenario, modalities=[last, first])
    assert part.task.modalities == (whole.task.modalities[-1], whole.task.modalities[0])
    for split in SPLITS:
        hidden = 0
        for one, other in zip(whole.batches(split), part.batches(split), strict=True):
            assert other.modalities == (last, first) == tuple(other.inputs)
            assert torch.equal(one.sample_id, other.sample_id)
            for modality in (last, first):
                assert torch.equal(one.has(modality), other.has(modality))
                assert torch.equal(one.inputs[modality], other.inputs[modality])
            hidden += int((~one.has(first)).sum())
        assert (hidden > 0) is (split != "test")
    (condition,) = whole.conditions
    assert np.array_equal(
        whole.condition_presence(condition)[:, [-1, 0]], part.condition_presence(condition)
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", SHIPPED)
def test_masks_do_not_know_the_order_of_the_modalities(name, scenario, root):
    if scenario == "mnar":  # its condition `mar` is given by the first modality
        scenario = SCENARIOS["mnar"] | {"test": SCENARIOS["mnar"]["test"][0]}
    data = module(name, root, scenario)
    names = data.task.names
    turned = module(name, root, scenario, modalities=names[::-1])
    for split in SPLITS:
        one, other = presence_of(data.batches(split)), presence_of(turned.batches(split))
        assert {one: row[::-1] for one, row in other.items()} == one


@pytest.mark.parametrize("name", SHIPPED)
def test_one_modality_alone_keeps_the_samples_that_have_it(name, root):
    natural = {"train": {"mechanism": "natural"}, "test": {"mechanism": "natural"}}
    whole = module(name, root, natural)
    for column, modality in enumerate(whole.task.names):
        alone = module(name, root, natural, modalities=[modality])
        for split in SPLITS:
            samples = whole.samples(split)
            ids = samples.sample_id[samples.presence[:, column]]
            batches = list(alone.batches(split))
            assert torch.cat([batch.sample_id for batch in batches]).tolist() == ids.tolist()
            assert all(batch.presence.all() for batch in batches)


@pytest.mark.parametrize("name", NAMES)
def test_full_access_gives_a_teacher_that_shows_more_and_the_same_masks(name, root):
    data, withheld = module(name, root, "full_access"), module(name, root, "mcar")
    for split in ("train", "val"):  # validation: for stages that are selected on whole samples
        more = 0
        samples = data.samples(split)
        natural = dict(zip(samples.sample_id.tolist(), samples.presence.tolist(), strict=True))
        for batch, plain in zip(data.batches(split), withheld.batches(split), strict=True):
            assert plain.teacher is None
            assert same(batch, plain)
            teacher = batch.teacher
            assert presence_of([teacher]).items() <= natural.items()
            assert not (batch.presence & ~teacher.presence).any()
            more += int((teacher.presence & ~batch.presence).sum())
            assert torch.equal(teacher.sample_id, batch.sample_id)
            assert same(teacher.hide(~batch.presence), batch)
        assert more > 0
    assert all(batch.teacher is None for batch in data.batches("test"))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_training_depends_on_the_order_seed_alone(name, root):
    def order(*, seed, scenario="mcar", batch_size=64, weights_seed=0, mask_seed=0):
        data = module(
            name, root, scenario, mask_seed=mask_seed, order_seed=seed, batch_size=batch_size
        )
        torch.manual_seed(weights_seed)
        return torch.cat([batch.sample_id for batch in data.train_dataloader()]).tolist()

    first = order(seed=3)
    assert order(seed=3, scenario="natural", batch_size=9, weights_seed=1, mask_seed=4) == first
    assert order(seed=4) != first
    assert sorted(order(seed=4)) == sorted(first)
    assert first != sorted(first)


def test_each_epoch_has_an_order_of_its_own(root):
    loader = module("mfeat", root, limit=50).train_dataloader()
    orders = [torch.cat([batch.sample_id for batch in loader]).tolist() for _ in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_fold_that_does_not_exist_is_refused_in_one_line(name, root):
    cls = DATASETS.get(name)
    for fold in (-1, cls.folds):
        with pytest.raises(
            ValueError, match=rf"^fold {fold} was asked for.*0\.\.{cls.folds - 1}$"
        ) as error:
            module(name, root, fold=fold)
        assert cls.__name__ in str(error.value)


@pytest.mark.parametrize("word", ["limit", "batch_size"])
@pytest.mark.parametrize("number", [0, -1])
def test_a_size_below_one_is_refused_in_one_line(word, number, root):
    with pytest.raises(ValueError, match=rf"^{word} must be at least 1, found {number}$"):
        module("mfeat", root, **{word: number})


@pytest.mark.parametrize("name", NAMES)
def test_a_modality_that_does_not_exist_is_refused_in_one_line(name, root):
    known = module(name, root).task.names
    data = module(name, root, modalities=[known[0], "smell"])
    wanted = rf"^no modality named 'smell' in \w+; it has {', '.join(known)}$"
    with pytest.raises(ValueError, match=wanted):
        data.setup()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_scenario_that_cannot_be_laid_over_the_modalities_is_refused_in_one_line(name, root):
    names = module(name, root).task.names
    limit = (len(names) - 1) / len(names)
    impossible = {"train": MCAR | {"missing_rate": 0.95}, "test": MCAR}
    with pytest.raises(ValueError, match=r"^scenario 'test': train: .*0\.95") as error:
        module(name, root, impossible).setup()
    assert "\n" not in str(error.value)
    assert f"{limit:.3f}" in str(error.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_setting_up_twice_draws_once(name, root):
    data = module(name, root)
    data.setup("fit")
    first = data.split("train")
    data.setup("test")
    assert data.split("train") is first
