"""ShaSpec: shared and specific features, the shared ones standing in for what is missing.

Paper: Wang et al., "Multi-Modal Learning With Missing Modality via Shared-Specific Feature
Modelling", CVPR 2023.
Idea: an encoder shared by all modalities yields features that should be alike across them, one
encoder each yields features that should tell them apart. A missing modality is replaced by the
mean of the shared features that are there.
Notation: presence = a (B, M); z = stem output (B, M, D); r = r_m shared (B, M, D);
s = s_m specific (B, M, D); f = f_m fused (B, M, D).
Differences from the paper:
- The paper segments volumes. This is its classification form: the suite's own encoders are the
  stems, shared and specific encoders are two-layer MLPs on their vectors, the decoder is a
  two-layer head, as in the paper's own experiments on classification.
- Both auxiliary losses leave missing entries out, as the paper says; its released code computes
  them on zero images, too.
- The mean over all available shared features fills a gap, as in Eq. 3; the released code takes
  one random available modality.
- Training hides modalities at random, as the second, longer run of the released script does (mode
  `random`): of what a sample has, a number is kept, each number equally likely, and of that number
  any. The released code draws once a batch, of one sample, and after a first run in which all
  modalities are seen; here every sample has its own draw, from the start. What is hidden takes no
  part in the auxiliary losses either.
- Alignment takes all pairs of modalities, as in the paper; the released code a ring of them.
- AdamW instead of SGD or Adam with a schedule, as for every method of the suite.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_subset
from mmbench.layers.late_fusion import StackedMLP
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Real, ranges


class ShaSpec(Method):
    """Shared-specific feature modelling, classification form.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of features.
        alpha: Weight of distribution alignment (pulls shared features together), >= 0.
        beta: Weight of domain classification (keeps specific features apart), >= 0.
        hide: Whether training hides random modalities of each sample, as released.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper(
        "Multi-Modal Learning With Missing Modality via Shared-Specific Feature Modelling",
        "CVPR",
        2023,
        "https://arxiv.org/abs/2307.14126",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        alpha=Real(0.01, 1.0, log=True),
        beta=Real(0.002, 0.2, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        alpha: LossWeight = 0.1,
        beta: LossWeight = 0.02,
        hide: bool = True,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        modalities = len(task.modalities)
        self.alpha, self.beta, self.hide = alpha, beta, hide
        self.stems = ModalityEncoders(task, dim)
        self.shared = StackedMLP(1, dim, dim)
        self.specific = StackedMLP(modalities, dim, dim)
        self.project = nn.Linear(2 * dim, dim)  # one for all modalities
        self.which = nn.Linear(dim, modalities)  # which modality is this feature of?
        self.head = nn.Sequential(
            nn.Linear(modalities * dim, dim),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(dim, task.num_outputs),
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        r, s = self.features(batch)
        return self.decode(r, s, batch.presence)

    def features(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch modality dim"], Float[Tensor, "batch modality dim"]]:
        """Shared features r and specific features s (Eq. 1); without meaning where absent."""
        z = self.stems(batch)  # (B, M, D)
        r = self.shared(z.flatten(0, 1)[:, None]).view_as(z)
        return r, self.specific(z)

    def decode(
        self,
        r: Float[Tensor, "batch modality dim"],
        s: Float[Tensor, "batch modality dim"],
        presence: Bool[Tensor, "batch modality"],
    ) -> Float[Tensor, "batch output"]:
        """Fuse, fill the gaps and classify."""
        output: Tensor = self.head(self.fuse(r, s, presence).flatten(1))  # Eq. 4
        return output

    def fuse(
        self,
        r: Float[Tensor, "batch modality dim"],
        s: Float[Tensor, "batch modality dim"],
        presence: Bool[Tensor, "batch modality"],
    ) -> Float[Tensor, "batch modality dim"]:
        """Features f of each modality; the mean of the shared ones where it is absent."""
        f = self.project(torch.cat([r, s], dim=-1)) + r  # Eq. 2, residual on the shared part
        filled = masked_mean(r, presence)  # Eq. 3, (B, D)
        return torch.where(presence[:, :, None], f, filled[:, None])

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Features that the head reads."""
        f = self.fuse(*self.features(batch), batch.presence)
        return dict(zip(self.task.names, f.unbind(1), strict=True))

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss, distribution alignment and domain classification (Eq. 5)."""
        if self.hide:
            batch = batch.hide(~random_part(batch.presence))
        r, s = self.features(batch)
        return {
            "task": self.task_loss(self.decode(r, s, batch.presence), batch.target),
            "alignment": self.alpha * alignment(r, batch.presence),
            "domain": self.beta * self.domain(s, batch.presence),
        }

    def domain(
        self, s: Float[Tensor, "batch modality dim"], presence: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy of telling the modality of each available specific feature."""
        logits = self.which(s)  # (B, M, M)
        label = torch.arange(s.shape[1], device=s.device).expand(len(s), -1)
        entropy = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
        return masked_mean(entropy, presence.flatten(), dim=0)


def random_part(presence: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch modality"]:
    """Keep 1 to n of the n modalities that a sample has, each number equally likely."""
    n = presence.sum(1)
    return random_subset(presence, 1 + (torch.rand(len(n), device=n.device) * n).long())


def alignment(
    r: Float[Tensor, "batch modality dim"], presence: Bool[Tensor, "batch modality"]
) -> Float[Tensor, ""]:
    """Mean L1 distance of all pairs of available shared features; zero without a pair."""
    distance = (r[:, :, None] - r[:, None]).abs().mean(-1)  # (B, M, M)
    pair = (presence[:, :, None] & presence[:, None]).triu(diagonal=1)
    return masked_mean(distance.flatten(), pair.flatten(), dim=0)
