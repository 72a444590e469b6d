from dataclasses import replace

import numpy as np
import pytest
import torch

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.neighbour_vote import NeighbourVote

MODALITIES = (Modality("a", "vector", (6,)), Modality("b", "vector", (4,)))
CLASSES = Task("single_label", MODALITIES, ("x", "y", "z"))
LABELS = Task("multi_label", MODALITIES, ("x", "y", "z"))
OUTCOME = Task("regression", MODALITIES, ("age", "score"))
WHOLE = torch.ones(30, 2).bool()


def build(task, presence=WHOLE, k=5):
    method = NeighbourVote(task, neighbours=k)
    train = make_batch(task, presence, seed=1)
    method.prepare([train])
    return method.eval(), train


def strangers(task):
    batch = make_batch(task, all_patterns(task, 4), seed=2)
    return replace(batch, sample_id=1000 + batch.sample_id)


def nearest(train, ask, i, k):
    """Ids of the k best by the sum of cosines of z-scores, written as the sentence says it."""
    score = torch.zeros(len(train)).double()
    for m, name in enumerate(train.modalities):
        if ask.presence[i, m]:
            x = train.inputs[name].double()
            z, q = ((v - x.mean(0)) / x.std(0, correction=0) for v in (x, ask.inputs[name][i]))
            score += torch.nn.functional.cosine_similarity(z, q[None], dim=1)
    return score.sort(descending=True).indices[:k], score


def voted(target, prior):
    worth = (1.0, 0.9999, 0.9998, 0.9997, 0.9996)
    return sum(w * y for w, y in zip(worth, target, strict=True)) + 1e-4 * prior


@pytest.mark.parametrize("task", [CLASSES, LABELS, OUTCOME], ids=lambda t: t.kind)
def test_neighbours_have_one_vote_each_and_the_prior_hardly_any(task):
    method, train = build(task)
    ask = strangers(task)
    output = method(ask)
    compared = 0
    for i in range(len(ask)):
        rows, score = nearest(train, ask, i, 5)
        rest = score.sort(descending=True).values
        if rest[4] - rest[5] < 5e-3:  # the memory rounds cosines
            continue
        compared += 1
        target = train.target[rows]
        if task.kind == "regression":
            expected = target.mean(0)
        elif task.kind == "multi_label":
            prior = (train.target.sum(0) + 1) / 32
            expected = (voted(target, prior) / (4.999 + 1e-4)).logit()
        else:
            counts = torch.bincount(train.target, minlength=3) + 1.0
            votes = voted(torch.eye(3)[target], counts / counts.sum())
            expected = (votes / (4.999 + 1e-4)).log()
        torch.testing.assert_close(output[i], expected, atol=1e-4, rtol=1e-4)
    assert compared > 6


@pytest.mark.parametrize("task", [CLASSES, LABELS, OUTCOME], ids=lambda t: t.kind)
def test_without_a_neighbour_the_prior_is_all_there_is(task):
    nobody_complete = all_patterns(task, 4)
    nobody_complete = nobody_complete[~nobody_complete.all(1)]
    method, _ = build(task, nobody_complete)
    assert torch.equal(method(strangers(task)), method.prior.expand(12, -1))
    # the only complete sample finds nobody but itself
    only = nobody_complete.clone()
    only[0] = True
    method, train = build(task, only)
    torch.testing.assert_close(method(train)[0], method.prior)
    assert not torch.allclose(method(train)[1], method.prior)


def test_a_sample_never_votes_for_itself_and_incomplete_ones_never_vote():
    presence = all_patterns(CLASSES, 10)
    method, train = build(CLASSES, presence, k=64)
    complete = presence.all(1)
    for row in range(len(train)):
        voters = complete.clone()
        voters[row] = False
        share = torch.bincount(train.target[voters], minlength=3) / voters.sum()
        # all that there are vote, once: the repetitions that fill up the list do not count
        torch.testing.assert_close(method(train)[row].exp(), share, atol=1e-3, rtol=0)


def test_as_many_votes_go_to_the_nearer_neighbour():
    train = make_batch(CLASSES, torch.ones(4, 2).bool(), seed=1)
    method = NeighbourVote(CLASSES, neighbours=2)
    # the frequent class is the one further away
    method.prepare([replace(train, target=torch.tensor([0, 1, 1, 1]))])
    ask = replace(train, sample_id=1000 + train.sample_id)
    rows = method.memory.neighbours(ask).rows
    assert method.memory.sample_id[rows[0, 0]] == 0
    assert method.eval()(ask)[0].argmax() == 0
    assert method(ask)[1].argmax() == 1


def test_it_says_by_which_features_samples_are_alike():
    method, batch = build(CLASSES)
    method.eval()(batch)
    shown = method.diagnostics()["retrieval"]
    assert shown.by.tolist() == ["values", "values"]
    assert (np.diff(shown.score, axis=1) <= 0).all()  # best first
