"""CorrKD: a student that sees gaps learns from how its teacher's samples and classes correlate.

Paper: Li et al., "Correlation-Decoupled Knowledge Distillation for Multimodal Sentiment Analysis
with Incomplete Modalities", CVPR 2024. Reconstructed: no code was released and its equations were
not at hand; what its abstract leaves open is ours, as said below.
Idea: a teacher learns from complete samples. A student of the same form sees random gaps and is
led by the teacher in three ways: each sample's representation is to be near the teacher's of the
same sample and apart from those of others; samples are to lie to the prototypes of the classes as
they do for the teacher; and the responses are matched apart for the target and for the rest.
Notation: presence (B, M); H joint representation (B, D); c_k prototype of class k, the mean H of
its samples in the batch; logits (B, C); t teacher, s student.
Stages: `teacher` trains the teacher, `student` the student.
Differences from the paper:
- Teacher and student: the suite's encoders, their vectors side by side through one hidden layer
  to H, a linear head. The paper has a convolution and a transformer for each modality.
- Sample-level contrast: mean over pairs i, j of |H_i^s - H_i^t|² + relu(η - |H_i^s - H_j^t|)² on
  vectors of length 1, so that η means the same for all widths; η = 1 is ours.
- Prototypes: mean squared difference of the cosines of each sample to the prototypes of all
  classes in the batch. A network's own prototypes are taken from its own H.
- Responses: KL divergence of (p, 1 - p) of the target, plus that of the other classes among
  themselves, at a temperature of 2, times its square. The paper maximises mutual information.
  With several labels there is no rest: (p, 1 - p) of each label.
- All weights are 1.
- The paper hides single steps, too; here the student sees a random subset of the modalities that
  the scenario shows. The teacher teaches about samples that are complete for it: under the regime
  `full_access` those of the teacher batch, else those that the scenario left complete.
- It needs classes: regression does not apply.
- AdamW, and the suite's learning rate.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_pattern
from mmbench.method import Applies, Method, Paper, Stage
from mmbench.search import Real, ranges

Joint = Float[Tensor, "batch dim"]
Logits = Float[Tensor, "batch output"]
Rows = Bool[Tensor, " batch"]

TEMPERATURE = 2.0


class Network(nn.Module):
    """Encoders, joint representation and head: the form of both teacher and student.

    Args:
        task: What goes in and what is predicted.
        dim: D.
        dropout: On H before the head, in [0, 1).
    """

    def __init__(self, task: Task, dim: int, dropout: float) -> None:
        super().__init__()
        self.encode = ModalityEncoders(task, dim)
        self.fuse = nn.Sequential(
            nn.Linear(len(task.modalities) * dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.head = nn.Sequential(nn.GELU(), Dropout(dropout), nn.Linear(dim, task.num_outputs))

    def forward(self, batch: Batch) -> tuple[Joint, Logits]:
        """H and logits."""
        joint = self.fuse(self.encode(batch).flatten(1))
        return joint, self.head(joint)


class CorrKD(Method):
    """Correlation-decoupled knowledge distillation.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of embeddings and of the joint representation.
        contrast: Weight of sample-level contrastive distillation, >= 0.
        prototype: Weight of category-guided prototype distillation, >= 0.
        response: Weight of response-disentangled consistency distillation, >= 0.
        margin: η, from where on another sample is far enough, in 0..2.
        dropout: Before the heads, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper(
        "Correlation-Decoupled Knowledge Distillation for Multimodal Sentiment Analysis with "
        "Incomplete Modalities",
        "CVPR",
        2024,
        "https://arxiv.org/abs/2404.16456",
    )
    applies = Applies(tasks=("single_label", "multi_label"), min_modalities=2, complete_rows=True)
    search = ranges(
        contrast=Real(0.1, 10.0, log=True),
        prototype=Real(0.1, 10.0, log=True),
        response=Real(0.1, 10.0, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        contrast: LossWeight = 1.0,
        prototype: LossWeight = 1.0,
        response: LossWeight = 1.0,
        margin: Annotated[float, Field(strict=True, ge=0, le=2)] = 1.0,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        self.contrast, self.prototype, self.response = contrast, prototype, response
        self.margin = margin
        self.teacher = Network(task, dim, dropout)
        self.student = Network(task, dim, dropout)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The teacher, the same whatever the weights of distillation, then the student."""
        return (
            Stage(
                "teacher",
                trains=("teacher",),
                shared_across=("contrast", "prototype", "response", "margin"),
            ),
            Stage("student", trains=("student",)),
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        logits: Tensor = self.student(batch)[1]
        return logits

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """The teacher's prediction, then the student's."""
        if self.stage == "teacher":
            logits: Tensor = self.teacher(batch)[1]
            return logits
        return super().stage_output(batch)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss of the teacher on complete samples; then of the student, and what it is told.

        Terms of distillation are means over the samples about which the teacher teaches.
        """
        truth = batch.teacher or batch
        complete = truth.presence.all(1)
        if self.stage == "teacher":
            rows = self.row_loss(self.teacher(truth)[1], truth.target)
            return {"task": masked_mean(rows, complete, dim=0)}
        joint, logits = self.student(batch.hide(~random_pattern(batch.presence)))
        with torch.no_grad():
            known_joint, known_logits = self.teacher(truth)
        member = batch.target.float()
        if self.task.kind == "single_label":
            member = F.one_hot(batch.target, self.task.num_outputs).float()
            responses = disentangled(logits, known_logits, member.bool())
        else:
            responses = by_label(logits, known_logits)
        return {
            "task": self.task_loss(logits, batch.target),
            "contrast": self.contrast * contrast(joint, known_joint, complete, self.margin),
            "prototype": self.prototype * prototypes(joint, known_joint, member, complete),
            "response": self.response * masked_mean(responses, complete, dim=0),
        }


def contrast(student: Joint, teacher: Joint, rows: Rows, margin: float) -> Float[Tensor, ""]:
    """Own sample of the teacher near, others' at least `margin` away, on vectors of length 1.

    Mean over the ordered pairs of different samples that take part; zero without a pair.
    """
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    squared = 2 - 2 * s @ t.T  # of all distances
    # the slope of a root is infinite at zero
    near = (margin - squared.clamp_min(1e-12).sqrt()).relu().square()
    pair = (rows[:, None] & rows) & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    total = squared.diagonal()[:, None] + near
    return masked_mean(total.flatten(), pair.flatten(), dim=0)


def prototypes(
    student: Joint,
    teacher: Joint,
    member: Float[Tensor, "batch label"],
    rows: Rows,
) -> Float[Tensor, ""]:
    """Mean squared difference of the cosines of samples to prototypes, over the classes there.

    Args:
        student: H of the student.
        teacher: H of the teacher.
        member: 1 = the sample belongs to the class, 0 = it does not.
        rows: Samples that take part.
    """
    member = torch.where(rows[:, None], member, 0.0)
    count = member.sum(0)
    cosines = []
    for joint in (student, teacher):
        centre = member.T @ joint / count.clamp_min(1)[:, None]  # (C, D)
        cosines.append(F.normalize(joint, dim=1) @ F.normalize(centre, dim=1).T)
    apart = (cosines[0] - cosines[1]).square()
    present = rows[:, None] & (count > 0)
    return masked_mean(apart.flatten(), present.flatten(), dim=0)


def disentangled(
    student: Logits, teacher: Logits, target: Bool[Tensor, "batch output"]
) -> Float[Tensor, " batch"]:
    """KL of target against the rest, plus KL within the rest, teacher to student, times T².

    Args:
        student: Its logits.
        teacher: Its logits.
        target: True = the class of the sample, one in each row.
    """
    s, t = student / TEMPERATURE, teacher / TEMPERATURE
    split = binary_kl(odds(s, target), odds(t, target))
    rest_s, rest_t = (x.masked_fill(target, -torch.inf).log_softmax(1) for x in (s, t))
    rest = torch.where(target, 0.0, rest_t.exp() * (rest_t - rest_s).masked_fill(target, 0.0))
    return (split + rest.sum(1)) * TEMPERATURE**2


def odds(logits: Logits, target: Bool[Tensor, "batch output"]) -> Float[Tensor, " batch"]:
    """Logit of the target's probability: its own logit, less those of the rest together."""
    rest = logits.masked_fill(target, -torch.inf).logsumexp(1)
    return torch.where(target, logits, 0.0).sum(1) - rest


def by_label(student: Logits, teacher: Logits) -> Float[Tensor, " batch"]:
    """KL of (p, 1 - p) of each label, teacher to student, times T²; mean over the labels."""
    return binary_kl(student / TEMPERATURE, teacher / TEMPERATURE).mean(1) * TEMPERATURE**2


def binary_kl(
    student: Float[Tensor, "*shape"], teacher: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """KL divergence of Bernoulli distributions from their logits, in nats."""
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    return yes + (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
