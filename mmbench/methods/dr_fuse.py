"""DrFuse: what modalities share and what each has alone, weighed for each label by attention.

Paper: Yao et al., "DrFuse: Learning Disentangled Representation for Clinical Multi-Modal Fusion
with Missing Modality and Modal Inconsistency", AAAI 2024.
Idea: each modality has a shared and a distinct representation. Shared ones are logits of
probabilities that are pulled together; their mean stands for all of them, whichever are there.
Every label attends to the distinct representations and to the shared one, and is taught to
attend most to what predicts it best.
Notation: presence (B, M); h = h_m shared and d = d_m distinct (B, M, D); h* merged (B, D);
slots d_1, ..., d_M, h* (B, M + 1, D); q query, k keys and v values of the slots; attention a
(B, R, M + 1), R = one row a label, or a single row.
Differences from the paper:
- The paper has records that are always there and images that may be missing. Here any of M >= 2
  modalities may be missing: h* is the mean, as a probability, over those that are there, the
  query is the mean over available slots, and all pairs of modalities are aligned.
- The suite's own encoders are the stems; shared and distinct encoders are two-layer MLPs on their
  vectors, the shared ones followed by the common projection.
- Labels have an attention row each, as in the paper; a single label and regression have one.
- The divergence is that of Bernoulli distributions, over pairs that are there. The released code
  leaves out the part of 1 - p, and counts in samples that lack an image.
- An order of attention is taught where at least two modalities are there, as in the paper.
- The learning rate is the released one; all weights of losses are 1, which the paper searches.
- AdamW instead of Adam.
There is no `official` variant: as released, the model does not run (a projection that is never
made, a layer that does not fit, settings that are read and not defined).
"""

from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.layers.late_fusion import StackedMLP
from mmbench.layers.stacked import StackedLinear
from mmbench.method import Applies, Method, Paper
from mmbench.search import Real, ranges

Features = Float[Tensor, "batch modality dim"]
Presence = Bool[Tensor, "batch modality"]


class DrFuse(Method):
    """Disentangled fusion with an attention row for each label.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of representations.
        auxiliary: Weight of predictions from each slot alone, >= 0.
        alignment: Weight of the divergence of shared representations, >= 0.
        disentangle: Weight of the cosine of shared and distinct representations, >= 0.
        ranking: Weight of the order of attention, >= 0.
        dropout: On what the stems give, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper(
        "DrFuse: Learning Disentangled Representation for Clinical Multi-Modal Fusion with "
        "Missing Modality and Modal Inconsistency",
        "AAAI",
        2024,
        "https://github.com/dorothy-yao/drfuse",
    )
    applies = Applies(min_modalities=2)
    search = ranges(
        weight_decay=Real(0.0, 0.01),
        alignment=Real(0.1, 10.0, log=True),
        disentangle=Real(0.1, 10.0, log=True),
        ranking=Real(0.1, 10.0, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 256,
        auxiliary: LossWeight = 1.0,
        alignment: LossWeight = 1.0,
        disentangle: LossWeight = 1.0,
        ranking: LossWeight = 1.0,
        dropout: Rate = 0.3,
        lr: LearningRate = 1e-4,
        weight_decay: Decay = 0.0,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        modalities, outputs = len(task.modalities), task.num_outputs
        self.auxiliary, self.alignment = auxiliary, alignment
        self.disentangle, self.ranking = disentangle, ranking
        self.rows = outputs if task.kind == "multi_label" else 1
        self.stems = ModalityEncoders(task, dim)
        self.drop = Dropout(dropout)
        self.shared = StackedMLP(modalities, dim, dim)
        self.distinct = StackedMLP(modalities, dim, dim)
        self.project = nn.Sequential(  # one for all modalities
            nn.Linear(dim, 2 * dim),
            nn.ReLU(),
            nn.Linear(2 * dim, dim),
            nn.ReLU(),
            nn.Linear(dim, dim),
        )
        self.attend = nn.Linear(dim, (2 + self.rows) * dim)
        self.head = nn.Linear(dim, outputs)
        self.alone = StackedLinear(modalities + 1, dim, outputs)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        h, d = self.features(batch)
        return self.decide(self.slots(h, d, batch.presence), batch.presence)[0]

    def features(self, batch: Batch) -> tuple[Features, Features]:
        """Shared h and distinct d; without meaning where absent."""
        z = self.drop(self.stems(batch))
        return self.project(self.shared(z)), self.distinct(z)

    def slots(
        self, h: Features, d: Features, presence: Presence
    ) -> Float[Tensor, "batch slot dim"]:
        """What attention reads: d_1, ..., d_M, h*."""
        return torch.cat([d, merge(h, presence)[:, None]], dim=1)

    def decide(
        self, slots: Float[Tensor, "batch slot dim"], presence: Presence
    ) -> tuple[Float[Tensor, "batch output"], Float[Tensor, "batch row slot"]]:
        """Prediction and attention."""
        present = available(presence)
        q, v, *k = self.attend(slots).chunk(2 + self.rows, dim=-1)
        query = masked_mean(q, present)
        scores = torch.einsum("bd,rbsd->brs", query, torch.stack(k)) / query.shape[1] ** 0.5
        attention = scores.masked_fill(~present[:, None], -torch.inf).softmax(-1)
        read = attention @ v  # (B, R, D)
        return (read * self.head.weight).sum(-1) + self.head.bias, attention

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Prediction, by all and by each slot; alignment, disentanglement, order of attention."""
        h, d = self.features(batch)
        presence = batch.presence
        slots = self.slots(h, d, presence)
        output, attention = self.decide(slots, presence)
        alone = self.alone(slots.transpose(0, 1))  # (M + 1, B, C)
        rows = torch.stack([self.row_loss(o, batch.target) for o in alone], dim=1)
        cosine = F.cosine_similarity(h, d, dim=-1).abs()
        return {
            "task": self.task_loss(output, batch.target),
            "auxiliary": self.auxiliary * masked_mean(rows, available(presence), dim=0).sum(),
            "alignment": self.alignment * alignment(h, presence),
            "disentangle": self.disentangle * masked_mean(cosine, presence, dim=0).sum(),
            "ranking": self.ranking * ranking(attention, self.errors(alone, batch), presence),
        }

    def errors(
        self, alone: Float[Tensor, "slot batch output"], batch: Batch
    ) -> Float[Tensor, "batch row slot"]:
        """How badly each slot alone predicts what an attention row is for."""
        with torch.no_grad():
            if self.task.kind == "multi_label":
                target = batch.target.expand_as(alone)
                error = F.binary_cross_entropy_with_logits(alone, target, reduction="none")
                return error.permute(1, 2, 0)
            return torch.stack([self.row_loss(o, batch.target) for o in alone], dim=1)[:, None]


