"""MoMKE: every modality asks the experts of all modalities, whichever of them are there.

Paper: Xu et al., "Leveraging Knowledge of Modality Experts for Incomplete Multimodal Learning",
ACM Multimedia 2024.
Idea: first one transformer expert for each modality learns from its own modality alone. Then all
learn together: each modality that is there passes through all experts, and a soft router of its
own mixes their M answers, so that knowledge of one modality serves the others. A modality that is
absent contributes zeros.
Notation: presence (B, M); S steps; p = p_m projected inputs and h = h_m mixed answers
(M, B, S, D); valid (M, B, S), True = a step of a present modality; r = r_m routing weights
(M, B, S, E), E = M; z (B, S, M D).
Differences from the paper:
- Its steps are the utterances of a dialogue, each with a target; here they are the steps of one
  sample, so that unimodal features and the joint `hidden` are averaged over valid steps before
  the last layer. The steps of all sequences are taken to be aligned, as the paper's are.
- Steps of sequences are projected by one Linear, as in the paper; all else goes through the
  suite's encoders. One vector counts at every step of the sample's sequences, which for attention
  is the same as one step. Without any sequence there is one step, which reads its own value, and
  there are no queries and keys.
- `regime="unified"`, the default: one model for all test conditions. In the second stage each
  sample shows a random non-empty subset of what it has, all equally likely. The released code
  trains one model for each test condition, on that pattern alone: `regime="per_condition"` with
  a scenario whose training is that pattern.
- Under the regime `full_access` the first stage, and the choice of its epoch, see whole samples, as
  released; otherwise what the scenario shows.
- The first stage keeps an epoch by the mean of the unimodal outputs; the released code goes on
  from the last epoch, although the paper says the best. Nothing is ever chosen on the test split.
- AdamW instead of Adam. The paper halves its epochs between the stages (150 + 150 on CMU-MOSI);
  here each stage takes those of the suite.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, Depth, LearningRate, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Modality, Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import encoder
from mmbench.layers.fusion import masked_mean, random_pattern
from mmbench.layers.pooling import valid_steps
from mmbench.layers.stacked import StackedLinear
from mmbench.layers.usage import UsageMeter
from mmbench.method import ALL_TASKS, Applies, Method, Paper, Stage
from mmbench.search import Whole, ranges

Steps = Float[Tensor, "modality batch step dim"]
Valid = Bool[Tensor, "modality batch step"]
Regime = Literal["unified", "per_condition"]
Router = Literal["soft", "uniform", "own"]


class StepLinear(nn.Linear):
    """A linear map of each step; padding is for others to leave out."""

    def forward(
        self, x: Float[Tensor, "batch step feature"], lengths: Tensor | None = None
    ) -> Float[Tensor, "batch step dim"]:
        """Project."""
        return super().forward(x)


def projection(modality: Modality, dim: int) -> nn.Module:
    """Linear as in the paper, where there are steps; the suite's encoder elsewhere."""
    if modality.kind == "sequence":
        return StepLinear(modality.shape[-1], dim)
    return encoder(modality, dim)


