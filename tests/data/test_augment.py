"""Augmentation: what it does by a slow loop, who draws it, and what it leaves alone."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from arrays import fit
from photos import Photos, arrays
from torch import nn

from mmbench.bench.plan import plan
from mmbench.bench.run.selection import KeepBest
from mmbench.bench.spec import Suite, parse
from mmbench.cli import main
from mmbench.data.augment import AUGMENTATIONS, COLOUR, NOISE, SHIFT, TIME, Augmentation, Draws
from mmbench.data.embeddings import share_between_runs
from mmbench.data.task import Modality, Task
from mmbench.datamodule import Fitting
from mmbench.methods.zero_fill import ZeroFill

IDS = torch.arange(50, 62)
DRAWS = Draws(IDS, torch.arange(12) % 4, 17)
EVERY = {"photo": ["flip", "crop", "colour"], "scan": ["flip", "crop"]}
N = 36


def numbers(shape, seed=0):
    return torch.randn(12, *shape, generator=torch.Generator().manual_seed(seed))


def augmented(name, x, steps=None):
    return AUGMENTATIONS[name][0](x, steps, DRAWS)


# --- what each does ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8, 9), (1, 4, 9, 16)])
def test_a_flip_mirrors_some_of_the_samples_and_leaves_the_others(shape):
    x = numbers(shape)
    mirrored = [bool(u < 0.5) for u in DRAWS.uniform(0)]
    assert {*mirrored} == {True, False}
    for one, before, mirror in zip(augmented("flip", x), x, mirrored, strict=True):
        assert np.array_equal(one, before.numpy()[..., ::-1] if mirror else before)


@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 8, 16, 24)])
def test_a_crop_shifts_each_side_by_no_more_than_its_share_and_repeats_the_edge(shape):
    x = numbers(shape)
    shifts = []
    for row, (one, before) in enumerate(zip(augmented("crop", x), x, strict=True)):
        wanted = before.numpy()
        for axis, side in enumerate(shape[1:], 1):
            most = int(SHIFT * side)
            shift = int(float(DRAWS.uniform(axis + 1)[row]) * (2 * most + 1)) - most
            wanted = np.take(wanted, np.clip(np.arange(side) + shift, 0, side - 1), axis)
            shifts.append(shift / most)
        assert np.array_equal(one, wanted)
    assert min(shifts) == -1
    assert max(shifts) == 1


def test_colours_change_in_saturation_contrast_and_brightness():
    x = numbers((3, 4, 5))
    for row, (one, before) in enumerate(zip(augmented("colour", x), x.double(), strict=True)):
        saturation, contrast, brightness = (float(DRAWS.uniform(k)[row]) for k in (0, 1, 2))
        grey = before.mean(0)
        wanted = grey + (1 + COLOUR * (2 * saturation - 1)) * (before - grey)
        wanted = (1 + COLOUR * (2 * contrast - 1)) * wanted + COLOUR * (2 * brightness - 1)
        torch.testing.assert_close(one.double(), wanted, atol=1e-5, rtol=1e-5)


def test_a_shift_in_time_stays_within_the_steps_of_a_sequence():
    steps = torch.tensor([40, 40, 30, 20, 10, 5, 1, 0, 40, 40, 40, 40])
    x = numbers((40, 2))
    shifted = augmented("time_shift", x, steps)
    for row, (one, before, length) in enumerate(zip(shifted, x, steps.tolist(), strict=True)):
        shift = round(TIME * (2 * float(DRAWS.uniform(0)[row]) - 1) * length)
        assert abs(shift) <= TIME * length
        for t in range(length):
            assert torch.equal(one[t], before[min(max(t + shift, 0), length - 1)])
    assert not torch.equal(shifted[0], x[0])


def test_noise_has_its_deviation_and_no_two_entries_share_it():
    many = Draws(torch.arange(400), torch.zeros(400, dtype=torch.long), 3)
    z = many.normal((6, 5))
    assert abs(float(z.mean())) < 0.05
    assert abs(float(z.std()) - 1) < 0.02
    assert float(z.abs().max()) > 2.8
    assert len(z.unique()) > 0.8 * z.numel()
    corr = np.corrcoef(z.view(400, -1).numpy().T)
    assert np.abs(corr - np.eye(30)).max() < 0.25
    x = numbers((6, 5))
    torch.testing.assert_close(augmented("noise", x) - x, NOISE * DRAWS.normal((6, 5)))


def test_padding_stays_zero():
    by = Augmentation({"sound": ["noise", "time_shift"]})
    steps = torch.tensor([4, 2, 0] * 4)
    x = by.apply("sound", torch.zeros(12, 4, 3), steps, IDS, by.view(IDS, 0))
    valid = torch.arange(4) < steps[:, None]
    assert not x[~valid].any()
    assert x[valid].all()


# --- who draws it -----------------------------------------------------------------------------


@pytest.mark.parametrize("views", [None, 3])
def test_a_draw_depends_on_sample_epoch_and_seed_and_on_nobody_beside(views):
    by = Augmentation({"photo": EVERY["photo"]}, seed=5, views=views)
    x = numbers((3, 8, 8))

    def shown(rows, epoch, of=by):
        ids = IDS[rows]
        return of.apply("photo", x[rows], None, ids, of.view(ids, epoch))

    everybody = torch.arange(12)
    whole = shown(everybody, 2)
    for rows in (torch.tensor([7]), torch.tensor([11, 3, 7])):
        assert torch.equal(shown(rows, 2), whole[rows])
    assert not torch.equal(shown(everybody, 3), whole)
    other = Augmentation(by.names, seed=6, views=views)
    assert not torch.equal(shown(everybody, 2, other), whole)
    versions = [{shown(everybody, e)[row].numpy().tobytes() for e in range(40)} for row in (0, 5)]
    assert [len(of) for of in versions] == [views or 40] * 2


# --- in a data set ----------------------------------------------------------------------------


def epochs(data, count):
    """Inputs of each training epoch, by sample."""
    by_epoch = []
    for epoch in range(count):
        loaded = {}
        for batch in data.train_dataloader(epoch=lambda epoch=epoch: epoch):
            for row, one in enumerate(batch.sample_id.tolist()):
                loaded[one] = [batch.inputs[name][row] for name in batch.modalities]
        by_epoch.append(loaded)
    return by_epoch


def test_it_touches_what_training_is_given_and_nothing_else():
    plain, data = (Photos(arrays(N), batch_size=5, augment=of) for of in (None, EVERY))
    for split in ("train", "val", "test"):
        for a, b in zip(plain.batches(split), data.batches(split), strict=True):
            assert all(torch.equal(a.inputs[name], b.inputs[name]) for name in a.modalities)
    for a, b in zip(plain.val_dataloader(), data.val_dataloader(), strict=True):
        assert torch.equal(a.inputs["photo"], b.inputs["photo"])
    first, second = epochs(data, 2)
    [unchanged] = epochs(plain, 1)
    for other in (second, unchanged):
        photos = [(first[one][0], other[one][0]) for one in first]
        assert not any(torch.equal(a, b) for a, b in photos if a.any())


def test_the_size_of_batches_does_not_matter():
    [few], [many] = (epochs(Photos(arrays(N), batch_size=b, augment=EVERY), 1) for b in (1, 7))
    assert all(torch.equal(few[one][k], many[one][k]) for one in few for k in (0, 1))


def test_a_teacher_sees_the_version_that_its_student_sees():
    data = Photos(arrays(N), augment=EVERY, scenario={"regime": "full_access"})
    [batch] = data.train_dataloader()
    for column, name in enumerate(batch.modalities):
        present = batch.presence[:, column]
        assert 0 < int(present.sum()) < len(present)
        assert torch.equal(batch.inputs[name][present], batch.teacher.inputs[name][present])


class Encoder(nn.Module):
    """Frozen, and counts the samples that it encodes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(240, 4).requires_grad_(False)
        self.eval()
        self.samples = 0

    def forward(self, x, lengths):
        self.samples += len(x)
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("views", [None, 2])
def test_a_frozen_encoder_runs_once_a_version_and_gives_what_it_would_give_anew(
    views, shared, tmp_path, monkeypatch
):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path))
    data = Photos(arrays(N), batch_size=5, augment=EVERY, views=views)
    torch.manual_seed(0)
    encoder, count = Encoder(), len(data.split("train"))
    if shared:
        share_between_runs(encoder)
    epoch = 0
    batches = data.train_dataloader(epoch=lambda: epoch)
    for epoch in range(12):  # noqa: B007 - it is read by the loader
        for batch in batches:
            z = batch.embed("photo", encoder)
            before = encoder.samples
            x = batch.inputs["photo"]
            wanted = encoder(x, None) * batch.has("photo")[:, None]
            encoder.samples = before
            torch.testing.assert_close(z, wanted)
    assert encoder.samples == (12 * count if views is None else views * count)


