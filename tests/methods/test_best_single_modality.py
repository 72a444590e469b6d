import warnings

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.batch import Batch, zero_absent
from mmbench.data.task import Modality, Task
from mmbench.methods.best_single_modality import BestSingleModality

TASK = Task("single_label", tuple(Modality(m, "vector", (3,)) for m in "abc"), ("no", "yes"))


def noisy_batch(seed, flips, rates, n=400):
    """Modality m tells the class but for a share `flips[m]`, and is absent at `rates[m]`."""
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (n,), generator=g)
    presence = torch.rand(n, 3, generator=g) >= torch.tensor(rates)
    presence[~presence.any(1), 2] = True
    inputs = {}
    for m, name in enumerate(TASK.names):
        told = torch.where(torch.rand(n, generator=g) < flips[m], 1 - target, target)
        x = 0.1 * torch.randn(n, 3, generator=g) + (2.0 * told - 1)[:, None]
        inputs[name] = zero_absent(x, presence[:, m])
    return Batch(TASK.names, inputs, presence, target, torch.arange(n))


def fit(flips, train_rates, val_rates):
    torch.manual_seed(0)
    method = BestSingleModality(TASK, dim=8, dropout=0.0, lr=1e-2)
    train, val = noisy_batch(0, flips, train_rates), noisy_batch(1, flips, val_rates)
    method.prepare([train])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers and sizes of this toy loader
        Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        ).fit(method, DataLoader([train] * 40, batch_size=None))
    method.eval().compare_candidates([(val.blind(), val.target)])
    return method, val


@pytest.mark.parametrize("informative", [0, 1, 2])
def test_training_finds_the_modality_that_tells_the_class(informative):
    flips = [0.5, 0.5, 0.5]
    flips[informative] = 0.05
    method, val = fit(flips, [0.3] * 3, [0.3] * 3)
    assert method.best.item() == informative
    right = method(val).argmax(1) == val.target
    there = val.presence[:, informative]
    assert right[there].float().mean() > 0.9
    assert torch.equal(method(val)[~there], method.prior.expand(int((~there).sum()), -1))


@pytest.mark.parametrize(("rate", "best"), [(0.0, 0), (0.9, 1)])
def test_a_modality_that_validation_lacks_too_often_is_not_the_best(rate, best):
    # alone, the first is better; where it is absent, its prediction is the class frequency
    method, _ = fit([0.02, 0.2, 0.5], [0.0] * 3, [rate, 0.0, 0.0])
    assert method.best.item() == best


def test_only_the_best_modality_decides():
    torch.manual_seed(0)
    method = BestSingleModality(TASK, dim=8).eval()
    method.best.fill_(1)
    batch = make_batch(TASK, torch.ones(6, 3, dtype=torch.bool))
    others = batch.hide(torch.tensor([True, False, True]).expand(6, 3))
    assert torch.equal(method(batch), method(others))


def test_the_loss_trains_each_network_on_the_samples_that_have_its_modality():
    torch.manual_seed(0)
    method = BestSingleModality(TASK, dim=8).eval()
    batch = make_batch(TASK, all_patterns(TASK))
    wanted = 0.0
    for m, name in enumerate(TASK.names):
        rows = [i for i in range(len(batch)) if batch.presence[i, m]]
        z = method.encode.encoders[name](batch.inputs[name][rows], None)
        wanted += F.cross_entropy(method.heads[m](z), batch.target[rows])
    torch.testing.assert_close(method.loss(batch)["task"], wanted)


def test_a_modality_that_nobody_has_gets_no_gradient():
    method = BestSingleModality(TASK, dim=8)
    method.loss(make_batch(TASK, torch.tensor([[True, False, True]] * 4)))["task"].backward()

    def reached(part):
        return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())

    assert [reached(part) for part in method.heads] == [True, False, True]
    assert [reached(part) for part in method.encode.in_order] == [True, False, True]
