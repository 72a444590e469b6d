"""GCNet: steps of all modalities complete each other along a graph.

Paper: Lian et al., "GCNet: Graph Completion Network for Incomplete Multimodal Learning in
Conversation", TPAMI 2023.
Idea: a conversation is a chain of utterances, each with the features of its modalities side by
side, zeros for those that are missing. A recurrent network reads the chain; then two graph
networks let every utterance read those near to it, one by whether these come before or after, one
by who speaks. Their sum predicts, and rebuilds the features that were missing.
Notation: presence (B, M); x = utterances (B, P, M D), zeros where absent; h (B, P, D) after the
recurrent network; N_r (P, P) neighbours of relation r; y (B, P, D + G) of a graph network.
Differences from the paper:
- A sample here is one conversation of P steps: windows of those modalities that are in time, one
  of which there has to be, beside as many tokens of the others. A modality is missing for all of
  its steps, and the prediction is that for the mean of y over the steps.
- Nobody says who speaks, so all steps are those of one speaker, which is how the released code
  treats films of single persons; the network of speakers then has one relation.
- Features are those of the suite's encoders. Training hides a random subset of what the scenario
  shows, as the paper hides its own; rebuilt is what is hidden, where it is known, and held fixed:
  the teacher's samples under the regime `full_access`, else the batch.
- D is 128 and G a quarter of it, with the released proportions; P is 8.
- AdamW without a schedule instead of Adam.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import random_pattern
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Real, Whole, ranges

Nodes = Float[Tensor, "batch node dim"]
Neighbours = Float[Tensor, "relation node node"]


def in_window(nodes: int, window: int) -> Neighbours:
    """1 where node j is at most `window` steps from node i; rows are i.

    Returns:
        Three relations: j comes before i, is i, comes after i.
    """
    place = torch.arange(nodes)
    before = place[:, None] - place  # how many steps j lies before i
    near = before.abs() <= window
    return torch.stack([near & (before > 0), before == 0, near & (before < 0)]).float()


class RelationalConv(nn.Module):
    """W x_i + Σ_r (mean of W_r x_j over the neighbours j of relation r) + b.

    Source: Schlichtkrull et al., "Modeling Relational Data with Graph Convolutional Networks",
    ESWC 2018, Eq. 2, without a non-linearity.
    """

    def __init__(self, relations: int, dim: int, out: int) -> None:
        super().__init__()
        self.root = nn.Linear(dim, out)
        bound = dim**-0.5
        self.weight = nn.Parameter(torch.empty(relations, dim, out).uniform_(-bound, bound))

    def forward(self, x: Nodes, neighbours: Neighbours) -> Float[Tensor, "batch node out"]:
        """Read the neighbours."""
        mean = neighbours / neighbours.sum(2, keepdim=True).clamp_min(1)
        read = mean @ x[:, None]  # (B, R, P, D)
        y: Tensor = self.root(x) + (read @ self.weight).sum(1)
        return y


class GraphNetwork(nn.Module):
    """Two graph convolutions, a recurrent network over the nodes, and attention over time.

    Args:
        relations: R.
        dim: D.
        graph: G, width of what the convolutions add.
        dropout: Between the layers of the recurrent network, in [0, 1).
    """

    def __init__(self, relations: int, dim: int, graph: int, dropout: float) -> None:
        super().__init__()
        width = dim + graph
        self.relational = RelationalConv(relations, dim, graph)
        self.root, self.near = nn.Linear(graph, graph), nn.Linear(graph, graph, bias=False)
        self.chain = nn.LSTM(width, width, 2, batch_first=True, bidirectional=True, dropout=dropout)
        self.match = nn.Linear(2 * width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, h: Nodes, neighbours: Neighbours) -> Float[Tensor, "batch node width"]:
        """Y of each node."""
        read = self.relational(h, neighbours)
        # neighbours of any relation, summed up and not averaged
        read = self.root(read) + self.near(neighbours.sum(0) @ read)
        chain, _ = self.chain(torch.cat([h, read], dim=2))
        # a score is in (-1, 1): no step can drown the others
        attention = (self.match(chain) @ chain.mT).tanh().softmax(2)
        y: Tensor = self.out(attention @ chain).relu()
        return y


class GCNet(Method):
    """Graph completion network.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of tokens and, both ways together, of the first recurrent network; a
            multiple of 4.
        tokens: P, steps of each modality, >= 2.
        window: Steps to either side that a node reads, >= 1.
        reconstruct: Weight of rebuilding, >= 0.
        dropout: In recurrent networks, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Raises:
        ValueError: If 4 does not divide `dim`, or there is nothing to read in a window.
    """

    paper = Paper(
        "GCNet: Graph Completion Network for Incomplete Multimodal Learning in Conversation",
        "TPAMI",
        2023,
        "https://arxiv.org/abs/2203.02177",
    )
    # one that has an order in time
    applies = Applies(tasks=ALL_TASKS, min_modalities=2, one_of=("sequence", "tokens"))
    search = ranges(
        window=Whole(1, 4),
        reconstruct=Real(0.1, 10.0, log=True),
    )

    neighbours: Tensor

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        tokens: Count = 8,
        window: Count = 2,
        reconstruct: LossWeight = 1.0,
        dropout: Rate = 0.5,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-5,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if dim % 4:
            raise ValueError(f"dim has to be a multiple of 4, found {dim}")
        if tokens < 2 or window < 1:
            raise ValueError(
                f"a graph needs tokens >= 2 and a window >= 1, found {tokens} and {window}"
            )
        self.reconstruct = reconstruct
        graph = dim // 4
        self.encode = ModalityEncoders(task, dim, tokens=tokens)
        width = len(task.modalities) * dim
        self.chain = nn.LSTM(
            width, dim // 2, 2, batch_first=True, bidirectional=True, dropout=dropout
        )
        self.temporal = GraphNetwork(3, dim, graph, dropout)
        self.speaker = GraphNetwork(1, dim, graph, dropout)
        self.head = nn.Linear(dim + graph, task.num_outputs)
        self.rebuild = nn.Linear(dim + graph, width)
        self.register_buffer("neighbours", in_window(tokens, window), persistent=False)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        return self.decide(self.complete(self.encode(batch)))

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Tokens side by side, rebuilt ones where a modality is absent."""
        z = self.encode(batch)
        rebuilt = self.rebuilt(self.complete(z), len(self.task.names))
        filled = torch.where(batch.presence[:, :, None, None], z, rebuilt)
        return dict(zip(self.task.names, filled.transpose(0, 1).flatten(2), strict=True))

    def complete(
        self, z: Float[Tensor, "batch modality node dim"]
    ) -> Float[Tensor, "batch node width"]:
        """Y of each step, from the tokens of all modalities, zeros where absent."""
        h, _ = self.chain(z.transpose(1, 2).flatten(2))
        anyone = self.neighbours.sum(0, keepdim=True)  # one speaker: one relation
        y: Tensor = self.temporal(h, self.neighbours) + self.speaker(h, anyone)
        return y

    def decide(self, y: Float[Tensor, "batch node width"]) -> Float[Tensor, "batch output"]:
        """Predict from the mean over the steps."""
        output: Tensor = self.head(y.mean(1))
        return output

    def rebuilt(
        self, y: Float[Tensor, "batch node width"], modalities: int
    ) -> Float[Tensor, "batch modality node dim"]:
        """Features of all modalities from what the steps carry."""
        each: Tensor = self.rebuild(y).unflatten(2, (modalities, -1))
        return each.transpose(1, 2)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Prediction from a random subset, and the features that it does not hold."""
        truth = batch.teacher or batch
        seen = random_pattern(batch.presence)
        z = self.encode(truth)
        y = self.complete(torch.where(seen[:, :, None, None], z, 0.0))
        error = (self.rebuilt(y, z.shape[1]) - z.detach()).square().mean((2, 3))  # (B, M)
        hidden = truth.presence & ~seen
        return {
            "task": self.task_loss(self.decide(y), batch.target),
            # of all samples, also of those of which nothing is hidden
            "reconstruction": self.reconstruct * (error * hidden).sum(1).mean(),
        }
