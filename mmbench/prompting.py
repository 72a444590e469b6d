"""What prompt methods share: a backbone that is frozen, and how it got its weights.

A prompt method leaves a multimodal transformer as it is and learns a few tokens that are put into
it, the pooler and a head. Without published weights the transformer is first trained on the same
training split (`warm_frozen`); all prompt methods then start from the same weights.
"""

from abc import ABC
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, Depth, LearningRate, Width
from mmbench.data.batch import Batch
from mmbench.data.embeddings import share_between_runs
from mmbench.data.task import Task
from mmbench.layers.backbones import Backbone
from mmbench.layers.fusion import random_drop
from mmbench.layers.named_backbone import backbone as _backbone  # an argument has that name
from mmbench.method import Method, Stage

HIDE_RATE = 0.3  # share of entries hidden while the backbone warms
WARM_LR, WARM_DECAY = 1e-3, 1e-2  # of AdamW meanwhile, the same for all methods that share it
WARM_UP = 0.1  # share of steps in which the learning rate rises

Regime = Literal["warm_frozen", "pretrained_frozen", "joint"]


class PromptMethod(Method, ABC):
    """A method that puts tokens into a frozen multimodal transformer.

    A subclass makes its parts, predicts in `forward`, and may add terms in `prompt_loss`.

    Args:
        task: What goes in and what is predicted.
        backbone: "small", "packaged", or "vilt:/folder", "clip:/folder", "blip2:/folder".
        frozen: `warm_frozen` trains the backbone on the training split first, some of its
            entries hidden at random, then freezes it (of `packaged`, what is not published:
            the projection of the image); `pretrained_frozen` takes it as it comes; `joint` trains
            everything at once. None = `warm_frozen` for `small` and `packaged`,
            `pretrained_frozen` for the others.
        warm_epochs: Epochs of that first training, >= 1.
        dim: D of the small backbone.
        depth: L of the small backbone.
        lr: Learning rate of AdamW after the warm-up.
        weight_decay: Of AdamW.
    """

    def __init__(
        self,
        task: Task,
        *,
        backbone: str = "small",
        frozen: Regime | None = None,
        warm_epochs: Count = 20,
        dim: Width = 64,
        depth: Depth = 4,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 2e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        self.regime: Regime = frozen or (
            "warm_frozen" if backbone in ("small", "packaged") else "pretrained_frozen"
        )
        self.warm_epochs = warm_epochs
        self.backbone: Backbone = _backbone(backbone, task, dim=dim, depth=depth)
        if self.regime == "warm_frozen":
            self.warm_head = nn.Linear(self.backbone.pooled_width, task.num_outputs)
        if self.regime != "joint":
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.startswith("backbone.pooler."))
            self.train(self.training)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The backbone's own training, if it has one, and that of prompts, pooler and head."""
        prompt = Stage("prompt")
        if self.regime != "warm_frozen":
            return (prompt,)
        warm = Stage(
            "warm",
            trains=("backbone", "warm_head"),
            epochs=self.warm_epochs,
            select="best",
            shared_across=("frozen", "lr", "weight_decay"),
        )
        return (warm, prompt)

    def begin(self, stage: Stage) -> None:
        """Start a stage; a backbone that rests from now on is that of other runs, too."""
        super().begin(stage)
        if stage.name == "prompt" and self.regime != "joint":
            share_between_runs(self.backbone)

    def require_layer(self, insert_at: int) -> None:
        """Refuse a layer that the backbone does not have.

        Raises:
            ValueError: If it is not in 0..depth - 1.
        """
        if not 0 <= insert_at < self.backbone.depth:
            raise ValueError(
                f"prompts cannot enter at layer {insert_at}; the backbone has the layers "
                f"0 to {self.backbone.depth - 1}"
            )

    def make_head(self) -> nn.Sequential:
        """Linear, LayerNorm, GELU, Linear on what the backbone's pooler returns."""
        width = self.backbone.pooled_width
        hidden = 2 * width // len(self.backbone.streams)
        return nn.Sequential(
            nn.Linear(width, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, self.task.num_outputs),
        )

    def warm_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """What the backbone predicts by itself, without any prompt."""
        output: Tensor = self.warm_head(self.backbone(batch))
        return output

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """The backbone's own prediction while it warms, the method's afterwards."""
        output: Tensor = self.warm_output(batch) if self.stage == "warm" else self(batch)
        return output

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """While the backbone warms: the task's loss, with entries hidden at random."""
        if self.stage != "warm":
            return self.prompt_loss(batch)
        hidden = batch.hide(~random_drop(batch.presence, HIDE_RATE))
        return {"task": self.task_loss(self.warm_output(hidden), batch.target)}

    def prompt_loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms whose sum the prompts minimise; by default the task's own loss alone."""
        return {"task": self.task_loss(self(batch), batch.target)}

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises for a tenth of the steps, then falls to zero."""
        lr, decay = (self.lr, self.weight_decay) if self.stage != "warm" else (WARM_LR, WARM_DECAY)
        trainable = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=decay, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        if steps < 1:  # a loader without a length
            return optimizer
        rise = max(1, round(WARM_UP * steps))

        def factor(step: int) -> float:
            return min((step + 1) / rise, max(0, steps - step) / max(1, steps - rise))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
