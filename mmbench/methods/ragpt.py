"""RAGPT: fill gaps with filtered means of similar samples, and prompt with what resembles a sample.

A frozen multimodal transformer is given three things by similar complete training samples: the
tokens of a missing modality, their mean sharpened by a learned filter over frequencies (missing
modality generator); prompts in which a sample's own tokens read the neighbours' tokens of the same
modality (context-aware prompter); and the mean of their labels as one more token.

Paper: Lang et al., "Retrieval-Augmented Dynamic Prompt Tuning for Incomplete Multimodal Learning",
AAAI 2025. https://arxiv.org/abs/2501.01120, code https://github.com/Jian-Lang/RAGPT

Notation: E_m (B, N_m, D) tokens of modality m; R_m (B, K, N_m, D) those of its neighbours; F mean
of R_m over K; W filter; Ê_m the tokens made for a missing m; P_m (B, b, D) its prompt; l the layer
before which prompts are inserted; Lab (C, D) label vectors.

Differences from the paper:
- It has text and image; here any number of modalities: a generator and a prompt for each, and a
  missing modality's neighbours are found by the sum of the cosines of those that are there.
- The filter is one on the real spectrum (N_m // 2 + 1 frequencies): of a full complex one only
  the Hermitian part acts on real tokens. Half the weights, the same functions, the same start.
- K has no bias: it would cancel in the softmax.
- Samples are found by raw features unless `retrieve_by` says otherwise (`mmbench.layers.memory`);
  the paper takes CLIP's. The bank holds training samples alone; the released code adds those of
  validation, which then find themselves and their own label. Only complete samples are in it,
  under `full_access` all.
- Padding is neither averaged nor read, and made tokens are read where a neighbour has one. In the
  released code padding counts like any token in both, and only the transformer leaves a sample's
  own padding out: that is `attend_padding`, which `official` sets.
- Where neighbours differ by modality, the label is that of those found by the image, or by the
  first modality if there is none, as in the released code.
- Learning rate, weight decay and prompt length are those that the released code is run with; its
  configuration file names a decay of 2e-2, which its script replaces.
- In two towers of different widths, tokens go through a learned Linear before the attention, and
  prompts through another after it.
- Not redone: tokens of an image in a random order, drawn anew in the bank and in each pass, so that
  the filter works on noise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.bounds import AtLeastZero, Count, Decay, Rate
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.dropout import Dropout
from mmbench.layers.memory import Memory
from mmbench.layers.retrieval import queries
from mmbench.layers.retrieved import (
    LabelPrompt,
    attend_pooled,
    fit_width,
    mean_retrieved,
    mean_target,
    pool_rows,
)
from mmbench.method import Applies, Paper
from mmbench.prompting import PromptMethod
from mmbench.search import Choice, ranges

Tokens = Float[Tensor, "batch token dim"]
Read = Bool[Tensor, "batch token"]


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the neighbours of a batch lend of one modality.

    Args:
        rows: Which rows of the memory they are.
        tokens: R_m.
        read: Which of these are no padding.
    """

    rows: Int[Tensor, "batch rank"]
    tokens: Float[Tensor, "batch rank token dim"]
    read: Bool[Tensor, "batch rank token"]