def test_who_trains_by_a_trainer_sees_another_version_in_each_of_its_epochs():
    data = Photos(arrays(N), batch_size=12, augment=EVERY)
    train = data.split("train")
    one = int(train.samples.sample_id[train.presence[:, 0]][0])
    method, seen = ZeroFill(data.task, dim=8), []
    loss = method.loss

    def noted(batch):
        seen.append(batch.inputs["photo"][batch.sample_id == one])
        return loss(batch)

    method.loss = noted
    fit(method, data, KeepBest(data, "accuracy", "last", None), 3)
    versions = [x for x in seen if len(x)]
    wanted = [epoch[one][0][None] for epoch in epochs(data, 3)]
    assert all(torch.equal(a, b) for a, b in zip(versions, wanted, strict=True))
    assert not any(torch.equal(a, b) for a, b in pairwise(versions))
    assert Fitting(data)._epoch() == 0


# --- what a suite says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": {"foto": ["flip"]}}, "augment.foto is no modality; did you mean 'photo'?"),
        ({"augment": {"photo": ["flap"]}}, "'flap' does not exist; did you mean 'flip'?; of kind"),
        ({"augment": {"photo": ["noise"]}}, "'noise' does not fit; of kind image there are flip,"),
        ({"views": 2}, "views must be at least 1 and belongs to augment"),
        ({"augment": EVERY, "views": 0}, "views must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(settings, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        Photos(arrays(N), **settings).require_scenario()
    assert message in str(caught.value)


def test_what_a_scenario_hides_inside_a_modality_is_not_moved():
    hide = {"train": {"mechanism": "patches", "patch_rate": 0.5}}
    data = Photos(arrays(N), augment=EVERY, scenario=hide)
    with pytest.raises(ValueError, match="patches hides entries inside photo in training"):
        data.require_scenario()
    Photos(arrays(N), augment={"scan": ["flip"]}, scenario=hide).require_scenario()


def test_no_augmentation_is_there_for_texts():
    texts = Modality("note", "tokens", (5,), 9)
    with pytest.raises(ValueError, match="of kind tokens there are none"):
        Augmentation({"note": ["noise"]}).check(Task("single_label", (texts,), ("a", "b")))


def suite(tmp_path, **args):
    settings = {
        "name": "s",
        "data": [{"name": "openmoji", "args": {"modalities": ["image", "english"], **args}}],
        "methods": ["zero_fill"],
        "scenarios": [
            {"name": "n", "train": {"mechanism": "natural"}, "test": {"mechanism": "natural"}}
        ],
        "seeds": 1,
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(settings))
    return settings


def test_it_is_part_of_the_key_of_a_run_and_of_its_record(tmp_path):
    asked = [{}, {"augment": {"image": ["flip"]}}, {"augment": {"image": ["flip"]}, "views": 2}]
    planned = [plan(parse(Suite, suite(tmp_path, **args), "s"))[0] for args in asked]
    assert len({spec.key for spec in planned}) == 3
    assert planned[1].to_json()["data_args"]["augment"] == {"image": ["flip"]}


def test_a_wrong_name_in_a_suite_ends_with_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    suite(tmp_path, augment={"image": ["flip", "crap"]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mmbench", "run", "s.yaml"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "augment.image: 'crap' does not exist; did you mean 'crop'?" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "results").exists()
