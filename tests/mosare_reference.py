"""MoSARe as its equations stand, slowly: what the fast form is held against.

One forward pass for each loss, and one more by which prototypes move; heads, experts, pairs and
modalities one after the other; every expert on every token, though all but one are then multiplied
by zero; all gene tokens at once.
The weights are those of the method under test. What the released code computes otherwise
(`official`) is written from its text: the norm with the unbiased standard deviation, and the
network that reads a vector.
"""

import torch
import torch.nn.functional as F

from mmbench.layers.mixture import DiagonalMixture
from mmbench.methods.mosare import GeneTokens


def step(method, batch):
    """One training step's losses and gradients: a forward and a backward pass for each loss."""
    losses = {}
    if method.training:
        with torch.no_grad():
            *_, h = forward(method, batch)
        method.prototypes.update(h, method.member(batch))
    for goal in method.goals:
        terms = LOSSES[goal](method, batch, forward(method, batch))
        sum(terms.values()).backward()
        losses |= {name: term.detach() for name, term in terms.items()}
    return losses


def forward(method, batch):
    """Everything that the losses need, modality by modality."""
    names = batch.modalities
    c = [batch.has(name).float()[:, None] for name in names]
    views = [view(method, m, batch) for m in range(len(names))]
    g = [c[m] * whole for m, (whole, _) in enumerate(views)]
    t = [c[m][:, None] * local for m, (_, local) in enumerate(views)]
    if method.pick is not None:
        t = [experts_on_all(method.pick, m, t[m]) for m in range(len(names))]
    z_global, z_local = [], []
    for m in range(len(names)):
        partners = [a for a in range(len(names)) if a != m]
        read = [block(method, 0, m, a, g[m][:, None], g[a][:, None])[:, 0] for a in partners]
        z_global.append(c[m] * sum(read) / len(read))
        read = [block(method, 1, m, a, t[m], t[a]) for a in partners]
        z_local.append(c[m] * (sum(read) / len(read)).sum(1) / 2)
    levels = []
    for level, z in enumerate((z_global, z_local)):
        x = sum(z)
        d = [decoded(method.decode[level], m, x) for m in range(len(names))]
        full = [c[m] * z[m] + (1 - c[m]) * d[m] for m in range(len(names))]
        levels.append((z, x, d, full))
    h = 0
    final = method.final
    for *_, full in levels:
        for vector in full:
            gates = top_k(final.gate(vector), final.k)
            answers = all_experts(final.experts, vector, range(gates.shape[1]))
            h = h + (gates[:, None] * answers).sum(2)
    return c, levels, h


def view(method, m, batch):
    """Global vector and local tokens of one modality, before they are masked."""
    own = method.views[m]
    x, lengths = batch.inputs[own.name], batch.lengths.get(own.name)
    if own.mixture is not None:
        known = batch.embeddings and batch.embeddings.embed(own.name, own.mixture)
        local = own.local(component_means(own.mixture, x, lengths) if known is None else known)
    elif isinstance(own.local, GeneTokens):
        local = gene_tokens(own.local, x)
    else:
        local = own.local(x, lengths)
    return own.whole(local.mean(1)) if own.of_mean else own.whole(x, lengths), local


def component_means(mixture: DiagonalMixture, x, lengths):
    bags = []
    for b, bag in enumerate(x):
        bag = bag if lengths is None else bag[: lengths[b]]
        r = mixture.posterior(bag)
        top = r.T @ bag + 0.01 * mixture.mean
        bags.append(top / (r.sum(0) + 0.01)[:, None])
    return torch.stack(bags)


def gene_tokens(net, x):
    u = net.embed(x[:, :, None]).unflatten(2, (-1, net.hidden))  # (B, G, C, H)
    tokens = []
    for head in range(u.shape[2]):
        own = u[:, :, head]
        gate = own @ net.gate[head] + net.gate_bias[head]
        signal, gate = gate.chunk(2, dim=2)
        share = ((signal.tanh() * gate.sigmoid()) @ net.score[head]).softmax(1)
        tokens.append(net.out((share * own).sum(1)))
    return torch.stack(tokens, 1)


