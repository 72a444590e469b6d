from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from mmbench.layers import mixture
from mmbench.layers.mixture import DiagonalMixture, diagonal_log_density, expectation_maximisation

K, F = 3, 4
CENTRES = torch.tensor([[4.0, 0, 0, 0], [-4, 1, 0, 0], [0, -4, 4, 0]])


def blobs(count=300, seed=0):
    g = torch.Generator().manual_seed(seed)
    which = torch.arange(count) % K
    return CENTRES[which] + 0.5 * torch.randn(count, F, generator=g), which


def fitted(**size):
    model = DiagonalMixture(K, F)
    model.fit([blobs(**size)[0]])
    return model


def test_the_log_density_is_that_of_torch():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(5, 7, F, generator=g)
    mean, variance = torch.randn(K, F, generator=g), 0.1 + torch.rand(K, F, generator=g)
    expected = Independent(Normal(mean, variance.sqrt()), 1).log_prob(x[:, :, None])
    torch.testing.assert_close(diagonal_log_density(x, mean, variance), expected)


def test_the_posterior_is_bayes_rule_and_sums_to_one():
    model = fitted()
    x = 3 * torch.randn(20, F, generator=torch.Generator().manual_seed(2))
    wide = Normal(model.mean.double(), model.variance.double().sqrt())
    joint = Independent(wide, 1).log_prob(x[:, None].double()).exp()
    joint = joint * model.log_weight.exp()
    r = model.posterior(x)
    torch.testing.assert_close(r.sum(1), torch.ones(20))
    expected = (joint / joint.sum(1, keepdim=True)).float()
    torch.testing.assert_close(r, expected, atol=1e-5, rtol=1e-3)


def test_a_fit_finds_blobs_their_spread_and_their_share():
    model = fitted(count=3000)
    nearest = torch.cdist(CENTRES, model.mean).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2]
    torch.testing.assert_close(model.mean[nearest], CENTRES, atol=0.06, rtol=0)
    torch.testing.assert_close(model.variance, torch.full((K, F), 0.25), atol=0.04, rtol=0)
    torch.testing.assert_close(model.log_weight.exp(), torch.full((K,), 1 / 3), atol=0.01, rtol=0)


def test_one_round_is_em_written_as_a_loop():
    x, _ = blobs(count=12)
    state = {
        "mean": x[:2].clone(),
        "variance": torch.ones(2, F),
        "log_weight": torch.tensor([0.3, 0.7]).log(),
        "round": torch.tensor(0),
    }
    found = mixture._round([x[:5], x[5:]], state)
    r = []
    for row in x:
        joint = [
            w * Normal(m, 1.0).log_prob(row).sum().exp()
            for m, w in zip(state["mean"], (0.3, 0.7), strict=True)
        ]
        r.append([float(j / sum(joint)) for j in joint])
    for k in range(2):
        mass = sum(part[k] for part in r)
        mean = sum(part[k] * row for part, row in zip(r, x, strict=True)) / mass
        square = sum(part[k] * (row - mean) ** 2 for part, row in zip(r, x, strict=True)) / mass
        torch.testing.assert_close(found["mean"][k], mean, atol=1e-5, rtol=1e-4)
        expected = square.clamp_min(mixture.LEAST_VARIANCE)
        torch.testing.assert_close(found["variance"][k], expected, atol=1e-4, rtol=1e-4)
        assert found["log_weight"][k].exp().item() == pytest.approx(mass / 12, abs=1e-5)


def test_the_likelihood_rises_with_every_round():
    x, _ = blobs()
    state, likelihoods = mixture._start([x], K), []
    for _ in range(8):
        state = mixture._round([x], state)
        likelihoods.append(state["likelihood"].item())
    assert all(later >= earlier - 1e-5 for earlier, later in pairwise(likelihoods))
    assert likelihoods[-1] > likelihoods[0] + 0.1


