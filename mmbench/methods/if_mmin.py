"""IF-MMIN: imagine the missing embeddings, led by features that all modalities have in common.

Paper: Zuo et al., "Exploiting Modality-Invariant Feature for Robust Multimodal Emotion
Recognition with Missing Modalities", ICASSP 2023.
Idea: a teacher learns from complete samples, with one encoder of invariant features for all
modalities, whose distributions are pulled together. A student starts from its weights and sees
gaps: a cascade of autoencoders imagines the missing embeddings from those that are there, each
block reading the invariant features again. The codes of all blocks predict.
Notation: presence (B, M); f = f_m embeddings, zeros where absent (B, M, D); s = s_m = S(f_m)
invariant features (B, M, D); x_i and z_i input and code of block i; rebuilt (B, M, D).
Stages: `teacher` trains encoders, S and a head on [f; s], with the central moment discrepancy of
all pairs of s_m; `imagine` trains the student.
Differences from the paper:
- The suite's encoders for LSTMs and a text CNN. The embedding of an absent modality is zero, where
  the released code encodes an input of zeros; likewise, what is to be imagined of a modality that
  is there, and so need not be imagined, is zero instead of that encoding.
- x_1 = f, z_i = Enc_i(x_i + s), x_{i+1} = x_i + Dec_i(z_i), the cascade of MMIN, which the paper
  builds on. The released code leaves the outputs of all decoders but the last unused, and adds s
  once more in each block instead: `variant="official"`.
- The paper hides a random incomplete pattern of complete samples. Here the student sees a random
  subset of what the scenario shows, the whole of it included, and learns the embeddings of what
  it does not see where they are known: the teacher's samples under the regime `full_access`, else
  the batch itself.
- The teacher learns from complete samples alone, of those that training may see.
- The weight of the invariant features is 100, as in the released script, which passes it by a
  name that its parser does not know; the parser's default is 1.
- AdamW without clipping or a schedule instead of Adam.
"""

from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_pattern
from mmbench.layers.moments import central_moment_discrepancy
from mmbench.method import ALL_TASKS, Applies, Method, Paper, Stage
from mmbench.search import Real, Whole, ranges

Features = Float[Tensor, "batch modality dim"]


class Embedding(nn.Module):
    """Encoders, and the one encoder S of what their outputs have in common.

    Args:
        task: What is encoded.
        dim: D.
    """

    def __init__(self, task: Task, dim: int) -> None:
        super().__init__()
        self.encode = ModalityEncoders(task, dim)
        self.shared = nn.Sequential(
            nn.Linear(dim, dim), nn.LeakyReLU(), nn.Linear(dim, dim), nn.LeakyReLU()
        )

    def forward(self, batch: Batch) -> tuple[Features, Features]:
        """Embeddings f, zeros where absent, and invariant features s, S(0) there."""
        f = self.encode(batch)
        return f, self.shared(f)


