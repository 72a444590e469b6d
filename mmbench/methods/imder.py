"""IMDer: missing features are drawn by diffusion, led by those that are there.

Paper: Wang et al., "Incomplete Multimodality-Diffused Emotion Recognition", NeurIPS 2023.
Idea: for each modality a network learns the score of its features under growing noise, given the
features that are there. What is missing is drawn: from noise back to features by the reverse
stochastic differential equation, then refined towards the truth. A transformer over all modalities,
recovered or not, predicts.
Notation: presence (B, M); x = x_m tokens, zeros where absent (M, B, P, D); c condition, a linear
map of the tokens of all modalities side by side (B, P, D); t time in (0, 1]; s score networks.
dx = σ^t dw, so x(t) = x + ς(t) ε with ς(t)² = (σ^2t - 1) / (2 ln σ), σ = 25. Learned by
|ς(t) s(x(t), t, c) + ε|²; drawn from t = 1 on by steps Δ back: x + Δ σ^2t s(x, t, c) + √Δ σ^t ε.
Stages: `recognise` trains encoders and what predicts; `recover` freezes the encoders.
Differences from the paper:
- The released code keeps its encoders frozen as they come out of a training of which only the
  result is given. Here that is the first stage, on all that training may see, zeros for the rest.
- Tokens of the suite's encoders, normed without weights, for sequences of 48 steps. A score network
  is a transformer that reads c beside its own tokens, instead of a U-Net with such transformers at
  each of four resolutions; the refining network has 2 residual blocks with attention over channels,
  instead of 20; what predicts is one transformer over the tokens of all modalities, instead of one
  for each pair.
- All modalities share one condition, also with a single one there, where the code passes that on.
- A modality is missing for a sample, not for a batch. Training draws what a random subset of what
  the scenario shows does not hold; scores and refining are learned where that is known: in the
  teacher's samples under the regime `full_access`, else in the batch.
- 20 steps instead of 100. In evaluation the noise is the same for every sample and every time, so
  that predictions can be repeated and do not depend on the other samples.
- `variant="official"`: the released code adds noise to the condition, too: as much as to x, and in
  training the very ε that is to be told.
- AdamW without a schedule instead of Adam; task and recovery are weighed as in the code.
"""

from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.attention import TransformerStack
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_pattern
from mmbench.layers.stacked import StackedBlock, StackedLinear
from mmbench.method import ALL_TASKS, Applies, Method, Paper, Stage
from mmbench.search import Choice, Real, ranges

Tokens = Float[Tensor, "modality batch token dim"]
Condition = Float[Tensor, "#modality batch token dim"]
Presence = Bool[Tensor, "batch modality"]
Noise = Float[Tensor, "draw more #batch token dim"]

SIGMA = 25.0
EARLIEST, LAST = 1e-5, 1e-3  # least t in training, and when drawing
FREQUENCY = 30.0  # spread of the frequencies by which t is told
BLOCKS, REDUCTION = 2, 16  # of the refining network, and of its attention over channels