def test_how_rows_are_cut_into_pieces_does_not_matter():
    x, _ = blobs()
    whole, pieces = expectation_maximisation([x], K), expectation_maximisation(x.split(37), K)
    torch.testing.assert_close(whole["mean"], pieces["mean"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole["variance"], pieces["variance"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2])
def test_fewer_rows_than_components_give_finite_ones(rows):
    model = DiagonalMixture(K, F)
    model.fit([blobs()[0][:rows]])
    assert model.mean.isfinite().all()
    assert (model.variance >= mixture.LEAST_VARIANCE * 0.999).all()
    assert model(blobs()[0][None], None).isfinite().all()


def test_nothing_to_fit_changes_nothing():
    model = DiagonalMixture(K, F)
    model.fit([torch.zeros(0, F)])
    assert torch.equal(model.mean, torch.zeros(K, F))


def test_tokens_are_the_weighted_means_of_the_samples_own_instances():
    model = fitted()
    x, _ = blobs(count=24, seed=5)
    bags, lengths = x.view(3, 8, F), torch.tensor([8, 5, 1])
    tokens = model(bags, lengths)
    for b, length in enumerate(lengths.tolist()):
        own = bags[b, :length]
        r = model.posterior(own)
        for k in range(K):
            top = sum(r[n, k] * own[n] for n in range(length)) + 0.01 * model.mean[k]
            torch.testing.assert_close(tokens[b, k], top / (r[:, k].sum() + 0.01))
    # the third bag has one instance: the components that it does not know stay where they are
    nearest = torch.cdist(bags[2, :1], model.mean).argmin()
    others = [k for k in range(K) if k != nearest]
    torch.testing.assert_close(tokens[2, others], model.mean[others], atol=1e-3, rtol=0)


def test_tokens_know_no_order_and_no_padding():
    model = fitted()
    x, _ = blobs(count=20, seed=3)
    bag = x.view(1, 20, F)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(bag[:, order], None), model(bag, None), atol=1e-5, rtol=1e-5)
    padded = torch.cat([bag, torch.full((1, 6, F), torch.nan)], 1)
    tokens = model(padded, torch.tensor([20]))
    torch.testing.assert_close(tokens, model(bag, None), atol=1e-5, rtol=1e-5)


def test_a_mixture_is_frozen():
    assert not any(p.requires_grad for p in DiagonalMixture(K, F).parameters())


def kept_rounds(monkeypatch, tmp_path):
    monkeypatch.setattr(mixture, "WORTH_KEEPING", 0)
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path))
    rounds, original = [], mixture._round

    def counting(rows, state, held):
        rounds.append(int(state["round"]))
        return original(rows, state, held)

    monkeypatch.setattr(mixture, "_round", counting)
    return rounds


def test_a_large_fit_is_made_once_for_the_same_rows(monkeypatch, tmp_path):
    rounds = kept_rounds(monkeypatch, tmp_path)
    first = fitted()
    made = len(rounds)
    assert made > 1
    again = fitted()
    assert len(rounds) == made
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.log_weight, again.log_weight)
    fitted(seed=9)  # other rows
    assert len(rounds) > made
    assert len([f for f in tmp_path.iterdir() if f.is_dir()]) == 2


def test_a_fit_that_was_cut_off_goes_on_with_the_next_round(monkeypatch, tmp_path):
    rounds = kept_rounds(monkeypatch, tmp_path)
    whole = fitted()
    expected = list(rounds)
    for folder in tmp_path.iterdir():
        if folder.is_dir():
            folder.rename(tmp_path / "elsewhere")
    rounds.clear()
    counting = mixture._round

    def killed(rows, state, held):
        if state["round"] == 2:
            raise KeyboardInterrupt
        return counting(rows, state, held)

    monkeypatch.setattr(mixture, "_round", killed)
    with pytest.raises(KeyboardInterrupt):
        fitted()
    monkeypatch.setattr(mixture, "_round", counting)
    resumed = fitted()
    assert rounds == expected  # none was made twice
    assert torch.equal(resumed.mean, whole.mean)
    assert torch.equal(resumed.variance, whole.variance)


def test_what_lies_in_the_cache_needs_no_pickle(monkeypatch, tmp_path):
    kept_rounds(monkeypatch, tmp_path)
    fitted()
    (kept,) = tmp_path.glob("*/last_round.npz")
    with np.load(kept, allow_pickle=False) as arrays:
        assert set(arrays.files) == {
            "mean",
            "variance",
            "log_weight",
            "round",
            "likelihood",
            "ended",
        }


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 component, found 0"):
        DiagonalMixture(0, F)
