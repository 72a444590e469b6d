"""CP-IMoE: pretrained experts for what modalities share and do not, mixed by a prompted router.

Paper: Li et al., "CP-IMoE: Collaborative Prompt-Guided Interactive Mixture-of-Experts for
Incomplete Multimodal Learning", CVPR 2026 (Findings); its supplement and its released code, since
the equations of the main paper were not at hand.
Idea: one expert for each modality (with its encoder), one for what modalities say alike and one
for what only their combination says are trained one after the other and frozen. A router that
sees no features as such, but a prompt that says which modalities are missing and what can be
told about them, then mixes the four.
Notation: presence (B, M); b = b_m encoded, zeros where missing (B, M, D); FF(x) =
LN(x + W2 drop(relu(W1 x))); s_m = FF_m(b_m) specific experts; interaction expert: g_m = FF_m(b_m),
u = Π_m g_m, f = Σ_m sigmoid(w_m·u) g_m; answers (B, E, D) of E = M + 2 experts in the order of the
modalities, then redundant, then synergistic; status prompt P_s; dynamic prompt P_d.
Stages: `specific` trains encoders and specific experts by unimodal classification; `redundant`
(classify, and Σ_m mean ‖b_m - f‖) and `synergistic` (classify, and Σ_m mean relu(2 - ‖b_m - f‖))
train one interaction expert each; `main` trains prompts, router, decision MLP and classifier.
Differences from the paper:
- Any M >= 2. With M = 2 every formula is the released one. P_s is the number of the missing set,
  which the code has as 0, 1, 2; here evenly spaced in 0..2 for all M. P_d of an incomplete sample
  is the mean of FF_am(b_a) over present a and missing m.
- The paper pretrains on complete pairs, and so do the scenarios `cp_imoe_*_full_access`, where
  pretraining and the choice of its epochs see what is hidden. Where a scenario withholds entries
  for good, a specific expert learns from samples that have its modality, an interaction expert
  from samples that have at least two, and its epoch is chosen by such samples alone.
- All M specific experts are trained at the same time, without a shared parameter; their epoch is
  chosen by the mean of their logits.
- The synergistic penalty is zero, here as released: f adds up LayerNorm outputs, of norm
  √D at the start, so that it is further than 2 from any b at every width in use. The expert learns
  from classification alone.
- The weight of the penalties is fixed at 1. Released, it is a free parameter, whose gradient is
  the penalty itself, so that it can only fall.
- The suite's encoders: the paper's table needs `encoders: {image: resnet50}` and D = 2,048, whose
  features are then read as they are. AdamW without a schedule, and a learning rate for tens of
  epochs; the paper has 250 a stage at 5e-5.
- No augmentation unless `views` asks for it: then each training batch is seen in one of V fixed
  views of its images, so that what is frozen still runs a fixed number of times.
`variant="official"` trains as the released code does: the weights of the penalties learn, Adam
with a cosine schedule, and from the second epoch on without dropout, since `train()` is never
called after the first validation. Not reproduced: missing rows are there the first ones of every
batch in file order, here the scenario decides; running statistics that move in the first epoch,
since no encoder here has any; averaged weights that are collected and never used.
"""

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch, zero_absent
from mmbench.data.missingness.protocol import every_pattern, pattern_name
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic, Matrix, RouterUsage
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, presence_code
from mmbench.layers.views import View
from mmbench.method import ALL_TASKS, Applies, Method, Paper, Stage
from mmbench.registry import suggest
from mmbench.search import Real, ranges

Prompt = Literal["status_dynamic", "status", "dynamic", "none"]
Features = Float[Tensor, "batch modality dim"]
Vectors = Float[Tensor, "batch dim"]

INTERACTIONS = ("redundant", "synergistic")
MARGIN = 2.0  # synergistic features are to be at least this far from each modality's own
LAST_STATUS = 2.0  # the status prompts are evenly spaced from 0, nothing missing, to this


