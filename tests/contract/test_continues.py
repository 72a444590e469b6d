"""Every method that is cut off, twice, ends with the bits of one that never was."""

import os
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from sweeps import NO_DATA, specs

from mmbench.bench.record import find_run, read_predictions
from mmbench.bench.run import training
from mmbench.bench.run.checkpoint import Checkpoints
from mmbench.bench.run.run import run
from mmbench.bench.spec import parameters
from mmbench.registry import METHODS

TRAINED = [name for name in METHODS.names() if METHODS.get(name).applies.trains]
VIEWS = [{"name": "mfeat", "args": {"modalities": ["fou", "kar"]}}]
SOUND = [{"name": "synthetic", "args": {"kinds": ["sequence", "vector"], "unique": [1, 1]}}]


class Cut(Callback):
    """Ends everything at the beginning of a batch, and counts batches."""

    def __init__(self, at=None):
        self.at = at
        self.batches = 0

    def on_train_batch_start(self, *_):
        if self.batches == self.at:
            raise KeyboardInterrupt
        self.batches += 1


def spec_of(name):
    known = {each.name for each in parameters(METHODS.get(name))}
    small = {"warm_epochs": 2, "dim": 24}  # which 4, 6 and 8 heads share
    args = {key: value for key, value in small.items() if key in known}
    reads_steps = set(METHODS.get(name).applies.one_of) & {"bag", "sequence"}
    [spec] = specs(
        data=SOUND if reads_steps else VIEWS,
        methods=[{"name": name, "args": args}],
        trainer={"max_epochs": 3, "batch_size": 16, "checkpoint_minutes": 0},
        keep_weights=True,
        limit=48,
    )
    return spec


@pytest.fixture
def cut(monkeypatch):
    """Give every trainer a callback that may end it."""
    plain = training.make_trainer

    def use(callback):
        def made(spec, folder, callbacks, *rest):
            return plain(spec, folder, [*callbacks, callback], *rest)

        monkeypatch.setattr(training, "make_trainer", made)
        return callback

    return use


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_that_is_cut_off_twice_ends_with_the_same_bits(name, cut, tmp_path):
    end_alike(spec_of(name), cut, tmp_path)


def test_augmentation_goes_on_with_the_epoch_that_was_cut_off(cut, tmp_path):
    [spec] = specs(
        data=[
            {
                "name": "openmoji",
                "args": {
                    "modalities": ["image", "english"],
                    "augment": {"image": ["flip", "crop", "colour"]},
                },
            }
        ],
        methods=[{"name": "zero_fill", "args": {"dim": 24}}],
        trainer={"max_epochs": 3, "batch_size": 16, "checkpoint_minutes": 0},
        keep_weights=True,
        limit=48,
    )
    end_alike(spec, cut, tmp_path)


def end_alike(spec, cut, tmp_path):
    """A run that is cut off twice has the weights, predictions and curve of one that never was."""
    counter = cut(Cut())
    assert run(spec, tmp_path / "whole", NO_DATA).state == "done"
    rng = np.random.default_rng(zlib.crc32(spec.method.encode()))
    third = counter.batches // 3
    # the first after a whole epoch, so that there is something to go on from
    for first, last in ((3, 2 * third), (1, third)):
        cut(Cut(at=int(rng.integers(first, last))))
        with pytest.raises(KeyboardInterrupt):
            run(spec, tmp_path / "cut", NO_DATA)
    cut(Cut())
    assert run(spec, tmp_path / "cut", NO_DATA).state == "done"
    whole, gone_on = (
        load_file(tmp_path / r / spec.folder / "weights.safetensors") for r in ("whole", "cut")
    )
    assert whole.keys() == gone_on.keys()
    assert [key for key in whole if not torch.equal(whole[key], gone_on[key])] == []
    for condition in ("complete", "mcar_0.3"):
        ends = [read_predictions(find_run(spec, tmp_path / r), condition) for r in ("whole", "cut")]
        np.testing.assert_array_equal(ends[0]["logits"], ends[1]["logits"])
    curves = [(tmp_path / r / spec.folder / "metrics.csv").read_text() for r in ("whole", "cut")]
    assert curves[0] == curves[1]
    assert not list((tmp_path / "cut").rglob("*.ckpt"))


def test_a_training_that_is_cut_off_goes_on_and_does_not_begin_anew(cut, tmp_path):
    spec = spec_of("zero_fill")
    cut(Cut(at=7))  # three batches an epoch: the third has begun
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path, NO_DATA)
    rest = cut(Cut())
    assert run(spec, tmp_path, NO_DATA).state == "done"
    assert rest.batches == 3


def test_a_short_training_writes_no_checkpoint(cut, tmp_path):
    spec = spec_of("zero_fill")
    spec = replace(spec, trainer_args={**spec.trainer_args, "checkpoint_minutes": 1.0})
    cut(Cut(at=7))
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path, NO_DATA)
    rest = cut(Cut())
    assert run(spec, tmp_path, NO_DATA).state == "done"
    assert rest.batches == 9


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_checkpoint_that_was_cut_short_is_none(share, tmp_path):
    file = tmp_path / "some.ckpt"
    checkpoints = Checkpoints(file, 1.0, tmp_path / "metrics.csv")
    assert checkpoints.newest is None
    torch.save({"weights": torch.zeros(999)}, file)
    assert checkpoints.newest == file
    os.truncate(file, int(share * file.stat().st_size))
    assert checkpoints.newest is None