def available(presence: Presence) -> Bool[Tensor, "batch slot"]:
    """Which slots are there; the merged one always is."""
    return F.pad(presence, (0, 1), value=True)


def merge(h: Features, presence: Presence) -> Float[Tensor, "batch dim"]:
    """h* = logit(mean of sigmoid(h_m) over what is there)."""
    absent = ~presence[:, :, None]
    yes = F.logsigmoid(h).masked_fill(absent, -torch.inf).logsumexp(1)
    no = F.logsigmoid(-h).masked_fill(absent, -torch.inf).logsumexp(1)
    return yes - no


def alignment(h: Features, presence: Presence) -> Float[Tensor, ""]:
    """Jensen-Shannon divergence of the Bernoulli distributions with logits h, summed over D.

    Mean over all pairs of modalities that a sample has; zero without a pair.
    """
    a, b = h[:, :, None], h[:, None]  # (B, M, 1, D), (B, 1, M, D)
    p, q = a.sigmoid(), b.sigmoid()
    mixed = entropy((p + q) / 2)
    divergence = (mixed - (entropy(p) + entropy(q)) / 2).sum(-1)  # (B, M, M)
    pair = (presence[:, :, None] & presence[:, None]).triu(diagonal=1)
    return masked_mean(divergence.flatten(), pair.flatten(), dim=0)


def entropy(p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Entropy of Bernoulli distributions, in nats."""
    # at 0 and 1 the slope is infinite
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())


def ranking(
    attention: Float[Tensor, "batch row slot"],
    error: Float[Tensor, "batch row slot"],
    presence: Presence,
) -> Float[Tensor, ""]:
    """How much more attention the worse of two slots gets, over the pairs where it does.

    Mean over such entries of each pair of slots, then over the pairs. Only samples with at least
    two modalities take part.
    """
    present = available(presence) & (presence.sum(1, keepdim=True) >= 2)
    terms = []
    for i, j in combinations(range(attention.shape[2]), 2):
        sign = torch.where(error[:, :, i] < error[:, :, j], 1.0, -1.0)
        excess = (sign * (attention[:, :, j] - attention[:, :, i])).relu()
        wrong = (excess > 0) & (present[:, i] & present[:, j])[:, None]
        terms.append(masked_mean(excess.flatten(), wrong.flatten(), dim=0))
    return torch.stack(terms).mean()