class Imagination(nn.Module):
    """A cascade of autoencoders over the embeddings of all modalities side by side.

    Args:
        width: M D.
        dim: D; codes are half as wide.
        blocks: Autoencoders, >= 1.
        official: Whether s is added again in place of what a block decodes.
    """

    def __init__(self, width: int, dim: int, blocks: int, *, official: bool) -> None:
        super().__init__()
        self.official = official
        self.encoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 2 * dim),
                nn.LeakyReLU(),
                nn.Linear(2 * dim, dim),
                nn.LeakyReLU(),
                nn.Linear(dim, dim // 2),
            )
            for _ in range(blocks)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim // 2, dim),
                nn.ReLU(),
                nn.Linear(dim, 2 * dim),
                nn.ReLU(),
                nn.Linear(2 * dim, width),
            )
            for _ in range(1 if official else blocks)
        )
        self.transition = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(
        self, f: Float[Tensor, "batch width"], s: Float[Tensor, "batch width"]
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch code"]]:
        """Rebuilt embeddings, and the codes of all blocks side by side."""
        x, codes = f, []
        if self.official:
            for encode in self.encoders:
                x = x + s
                codes.append(encode(x))
            x = x + self.decoders[0](codes[-1])
        else:
            for encode, decode in zip(self.encoders, self.decoders, strict=True):
                codes.append(encode(x + s))
                x = x + decode(codes[-1])
        return self.transition(x), torch.cat(codes, dim=1)


class IFMMIN(Method):
    """Missing modality imagination with invariant features.

    Args:
        task: What goes in and what is predicted.
        variant: The cascade of the paper, or that of its released code.
        dim: D, width of embeddings, even.
        blocks: Autoencoders of the cascade, >= 1.
        imagination: Weight of imagining what is missing, >= 0.
        invariance: Weight of keeping invariant features as the teacher has them, >= 0.
        dropout: In the heads, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.
    """

    paper = Paper(
        "Exploiting Modality-Invariant Feature for Robust Multimodal Emotion Recognition with "
        "Missing Modalities",
        "ICASSP",
        2023,
        "https://arxiv.org/abs/2210.15359",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2, complete_rows=True)
    search = ranges(
        blocks=Whole(1, 8),
        imagination=Real(0.1, 10.0, log=True),
        invariance=Real(1.0, 1000.0, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 128,
        blocks: Depth = 5,
        imagination: LossWeight = 1.0,
        invariance: LossWeight = 100.0,
        dropout: Rate = 0.5,
        lr: LearningRate = 2e-4,
        weight_decay: Decay = 1e-5,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        self.imagination, self.invariance = imagination, invariance
        width = len(task.modalities) * dim

        def head(features: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(features, dim),
                nn.ReLU(),
                Dropout(dropout),
                nn.Linear(dim, dim),
                nn.ReLU(),
                Dropout(dropout),
                nn.Linear(dim, task.num_outputs),
            )

        self.teacher = Embedding(task, dim)
        self.teacher_head = head(2 * width)
        self.student = Embedding(task, dim)
        self.imagine = Imagination(width, dim, blocks, official=variant == "official")
        self.head = head(blocks * (dim // 2))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The teacher, the same for both variants, then the student."""
        return (
            Stage(
                "teacher",
                trains=("teacher", "teacher_head"),
                shared_across=("variant", "blocks", "imagination", "invariance"),
            ),
            Stage("imagine", trains=("student", "imagine", "head")),
        )

    def begin(self, stage: Stage) -> None:
        """Freeze what rests; the student starts from the teacher's weights."""
        super().begin(stage)
        if stage.name == "imagine":
            self.student.load_state_dict(self.teacher.state_dict())

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        f, s = self.student(batch)
        output: Tensor = self.head(self.imagine(f.flatten(1), s.flatten(1))[1])
        return output

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Embeddings f, imagined ones where a modality is absent."""
        f, s = self.student(batch)
        imagined = self.imagine(f.flatten(1), s.flatten(1))[0].view_as(f)
        filled = torch.where(batch.presence[:, :, None], f, imagined)
        return dict(zip(self.task.names, filled.unbind(1), strict=True))

    def teach(self, batch: Batch) -> tuple[Features, Float[Tensor, "batch output"]]:
        """The teacher's invariant features and its prediction."""
        f, s = self.teacher(batch)
        return s, self.teacher_head(torch.cat([f, s], dim=1).flatten(1))

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """The teacher's prediction, then the prediction."""
        if self.stage == "teacher":
            return self.teach(batch)[1]
        return super().stage_output(batch)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Terms of the present stage."""
        truth = batch.teacher or batch
        if self.stage == "teacher":
            return self.teacher_loss(truth)
        return self.student_loss(batch.hide(~random_pattern(batch.presence)), truth)

    def teacher_loss(self, truth: Batch) -> dict[str, Float[Tensor, ""]]:
        """Prediction of complete samples, and how far apart the invariant features are."""
        complete = truth.presence.all(1)
        s, output = self.teach(truth)
        pairs = list(combinations(s.unbind(1), 2))
        apart = [central_moment_discrepancy(a, b, complete, complete) for a, b in pairs]
        return {
            "task": masked_mean(self.row_loss(output, truth.target, complete), complete, dim=0),
            "discrepancy": torch.stack(apart).mean(),
        }

    def student_loss(self, seen: Batch, truth: Batch) -> dict[str, Float[Tensor, ""]]:
        """Prediction, imagination and invariance.

        Args:
            seen: What the student sees.
            truth: The same samples, and all that is known of them.
        """
        f, s = self.student(seen)
        rebuilt, codes = self.imagine(f.flatten(1), s.flatten(1))
        with torch.no_grad():
            known_f, known_s = self.teacher(truth)
        missing = torch.where(seen.presence[:, :, None], 0.0, known_f)
        return {
            "task": self.task_loss(self.head(codes), seen.target),
            "imagination": self.imagination
            * squared_error(rebuilt.view_as(f), missing, truth.presence),
            "invariance": self.invariance * squared_error(s, known_s, truth.presence),
        }


def squared_error(
    a: Features, b: Features, known: Bool[Tensor, "batch modality"]
) -> Float[Tensor, ""]:
    """Mean squared error over the entries that are known."""
    return masked_mean((a - b).square().mean(2).flatten(), known.flatten(), dim=0)