class Block(nn.Module):
    """One layer of all experts: A = attention, then A + MLP(A); no norm, no output projection.

    If it does not attend, each row is a single step, which can but read its own value.
    """

    def __init__(
        self, experts: int, dim: int, *, heads: int, dropout: float, attends: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query_key = StackedLinear(experts, dim, 2 * dim) if attends else None
        self.value = StackedLinear(experts, dim, dim)
        self.mlp = nn.Sequential(
            StackedLinear(experts, dim, dim),
            nn.GELU(),
            Dropout(dropout),
            StackedLinear(experts, dim, dim),
            Dropout(dropout),
        )

    def forward(
        self,
        x: Float[Tensor, "expert row step dim"],
        readable: Bool[Tensor, "expert row step"],
    ) -> Float[Tensor, "expert row step dim"]:
        """What is added to `x`; every step reads the readable ones of its row."""
        a = self.value(x)
        if self.query_key is not None:
            query, key = self.query_key(x).chunk(2, -1)
            # (expert row, head, step, width), as fast kernels want it
            q, k, v = (
                part.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for part in (query, key, a)
            )
            mask = readable.flatten(0, 1)[:, None, None, :]
            read = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            a = read.transpose(1, 2).reshape(x.shape)
        y: Tensor = a + self.mlp(a)
        return y


class ModalityExperts(nn.Module):
    """E transformer experts in batched products.

    Args:
        experts: E.
        dim: D.
        depth: Layers, >= 1.
        heads: Has to divide `dim`.
        dropout: In the MLPs, in [0, 1).
        attends: Whether there may be more than one step.

    Raises:
        ValueError: If `heads` does not divide `dim`.
    """

    def __init__(
        self, experts: int, dim: int, *, depth: int, heads: int, dropout: float, attends: bool
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads cannot share a width of {dim}; take a divisor of it")
        self.count = experts
        self.blocks = nn.ModuleList(
            Block(experts, dim, heads=heads, dropout=dropout, attends=attends) for _ in range(depth)
        )

    def forward(
        self,
        x: Float[Tensor, "expert row step dim"],
        valid: Bool[Tensor, "expert row step"],
    ) -> Float[Tensor, "expert row step dim"]:
        """Answer of expert e to `x[e]`; without meaning where not valid."""
        # a row without any valid step reads all of them: its softmax would be NaN
        readable = valid | ~valid.any(-1, keepdim=True)
        for block in self.blocks:
            x = x + block(x, readable)
        return x

    def all(self, x: Steps, valid: Valid) -> Float[Tensor, "expert modality batch step dim"]:
        """Answers of every expert to every modality that is there, zeros elsewhere."""
        rows, seen = x.flatten(0, 1), valid.flatten(0, 1)
        if x.is_cpu:  # how many are there is at hand: ask about no others
            present = seen.any(-1).nonzero().squeeze(1)
            y = self(*self._expanded(rows[present], seen[present]))
            y = y.new_zeros(self.count, *rows.shape).index_copy(1, present, y)
        else:
            y = self(*self._expanded(rows, seen))
        y = torch.where(seen[:, :, None], y, 0.0)
        return y.view(self.count, *x.shape)

    def _expanded(self, rows: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        return rows.expand(self.count, -1, -1, -1), seen.expand(self.count, -1, -1)


class MoMKE(Method):
    """Mixture of modality knowledge experts.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of projections, experts and routers.
        depth: Layers of an expert, >= 1.
        heads: Has to divide `dim`.
        dropout: Of projections, MLPs, routing scores and the joint layer, in [0, 1).
        regime: `unified`: hide modalities at random in the second stage. `per_condition`:
            train on what the scenario shows and nothing else.
        stage1: Whether each expert first learns from its own modality alone.
        router: `soft`: learned weights. `uniform`: all experts weigh the same. `own`: each
            modality is left to its own expert.
        freeze_experts: Whether the second stage leaves the experts as the first made them.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Raises:
        ValueError: If `heads` does not divide `dim`, or experts that never learned are frozen.
    """

    paper = Paper(
        "Leveraging Knowledge of Modality Experts for Incomplete Multimodal Learning",
        "ACM Multimedia",
        2024,
        "https://doi.org/10.1145/3664647.3681683",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(depth=Whole(1, 4))
    own_encoders = "steps of sequences are projected one by one, as in the paper"

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 256,
        depth: Depth = 4,
        heads: Count = 2,
        dropout: Rate = 0.5,
        regime: Regime = "unified",
        stage1: bool = True,
        router: Router = "soft",
        freeze_experts: bool = False,
        lr: LearningRate = 1e-4,
        weight_decay: Decay = 1e-5,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if freeze_experts and not stage1:
            raise ValueError(
                "freeze_experts=true with stage1=false would freeze experts that never learned; "
                "take one of the two back"
            )
        count = len(task.modalities)
        self.regime, self.freeze_experts = regime, freeze_experts
        # the router is made last: what the first stage trains starts the same with any of them
        self.project = nn.ModuleList(projection(m, dim) for m in task.modalities)
        self.drop = Dropout(dropout)
        self.experts = ModalityExperts(
            count,
            dim,
            depth=depth,
            heads=heads,
            dropout=dropout,
            attends=any(m.kind == "sequence" for m in task.modalities),
        )
        self.unimodal = StackedLinear(count, dim, task.num_outputs) if stage1 else None
        self.joint = nn.Linear(count * dim, count * dim)
        self.head = nn.Linear(count * dim, task.num_outputs)
        self.mixing = router
        self.usage = UsageMeter(count, count)
        # the scores are dropped out, too, as in the released code
        self.router = (
            nn.Sequential(
                StackedLinear(count, dim, dim),
                nn.GELU(),
                Dropout(dropout),
                StackedLinear(count, dim, count),
                Dropout(dropout),
            )
            if router == "soft"
            else None
        )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Unimodal experts, the same for all regimes and routers, then all together."""
        together = ["project", "joint", "head"]
        together += [] if self.freeze_experts else ["experts"]
        together += [] if self.router is None else ["router"]
        joint = Stage("joint", trains=tuple(together))
        if self.unimodal is None:
            return (joint,)
        alone = ("project", "experts", "unimodal")
        across = ("regime", "router", "freeze_experts")
        return (Stage("unimodal", trains=alone, shared_across=across), joint)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present, less what chance hides in training."""
        if self.training and self.regime == "unified":
            batch = batch.hide(~random_pattern(batch.presence))
        p, valid = self.steps(batch)
        h = self.mix(p, valid)
        if self.router is not None and not self.training:
            weight = self.route(p) * valid[..., None]  # (M, B, S, E)
            self.usage(weight.transpose(0, 1).flatten(0, 2), batch.presence)
        z = h.permute(1, 2, 0, 3).flatten(2)  # (B, S, M D)
        hidden = z + self.drop(self.joint(z).relu())
        output: Tensor = self.head(masked_mean(hidden, valid.any(0)))
        return output

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """How the unimodal experts share the steps of all modalities."""
        return self.usage.diagnostics(self.task.names, self.task.names)

    def steps(self, batch: Batch) -> tuple[Steps, Valid]:
        """Projections p of all modalities, as many steps each, and which of them are valid."""
        named = list(zip(self.task.modalities, self.project, strict=True))
        parts = [self.drop(batch.embed(m.name, part)) for m, part in named]
        most = max(p.shape[1] if p.dim() == 3 else 1 for p in parts)
        steps, valid_of = [], []
        for (m, _), p in zip(named, parts, strict=True):
            if p.dim() == 3:
                p = nn.functional.pad(p, (0, 0, 0, most - p.shape[1]))
                valid_of.append(valid_steps(batch.lengths.get(m.name), p))
            else:
                p = p[:, None].expand(-1, most, -1)
            steps.append(p)
        # a vector counts wherever a sequence has a step, and at the first one if none has
        first = torch.arange(most, device=batch.presence.device) == 0
        anywhere = torch.stack([first.expand(len(batch), -1), *valid_of]).any(0)
        sequences = iter(valid_of)
        valid = [next(sequences) if m.kind == "sequence" else anywhere for m, _ in named]
        return torch.stack(steps), torch.stack(valid) & batch.presence.t()[:, :, None]

    def mix(self, p: Steps, valid: Valid) -> Steps:
        """Answers h_m, mixed by the router of each modality; zeros where not valid."""
        if self.mixing == "own":
            return self.specialists(p, valid)
        return torch.einsum("embsd,mbse->mbsd", self.experts.all(p, valid), self.route(p))

    def specialists(self, p: Steps, valid: Valid) -> Steps:
        """Answer of each modality's own expert; zeros where not valid."""
        return torch.where(valid[..., None], self.experts(p, valid), 0.0)

    def route(self, p: Steps) -> Float[Tensor, "modality batch step expert"]:
        """Weights r_m of the experts for each step; they sum to 1."""
        if self.router is None:
            return p.new_full((*p.shape[:-1], len(p)), 1 / len(p))
        scores: Tensor = self.router(p)
        return scores.softmax(-1)

    def alone(self, batch: Batch) -> Float[Tensor, "modality batch output"]:
        """Predictions of the first stage from each modality by itself."""
        assert self.unimodal is not None
        p, valid = self.steps(batch)
        h = self.specialists(p, valid)
        output: Tensor = self.unimodal(masked_mean(h, valid, dim=2))
        return output

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """First stage: the task loss of each modality, where it is there. Then the task's own."""
        if self.stage != "unimodal":
            return super().loss(batch)
        batch = batch.teacher or batch
        outputs = self.alone(batch)
        return {
            name: masked_mean(self.row_loss(output, batch.target, has), has, dim=0)
            for name, output, has in zip(
                batch.modalities, outputs, batch.presence.unbind(1), strict=True
            )
        }

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """First stage: mean of the unimodal predictions. Then the prediction."""
        if self.stage != "unimodal":
            return super().stage_output(batch)
        batch = batch.teacher or batch
        return masked_mean(self.alone(batch).transpose(0, 1), batch.presence)