def experts_on_all(pick, m, t):
    """Experts on every token; then the tokens that are not chosen are multiplied by zero."""
    rows = t.flatten(0, 1)
    logits = rows @ pick.gate[m] + pick.gate_bias[m]
    gates = top_k(logits, pick.k)
    count = gates.shape[1]
    answers = all_experts(pick.experts, rows, range(m * count, (m + 1) * count))
    y = (gates[:, None] * answers).sum(2).view_as(t)
    if pick.score is None:
        return y
    score = t @ pick.score[m]
    mask = torch.zeros_like(score).scatter(1, score.topk(pick.active, dim=1).indices, 1.0)
    if pick.score.requires_grad:
        p = score.softmax(1)
        mask = mask * (1 + p - p.detach())
    return y * mask[:, :, None]


def top_k(logits, k):
    share = logits.softmax(1)
    mask = torch.zeros_like(share).scatter(1, share.topk(k, dim=1).indices, 1.0)
    return share * mask / (share * mask).sum(1, keepdim=True)


def all_experts(bank, x, which):
    answers = []
    for e in which:
        hidden = torch.relu(F.linear(x, bank.w1[e], bank.b1[e]))
        answers.append(hidden @ bank.w2[e] + bank.b2[e])
    return torch.stack(answers, 2)


def block(method, level, m, a, x, y):
    """GA(x_m, x_a): attention head by head, then the feed-forward network."""
    net = method.attend[level]
    pair = m * (len(method.views) - 1) + (a if a < m else a - 1)
    q = x @ net.query[pair] + net.query_bias[pair]
    k = y @ net.key[pair] + (0 if net.key_bias is None else net.key_bias[pair])
    v = y @ net.value[pair] + net.value_bias[pair]
    size = x.shape[2] // net.heads
    heads = []
    for head in range(net.heads):
        own = slice(head * size, (head + 1) * size)
        score = q[..., own] @ k[..., own].transpose(1, 2) / size**0.5
        heads.append((score.sigmoid() if net.gate else score.softmax(2)) @ v[..., own])
    read = torch.cat(heads, 2) @ net.out[pair] + net.out_bias[pair]
    norm = released_norm if method.official else layer_norm
    x = norm(x + net.drop(read), net.norm1[pair], net.norm1_bias[pair])
    hidden = net.drop(torch.relu(x @ net.w1[pair] + net.b1[pair]))
    answer = net.drop(hidden @ net.w2[pair] + net.b2[pair])
    return norm(x + answer, net.norm2[pair], net.norm2_bias[pair])


def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:]) * weight + bias


def released_norm(x, weight, bias):
    """a (x - mean) / (std + 1e-6) + b, std with n - 1."""
    centred = x - x.mean(-1, keepdim=True)
    std = (centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
    return weight * centred / (std + 1e-6) + bias


def decoded(net, m, x):
    return torch.relu(x @ net.w1[m] + net.b1[m]) @ net.w2[m] + net.b2[m]


def supervised(method, batch, passed):
    c, levels, h = passed
    auxiliary, reconstruction = 0, 0
    for head, (z, _, d, full) in zip(method.auxiliary, levels, strict=True):
        for m in range(len(c)):
            auxiliary = auxiliary + method.task_loss(head(full[m]), batch.target)
            error = (c[m] * (d[m] - z[m]) ** 2).sum()
            reconstruction = reconstruction + error / h.shape[1] / len(batch)
    return {
        "task": method.task_loss(method.head(h), batch.target),
        "auxiliary": auxiliary,
        "reconstruction": reconstruction,
    }


def symmetric(method, batch, passed):
    c, levels, _ = passed
    total = 0
    for z, x, *_ in levels:
        for m in range(len(c)):
            there = c[m][:, 0] > 0
            if there.any():
                total = total + info_nce(z[m][there], x[there]) / len(c)
    return {"symmetric": method.lambda_sym * total}


def info_nce(z, x, temperature=0.01):
    """Both directions, sample by sample."""
    cosine = F.cosine_similarity(z[:, None], x[None], dim=2) / temperature
    rows = [-torch.log_softmax(cosine[i], 0)[i] for i in range(len(z))]
    columns = [-torch.log_softmax(cosine[:, i], 0)[i] for i in range(len(z))]
    return 0.5 * sum(rows) / len(rows) + 0.5 * sum(columns) / len(columns)


def prototype(method, batch, passed):
    _, _, h = passed
    unit = h / h.norm(dim=1, keepdim=True)
    logits = [(unit @ own.T).amax(1) for own in method.prototypes.mean]
    loss = method.task_loss(torch.stack(logits, 1), batch.target)
    return {"prototype": method.lambda_mcl * loss}


LOSSES = {"supervised": supervised, "symmetric": symmetric, "prototype": prototype}
