import multiprocessing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data import embeddings
from mmbench.data.embeddings import Embeddings, share_between_runs, stored_embeddings
from mmbench.data.task import Modality, Task


class Encoder(nn.Module):
    def __init__(self, seed=0, log=None):
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(4, 3).requires_grad_(False)
        self.log = log
        self.runs = 0
        self.eval()
        share_between_runs(self)

    def forward(self, x, lengths):
        self.runs += 1
        if self.log is not None:
            with self.log.open("a") as file:
                file.write("run\n")
        return self.linear(x)[:, None].expand(-1, 2, -1)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))


X = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))


def parts(x=X):
    return [(part, None) for part in x.split(4)]


def test_a_second_encoder_with_the_same_weights_reads_what_the_first_wrote(tmp_path):
    first, second = Encoder(), Encoder()
    made = stored_embeddings(first, parts, 10)
    torch.testing.assert_close(made, first.linear(X)[:, None].expand(-1, 2, -1))
    assert torch.equal(stored_embeddings(second, parts, 10), made)
    assert (first.runs, second.runs) == (3, 0)
    [file] = (tmp_path / "cache").glob("*/embeddings.npy")
    assert np.array_equal(np.load(file), made.numpy())
    made[0] = 7.0  # stays here
    assert not torch.equal(stored_embeddings(second, parts, 10), made)


def test_other_weights_or_inputs_make_another_file(tmp_path):
    stored_embeddings(Encoder(), parts, 10)
    changed = X.clone()
    changed[9, 3] += 1e-6
    for encoder, x in ((Encoder(seed=1), X), (Encoder(), changed)):
        stored_embeddings(encoder, lambda x=x: parts(x), 10)
        assert encoder.runs == 3
    assert len(list((tmp_path / "cache").glob("*/embeddings.npy"))) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda encoder: setattr(encoder, "pool", "max"),
        lambda encoder: setattr(encoder.linear, "scale", 0.5),
        lambda encoder: setattr(encoder, "steps", (3, [4])),
        lambda encoder: encoder.register_buffer("mean", torch.zeros(4), persistent=False),
        lambda encoder: encoder.add_module("last", nn.Identity()),
    ],
)
def test_what_shows_in_no_weight_makes_another_file_too(change):
    stored_embeddings(Encoder(), parts, 10)
    encoder = Encoder()
    change(encoder)
    stored_embeddings(encoder, parts, 10)
    assert encoder.runs == 3


def test_other_code_makes_another_file(monkeypatch):
    stored_embeddings(Encoder(), parts, 10)
    monkeypatch.setattr(embeddings, "_made_of", lambda *made: {"sources": "tomorrow's"})
    encoder = Encoder()
    stored_embeddings(encoder, parts, 10)
    assert encoder.runs == 3


def test_a_build_that_was_cut_off_is_made_again(tmp_path):
    class Dies(Encoder):
        def forward(self, x, lengths):
            if self.runs == 2:
                raise KeyboardInterrupt
            return super().forward(x, lengths)

    dies = Dies()
    dies.__class__.__qualname__ = Encoder.__qualname__
    with pytest.raises(KeyboardInterrupt):
        stored_embeddings(dies, parts, 10)
    assert not list((tmp_path / "cache").glob("[!.]*"))
    encoder = Encoder()
    made = stored_embeddings(encoder, parts, 10)
    torch.testing.assert_close(made[:, 0], encoder.linear(X))


def _in_a_process(log):
    torch.set_num_threads(1)
    assert stored_embeddings(Encoder(log=Path(log)), parts, 10).shape == (10, 2, 3)


def test_of_several_processes_one_builds(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_in_a_process, args=(log,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 3
    assert len(log.read_text().split()) == 3  # parts, not three times as many


def test_a_split_serves_them_to_all_runs():
    task = Task("single_label", (Modality("a", "vector", (4,)),), ("x", "y"))
    batch = make_batch(task, all_patterns(task, 10))
    rows = torch.tensor([8, 2, 5])
    part = replace(
        batch,
        inputs={"a": batch.inputs["a"][rows]},
        presence=batch.presence[rows],
        target=batch.target[rows],
        sample_id=batch.sample_id[rows],
    )
    for run, expected in ((Encoder(), 3), (Encoder(), 0)):
        split = Embeddings(10, lambda name: parts(batch.inputs[name]))
        seen = part.with_embeddings(split, rows).embed("a", run)
        torch.testing.assert_close(seen[:, 1], run.linear(part.inputs["a"]))
        assert run.runs == expected
    learns = Encoder()
    learns.linear.requires_grad_(True)
    part.with_embeddings(split, rows).embed("a", learns)
    assert learns.runs == 1


def test_an_encoder_is_named_by_its_own_sources_and_the_libraries_versions():
    made = embeddings.described(Encoder())["code"]
    assert made["sources"].keys() >= {Encoder.__module__, "mmbench.data.embeddings"}
    assert not any(name.startswith("torch") for name in made["sources"])
    assert made["distributions"]["torch"] == version("torch")
