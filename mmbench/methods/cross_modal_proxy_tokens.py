"""CMPT: a token in each encoder that stands in for the class token of another modality.

Paper: Reza et al., "Robust Multimodal Learning via Cross-Modal Proxy Tokens", TMLR 2025.
Reconstructed: its code could not be had, and of the paper the abstract, the list of changes of its
revision and summaries; what these leave open is ours, as said below.
Idea: encoders of single modalities stay frozen but for low-rank adapters. Beside its class token,
each reads its tokens into proxy tokens, one for each other modality, that are taught to be what
the class token of that modality is. Where a modality is missing, the proxies take its place.
Notation: presence (B, M); k = k_n class tokens (B, M, D); y = y_mn what encoder m takes k_n to be
(B, M, M, D); W + U V adapted weights, of rank r.
Stages: `unimodal` trains an encoder for each modality; `proxies` freezes them and trains adapters,
proxies and what predicts.
Differences from the paper:
- It has two modalities and published encoders. Here each of M >= 2 has the suite's encoder and a
  transformer behind it, trained by itself in the first stage. Where several modalities are there,
  their proxies for a missing one are averaged.
- From the paper: one proxy a modality, rank 1, weight 0.2 of alignment, a gate that passes the
  class token on where there is one and the proxy elsewhere. Ours: adapters in the attention's
  maps; alignment by the mean squared error, class tokens held fixed; class tokens side by side and
  one linear layer predict.
- Training predicts from a random subset of what the scenario shows. Proxies are aligned where both
  modalities are known: in the teacher's samples under the regime `full_access`, else in the batch.
- AdamW, and the suite's learning rate.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmbench.bounds import Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.attention import TransformerStack
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_pattern
from mmbench.layers.stacked import StackedLinear
from mmbench.method import ALL_TASKS, Applies, Method, Paper, Stage
from mmbench.search import Real, Whole, ranges

ClassTokens = Float[Tensor, "batch modality dim"]
Proxies = Float[Tensor, "batch modality other dim"]
Presence = Bool[Tensor, "batch modality"]

ADAPTER = ".parametrizations.weight.0."  # in the names of adapters' parameters


class LowRank(nn.Module):
    """W -> W + U V.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, Eq. 3.
    """

    def __init__(self, outer: int, inner: int, rank: int) -> None:
        super().__init__()
        # not zeros, or V would not learn in the first step
        self.up = nn.Parameter(torch.empty(outer, rank).normal_(std=1e-3))
        self.down = nn.Parameter(torch.empty(rank, inner).normal_(std=inner**-0.5))

    def forward(self, weight: Float[Tensor, "outer inner"]) -> Float[Tensor, "outer inner"]:
        """Adapt a weight."""
        return weight + self.up @ self.down


class Tower(nn.Module):
    """Class token and transformer of one modality, with low-rank adapters in its attention."""

    def __init__(
        self, dim: int, tokens: int, *, depth: int, heads: int, rank: int, dropout: float
    ) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.place = nn.Parameter(torch.empty(tokens, dim).normal_(std=0.02))
        self.layers = TransformerStack(dim, depth, heads=heads, dropout=dropout)
        for name, layer in self.layers.named_modules():
            if isinstance(layer, nn.Linear) and ".attend." in name:
                adapter = LowRank(layer.out_features, layer.in_features, rank)
                parametrize.register_parametrization(layer, "weight", adapter)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        proxies: Float[Tensor, "other dim"] | None = None,
    ) -> Float[Tensor, "batch read dim"]:
        """The class token, and what the proxies have become."""
        count = 0 if proxies is None else len(proxies)
        first = self.cls[None] if proxies is None else torch.cat([self.cls[None], proxies])
        t = torch.cat([first.expand(len(x), -1, -1), x + self.place], dim=1)
        z: Tensor = self.layers(t)
        return z[:, : 1 + count]


class CMPT(Method):
    """Cross-modal proxy tokens.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of a token.
        tokens: P, tokens of each modality.
        depth: Layers of each encoder's transformer, >= 1.
        heads: Has to divide `dim`.
        rank: r, of the adapters, >= 1.
        alignment: Weight of proxies being what they stand for, >= 0.
        dropout: In the transformers, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Raises:
        ValueError: If `heads` does not divide `dim`, or `rank` is below 1.
    """

    paper = Paper(
        "Robust Multimodal Learning via Cross-Modal Proxy Tokens",
        "TMLR",
        2025,
        "https://arxiv.org/abs/2501.17823",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        rank=Whole(1, 8, log=True),
        alignment=Real(0.02, 2.0, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        tokens: Count = 8,
        depth: Depth = 2,
        heads: Count = 4,
        rank: Count = 1,
        alignment: LossWeight = 0.2,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if rank < 1:
            raise ValueError(f"adapters have a rank of at least 1, found {rank}")
        self.alignment = alignment
        modalities = len(task.modalities)
        self.encode = ModalityEncoders(task, dim, tokens=tokens)
        self.towers = nn.ModuleList(
            Tower(dim, tokens, depth=depth, heads=heads, rank=rank, dropout=dropout)
            for _ in task.modalities
        )
        self.heads = StackedLinear(modalities, dim, task.num_outputs)
        self.proxies = nn.Parameter(torch.empty(modalities, modalities - 1, dim).normal_(std=0.02))
        self.head = nn.Linear(modalities * dim, task.num_outputs)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Encoders of single modalities, then what is added to them."""
        names = [f"towers.{name}" for name, _ in self.towers.named_parameters()]
        adapters = tuple(name for name in names if ADAPTER in name)
        plain = tuple(name for name in names if ADAPTER not in name)
        return (
            Stage("unimodal", trains=("encode", *plain, "heads"), shared_across=("alignment",)),
            Stage("proxies", trains=(*adapters, "proxies", "head")),
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present, and proxies for the rest."""
        return self.predict(*self.read(batch), batch.presence)

    def read(self, batch: Batch) -> tuple[ClassTokens, Proxies]:
        """Read k and y; without meaning where encoder m has nothing to read, y_mm is zero."""
        x = self.encode(batch)
        k, y = [], []
        for m, tower in enumerate(self.towers):
            token, *others = tower(x[:, m], self.proxies[m]).to(x.dtype).unbind(1)
            k.append(token)
            others.insert(m, torch.zeros_like(token))
            y.append(torch.stack(others, dim=1))
        return torch.stack(k, dim=1), torch.stack(y, dim=1)

    def predict(self, k: ClassTokens, y: Proxies, seen: Presence) -> Float[Tensor, "batch output"]:
        """Predict from class tokens that are seen, and means of the proxies for the others."""
        output: Tensor = self.head(stand_in(k, y, seen).flatten(1))
        return output

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Class tokens, and means of proxies where a modality is absent."""
        filled = stand_in(*self.read(batch), batch.presence)
        return dict(zip(self.task.names, filled.unbind(1), strict=True))

    def alone(self, batch: Batch) -> Float[Tensor, "modality batch output"]:
        """What each class token predicts before there are proxies."""
        x = self.encode(batch)
        k = torch.stack([tower(x[:, m])[:, 0] for m, tower in enumerate(self.towers)])
        output: Tensor = self.heads(k)
        return output

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Mean of what the modalities that are there predict alone, then the prediction."""
        if self.stage == "unimodal":
            return masked_mean(self.alone(batch).transpose(0, 1), batch.presence)
        return super().stage_output(batch)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Terms of the present stage."""
        truth = batch.teacher or batch
        if self.stage == "unimodal":
            each = zip(self.alone(truth), truth.presence.unbind(1), strict=True)
            rows = [self.row_loss(output, batch.target, has) for output, has in each]
            means = masked_mean(torch.stack(rows, dim=1), truth.presence, dim=0)
            return {"task": means.sum()}
        k, y = self.read(truth)
        output = self.predict(k, y, random_pattern(batch.presence))
        return {
            "task": self.task_loss(output, batch.target),
            "alignment": self.alignment * self.apart(k, y, truth),
        }

    def apart(self, k: ClassTokens, y: Proxies, truth: Batch) -> Float[Tensor, ""]:
        """Mean squared error of y_mn to k_n over the pairs that a sample has."""
        error = (y - k.detach()[:, None]).square().mean(3)  # (B, M, M)
        other = ~torch.eye(k.shape[1], dtype=torch.bool, device=k.device)
        pair = truth.presence[:, :, None] & truth.presence[:, None] & other
        return masked_mean(error.flatten(), pair.flatten(), dim=0)


def stand_in(k: ClassTokens, y: Proxies, seen: Presence) -> ClassTokens:
    """Class tokens that are seen, and for the others the mean of the proxies that are."""
    return torch.where(seen[:, :, None], k, masked_mean(y, seen))