def spread(t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Standard deviation ς(t) of x(t) around x."""
    return ((SIGMA ** (2 * t) - 1) / (2 * log(SIGMA))).sqrt()


class Score(nn.Module):
    """Score networks of all modalities, in batched products.

    Args:
        modalities: M.
        dim: D, even.
        depth: Layers, >= 1.
        heads: Has to divide `dim`.
    """

    def __init__(self, modalities: int, dim: int, *, depth: int, heads: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", FREQUENCY * torch.randn(dim // 2))
        self.time = StackedLinear(modalities, dim, dim)
        self.enter = StackedLinear(modalities, dim, dim)
        self.at = nn.ModuleList(StackedLinear(modalities, dim, dim) for _ in range(depth))
        self.blocks = nn.ModuleList(
            StackedBlock(modalities, dim, heads=heads, dropout=0.0) for _ in range(depth)
        )
        self.leave = StackedLinear(modalities, dim, dim)

    def forward(self, x: Tokens, t: Float[Tensor, " batch"], c: Condition) -> Tokens:
        """Tell the scores of x(t)."""
        angle = 2 * torch.pi * t[:, None] * self.frequencies
        wave = torch.cat([angle.sin(), angle.cos()], dim=1)  # (B, D)
        when = F.silu(self.time(wave.expand(len(x), -1, -1)))
        h, c = self.enter(x), c.expand_as(x)
        for at, block in zip(self.at, self.blocks, strict=True):
            h = h + at(when)[:, :, None]
            h = block(h, torch.cat([h, c], dim=2))
        noise: Tensor = self.leave(F.layer_norm(h, h.shape[-1:]))
        return noise / spread(t)[:, None, None]


class Refine(nn.Module):
    """Residual blocks with attention over channels, for all modalities in batched products.

    Source: Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel Attention
    Networks", ECCV 2018, Eq. 11 and 17, linear maps for convolutions.
    """

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__()

        def linear(inner: int, outer: int) -> StackedLinear:
            return StackedLinear(modalities, inner, outer)

        wide = 2 * dim
        narrow = max(1, wide // REDUCTION)
        self.enter, self.leave = linear(dim, wide), linear(wide, dim)
        self.body = nn.ModuleList(
            nn.Sequential(linear(wide, wide), nn.ReLU(), linear(wide, wide)) for _ in range(BLOCKS)
        )
        self.channels = nn.ModuleList(
            nn.Sequential(linear(wide, narrow), nn.ReLU(), linear(narrow, wide), nn.Sigmoid())
            for _ in range(BLOCKS)
        )

    def forward(self, x: Tokens) -> Tokens:
        """Refine what was drawn."""
        first = h = self.enter(x)
        for body, channels in zip(self.body, self.channels, strict=True):
            y = body(h)
            h = h + y * channels(y.mean(2))[:, :, None]
        refined: Tensor = self.leave(first + h)
        return refined


class Recognise(nn.Module):
    """A transformer over all tokens; the means of each modality side by side predict."""

    def __init__(
        self, task: Task, dim: int, tokens: int, *, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        modalities = len(task.modalities)
        self.place = nn.Parameter(torch.empty(modalities, 1, tokens, dim).normal_(std=0.02))
        self.layers = TransformerStack(dim, depth, heads=heads, dropout=dropout)
        width = modalities * dim
        self.block = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), Dropout(dropout), nn.Linear(width, width)
        )
        self.out = nn.Linear(width, task.num_outputs)

    def forward(self, x: Tokens) -> Float[Tensor, "batch output"]:
        """Predict from the tokens of all modalities."""
        modalities = len(x)
        h = self.layers((x + self.place).transpose(0, 1).flatten(1, 2))
        each = h.unflatten(1, (modalities, -1)).mean(2).flatten(1)
        output: Tensor = self.out(each + self.block(each))
        return output


class IMDer(Method):
    """Incomplete multimodality-diffused recognition.

    Args:
        task: What goes in and what is predicted.
        variant: A condition without noise, or that of the released code.
        dim: D, width of a token, even.
        tokens: P, tokens of each modality.
        depth: Layers of score networks and of what predicts, >= 1.
        heads: Has to divide `dim`.
        steps: In which features are drawn, >= 2.
        recover: Weight of scores and of refining, >= 0.
        dropout: In what predicts, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Raises:
        ValueError: If `heads` does not divide `dim`, or `steps` is below 2.
    """

    paper = Paper(
        "Incomplete Multimodality-Diffused Emotion Recognition",
        "NeurIPS",
        2023,
        "https://papers.neurips.cc/paper_files/paper/2023/hash/"
        "372cb7805eaccb2b7eed641271a30eec-Abstract-Conference.html",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        steps=Choice((10, 20, 50)),
        recover=Real(0.01, 1.0, log=True),
    )

    fixed: Tensor

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 32,
        tokens: Count = 8,
        depth: Depth = 2,
        heads: Count = 4,
        steps: Count = 20,
        recover: LossWeight = 0.1,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if steps < 2:
            raise ValueError(f"features are drawn in at least 2 steps, found {steps}")
        self.official, self.steps, self.recover = variant == "official", steps, recover
        modalities = len(task.modalities)
        self.encode = ModalityEncoders(task, dim, tokens=tokens)
        self.recognise = Recognise(task, dim, tokens, depth=depth, heads=heads, dropout=dropout)
        self.score = Score(modalities, dim, depth=depth, heads=heads)
        self.condition = nn.Linear(modalities * dim, dim)
        self.refine = Refine(modalities, dim)
        # of each step and of the start, for each modality and for the condition
        shape = (steps + 1, modalities + 1, 1, tokens, dim)
        fixed = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.register_buffer("fixed", fixed, persistent=False)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Encoders and what predicts, the same for both variants, then all but the encoders."""
        return (
            Stage(
                "recognise",
                trains=("encode", "recognise"),
                shared_across=("variant", "steps", "recover"),
            ),
            Stage("recover", trains=("recognise", "score", "condition", "refine")),
        )

    def tokens(self, batch: Batch) -> Tokens:
        """x, normed; zeros stay zeros."""
        z = self.encode(batch).transpose(0, 1)
        return F.layer_norm(z, z.shape[-1:])

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present and what is drawn for the rest, always by one noise."""
        output: Tensor = self.recognise(self.recovered(batch))
        return output

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Tokens side by side, drawn and refined ones where a modality is absent."""
        return dict(zip(self.task.names, self.recovered(batch).flatten(2), strict=True))

    def recovered(self, batch: Batch) -> Tokens:
        """Tokens of all modalities, those of absent ones drawn by the noise of evaluation."""
        x = self.tokens(batch)
        return self.filled(x, self.drawn(self.conditions(x), self.fixed), batch.presence)

    def conditions(self, x: Tokens) -> Condition:
        """Tell c from tokens, zeros where nothing is seen."""
        c: Tensor = self.condition(x.permute(1, 2, 0, 3).flatten(2))
        return c[None]

    def filled(self, x: Tokens, drawn: Tokens, seen: Presence) -> Tokens:
        """Tokens that are seen, and refined ones for the rest."""
        return torch.where(seen.T[:, :, None, None], x, self.refine(drawn))

    @torch.no_grad()
    def drawn(self, c: Condition, noise: Noise) -> Tokens:
        """Draw all modalities by Euler and Maruyama's steps, the last without noise.

        Args:
            c: Condition.
            noise: ε of the start and of each step, for each modality and, last, for c.
        """
        times = torch.linspace(1, LAST, self.steps, device=c.device)
        step = (1 - LAST) / (self.steps - 1)
        x = mean = noise[0, :-1].expand(-1, c.shape[1], -1, -1) * spread(times[0])
        for t, eps in zip(times, noise[1:], strict=True):
            given = c + eps[-1:] * spread(t) if self.official else c
            rate = SIGMA**t
            mean = x + step * rate**2 * self.score(x, t.expand(x.shape[1]), given)
            x = mean + step**0.5 * rate * eps[:-1]
        return mean

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """What is predicted with zeros for what is absent, then the prediction."""
        if self.stage == "recognise":
            output: Tensor = self.recognise(self.tokens(batch))
            return output
        return super().stage_output(batch)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Terms of the present stage."""
        truth = batch.teacher or batch
        if self.stage == "recognise":
            return {"task": self.task_loss(self.recognise(self.tokens(truth)), truth.target)}
        seen = random_pattern(batch.presence)
        x = self.tokens(truth)
        visible = torch.where(seen.T[:, :, None, None], x, 0.0)
        c = self.conditions(visible)
        noise = torch.randn(
            self.steps + 1, len(x) + 1, *x.shape[1:], device=x.device, dtype=x.dtype
        )
        filled = self.filled(x, self.drawn(c, noise), seen)
        hidden = (truth.presence & ~seen).T
        error = (filled - x).square().mean((2, 3))
        return {
            "task": self.task_loss(self.recognise(filled), batch.target),
            "score": self.recover * over(self.denoising(x, c), hidden),
            "refine": self.recover * over(error, hidden),
        }

    def denoising(self, x: Tokens, c: Condition) -> Float[Tensor, "modality batch"]:
        """|ς(t) s(x(t), t, c) + ε|² at a random time of each sample."""
        t = EARLIEST + (1 - EARLIEST) * torch.rand(x.shape[1], device=x.device)
        eps, width = torch.randn_like(x), spread(t)[:, None, None]
        given = c + eps * width if self.official else c
        score = self.score(x + eps * width, t, given)
        error: Tensor = (score * width + eps).square().sum((2, 3))
        return error


def over(
    errors: Float[Tensor, "modality batch"], hidden: Bool[Tensor, "modality batch"]
) -> Float[Tensor, ""]:
    """Mean over what is hidden and known; zero if there is nothing."""
    return masked_mean(errors.flatten(), hidden.flatten(), dim=0)
