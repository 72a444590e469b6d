"""M3Care: fill the embedding of a missing modality from similar samples, by graph convolution.

Paper: Zhang et al., "M3Care: Learning with Missing Modalities in Multimodal Healthcare Data",
KDD 2022.
Idea: learned kernels say how alike two samples are in the modalities that they share. Samples
that are alike enough become neighbours, and a graph convolution over those neighbours that have
the modality stands in for it where it is missing. A transformer over modalities fuses.
Notation: a = presence (B, M); h embeddings (M, B, D); s similarity (B, B); A adjacency
(M, B, B), row i reads column j; g after two convolutions (M, B, D); h-tilde what is fused.
Differences from the paper:
- In evaluation the neighbours are anchors, up to `anchors` training samples kept for that, and
  never the other samples of a batch: a prediction depends on its sample alone. In training they
  are the batch, as in the paper, so batches should be large.
- Absent entries take no part in norms, bandwidths, similarities or as neighbours; norms and
  bandwidths are remembered for evaluation, one for each modality.
- The norms have no scale and shift of their own: distances do not see a shift. The threshold of
  similarity starts at 0.5 instead of the released 0.88, above which there are only duplicates,
  so that nothing could be filled in and no kernel would learn.
- Neighbours are averaged. The released code sums them, and what a sum means changes with the
  size of the batch.
- The released code also demands that the sample that is filled has the modality, so it has no
  neighbour at all and all gaps get one and the same vector; `variant="official"` does both.
- Every modality is filled and compared; in the released notebook, the two text modalities.
- Fusion layers are pre-norm with GELU inside, with a learned embedding for each modality and no
  other position. Dropout is where the released code has it: 0.5 of the branches of the fusion
  layers and of the head's hidden units, 0.1 of attention weights and of hidden units inside the
  layers. Embeddings, and the dropout in them, are the suite's.
- AdamW at 1e-3 without clipping of gradients; the released code takes Adam at 1e-4 with a weight
  decay of 1e-4 and norms of gradients clipped at 20, for 100 epochs of batches of 512. Twenty
  epochs of a thousand samples do not train it out at 3e-4 or less.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.attention import PreNormBlock
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.layers.retrieval import SupportBank
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Real, ranges

Embeddings = Float[Tensor, "modality batch dim"]
Presence = Bool[Tensor, "modality batch"]
Features = Float[Tensor, "view batch dim"]  # 2M views: learned and plain, of each modality

BANDWIDTHS = (1.0, 2.0, 4.0)  # in units of half the mean squared distance
LEAST_DEGREE = 1e-6  # a row without neighbours stays empty
LEAST_BANDWIDTH = 1e-3  # below it, all embeddings are the same
INSIDE = 0.1  # dropout of attention weights and hidden units of the fusion layers
MOMENTUM = 0.1  # of what is remembered for evaluation, as in torch's BatchNorm


class M3Care(Method):
    """Imputation of embeddings from similar samples.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's idea, or the neighbours of the released code.
        dim: D, width of embeddings.
        heads: Attention heads of the first fusion layer; has to divide `dim`.
        threshold: Logit of the similarity that makes neighbours, where it starts; 0 = 0.5.
        stabiliser: Weight of the loss that keeps the size of embeddings in the kernels, >= 0.
        anchors: Training samples kept as neighbours in evaluation, >= 1.
        dropout: Of the branches of the fusion layers and in the head, in [0, 1); inside the
            layers 0.1, or this if it is less.
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper(
        "M3Care: Learning with Missing Modalities in Multimodal Healthcare Data",
        "KDD",
        2022,
        "https://doi.org/10.1145/3534678.3539388",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(threshold=Real(0.0, 0.5))

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 128,
        heads: Count = 4,
        threshold: Annotated[float, Field(strict=True, ge=-100, le=100)] = 0.0,
        stabiliser: LossWeight = 1e-7,
        anchors: Count = 256,
        dropout: Rate = 0.5,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        modalities = len(task.modalities)
        self.stabiliser, self.anchors = stabiliser, anchors
        self.encode = ModalityEncoders(task, dim)
        self.memory = SupportBank(task)
        self.alike = Similarity(modalities, dim, threshold)
        self.convolve = GraphConvolution(modalities, dim, released=variant == "official")
        self.weigh_filled = nn.Linear(dim, 1)
        self.weigh_own = nn.Linear(dim, 1)
        self.kind = nn.Parameter(0.02 * torch.randn(modalities, dim))
        self.fuse = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), fusion_block(dim, h, dropout)) for h in (heads, 1)
        )
        self.head = nn.Sequential(
            nn.Linear(modalities * dim, 2 * dim),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(2 * dim, task.num_outputs),
        )

    def prepare(self, train: Iterable[Batch]) -> None:
        """Keep the anchors."""
        self.memory.fill(train, self.anchors)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        z: Tensor = self.encode(batch)
        h, a = z.transpose(0, 1), batch.presence.t()
        return self.classify(h, self.graph(h, a), a)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss; the learned features of the kernels keep the size of the embeddings."""
        h, a = self.encode(batch).transpose(0, 1), batch.presence.t()
        learned = torch.where(a[:, :, None], self.alike.learn(h), 0.0)
        change = (norm(learned) - norm(h)).abs().sum()
        output = self.classify(h, self.graph(h, a), a)
        return {
            "task": self.task_loss(output, batch.target),
            "stabiliser": self.stabiliser * change,
        }

    def graph(self, h: Embeddings, a: Presence) -> Embeddings:
        """Two graph convolutions over the neighbours: the batch, or the anchors."""
        x = self.alike.features(h, a)
        if self.training:
            bandwidth = self.alike.measure(x, a)
            among: Tensor = self.alike(x, a, x, a, bandwidth)
            g: Tensor = self.convolve(h, among, a)
            return g
        if not len(self.memory):
            return self.convolve.alone(h, a)
        bank = self.memory.everything()
        anchor, present = self.encode(bank).transpose(0, 1), bank.presence.t()
        y = self.alike.features(anchor, present)
        bandwidth = self.alike.bandwidth
        among = self.alike(y, present, y, present, bandwidth)
        to = self.alike(x, a, y, present, bandwidth)
        return self.convolve.from_anchors(h, a, to, anchor, present, among)

    def classify(self, h: Embeddings, g: Embeddings, a: Presence) -> Float[Tensor, "batch output"]:
        """Blend own and neighbours' embeddings, fill the gaps, fuse."""
        u = self.blend(h, g, a).transpose(0, 1) + self.kind
        for layer in self.fuse:
            u = layer(u).relu()
        output: Tensor = self.head(u.flatten(1))
        return output

    def blend(self, h: Embeddings, g: Embeddings, a: Presence) -> Embeddings:
        """Own embeddings with those of neighbours; the latter alone where there is no own one."""
        filled, observed = self.weigh_filled(g).sigmoid(), self.weigh_own(h).sigmoid()
        w = filled / (filled + observed)
        return torch.where(a[:, :, None], w * g + (1 - w) * h, g)

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Blended embeddings, those of the neighbours where a modality is absent."""
        h, a = self.encode(batch).transpose(0, 1), batch.presence.t()
        return dict(zip(self.task.names, self.blend(h, self.graph(h, a), a), strict=True))


def fusion_block(dim: int, heads: int, dropout: float) -> PreNormBlock:
    """A transformer layer with one dropout for both branches and a smaller one inside them."""
    block = PreNormBlock(dim, heads=heads, dropout=min(INSIDE, dropout))
    block.drop = Dropout(dropout)
    return block


def norm(x: Embeddings) -> Float[Tensor, " modality"]:
    """Frobenius norm of each modality; a finite gradient at zero."""
    return (x.square().sum((1, 2)) + 1e-12).sqrt()


class Similarity(nn.Module):
    """How alike samples are, over the modalities that they share; zero below a threshold."""

    mean: Tensor
    variance: Tensor
    bandwidth: Tensor

    def __init__(self, modalities: int, dim: int, threshold: float) -> None:
        super().__init__()
        self.transform = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim, dim),
                nn.ReLU(),
                nn.Linear(dim, dim),
                nn.ReLU(),
                nn.Linear(dim, dim),
            )
            for _ in range(modalities)
        )
        self.plain = nn.Parameter(torch.full((modalities, 1, 1), 2.0))  # logit of epsilon
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.register_buffer("mean", torch.zeros(2 * modalities, dim))
        self.register_buffer("variance", torch.ones(2 * modalities, dim))
        # mean squared distance of independent samples of unit variance
        self.register_buffer("bandwidth", torch.full((2 * modalities,), 2.0 * dim))

    def learn(self, h: Embeddings) -> Embeddings:
        """What the learned kernel compares."""
        return torch.stack([part(x) for part, x in zip(self.transform, h, strict=True)])

    def features(self, h: Embeddings, a: Presence) -> Features:
        """Normed features of the learned and of the plain kernel; no absent entry counts."""
        x = torch.cat([self.learn(h).relu(), h])  # (2M, B, D)
        present = a.repeat(2, 1)
        mean, variance = self.mean, self.variance
        if self.training:
            mean = masked_mean(x, present)
            variance = masked_mean((x - mean[:, None]).square(), present)
            with torch.no_grad():
                known = present.any(1, keepdim=True)
                for average, now in ((self.mean, mean), (self.variance, variance)):
                    now = now.to(average)
                    average.copy_(torch.where(known, average.lerp(now, MOMENTUM), average))
        x = (x - mean[:, None]) * (variance[:, None] + 1e-5).rsqrt()
        return torch.where(present[:, :, None], x, 0.0)

    @torch.no_grad()
    def measure(self, x: Features, a: Presence) -> Float[Tensor, " view"]:
        """Bandwidths, the mean squared distance of two samples; remembered for evaluation."""
        present = a.repeat(2, 1)
        pair = present[:, :, None] & present[:, None]
        count = pair.sum((1, 2)) - present.sum(1)  # a sample and itself are no pair
        total = torch.where(pair, squared_distance(x, x), 0.0).sum((1, 2))
        now = total / count.clamp_min(1)
        now = torch.where(count > 0, now, self.bandwidth)
        self.bandwidth.lerp_(now.to(self.bandwidth), MOMENTUM)
        return now

    def forward(
        self,
        x: Float[Tensor, "view row dim"],
        a: Bool[Tensor, "modality row"],
        y: Float[Tensor, "view column dim"],
        b: Bool[Tensor, "modality column"],
        bandwidth: Float[Tensor, " view"],
    ) -> Float[Tensor, "row column"]:
        """Similarity in 0..1 of rows (x, a) to columns (y, b), zero if they are no neighbours."""
        learned, plain = kernel(squared_distance(x, y), bandwidth).chunk(2)
        epsilon = self.plain.sigmoid()
        both = a[:, :, None] & b[:, None]  # (M, rows, columns)
        s = ((1 - epsilon) * learned + epsilon) * plain
        s = torch.where(both, s, 0.0).sum(0) / both.sum(0).clamp_min(1)
        least = self.threshold.sigmoid()
        beyond = (s - least).relu()
        return torch.where(beyond > 0, beyond + least.detach(), 0.0)


def squared_distance(
    x: Float[Tensor, "view row dim"], y: Float[Tensor, "view column dim"]
) -> Float[Tensor, "view row column"]:
    """||x_i - y_j||², by products; rounding never makes it negative."""
    squares = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None]
    return torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2).clamp_min(0)


def kernel(
    squared: Float[Tensor, "view row column"], bandwidth: Float[Tensor, " view"]
) -> Float[Tensor, "view row column"]:
    """Mean of three Gaussian kernels."""
    b = torch.where(bandwidth < LEAST_BANDWIDTH, 1.0, bandwidth)[:, None, None] / 2
    return torch.stack([(-squared / (q * b)).exp() for q in BANDWIDTHS]).mean(0)


class GraphConvolution(nn.Module):
    """ReLU(A h W + b), twice, for each modality; A reads only samples that have the modality.

    Rows of A are averaged, so that a row means the same among few neighbours and among many.

    Args:
        modalities: M.
        dim: D.
        released: Whether the reading sample has to have the modality, too, and rows are summed.
    """

    def __init__(self, modalities: int, dim: int, *, released: bool) -> None:
        super().__init__()
        self.released = released
        bound = dim**-0.5
        self.w = nn.Parameter(torch.empty(2, modalities, dim, dim).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(2, modalities, 1, dim).uniform_(-bound, bound))

    def adjacency(
        self,
        s: Float[Tensor, "row column"],
        a: Bool[Tensor, "modality row"],
        b: Bool[Tensor, "modality column"],
    ) -> Float[Tensor, "modality row column"]:
        """Who reads whom, for each modality."""
        open_edges = b[:, None] & a[:, :, None] if self.released else b[:, None]
        return torch.where(open_edges, s, 0.0)

    def degree(self, edges: Float[Tensor, "modality row column"]) -> Tensor:
        """What sums along the rows are divided by, (modality, row, 1)."""
        total = edges.sum(2, keepdim=True)
        return torch.ones_like(total) if self.released else total

    def forward(self, h: Embeddings, s: Float[Tensor, "batch batch"], a: Presence) -> Embeddings:
        """Within one set of samples, themselves included."""
        edges = self.adjacency(s, a, a)
        edges = edges / self.degree(edges).clamp_min(LEAST_DEGREE)
        for w, b in zip(self.w, self.b, strict=True):
            h = (edges @ (h @ w) + b).relu()
        return h

    def alone(self, h: Embeddings, a: Presence) -> Embeddings:
        """A sample that only knows itself, to which it is fully alike."""
        for w, b in zip(self.w, self.b, strict=True):
            h = (torch.where(a[:, :, None], h @ w, 0.0) + b).relu()
        return h

    def from_anchors(
        self,
        h: Embeddings,
        a: Presence,
        to: Float[Tensor, "batch anchor"],
        anchor: Float[Tensor, "modality anchor dim"],
        present: Bool[Tensor, "modality anchor"],
        among: Float[Tensor, "anchor anchor"],
    ) -> Embeddings:
        """Read the anchors and oneself; the anchors read each other."""
        edges, between = self.adjacency(to, a, present), self.adjacency(among, present, present)
        itself = a[:, :, None].to(h)  # fully alike, where it has the modality
        degree = self.degree(torch.cat([edges, itself], dim=2)).clamp_min(LEAST_DEGREE)
        between = between / self.degree(between).clamp_min(LEAST_DEGREE)
        for w, b in zip(self.w, self.b, strict=True):
            passed = anchor @ w
            h = ((edges @ passed + itself * (h @ w)) / degree + b).relu()
            anchor = (between @ passed + b).relu()
        return h
