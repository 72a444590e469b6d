"""I2M2: a classifier of each modality and one of all, multiplied.

Paper: Madaan et al., "Jointly Modeling Inter- & Intra-Modality Dependencies for Multi-Modal
Learning", NeurIPS 2024.
Idea: a target may depend on each modality by itself (intra) and on modalities together (inter).
Each dependency gets a model of its own; the prediction is their product of experts.
Notation: presence (B, M); z_m (B, M, C) outputs of the unimodal models; z_joint (B, C).
Differences from the paper:
- Logits are added. The paper adds log-softmaxes and normalises again, which is the same, as these
  differ from logits by a number for each sample. For labels the product of Bernoulli experts is
  a sum of logits, too; for regression the product of Gaussians of one width is the mean.
- Missing modalities are no subject of the paper. The model of an absent modality leaves the
  product, which remains one of the others; the joint model sees zeros in its place.
- Each part is first trained by itself, all at the same time, as they share no weights; the epoch
  that is kept is the best of their product instead of the best of each.
- The suite's encoders and late fusion, one set of encoders for the unimodal models and one for
  the joint model as in the paper; AdamW without gradient clipping for SGD, whose learning rates
  differ between the parts.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.layers.late_fusion import LateFusion
from mmbench.layers.stacked import StackedLinear
from mmbench.method import Applies, Method, Paper, Stage

Variant = Literal["both", "inter", "intra"]


class Unimodal(nn.Module):
    """A classifier of each modality, two-layer heads on embeddings, none of it shared."""

    def __init__(self, task: Task, dim: int, dropout: float) -> None:
        super().__init__()
        count = len(task.modalities)
        self.encode = ModalityEncoders(task, dim)
        self.head = nn.Sequential(
            StackedLinear(count, dim, dim),
            nn.GELU(),
            Dropout(dropout),
            StackedLinear(count, dim, task.num_outputs),
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch modality output"]:
        """Predict from each modality by itself; without meaning where it is absent."""
        z: Tensor = self.head(self.encode(batch).transpose(0, 1))
        return z.transpose(0, 1)


class I2M2(Method):
    """Inter- and intra-modality modelling.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of embeddings and hidden layers.
        dropout: In heads, in [0, 1).
        variant: `intra`: the unimodal models alone; `inter`: the joint model alone.
        pretrain: Whether each part first learns by itself.
        joint_when_incomplete: Whether the joint model takes part in predictions of samples that
            lack a modality.
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.

    Raises:
        ValueError: If the joint model is all there is, but is not to predict incomplete samples.
    """

    paper = Paper(
        "Jointly Modeling Inter- & Intra-Modality Dependencies for Multi-Modal Learning",
        "NeurIPS",
        2024,
        "https://openreview.net/forum?id=XAKALzI3Gw",
    )
    applies = Applies(min_modalities=2)

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        dropout: Rate = 0.1,
        variant: Variant = "both",
        pretrain: bool = True,
        joint_when_incomplete: bool = True,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if variant == "inter" and not joint_when_incomplete:
            raise ValueError(
                "variant='inter' with joint_when_incomplete=false leaves incomplete samples "
                "without any model; take one of the two back"
            )
        # alone, the joint model has nothing to be trained apart from
        self.pretrain = pretrain and variant != "inter"
        self.joint_when_incomplete = joint_when_incomplete
        self.unimodal = None if variant == "inter" else Unimodal(task, dim, dropout)
        self.joint = None if variant == "intra" else LateFusion(task, dim, dropout)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Each part by itself, then their product."""
        product = Stage("product")
        return (Stage("parts"), product) if self.pretrain else (product,)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict with the product of all that applies to a sample."""
        z, used = self.parts(batch)
        total = torch.where(used[:, :, None], z, 0.0).sum(1)
        if self.task.kind == "regression":
            return total / used.sum(1, keepdim=True)
        return total

    def parts(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch part output"], Bool[Tensor, "batch part"]]:
        """Outputs z_1, ..., z_M, z_joint of the models, and which of them apply to a sample."""
        z, used = [], []
        if self.unimodal is not None:
            z.append(self.unimodal(batch))
            used.append(batch.presence)
        if self.joint is not None:
            z.append(self.joint(batch)[:, None])
            complete = batch.presence.all(1, keepdim=True)
            used.append(complete | self.joint_when_incomplete)
        return torch.cat(z, 1), torch.cat(used, 1)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """First each part's own loss over the samples it applies to, then that of the product."""
        if self.stage != "parts":
            return super().loss(batch)
        z, used = self.parts(batch)
        names = [*(batch.modalities if self.unimodal else ()), *(("joint",) if self.joint else ())]
        return {
            name: masked_mean(self.row_loss(output, batch.target), present, dim=0)
            for name, output, present in zip(names, z.unbind(1), used.unbind(1), strict=True)
        }