class Generator(nn.Module):
    """Missing modality generator: Ê = Linear(LN(F + Dropout(IFFT(W ⊙ FFT(F))))).

    The transform runs over tokens, each feature by itself: a circular convolution of the tokens
    with a learned kernel.

    Args:
        tokens: N_m.
        dim: D.
        dropout: Of what is filtered, in [0, 1).
    """

    def __init__(self, tokens: int, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.tokens = tokens
        # the Hermitian part of N_m x D draws from a complex normal, as two reals for the optimiser
        full = torch.randn(tokens, dim, dtype=torch.cfloat)
        half = (full + full.roll(-1, 0).flip(0).conj())[: tokens // 2 + 1] / 2
        self.spectrum = nn.Parameter(torch.view_as_real(half).clone())
        self.drop = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)

    def filter(self, x: Tokens) -> Tokens:
        """Multiply frequencies by W."""
        spectrum = torch.fft.rfft(x.float(), dim=1) * torch.view_as_complex(self.spectrum)
        filtered: Tensor = torch.fft.irfft(spectrum, n=self.tokens, dim=1)
        return filtered

    def forward(self, mean: Tokens) -> Tokens:
        """Sharpen the mean of the neighbours' tokens."""
        z: Tensor = self.out(self.norm(mean + self.drop(self.filter(mean))))
        return z


class ContextPrompter(nn.Module):
    """Context-aware prompter: own tokens attend to the neighbours' of the same modality.

    P_m = Pool(Softmax((T W_Q)(R W_K)ᵀ / √D) R W_V) over the tokens of all K neighbours at once;
    one head, one set of weights for all modalities.

    Args:
        widths: D of each modality; attention has that of the first.
        length: b.
    """

    def __init__(self, widths: list[int], length: int) -> None:
        super().__init__()
        dim, self.length = widths[0], length
        self.enter = nn.ModuleList(fit_width(width, dim) for width in widths)
        self.q, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim, bias=False)
        self.leave = nn.ModuleList(fit_width(dim, width) for width in widths)

    def forward(
        self, m: int, tokens: Tokens, read: Read, retrieved: Retrieved
    ) -> Float[Tensor, "batch prompt dim"]:
        """The prompt of one modality.

        Args:
            m: Which one.
            tokens: A sample's own tokens, or those made for it.
            read: Which of these are read; they come first.
            retrieved: Of the neighbours.
        """
        enter = self.enter[m]
        folded = self.q(enter(tokens)) @ self.k.weight * self.k.in_features**-0.5
        pool = pool_rows(read, self.length)
        z = attend_pooled(folded, enter(retrieved.tokens), retrieved.read, pool, jointly=True)
        prompt: Tensor = self.leave[m](self.v(z))
        return prompt


