"""Learning rates over a training: what a step gets, and that nothing else changes."""

import math

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from sweeps import NO_DATA, specs
from torch.utils.data import DataLoader

from mmbench.bench.run.run import run
from mmbench.bench.run.schedule import Schedule


def test_the_factor_rises_to_one_and_falls_along_half_a_cosine():
    factors = [Schedule(0.2, "cosine").factor(step, 10) for step in range(10)]
    assert factors[:2] == [0.5, 1.0]
    by_hand = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert factors[2:] == pytest.approx(by_hand)
    assert min(factors) > 0


def test_a_warm_up_alone_stays_at_one_and_a_cosine_alone_begins_there():
    assert [Schedule(0.5, None).factor(step, 4) for step in range(4)] == [0.5, 1, 1, 1]
    assert Schedule(0.0, "cosine").factor(0, 4) == 1


class Own(LightningModule):
    """One parameter with gradient 1 under plain descent whose own schedule halves the rate."""

    def __init__(self, *, halves):
        super().__init__()
        self.w, self.halves, self.seen = torch.nn.Parameter(torch.zeros(())), halves, []

    def training_step(self, batch, batch_idx):
        self.seen.append(self.w.item())
        return self.w

    def configure_optimizers(self):
        descent = torch.optim.SGD([self.w], lr=1.0)
        if not self.halves:
            return descent
        own = torch.optim.lr_scheduler.ExponentialLR(descent, 0.5)
        return {"optimizer": descent, "lr_scheduler": {"scheduler": own, "interval": "step"}}


@pytest.mark.parametrize("halves", [False, True])
def test_each_step_takes_the_factor_and_the_schedule_of_the_method(halves):
    module, schedule = Own(halves=halves), Schedule(0.5, "cosine")
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[schedule], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.zeros(3, 1)))
    taken = -torch.tensor([*module.seen, module.w.item()]).diff()
    own = [0.5**step if halves else 1.0 for step in range(6)]
    by_hand = [schedule.factor(step, 6) * own[step] for step in range(6)]
    assert taken.tolist() == pytest.approx(by_hand)


def test_a_schedule_is_part_of_the_key_and_none_is_the_default(tmp_path):
    def key(**trainer):
        return specs(methods=["zero_fill"], trainer={"max_epochs": 2} | trainer)[0].key

    assert len({key(), key(warm_up=0.5), key(decay="cosine")}) == 3
    assert key() == key(warm_up=None)
    settings = {"max_epochs": 2, "warm_up": 0.5, "decay": "cosine"}
    spec = specs(methods=["zero_fill"], trainer=settings)[0]
    assert run(spec, tmp_path, NO_DATA).state == "done"


@pytest.mark.parametrize("wrong", [{"warm_up": 1.0}, {"warm_up": -0.1}, {"decay": "linear"}])
def test_a_schedule_that_there_is_not_is_an_error(wrong):
    with pytest.raises(ValueError, match=rf"trainer\.{next(iter(wrong))}"):
        specs(trainer=wrong)
