import math

import pytest
import torch
from torch import nn

from mmbench.layers.attention import (
    GatedAttentionPool,
    PreNormBlock,
    SelfAttention,
    TransformerStack,
)

LAYERS = {
    "attention": lambda: SelfAttention(8, heads=2),
    "block": lambda: PreNormBlock(8, heads=2),
    "stack": lambda: TransformerStack(8, 2, heads=2),
    "pool": lambda: GatedAttentionPool(8, heads=3),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    return LAYERS[request.param]()


@pytest.fixture
def tokens():
    return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))


PRESENT = torch.tensor(
    [[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1], [0, 0, 0, 1, 0, 0], [0, 1, 1, 1, 1, 0]]
).bool()


def read(layer, x, present):
    """Outputs that have a meaning: all of a pool's, those at present tokens otherwise."""
    z = layer(x, present)
    return z if isinstance(layer, GatedAttentionPool) else z[present]


@torch.no_grad()
def test_attention_is_the_written_formula(tokens):
    torch.manual_seed(0)
    layer = SelfAttention(8, heads=2)
    q, k, v = layer.qkv.weight.split(8)
    for sample, there, got in zip(tokens, PRESENT, layer(tokens, PRESENT), strict=True):
        seen = sample[there]
        for token, z in zip(sample, got, strict=True):
            heads = []
            for part in (slice(0, 4), slice(4, 8)):
                weights = [math.exp((q @ token)[part] @ (k @ s)[part] / 2.0) for s in seen]
                mixed = sum(w * (v @ s)[part] for w, s in zip(weights, seen, strict=True))
                heads.append(mixed / sum(weights))
            torch.testing.assert_close(z, layer.out(torch.cat(heads)), atol=1e-5, rtol=1e-5)


def test_block_computes_what_the_layer_of_torch_computes(tokens):
    torch.manual_seed(0)
    ours = PreNormBlock(8, heads=2)
    theirs = nn.TransformerEncoderLayer(
        8, 2, 32, 0.0, nn.functional.gelu, batch_first=True, norm_first=True
    )
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.attend.qkv.weight)
        theirs.self_attn.in_proj_bias.zero_()
    theirs.self_attn.out_proj.load_state_dict(ours.attend.out.state_dict())
    theirs.linear1.load_state_dict(ours.mlp[0].state_dict())
    theirs.linear2.load_state_dict(ours.mlp[3].state_dict())
    for norm in (ours.norm_attend, ours.norm_mlp, theirs.norm1, theirs.norm2):
        nn.init.constant_(norm.bias, 0.1)
    want = theirs(tokens, src_key_padding_mask=~PRESENT)[PRESENT]
    torch.testing.assert_close(ours(tokens, PRESENT)[PRESENT], want, atol=1e-5, rtol=1e-5)


def test_absent_tokens_are_never_read(layer, tokens):
    noisy = torch.where(PRESENT[:, :, None], tokens, 1e3 * torch.randn_like(tokens))
    torch.testing.assert_close(
        read(layer, tokens, PRESENT), read(layer, noisy, PRESENT), atol=0, rtol=0
    )


@pytest.mark.parametrize("lengths", [[1, 1, 4], [3, 3, 3], [2, 5, 2], [6]], ids=str)
def test_packed_samples_are_read_as_if_each_was_alone(lengths):
    torch.manual_seed(0)
    layer = SelfAttention(8, heads=2)
    x = torch.randn(sum(lengths), 8)
    alone = [layer(part[None])[0] for part in x.split(lengths)]
    torch.testing.assert_close(layer.packed(x, lengths), torch.cat(alone))


def test_all_present_is_the_same_as_no_mask(layer, tokens):
    torch.testing.assert_close(layer(tokens, torch.ones(4, 6).bool()), layer(tokens))


def test_absent_tokens_may_as_well_be_cut_off(layer, tokens):
    present = torch.tensor([[1, 1, 1, 0, 0, 0]]).bool().expand(4, -1)
    want = read(layer, tokens[:, :3], present[:, :3])
    torch.testing.assert_close(read(layer, tokens, present), want, atol=1e-6, rtol=1e-5)


def test_gradients_stay_finite_where_no_token_is_present(layer, tokens):
    x = tokens.clone().requires_grad_()
    layer(x, PRESENT & torch.tensor([[1], [0], [1], [0]]).bool()).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_every_parameter_receives_a_gradient(layer, tokens):
    layer(tokens, PRESENT).square().sum().backward()
    assert not [name for name, p in layer.named_parameters() if p.grad.abs().max() < 1e-6]


def test_order_of_tokens_does_not_matter(layer, tokens):
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    z, shuffled = layer(tokens, PRESENT), layer(tokens[:, order], PRESENT[:, order])
    want = z if isinstance(layer, GatedAttentionPool) else z[:, order]
    torch.testing.assert_close(shuffled, want, atol=1e-6, rtol=1e-5)


def test_dropout_acts_in_training_only(tokens):
    torch.manual_seed(0)
    stack = TransformerStack(8, 2, heads=2, dropout=0.5)
    assert not stack(tokens).equal(stack(tokens))
    stack.eval()
    assert stack(tokens).equal(stack(tokens))


def test_heads_that_do_not_divide_the_width_are_refused_with_a_number_that_does():
    with pytest.raises(ValueError, match="5 heads cannot share a width of 64; take 4 heads"):
        SelfAttention(64, heads=5)


@torch.no_grad()
def test_gated_pool_is_equation_9_of_the_paper(tokens):
    torch.manual_seed(0)
    pool = GatedAttentionPool(8, heads=2)
    for sample, there, got in zip(tokens, PRESENT, pool(tokens, PRESENT), strict=True):
        for head in range(2):
            weights = [
                math.exp(
                    pool.score.weight[head]
                    @ (torch.tanh(pool.signal(x)) * torch.sigmoid(pool.gate(x)))
                )
                for x in sample[there]
            ]
            want = sum(w * x for w, x in zip(weights, sample[there], strict=True)) / sum(weights)
            torch.testing.assert_close(got[head], want, atol=1e-6, rtol=1e-5)


def test_gated_pool_of_nothing_is_zero(tokens):
    pool = GatedAttentionPool(8, heads=2)
    assert pool(tokens, torch.zeros(4, 6).bool()).abs().max() == 0
