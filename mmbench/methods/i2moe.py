"""I2MoE: one expert for each way in which modalities interact, told apart by what they lose.

Paper: Xin et al., "I2MoE: Interpretable Multimodal Interaction-aware Mixture-of-Experts",
ICML 2025.
Idea: M + 2 fusion networks see the same modalities. Each is also shown them with one modality
replaced by noise, and a weak loss says how it should take that: the expert of what is unique to
modality i should change with i alone, the expert of synergy with any loss, the expert of
redundancy with none. Weights made from the sample mix the experts' outputs.
Notation: presence (B, M); e = e_m tokens (B, M, P, D); E = M + 2 experts: uniqueness of each
modality, synergy, redundancy; y (E, 1 + M, B, C), first y_0 with nothing replaced, then y_i with
modality i replaced; w (B, E).
Differences from the paper:
- Missing modalities are no subject of the paper. An absent e_m is a learned embedding. The pass
  y_i enters the losses of a sample only if it has modality i, that of uniqueness only together
  with y_j of another modality j that it has; means are over what is left.
- The released fusion layer loses its input (x = a + drop(a) for a = attend(norm(x))). Here it is
  x + drop(a); `variant="official"` does as the release.
- Losses of regression are those of the released code: squared differences in place of distances
  and cosines, unbounded for uniqueness, and for synergy the same as for redundancy. They therefore
  weigh 0.01, the most that its scripts take, in place of 0.5.
- No sparse experts within the fusion networks, which the released code has as an option.
- Tokens are those of the suite's encoders: of a vector, cut from layers that see all of it. In the
  released code a vector is cut first, and one Linear embeds its patches; `official` does so, too.
- Heads, and the network that weighs the experts, average the tokens of each modality, as released:
  what an expert says of a modality is one vector.
- Four tokens, a width of 128 and one layer (the paper: 4 to 16 tokens, 128 or 256 and 1 or 2, by
  data set), and AdamW for Adam.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmbench.bounds import Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.layers.moe import SparseBlock
from mmbench.layers.usage import UsageMeter
from mmbench.method import Applies, Method, Paper
from mmbench.search import Real, Whole, ranges

Tokens = Float[Tensor, "batch modality token dim"]
Variant = Literal["paper", "official"]

MARGIN = 1.0  # of the triplet loss
WEIGHTS = {"single_label": 0.5, "multi_label": 0.5, "regression": 0.01}  # of all interaction losses


class Fusion(nn.Module):
    """One expert: transformer layers over the tokens of all modalities, then a linear layer."""

    def __init__(
        self,
        task: Task,
        dim: int,
        tokens: int,
        *,
        layers: int,
        heads: int,
        dropout: float,
        variant: Variant,
    ) -> None:
        super().__init__()
        modalities = len(task.modalities)
        self.position = nn.Parameter(torch.zeros(modalities, tokens, dim))
        self.layers = nn.ModuleList(
            SparseBlock(dim, heads=heads, dropout=dropout, lose_input=variant == "official")
            for _ in range(layers)
        )
        self.head = nn.Linear(modalities * dim, task.num_outputs)

    def forward(self, e: Tokens) -> Float[Tensor, "batch output"]:
        """Fuse, average the tokens of each modality, predict."""
        x = (e + self.position).flatten(1, 2)  # (B, M P, D)
        for layer in self.layers:
            x, _ = layer(x)
        output: Tensor = self.head(x.view_as(e).mean(2).flatten(1))
        return output


class Copies(nn.Module):
    """Networks that begin as copies of one and are evaluated in one call.

    Args:
        network: What to copy; without buffers.
        count: E, how many.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.count = count
        named = dict(network.named_parameters())
        self.names = tuple(named)
        # a name with a dot is refused
        self.stacks = nn.ParameterDict(
            {
                name.replace(".", "_"): p.detach().expand(count, *p.shape).clone()
                for name, p in named.items()
            }
        )
        # the form without the weights, in a list so that it is no part of this module
        self._form = [network.to("meta")]

    def forward(
        self, x: Float[Tensor, "expert batch *rest"]
    ) -> Float[Tensor, "expert batch output"]:
        """Apply network e to `x[e]`."""
        [form] = self._form
        form.train(self.training)

        def one(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            output: Tensor = functional_call(form, weights, (x,))
            return output

        weights = {name: self.stacks[name.replace(".", "_")] for name in self.names}
        # the fused kernel for CPUs has no batched form and would run expert by expert
        with sdpa_kernel(SDPBackend.MATH):
            output: Tensor = vmap(one, randomness="different")(weights, x)
        return output


def uniqueness(
    y: Float[Tensor, "modality replaced batch output"],
    presence: Bool[Tensor, "batch modality"],
    *,
    regression: bool,
) -> Float[Tensor, ""]:
    """Sum over the experts i: y_0 is to be nearer to every other y_j than to y_i.

    Classification: triplet loss max(0, |y_0 - y_j| - |y_0 - y_i| + 1). Regression: the same
    difference of mean squares. Mean over the pairs of a sample and another modality j where both
    i and j are there; zero without any.

    Args:
        y: Outputs of the experts of uniqueness, first y_0, then y_1 to y_M.
        presence: Which entries of y_i and y_j count.
        regression: Whether the outputs are values instead of logits.
    """
    anchor, others = y[:, :1], y[:, 1:]
    if regression:
        away = (anchor - others).square().mean(-1)  # (i, j, B)
    else:
        away = F.pairwise_distance(anchor, others, eps=1e-7)
    positive = away.diagonal().t()[:, None]  # (i, 1, B)
    terms = away - positive if regression else F.relu(away - positive + MARGIN)
    present = presence.t()
    another = ~torch.eye(len(present), dtype=torch.bool, device=present.device)[:, :, None]
    counted = present[:, None] & present & another
    return masked_mean(terms.flatten(1), counted.flatten(1)).sum()


def agreement(
    y: Float[Tensor, "replaced batch output"],
    presence: Bool[Tensor, "batch modality"],
    *,
    regression: bool,
) -> Float[Tensor, ""]:
    """Mean cosine of y_0 with each y_i where modality i is there; regression: mean square."""
    if regression:
        each = (y[:1] - y[1:]).square().mean(-1)  # (M, B)
    else:
        each = F.cosine_similarity(y[:1], y[1:], dim=-1)
    return masked_mean(each.flatten(), presence.t().flatten(), dim=0)


class I2MoE(Method):
    """Interaction-aware mixture of experts.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of tokens and of the hidden layer that weighs the experts.
        tokens: P, for each modality.
        layers: Of each expert, >= 1.
        heads: Has to divide `dim`.
        dropout: In experts, in [0, 1).
        interaction: Weight of the mean of all M + 2 interaction losses, >= 0; None = 0.5, for
            regression 0.01.
        temperature: Of the softmax over the experts, > 0.
        variant: `official` loses the input of each fusion layer and cuts vectors into patches, as
            the released code does.
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.

    Raises:
        ValueError: If `heads` does not divide `dim`, or `temperature` is not above 0.
    """

    paper = Paper(
        "I2MoE: Interpretable Multimodal Interaction-aware Mixture-of-Experts",
        "ICML",
        2025,
        "https://arxiv.org/abs/2505.19190",
    )
    applies = Applies(min_modalities=2)
    search = ranges(
        layers=Whole(1, 3),
        temperature=Real(0.5, 4.0, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        tokens: Count = 4,
        layers: Depth = 1,
        heads: Count = 4,
        dropout: Rate = 0.5,
        interaction: LossWeight | None = None,
        temperature: Annotated[float, Field(strict=True, gt=0, le=1e6)] = 2.0,
        variant: Variant = "paper",
        lr: LearningRate = 1e-4,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, found {temperature}; take 1 or 2")
        modalities = len(task.modalities)
        self.interaction = WEIGHTS[task.kind] if interaction is None else interaction
        self.temperature = temperature
        self.encode = ModalityEncoders(task, dim, tokens=tokens, patches=variant == "official")
        self.missing = nn.Parameter(0.02 * torch.randn(modalities, tokens, dim))
        # uniqueness of each modality, synergy, redundancy: at first they are all the same
        self.experts = Copies(
            Fusion(task, dim, tokens, layers=layers, heads=heads, dropout=dropout, variant=variant),
            modalities + 2,
        )
        self.usage = UsageMeter(modalities, self.experts.count)
        self.reweight = nn.Sequential(
            nn.Linear(modalities * dim, dim),
            nn.ReLU(),
            Dropout(0.5),  # whatever `dropout` is, as in the released code
            nn.Linear(dim, modalities + 2),
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present; nothing is replaced."""
        e = self.embed(batch)
        if not self.training:
            self.usage(self.weights(e), batch.presence)
        return self.combine(e, self.experts(e.expand(self.experts.count, *e.shape)))

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """How much each interaction counts."""
        names = self.task.names
        return self.usage.diagnostics(
            names, [*(f"unique {n}" for n in names), "synergy", "redundancy"]
        )

    def embed(self, batch: Batch) -> Tokens:
        """Tokens e of each modality, learned ones where it is absent."""
        return torch.where(batch.presence[:, :, None, None], self.encode(batch), self.missing)

    def weights(self, e: Tokens) -> Float[Tensor, "batch expert"]:
        """Importance w of the experts for each sample; a row sums to 1."""
        scores: Tensor = self.reweight(e.mean(2).flatten(1))
        return (scores / self.temperature).softmax(1)

    def combine(
        self, e: Tokens, y: Float[Tensor, "expert batch output"]
    ) -> Float[Tensor, "batch output"]:
        """Mix the experts' outputs y_0."""
        return torch.einsum("be,ebc->bc", self.weights(e), y)

    def passes(
        self, e: Tokens, presence: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "expert replaced batch output"]:
        """Outputs y of all experts at once: y_0, then y_i with e_i replaced by N(0, 1).

        On the CPU y_i is computed for the samples that have modality i alone, and zero elsewhere.
        """
        experts, (batch, modalities) = self.experts.count, presence.shape
        present = presence.t().flatten()  # (M B)
        rows = torch.arange(len(present), device=present.device)
        if present.is_cpu:  # how many are there is at hand
            rows = rows[present]
        noise = torch.randn(experts, len(rows), *e.shape[2:], device=e.device, dtype=e.dtype)
        which = torch.eye(modalities, dtype=torch.bool, device=e.device)[rows // batch]
        replaced = torch.where(which[:, :, None, None], noise[:, :, None], e[rows % batch])
        y = self.experts(torch.cat([e.expand(experts, *e.shape), replaced], dim=1))
        y_0, y_i = y.split([batch, len(rows)], dim=1)
        y_i = y_i.new_zeros(experts, len(present), y.shape[2]).index_copy(1, rows, y_i)
        return torch.cat([y_0, y_i], dim=1).view(experts, 1 + modalities, batch, -1)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss, and the losses that tell the experts apart."""
        e = self.embed(batch)
        presence = batch.presence
        y = self.passes(e, presence)
        regression = self.task.kind == "regression"
        unique = uniqueness(y[:-2], presence, regression=regression)
        synergy = agreement(y[-2], presence, regression=regression)
        redundancy = agreement(y[-1], presence, regression=regression)
        weight = self.interaction / self.experts.count
        return {
            "task": self.task_loss(self.combine(e, y[:, 0]), batch.target),
            "uniqueness": weight * unique,
            "synergy": weight * synergy,
            "redundancy": weight * (redundancy if regression else 1 - redundancy),
        }