class FeedForward(nn.Module):
    """LN(x + W2 drop(relu(W1 x))), half as wide inside."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.ReLU(), Dropout(dropout), nn.Linear(dim // 2, dim)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Vectors) -> Vectors:
        """Refine."""
        y: Tensor = self.norm(x + self.layers(x))
        return y


class InteractionExpert(nn.Module):
    """All modalities, each weighted by a gate that reads the product of all."""

    def __init__(self, modalities: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.align = nn.ModuleList(FeedForward(dim, dropout) for _ in range(modalities))
        self.gates = nn.ModuleList(nn.Linear(dim, 1) for _ in range(modalities))

    def forward(self, b: Features) -> Vectors:
        """Combine; a missing modality takes part with the constant FF(0)."""
        g = [align(x) for align, x in zip(self.align, b.unbind(1), strict=True)]
        u = torch.stack(g).prod(0)
        gated = [gate(u).sigmoid() * x for gate, x in zip(self.gates, g, strict=True)]
        return torch.stack(gated).sum(0)


class CPIMoE(Method):
    """Collaborative-prompt-guided interactive mixture of experts.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's training, or that of its released code.
        dim: D, width of features and experts, >= 2; 2,048 in the paper.
        prompt: What the router reads; "none" = the features themselves, the classic router.
        status: Whether the status prompts are constants, as released, or learned from there.
        drop: Expert to leave out of the mixture: "redundant", "synergistic" or a modality.
        pretrain: Whether there are pretraining stages; otherwise all is trained at once.
        penalty: Weight that holds redundant features near to and synergistic ones apart from
            each modality's own, >= 0.
        views: V, views of images in training, the image as it is among them, >= 1; 1 = no
            augmentation. Outputs of frozen encoders are kept for each view.
        dropout: In experts, prompts and router, in [0, 1).
        lr: Learning rate; 5e-5 in the released code, for 250 epochs a stage.
        weight_decay: Decoupled weight decay.

    Raises:
        ValueError: If there is no expert to drop by that name, or no image to have views of.
    """

    paper = Paper(
        "CP-IMoE: Collaborative Prompt-Guided Interactive Mixture-of-Experts for Incomplete "
        "Multimodal Learning",
        "CVPR Findings",
        2026,
        "https://github.com/lijing-coder/CP-IMoE",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2, max_modalities=8)  # 2^M - 1 status prompts
    search = ranges(penalty=Real(0.1, 10.0, log=True))

    status_prompt: Tensor
    tally: Tensor

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 128,
        prompt: Prompt = "status_dynamic",
        status: Literal["constant", "learned"] = "constant",
        drop: str | None = None,
        pretrain: bool = True,
        penalty: LossWeight = 1.0,
        views: Count = 1,
        dropout: Rate = 0.3,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        modalities, outputs = len(task.modalities), task.num_outputs
        known = (*task.names, *INTERACTIONS)
        if drop is not None and drop not in known:
            raise ValueError(
                f"there is no expert {drop!r} to drop{suggest(drop, known)}; "
                f"there are {', '.join(known)}"
            )
        self.official, self.pretrain, self.prompt = variant == "official", pretrain, prompt
        self.penalty, self.drop = penalty, drop

        seen = [m.name for m in task.modalities if m.kind == "image"]
        if views < 1 or (views > 1 and not seen):
            raise ValueError(
                f"{views} views of images were asked for; there must be at least 1, and more than "
                "1 only of a task with images"
            )
        self.encode = ModalityEncoders(task, dim)
        # in a tuple: registered as parts of the method, they would repeat the encoders' weights
        self._views = tuple(
            {n: View(part, v) if n in seen else part for n, part in self.encode.encoders.items()}
            for v in range(views if views > 1 else 0)
        )
        self.specific = nn.ModuleList(FeedForward(dim, dropout) for _ in task.names)
        self.interactions = nn.ModuleDict(
            {name: InteractionExpert(modalities, dim, dropout) for name in INTERACTIONS}
        )
        if pretrain:
            self.specific_heads = nn.ModuleList(nn.Linear(dim, outputs) for _ in task.names)
            self.interaction_heads = nn.ModuleDict(
                {name: nn.Linear(dim, outputs) for name in INTERACTIONS}
            )
        if pretrain and self.official:
            kinds = [name for name in INTERACTIONS if name != drop]
            self.penalties = nn.ParameterDict({name: torch.tensor(penalty) for name in kinds})
        # dropped after it was built, so that the other experts start from the same weights
        if drop in INTERACTIONS:
            del self.interactions[drop]
            if pretrain:
                del self.interaction_heads[drop]
        elif drop is not None and not pretrain:  # else it is there to train its encoder
            self.specific[task.names.index(drop)] = nn.Identity()

        prompts = torch.linspace(0, LAST_STATUS, 2**modalities - 1)[:, None].repeat(1, dim)
        self.status_learns = status == "learned" and "status" in prompt
        if self.status_learns:
            self.status_prompt = nn.Parameter(prompts)
        else:
            self.register_buffer("status_prompt", prompts, persistent=False)
        generated = pairs(modalities) if "dynamic" in prompt else ()
        self.generators = nn.ModuleList(FeedForward(dim, dropout) for _ in generated)
        reads = modalities if prompt == "none" else len(prompt.split("_"))  # vectors
        experts = modalities + 2 - (drop is not None)
        self.router = nn.Sequential(
            nn.Linear(reads * dim, dim),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(dim, experts),
        )
        self.decide = FeedForward(dim, dropout)
        self.head = nn.Linear(dim, outputs)
        # by number of the missing set: sums of the weights, of their entropy, and how many
        self.register_buffer("tally", torch.zeros(2**modalities, experts + 2), persistent=False)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Specific experts, both kinds of interaction, then the mixture; or all at once."""
        if not self.pretrain:
            return (Stage("fit"),)
        trains: dict[str, tuple[str, ...]] = {"specific": ("encode", "specific", "specific_heads")}
        for name in self.interactions:
            weight = (f"penalties.{name}",) if self.official else ()
            trains[name] = (f"interactions.{name}", f"interaction_heads.{name}", *weight)
        main = ["router", "decide", "head"]
        main += ["generators"] if len(self.generators) else []
        main += ["status_prompt"] if self.status_learns else []
        across = ("prompt", "status", "drop")
        pretraining = (Stage(name, parts, shared_across=across) for name, parts in trains.items())
        return (*pretraining, Stage("main", tuple(main)))

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        b = self.features(batch)
        weights = self.route(b, batch.presence)
        if not torch.is_grad_enabled():
            self._count(weights, batch.presence)
        f = (weights[:, :, None] * self.answers(b)).sum(1)
        output: Tensor = self.head(self.decide(f))
        return output

    def features(self, batch: Batch) -> Features:
        """Encode; in training with views, through one of them that is drawn for each batch."""
        if not (self.training and self._views):
            encoded: Tensor = self.encode(batch)
            return encoded
        view = self._views[int(torch.randint(len(self._views), ()))]
        return torch.stack([batch.embed(name, part) for name, part in view.items()], dim=1)

    def answers(self, b: Features) -> Float[Tensor, "batch expert dim"]:
        """What the experts say; of a missing modality, that is a constant."""
        by_modality = zip(self.task.names, self.specific, b.unbind(1), strict=True)
        said = [expert(x) for name, expert, x in by_modality if name != self.drop]
        said += [expert(b) for expert in self.interactions.values()]
        return torch.stack(said, dim=1)

    def route(
        self, b: Features, presence: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch expert"]:
        """Weights of the experts; rows sum to 1."""
        reads = []
        if self.prompt == "none":
            reads.append(b.flatten(1))
        if "dynamic" in self.prompt:
            reads.append(self.dynamic_prompt(b, presence))
        if "status" in self.prompt:
            reads.append(self.status_prompt[presence_code(~presence)])
        scores: Tensor = self.router(torch.cat(reads, dim=1))
        return scores.softmax(1)

    def dynamic_prompt(self, b: Features, presence: Bool[Tensor, "batch modality"]) -> Vectors:
        """Sum of the features of a complete sample; else what they tell about missing ones."""
        generated = torch.zeros_like(b[:, 0])
        for (a, m), generate in zip(pairs(b.shape[1]), self.generators, strict=True):
            generated = generated + zero_absent(generate(b[:, a]), presence[:, a] & ~presence[:, m])
        count = presence.sum(1) * (~presence).sum(1)
        generated = generated / count.clamp_min(1)[:, None]
        return torch.where(presence.all(1)[:, None], b.sum(1), generated)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Terms of the present stage; before any stage has begun, of all of them."""
        terms: dict[str, Tensor] = {}
        for name in ("specific", *self.interactions) if self.pretrain else ():
            if self.stage in (name, ""):
                terms |= self.pretraining_loss(name, batch.teacher or batch)
        if self.stage in ("main", "fit", ""):
            terms["task"] = self.task_loss(self(batch), batch.target)
        return terms

    def pretraining_loss(self, kind: str, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Classification by one kind of expert alone, and how far it may be from b."""
        b, presence = self.features(batch), batch.presence
        if kind == "specific":
            said = zip(self.specific_logits(b).unbind(1), presence.unbind(1), strict=True)
            each = [
                masked_mean(self.row_loss(z, batch.target, present), present, 0)
                for z, present in said
            ]
            return {kind: torch.stack(each).sum()}
        f = self.interactions[kind](b)
        counted = paired(batch)
        rows = self.row_loss(self.interaction_heads[kind](f), batch.target, counted)
        distance = pull_together if kind == "redundant" else push_apart
        weight = self.penalties[kind] if self.official else self.penalty
        return {
            kind: masked_mean(rows, counted, 0),
            f"{kind}_distance": weight * distance(b, f, presence & counted[:, None]),
        }

    def specific_logits(self, b: Features) -> Float[Tensor, "batch modality output"]:
        """Unimodal logits; without meaning where missing."""
        said = zip(self.specific_heads, self.specific, b.unbind(1), strict=True)
        return torch.stack([head(expert(x)) for head, expert, x in said], dim=1)

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Logits of the experts in pretraining, of specific ones their mean; then the prediction.

        Pretraining is compared, too, on what the regime `full_access` lets it see.
        """
        if self.stage == "specific":
            batch = batch.teacher or batch
            return masked_mean(self.specific_logits(self.encode(batch)), batch.presence)
        if self.stage in self.interactions:
            f = self.interactions[self.stage](self.encode(batch.teacher or batch))
            output: Tensor = self.interaction_heads[self.stage](f)
            return output
        return super().stage_output(batch)

    def stage_rows(self, batch: Batch) -> Bool[Tensor, " batch"] | None:
        """Samples with a single modality say nothing about an interaction."""
        return paired(batch.teacher or batch) if self.stage in self.interactions else None

    def on_train_epoch_start(self) -> None:
        """Released, training goes on in the mode that the first validation leaves behind."""
        if self.official and self.current_epoch:
            self.eval()

    def configure_optimizers(self) -> Any:
        """AdamW; released, Adam with a cosine schedule over the epochs of a stage."""
        if not self.official:
            return super().configure_optimizers()
        adam = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.lr)
        epochs = self.trainer.max_epochs or 1
        return [adam], [torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs)]

    def train(self, mode: bool = True) -> "CPIMoE":
        """Switch modes; each evaluation counts afresh."""
        if not mode:
            self.tally.zero_()
        super().train(mode)
        return self

    def _count(
        self,
        weights: Float[Tensor, "batch expert"],
        presence: Bool[Tensor, "batch modality"],
    ) -> None:
        entropy = torch.special.entr(weights).sum(1, keepdim=True)
        row = torch.cat([weights, entropy, torch.ones_like(entropy)], dim=1)
        self.tally.index_add_(0, presence_code(~presence), row.to(self.tally))

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """Router weights in evaluation, as in Fig. S2 to S4, and whether they collapsed.

        Returns:
            `router`, mean weights of the experts; `entropy`, for each pattern and for all samples
            together, in units of log E: the entropy of the mean weights, and the mean entropy of
            a sample's weights. The first is near 0 if few experts serve all samples, the second
            alone if each sample is served by few, but not all by the same.
        """
        tally = self.tally.cpu().double().numpy()
        missing = tally[:, -1].nonzero()[0]
        if not len(missing):
            return {}
        rows = np.vstack([tally[missing], tally.sum(0)])
        samples = rows[:, -1:]
        weights, entropy = rows[:, :-2] / samples, rows[:, -2:-1] / samples
        of_mean = -(weights * np.log(weights.clip(1e-30))).sum(1, keepdims=True)
        names = self.task.names
        presence = every_pattern(len(names))[len(tally) - 1 - missing]
        patterns = [pattern_name(row, names) for row in presence]
        return {
            "router": RouterUsage(
                pattern=np.array(patterns),
                expert=np.array([name for name in (*names, *INTERACTIONS) if name != self.drop]),
                share=weights[:-1],
                count=samples[:-1, 0],
            ),
            "entropy": Matrix(
                values=np.hstack([of_mean, entropy]) / np.log(weights.shape[1]),
                row=np.array([*patterns, "all"]),
                column=np.array(["of the mean", "mean"]),
            ),
        }


def pairs(modalities: int) -> Iterator[tuple[int, int]]:
    """All ordered pairs of two modalities."""
    return permutations(range(modalities), 2)


def paired(batch: Batch) -> Bool[Tensor, " batch"]:
    """Samples in which modalities can interact: those that have at least two."""
    return batch.presence.sum(1) >= 2


def pull_together(b: Features, f: Vectors, present: Bool[Tensor, "batch modality"]) -> Tensor:
    """Mean distance of f from each modality's own features, summed over the modalities."""
    return masked_mean(distances(b, f), present, 0).sum()


def push_apart(b: Features, f: Vectors, present: Bool[Tensor, "batch modality"]) -> Tensor:
    """As `pull_together`, but of what is lacking to a distance of 2; zero from there on.

    It is zero wherever the method uses it, see the head of this file.
    """
    return masked_mean((MARGIN - distances(b, f)).relu(), present, 0).sum()


def distances(b: Features, f: Vectors) -> Float[Tensor, "batch modality"]:
    """Euclidean; zero where equal, unlike torch's `pairwise_distance`, which adds 1e-6."""
    norms: Tensor = torch.linalg.vector_norm(b - f[:, None], dim=-1)
    return norms
