"""MUSE: samples and modalities as a bipartite graph, contrasted with a copy that lacks edges.

Paper: Wu et al., "Multimodal Patient Representation Learning with Missing Modalities and Labels",
ICLR 2024.
Idea: a sample has an edge to each modality that it has, and the edge carries the embedding. A
graph network gathers the edges. Its output is to stay the same when edges are dropped, and to be
alike for samples of one class (two contrastive losses), so a missing modality matters little.
Notation: presence (B, M); e edge states (B, M, D), one for each direction; p sample nodes (B, D);
q modality nodes (M, D); z = p after the last layer; u = z on the unit sphere.
Differences from the paper:
- From the second layer on, modality nodes hold means over the batch. In evaluation they are
  averages remembered from training, so a prediction depends on its sample alone. Dense sums take
  the place of an edge list, with equal results.
- Nodes of modalities start from learned vectors, temperature is 0.07, and half of the samples
  lose edges, of which they keep a random number; all as in the released code (the paper: one-hot
  vectors, 0.05, 15 % of the edges).
- No samples without labels. Needs labels that can be equal, hence classification.
- Embeddings are the suite's; AdamW at 1e-3 (the released code: Adam at 2e-4 without weight decay,
  for 100 epochs of batches of 512).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_subset
from mmbench.method import Applies, Method, Paper
from mmbench.search import Real, Whole, ranges

Edges = Float[Tensor, "batch modality dim"]
Presence = Bool[Tensor, "batch modality"]

TEMPERATURE = 0.07
MOMENTUM = 0.1  # of the modality nodes that are remembered for evaluation


class MUSE(Method):
    """Mutual-consistent graph contrastive learning.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of nodes and edges.
        layers: L, rounds of messages, >= 1.
        unsupervised: Weight of the contrast between a sample's two views, >= 0.
        supervised: Weight of the contrast between classes, >= 0.
        dropout: Of nodes between layers and in the head, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper(
        "Multimodal Patient Representation Learning with Missing Modalities and Labels",
        "ICLR",
        2024,
        "https://openreview.net/forum?id=Je5SHCKpPa",
    )
    applies = Applies(tasks=("single_label", "multi_label"), min_modalities=2)
    search = ranges(
        layers=Whole(1, 3),
        unsupervised=Real(0.05, 2.0, log=True),
        supervised=Real(0.05, 2.0, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        layers: Depth = 2,
        unsupervised: LossWeight = 0.5,
        supervised: LossWeight = 0.5,
        dropout: Rate = 0.25,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        self.unsupervised, self.supervised = unsupervised, supervised
        self.encode = ModalityEncoders(task, dim)
        self.graph = BipartiteGraph(len(task.modalities), dim, layers, dropout)
        self.project = nn.Linear(dim, dim)
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), Dropout(dropout), nn.Linear(dim, task.num_outputs)
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        z, _ = self.graph(self.encode(batch), batch.presence)
        output: Tensor = self.head(z)
        return output

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss on the full graph; contrast with the graph that lacks edges."""
        e = self.encode(batch)
        whole, states = self.graph(e, batch.presence)
        self.graph.remember(states, batch.presence)
        edges = drop_edges(batch.presence)
        partial, _ = self.graph(torch.where(edges[:, :, None], e, 0.0), edges)
        u, v = self.on_sphere(whole), self.on_sphere(partial)
        y = batch.target if batch.target.dim() == 2 else batch.target[:, None]
        same = (y[:, None] == y[None]).all(-1)
        return {
            "task": self.task_loss(self.head(whole), batch.target),
            "unsupervised": self.unsupervised * contrast_views(u, v),
            "supervised": self.supervised * contrast_labels(u, v, same),
        }

    def on_sphere(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """What the contrasts compare."""
        return F.normalize(torch.tanh(self.project(z)), dim=1)


def drop_edges(presence: Presence) -> Presence:
    """Leave half of the samples as they are, and the others 1 to n - 1 of their n modalities."""
    n = presence.sum(1)
    fewer = 1 + torch.randint_like(n, 1 << 62) % (n - 1).clamp_min(1)
    stay = torch.rand(len(n), device=n.device) < 0.5
    return random_subset(presence, torch.where(stay | (n < 2), n, fewer))


def contrast_views(
    u: Float[Tensor, "batch dim"], v: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Cross-entropy of finding a sample's other view among all, both ways."""
    logits = u @ v.t() / TEMPERATURE
    itself = torch.arange(len(u), device=u.device)
    return 0.5 * (F.cross_entropy(logits, itself) + F.cross_entropy(logits.t(), itself))


def contrast_labels(
    u: Float[Tensor, "batch dim"],
    v: Float[Tensor, "batch dim"],
    same: Bool[Tensor, "batch batch"],
) -> Float[Tensor, ""]:
    """Binary cross-entropy of telling pairs of one label, the sample and itself included."""

    def pairs(x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x @ y.t() / TEMPERATURE, same.to(x))

    return (2 * pairs(u, u) + pairs(u, v) + pairs(v, u)) / 4


class BipartiteGraph(nn.Module):
    """Messages between samples and modalities along the edges that there are.

    Args:
        modalities: M.
        dim: D.
        layers: L.
        dropout: Of nodes between layers.
    """

    remembered: Tensor
    seen: Tensor

    def __init__(self, modalities: int, dim: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(modalities, dim))
        self.message = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(layers))
        self.update = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(layers))
        self.edge = nn.ModuleList(nn.Linear(3 * dim, dim) for _ in range(layers - 1))
        self.drop = Dropout(dropout)
        self.register_buffer("remembered", torch.zeros(layers - 1, modalities, dim))
        self.register_buffer("seen", torch.zeros(modalities, 1, dtype=torch.bool))

    def forward(
        self, e: Edges, presence: Presence
    ) -> tuple[Float[Tensor, "batch dim"], list[Float[Tensor, "modality dim"]]]:
        """Sample nodes after the last layer, modality nodes after each of the others."""
        p, q = torch.ones_like(e[:, 0]), self.start
        to_p = to_q = e  # edge states towards samples, towards modalities
        states: list[Tensor] = []
        for layer, edge in enumerate(self.edge):
            message = self.tell(layer, side_by_side(p[:, None], to_q), presence, dim=0)
            heard = self.tell(layer, side_by_side(q[None], to_p), presence, dim=1)
            p = self.drop(self.renew(layer, heard, p))
            # no batch in evaluation: what training has come to
            states.append(
                self.renew(layer, message, q) if self.training else self.remembered[layer]
            )
            q = self.drop(states[-1])
            to_p = edge(side_by_side(q[None], p[:, None], to_p)).relu()
            to_q = edge(side_by_side(p[:, None], q[None], to_q)).relu()
        last = len(self.edge)
        heard = self.tell(last, side_by_side(q[None], to_p), presence, dim=1)
        return self.renew(last, heard, p), states

    def tell(
        self,
        layer: int,
        x: Float[Tensor, "batch modality twice"],
        presence: Presence,
        dim: int,
    ) -> Float[Tensor, "node dim"]:
        """Mean message along the edges; zero at a node without any."""
        return masked_mean(self.message[layer](x).relu(), presence, dim=dim)

    def renew(
        self, layer: int, message: Float[Tensor, "node dim"], x: Float[Tensor, "node dim"]
    ) -> Float[Tensor, "node dim"]:
        """Next state of nodes; the same weights for both kinds."""
        new: Tensor = self.update[layer](torch.cat([message, x], dim=1)).relu()
        return new

    @torch.no_grad()
    def remember(self, states: list[Float[Tensor, "modality dim"]], presence: Presence) -> None:
        """Follow the modality nodes slowly; those without an edge stay as they are."""
        if not states:
            return
        now, present = torch.stack(states), presence.any(0)[:, None]
        step = torch.where(self.seen, MOMENTUM, 1.0)  # the first batch is taken as it is
        moved = self.remembered + step * (now - self.remembered)
        self.remembered.copy_(torch.where(present, moved, self.remembered))
        self.seen.logical_or_(present)


def side_by_side(*parts: Float[Tensor, "..."]) -> Float[Tensor, "batch modality features"]:
    """Concatenate along the width what broadcasts along the other axes."""
    shape = [max(part.shape[axis] for part in parts) for axis in (0, 1)]
    return torch.cat([part.expand(*shape, -1) for part in parts], dim=2)