class RAGPT(PromptMethod):
    """Retrieval-augmented dynamic prompts on a frozen transformer.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's equations, or what its released code computes.
        neighbours: K, 1..64.
        index: Of faiss, for banks too large for exact products, see `Memory`.
        retrieve_by: Features by which samples are alike, see `Memory`.
        prompt_length: b, >= 1.
        insert_at: l, layer before which prompts are inserted, from 0.
        dropout: Of what the filter adds, in [0, 1).
        attend_padding: Whether padding is averaged and attended to like any token; the transformer
            itself never reads it. None = by variant.
        weight_decay: Of AdamW.
        **common: Backbone, regime and optimiser, see `PromptMethod`.

    Raises:
        ValueError: If an argument is out of range.
    """

    paper = Paper(
        "Retrieval-Augmented Dynamic Prompt Tuning for Incomplete Multimodal Learning",
        "AAAI",
        2025,
        "https://arxiv.org/abs/2501.01120",
    )
    applies = Applies(min_modalities=2, complete_rows=True)
    search = ranges(
        neighbours=Choice((1, 3, 5, 10, 20)),
        prompt_length=Choice((2, 4, 6, 8)),
    )

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        neighbours: Count = 5,
        index: str | None = None,
        retrieve_by: str = "",
        prompt_length: Count = 6,
        insert_at: AtLeastZero = 1,
        dropout: Rate = 0.2,
        attend_padding: bool | None = None,
        weight_decay: Decay = 5e-5,
        **common: Any,
    ) -> None:
        super().__init__(task, weight_decay=weight_decay, **common)
        self.require_layer(insert_at)
        if prompt_length < 1:
            raise ValueError(f"prompt_length must be at least 1, found {prompt_length}")
        self.insert_at = insert_at
        self.attend_padding = variant == "official" if attend_padding is None else attend_padding
        images = [m.name for m in task.modalities if m.kind == "image"]
        self.label_by = (*images, task.names[0])[0]
        self.memory = Memory(task, neighbours, index=index, retrieve_by=retrieve_by)
        widths, counts = self.backbone.widths, self.backbone.counts
        self.generators = nn.ModuleList(
            Generator(counts[name], widths[name], dropout=dropout) for name in task.names
        )
        self.prompter = ContextPrompter([widths[name] for name in task.names], prompt_length)
        streams = [widths[stream[0]] for stream in self.backbone.streams]
        self.label = LabelPrompt(task.num_outputs, streams, self.backbone.pooled_width)

    def prepare(self, train: Iterable[Batch]) -> None:
        """Keep the complete training samples to find neighbours among.

        Raises:
            ValueError: If fewer than two samples are complete.
        """
        self.memory.fill(train)
        self.memory.require_neighbours()

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        retrieved = self.retrieve(batch)
        self.memory.note(batch, retrieved[self.label_by].rows)
        tokens, read = self.complete(batch, retrieved)
        return self.predict(tokens, read, retrieved)

    def retrieve(self, batch: Batch) -> dict[str, Retrieved]:
        """Modality -> what K similar complete training samples lend of it.

        A modality that a sample has is looked up by itself, one that it lacks by all it has.
        """
        everything = self.memory.everything()
        retrieved = {}
        for m, name in enumerate(self.task.names):
            rows = self.memory.neighbours(_looked_up_by(batch, m)).rows
            tokens = self.memory.tokens(name, rows, self.backbone.embedder(name))
            read = self.backbone.real(name, everything)[rows]
            retrieved[name] = Retrieved(
                rows, tokens, torch.ones_like(read) if self.attend_padding else read
            )
        return retrieved

    def complete(
        self, batch: Batch, retrieved: Mapping[str, Retrieved]
    ) -> tuple[dict[str, Tokens], dict[str, Read]]:
        """Make the tokens that are missing; say which tokens are read."""
        tokens, read = self.backbone.tokens(batch), self.backbone.keys(batch)
        for m, (name, lacks) in enumerate(
            zip(self.task.names, queries(batch.presence), strict=True)
        ):
            if not len(lacks):
                continue
            observed, has = tokens[name], batch.has(name)[:, None]
            mean, present = mean_retrieved(
                retrieved[name].tokens[lacks], retrieved[name].read[lacks]
            )
            made = self.generators[m](mean).to(observed)
            gap = torch.zeros_like(observed).index_copy(0, lacks, made)
            tokens[name] = torch.where(has[:, :, None], observed, gap)
            read[name] = torch.where(has, read[name], read[name].index_copy(0, lacks, present))
        return tokens, read

    def predict(
        self,
        tokens: Mapping[str, Tokens],
        read: Mapping[str, Read],
        retrieved: Mapping[str, Retrieved],
    ) -> Float[Tensor, "batch output"]:
        """Run the transformer with label and prompts in it, and compare with all labels."""
        counted = read
        if self.attend_padding:
            counted = {name: torch.ones_like(present) for name, present in read.items()}
        prompts = {
            name: self.prompter(m, tokens[name], counted[name], retrieved[name])
            for m, name in enumerate(self.task.names)
        }
        target = self.memory.target[retrieved[self.label_by].rows]
        label = self.label(mean_target(target, self.task))

        def insert(layer: int, stream: int) -> Tensor | None:
            if layer != self.insert_at:
                return None
            parts = [prompts[name] for name in self.backbone.streams[stream]]
            return torch.cat([self.label.token(label, stream), *parts], 1)

        # two towers are read where they always are: causal text at 0 reads nothing but itself
        at = 0 if len(self.backbone.streams) == 1 else None
        return self.label.compare(self.backbone.run(tokens, read, insert, at), label)

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Means of the tokens of each modality, made ones where it is absent."""
        tokens, _ = self.complete(batch, self.retrieve(batch))
        return {name: z.mean(1) for name, z in tokens.items()}

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """What some test samples retrieve for the label."""
        return self.memory.retrieval()


def _looked_up_by(batch: Batch, m: int) -> Batch:
    """Samples that have modality m with that alone, the others with all they have.

    What is hidden is not zeroed: features are taken through `Batch.embed`, which does that.
    """
    column = torch.arange(len(batch.modalities), device=batch.presence.device) == m
    alone = batch.presence[:, m : m + 1] & ~column
    return replace(batch, presence=batch.presence & ~alone)
