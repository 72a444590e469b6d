"""REDEEM: rebuild what is missing from similar complete samples, and prompt with them.

A frozen multimodal transformer is given two things by K similar complete training samples: the
tokens of a missing modality, mixed from theirs (conditional mixture of experts), and prompts that
hold how their modalities belong together (sample-aware inter-modal prompter).

Paper: Lang et al., "REDEEMing Modality Information Loss: Retrieval-Guided Conditional Generation
for Severely Modality Missing Learning", KDD 2025.
https://doi.org/10.1145/3711896.3737101, code https://github.com/Jian-Lang/REDEEM

Notation: E_m (B, N_m, D) tokens of modality m; R_m (B, K, N_m, D) the neighbours' tokens; w
(B, K) routing scores; Ê_m the tokens made for a missing m; P_m (B, b, D) its prompt; l the layer
before which prompts are inserted.

Differences from the paper:
- It has text and image; here any number of modalities. The condition of the router is the mean
  over the modalities that are there, each with a W₁ of its own; the prompt of m is the mean over
  its partners, from four modalities on with the pooled tokens of all partners as one query. For
  two modalities both are the paper's equations.
- Where the paper is silent: the query of Eq. 5 is the mean over the neighbours, attention runs
  for each neighbour and is averaged, and an output projection follows, as in the released code;
  the token that the transformer itself reads is pooled; the head is Linear, LayerNorm, GELU,
  Linear; the weight of the reconstruction is 1; padding is neither read nor averaged.
- f_K and the projections of Eq. 2 have no bias: it would cancel in the softmax (those of W₁ are
  not in Eq. 2 either).
- Samples are found by raw features unless `retrieve_by` says otherwise (`mmbench.layers.memory`);
  the paper takes CLIP's. The bank holds training samples alone; the released code adds those of
  validation, which then find themselves and their own label. Only complete samples are in it,
  under `full_access` all.
- In two towers of different widths, tokens go through a learned Linear before the attention, and
  prompts through another after it.
- `official` sets what the released code does differently, each a switch: `label_prompt`,
  `lambda_rec` (its reconstruction loss is zero for every batch), `scaled`, `paired`,
  `attend_padding`, `prompt_length`, `insert_at`. Not redone: image tokens in a random order in
  the bank, token positions lost in CLIP's text features, and the leaks above.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.bounds import AtLeastZero, Count, Decay, LossWeight
from mmbench.data.batch import Batch
from mmbench.data.hashing import hashed
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.fusion import masked_mean
from mmbench.layers.memory import Memory, Neighbours
from mmbench.layers.retrieval import queries
from mmbench.layers.retrieved import (
    LabelPrompt,
    attend_pooled,
    fit_width,
    mean_retrieved,
    mean_target,
    pool_rows,
)
from mmbench.layers.stacked import StackedLinear
from mmbench.layers.usage import UsageMeter
from mmbench.method import Applies, Paper
from mmbench.prompting import PromptMethod
from mmbench.search import Choice, ranges

NOISE_ROWS = 16  # different random neighbours, where random values replace the retrieved ones

# the number of tokens differs between modalities, their width between towers
Tokens = Float[Tensor, "batch _ _"]
Read = Bool[Tensor, "batch _"]


@dataclass(frozen=True, slots=True)
class Switches:
    """Where the paper and its released code differ."""

    label_prompt: bool
    lambda_rec: float
    scaled: bool
    paired: bool
    attend_padding: bool
    prompt_length: int
    insert_at: int


VARIANTS = {
    "paper": Switches(False, 1.0, True, True, False, 2, 1),
    "official": Switches(True, 0.0, False, False, True, 1, 0),
}


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the neighbours of a batch lend.

    Args:
        rows: Modality -> rows of the memory whose tokens these are.
        tokens: Modality -> R_m.
        read: Modality -> which of them are read.
        label: (B, C), mean of the neighbours' targets.
    """

    rows: Mapping[str, Int[Tensor, "batch rank"]]
    tokens: Mapping[str, Float[Tensor, "batch rank _ _"]]
    read: Mapping[str, Bool[Tensor, "batch rank _"]]
    label: Float[Tensor, "batch output"]


def pooled(
    x: Float[Tensor, "*leading token dim"], read: Bool[Tensor, "*leading token"]
) -> Float[Tensor, "*leading dim"]:
    """Mean over the tokens that are read; a product, so that nothing of that size is copied."""
    weight = read / read.sum(-1, keepdim=True).clamp_min(1)
    mean: Tensor = (weight.to(x.dtype).unsqueeze(-2) @ x).squeeze(-2)
    return mean


class Router(nn.Module):
    """Routing scores of K neighbours, given what the sample has (Eq. 2 and 3).

    Args:
        sources: Widths of the other modalities.
        dim: D of the missing one.
        scaled: Whether scores are divided by √D.
        bias: Whether the projections have one.
    """

    def __init__(self, sources: list[int], dim: int, *, scaled: bool, bias: bool) -> None:
        super().__init__()
        self.condition = nn.ModuleList(nn.Linear(width, dim, bias=bias) for width in sources)
        self.expert = nn.Linear(dim, dim, bias=bias)
        self.scale = dim**-0.5 if scaled else 1.0

    def forward(
        self,
        have: list[Float[Tensor, "query _"]],
        present: Bool[Tensor, "query source"],
        retrieved: Float[Tensor, "query rank dim"],
    ) -> Float[Tensor, "query rank"]:
        """Weights that sum to one.

        Args:
            have: Ẽ_a, pooled tokens of each other modality.
            present: Which of these the sample has.
            retrieved: R̃_m, pooled tokens of each neighbour.
        """
        parts = [part(x) for part, x in zip(self.condition, have, strict=True)]
        c = masked_mean(torch.stack(parts, 1), present)  # (Q, D)
        scores = torch.einsum("qd,qkd->qk", c, self.expert(retrieved)) * self.scale
        return scores.softmax(1)


class NeighbourExperts(nn.Module):
    """Σ_k w_k FFN_k(R_k), one FFN for each rank k: Linear, ReLU, Linear (Eq. 4).

    Hidden units are weighted before the second product, which then sums over k as well; that is
    exact, and no output of a single expert is ever stored.
    """

    def __init__(self, k: int, dim: int) -> None:
        super().__init__()
        self.first, self.second = StackedLinear(k, dim, dim), StackedLinear(k, dim, dim)

    def forward(
        self, retrieved: Float[Tensor, "query rank token dim"], weight: Float[Tensor, "query rank"]
    ) -> Float[Tensor, "query token dim"]:
        """Mix the neighbours' tokens."""
        hidden = self.first(retrieved.transpose(0, 1)).relu()  # (K, Q, N, D)
        hidden = hidden * weight.t()[:, :, None, None]
        # (Q, N, K D) @ (K D, D)
        mixed: Tensor = hidden.permute(1, 2, 0, 3).flatten(2) @ self.second.weight.flatten(0, 1)
        bias = weight @ self.second.bias.squeeze(1)
        return mixed + bias[:, None]


class Translator(nn.Module):
    """Encoder and decoder from the present modalities, in place of neighbours (Table 3).

    Learned queries, one for each token to be made, attend to the encoded tokens.
    """

    def __init__(self, sources: list[int], dim: int, count: int) -> None:
        super().__init__()
        self.encode = nn.ModuleList(nn.Sequential(nn.Linear(w, dim), nn.ReLU()) for w in sources)
        self.query = nn.Parameter(torch.empty(count, dim))
        nn.init.normal_(self.query, std=0.02)
        self.decode = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(
        self,
        have: list[Float[Tensor, "query _ _"]],
        read: list[Bool[Tensor, "query _"]],
    ) -> Float[Tensor, "query token dim"]:
        """Make the tokens of the missing modality."""
        encoded = [part(x) for part, x in zip(self.encode, have, strict=True)]
        z, keys = torch.cat(encoded, 1), torch.cat(read, 1)[:, None]
        query = self.query.expand(len(z), -1, -1)
        z = nn.functional.scaled_dot_product_attention(query, z, z, attn_mask=keys)
        made: Tensor = self.decode(z + query)
        return made


class NeighbourAttention(nn.Module):
    """Pool(Softmax(Q Kᵀ / √D) V) for each neighbour, projected and averaged (Eq. 5 and 6).

    In the order that costs least, and exactly: the projection of the keys goes to the query, so
    neighbours are never projected; those of values and output come last, on b rows.

    Args:
        dim: D.
        bias: Whether f_K has a bias, which cannot matter.
    """

    def __init__(self, dim: int, *, bias: bool) -> None:
        super().__init__()
        self.q, self.v, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim, bias=bias)

    def forward(
        self,
        query: Float[Tensor, "batch row dim"],
        retrieved: Float[Tensor, "batch rank token dim"],
        read: Bool[Tensor, "batch rank token"],
        pool: Float[Tensor, "batch prompt row"],
    ) -> Float[Tensor, "batch prompt dim"]:
        """Prompts from neighbours; the arguments are those of `attend_pooled`, unprojected."""
        folded = self.q(query) @ self.k.weight * self.k.in_features**-0.5
        z = attend_pooled(folded, retrieved, read, pool, jointly=False)
        prompt: Tensor = self.out(self.v(z))
        return prompt


class NeighbourPrompter(nn.Module):
    """Prompts of all modalities.

    Args:
        widths: D of each modality.
        length: b.
        kind: From each other's tokens in the neighbours (`saim`), from the sample's own tokens
            and the neighbours' of the same modality (`intra`), or the same for all (`static`).
        bias: Whether f_K has a bias.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        length: int,
        kind: Literal["saim", "intra", "static"],
        *,
        bias: bool,
    ) -> None:
        super().__init__()
        self.names, self.length, self.kind = tuple(widths), length, kind
        if kind == "static":
            self.prompt = nn.ParameterList(
                nn.init.normal_(torch.empty(length, w), std=0.02) for w in widths.values()
            )
            return
        dim = widths[self.names[0]]
        self.attend = NeighbourAttention(dim, bias=bias)
        self.enter = nn.ModuleList(fit_width(width, dim) for width in widths.values())
        self.leave = nn.ModuleList(fit_width(dim, width) for width in widths.values())

    def forward(
        self,
        tokens: Mapping[str, Tokens],
        read_of: Mapping[str, Read],
        retrieved: Retrieved,
    ) -> dict[str, Float[Tensor, "batch prompt _"]]:
        """Modality -> P_m."""
        if self.kind == "static":
            size = len(tokens[self.names[0]])
            pairs = zip(self.names, self.prompt, strict=True)
            return {name: prompt.expand(size, -1, -1) for name, prompt in pairs}
        enter = dict(zip(self.names, self.enter, strict=True))
        keys = {name: enter[name](retrieved.tokens[name]) for name in self.names}
        if self.kind == "intra":
            rows = {name: (enter[name](tokens[name]), read_of[name]) for name in self.names}
        else:
            rows = {name: mean_retrieved(keys[name], retrieved.read[name]) for name in self.names}
        prompts = {}
        for name, leave in zip(self.names, self.leave, strict=True):
            queries = [rows[name]] if self.kind == "intra" else self.partners(name, rows)
            parts = [
                self.attend(query, keys[name], retrieved.read[name], pool_rows(read, self.length))
                for query, read in queries
            ]
            prompts[name] = leave(torch.stack(parts).mean(0))
        return prompts

    def partners(
        self, name: str, rows: Mapping[str, tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Queries for the prompt of one modality: each other one, or all of them as one."""
        others = [rows[other] for other in self.names if other != name]
        if len(others) < 3:
            return others
        query = torch.cat([pool_rows(read, self.length) @ x for x, read in others], 1)
        return [(query, torch.ones_like(query[..., 0], dtype=torch.bool))]


class Redeem(PromptMethod):
    """Retrieval-guided conditional generation and prompts on a frozen transformer.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's equations, or what its released code computes.
        neighbours: K, 1..64.
        index: Of faiss, for banks too large for exact products, see `Memory`.
        retrieve_by: Features by which samples are alike, see `Memory`.
        retriever: By likeness, at random, or random values in place of retrieved ones (Table 3).
        generator: Conditional mixture of experts, encoder and decoder from the present
            modalities, the mixture with equal weights, or zeros (Table 3).
        prompter: Inter-modal, static, intra-modal, or no prompts (Table 3).
        label_prompt: Whether the mean label of the neighbours is prepended as one more token,
            read at the end, and compared with every label. None = by variant, and so below.
        lambda_rec: Weight of the reconstruction loss, >= 0. It needs the regime `full_access`;
            under `withheld` there is nothing to compare with, and the term is left out.
        scaled: Whether routing scores are divided by √D.
        paired: Whether the tokens of all modalities come from the same neighbours; otherwise a
            modality that the sample has is looked up by itself.
        attend_padding: Whether padding is read like any token.
        prompt_length: b, >= 1.
        insert_at: l, layer before which prompts are inserted, from 0.
        weight_decay: Of AdamW.
        **common: Backbone, regime and optimiser, see `PromptMethod`.

    Raises:
        ValueError: If an argument is out of range.
    """

    paper = Paper(
        "REDEEMing Modality Information Loss: Retrieval-Guided Conditional Generation for "
        "Severely Modality Missing Learning",
        "KDD",
        2025,
        "https://doi.org/10.1145/3711896.3737101",
    )
    applies = Applies(min_modalities=2, complete_rows=True)
    search = ranges(neighbours=Choice((1, 3, 5, 10, 20)))

    draw_key: Tensor

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        neighbours: Count = 5,
        index: str | None = None,
        retrieve_by: str = "",
        retriever: Literal["msa", "random", "none"] = "msa",
        generator: Literal["cmoe", "cross_modal", "no_router", "none"] = "cmoe",
        prompter: Literal["saim", "static", "intra", "none"] = "saim",
        label_prompt: bool | None = None,
        lambda_rec: LossWeight | None = None,
        scaled: bool | None = None,
        paired: bool | None = None,
        attend_padding: bool | None = None,
        prompt_length: Count | None = None,
        insert_at: AtLeastZero | None = None,
        weight_decay: Decay = 5e-5,
        **common: Any,
    ) -> None:
        super().__init__(task, weight_decay=weight_decay, **common)
        given: dict[str, Any] = {
            "label_prompt": label_prompt,
            "lambda_rec": lambda_rec,
            "scaled": scaled,
            "paired": paired,
            "attend_padding": attend_padding,
            "prompt_length": prompt_length,
            "insert_at": insert_at,
        }
        self.how = replace(VARIANTS[variant], **{k: v for k, v in given.items() if v is not None})
        self.require_layer(self.how.insert_at)
        if self.how.prompt_length < 1 or self.how.lambda_rec < 0:
            raise ValueError(
                "prompt_length must be at least 1 and lambda_rec at least 0, found "
                f"{self.how.prompt_length} and {self.how.lambda_rec}"
            )
        self.retriever, self.kind = retriever, generator
        # whose neighbours give the label, where modalities have different ones
        images = [m.name for m in task.modalities if m.kind == "image"]
        self.by = [*images, task.names[0]][0]
        self.memory = Memory(task, neighbours, index=index, retrieve_by=retrieve_by)
        self.register_buffer("draw_key", torch.randint(1 << 62, (1,)))
        bias = variant == "official"
        widths, counts = self.backbone.widths, self.backbone.counts
        if retriever == "none":
            for m, name in enumerate(task.names):
                noise = torch.randn(NOISE_ROWS, counts[name], widths[name])
                self.register_buffer(f"noise_{m}", noise)
        self.routers, self.experts, self.translators = (nn.ModuleList() for _ in range(3))
        for name in task.names:
            sources = [widths[other] for other in task.names if other != name]
            width = widths[name]
            if generator == "cmoe":
                self.routers.append(Router(sources, width, scaled=self.how.scaled, bias=bias))
            if generator in ("cmoe", "no_router"):
                self.experts.append(NeighbourExperts(neighbours, width))
            if generator == "cross_modal":
                self.translators.append(Translator(sources, width, counts[name]))
        self.prompter = (
            None
            if prompter == "none"
            else NeighbourPrompter(widths, self.how.prompt_length, prompter, bias=bias)
        )
        if self.how.label_prompt:
            streams = [widths[stream[0]] for stream in self.backbone.streams]
            self.label = LabelPrompt(task.num_outputs, streams, self.backbone.pooled_width)
        else:
            self.head = self.make_head()
        self.usage = UsageMeter(len(task.modalities), neighbours)

    def prepare(self, train: Iterable[Batch]) -> None:
        """Keep the complete training samples, and find the neighbours of all.

        Raises:
            ValueError: If fewer than two samples are complete.
        """
        self.memory.fill(train)
        self.memory.require_neighbours()

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        retrieved = self.retrieve(batch)
        if self.retriever != "none":
            self.memory.note(batch, retrieved.rows[self.by])
        tokens, keys = self.complete(batch, retrieved)
        return self.predict(tokens, keys, retrieved)

    def prompt_loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss, and what the made tokens differ from the true ones by, if those are known."""
        retrieved = self.retrieve(batch)
        tokens, keys = self.complete(batch, retrieved)
        terms = {"task": self.task_loss(self.predict(tokens, keys, retrieved), batch.target)}
        makes = self.how.lambda_rec > 0 and self.kind != "none"
        if batch.teacher is not None and makes:
            error = self.reconstruction_error(tokens, batch, batch.teacher)
            terms["reconstruction"] = self.how.lambda_rec * error
        return terms

    def retrieve(self, batch: Batch) -> Retrieved:
        """Find K similar complete training samples, and their tokens (Eq. 1)."""
        names = self.task.names
        if self.how.paired:
            rows = dict.fromkeys(names, self.neighbours_of(batch).rows)
        else:
            rows = {name: self.neighbours_of(_alone(batch, name)).rows for name in names}
        if self.retriever == "none":
            which = rows[names[0]] % NOISE_ROWS
            tokens = {name: getattr(self, f"noise_{m}")[which] for m, name in enumerate(names)}
        else:
            tokens = {
                name: self.memory.tokens(name, rows[name], self.backbone.embedder(name))
                for name in names
            }
        everything = self.memory.everything()
        read = {}
        for name in names:
            if self.how.attend_padding:
                read[name] = torch.ones_like(tokens[name][..., 0], dtype=torch.bool)
            else:
                read[name] = self.backbone.real(name, everything)[rows[name]]
        target = self.memory.target[rows[self.by]]
        return Retrieved(rows, tokens, read, mean_target(target, self.task))

    def neighbours_of(self, batch: Batch) -> Neighbours:
        """Rows of the memory, by likeness or at random."""
        if self.retriever == "msa":
            return self.memory.neighbours(batch)
        return self.memory.sample(batch, hashed(self.draw_key, batch.sample_id))

    def complete(
        self, batch: Batch, retrieved: Retrieved
    ) -> tuple[dict[str, Tokens], dict[str, Read]]:
        """Make the tokens that are missing; say which tokens are read."""
        tokens, keys = self.backbone.tokens(batch), self.keys(batch)
        filled, read = dict(tokens), dict(keys)
        for name, query in zip(self.task.names, queries(batch.presence), strict=True):
            if not len(query):
                continue
            has = batch.has(name)[:, None]
            read[name] = torch.where(has, keys[name], retrieved.read[name].any(1))
            if self.kind == "none":
                continue
            made = self.generate(name, query, batch.presence[query], tokens, keys, retrieved)
            gap = torch.zeros_like(tokens[name]).index_copy(0, query, made.to(tokens[name]))
            filled[name] = torch.where(has[:, :, None], tokens[name], gap)
        return filled, read

    def keys(self, batch: Batch) -> dict[str, Read]:
        """Which tokens of a batch are read."""
        if self.how.attend_padding:
            counts = self.backbone.counts
            return {n: batch.has(n)[:, None].expand(-1, counts[n]) for n in self.task.names}
        return self.backbone.keys(batch)

    def generate(
        self,
        name: str,
        query: Int[Tensor, " query"],
        presence: Bool[Tensor, "query modality"],
        tokens: Mapping[str, Tokens],
        keys: Mapping[str, Read],
        retrieved: Retrieved,
    ) -> Float[Tensor, "query token dim"]:
        """Tokens of one modality for the samples that lack it (Eq. 2 to 4)."""
        names = self.task.names
        m = names.index(name)
        others = [n for n in names if n != name]
        if self.kind == "cross_modal":
            have = [tokens[n][query] for n in others]
            translated: Tensor = self.translators[m](have, [keys[n][query] for n in others])
            return translated
        neighbours = retrieved.tokens[name][query]
        if self.kind == "no_router":
            weight = neighbours.new_full(neighbours.shape[:2], 1 / neighbours.shape[1])
        else:
            weight = self.routers[m](
                [pooled(tokens[n][query], keys[n][query]) for n in others],
                torch.cat([presence[:, :m], presence[:, m + 1 :]], dim=1),
                pooled(neighbours, retrieved.read[name][query]),
            )
            self.usage(weight, presence)
        mixed: Tensor = self.experts[m](neighbours, weight)
        return mixed

    def predict(
        self, tokens: Mapping[str, Tokens], keys: Mapping[str, Read], retrieved: Retrieved
    ) -> Float[Tensor, "batch output"]:
        """Run the transformer with the prompts in it (Eq. 5 to 7), and the head."""
        prompts = {} if self.prompter is None else self.prompter(tokens, keys, retrieved)
        label = self.label(retrieved.label) if self.how.label_prompt else None

        def insert(layer: int, stream: int) -> Tensor | None:
            if layer != self.how.insert_at:
                return None
            parts = [prompts[n] for n in self.backbone.streams[stream] if n in prompts]
            if label is not None:
                parts = [self.label.token(label, stream), *parts]
            return torch.cat(parts, 1) if parts else None

        if label is not None:
            # towers are read where they always are: in CLIP's text the first token reads nothing
            at = 0 if len(self.backbone.streams) == 1 else None
            return self.label.compare(self.backbone.run(tokens, keys, insert, at), label)
        output: Tensor = self.head(self.backbone.run(tokens, keys, insert))
        return output

    def reconstruction_error(
        self, tokens: Mapping[str, Tokens], batch: Batch, teacher: Batch
    ) -> Float[Tensor, ""]:
        """Mean squared error of the made tokens, over the samples and modalities hidden."""
        truth, read = self.backbone.tokens(teacher), self.keys(teacher)
        errors, hidden = [], []
        for name in self.task.names:
            error = (tokens[name] - truth[name].detach()).square().mean(2)
            errors.append(masked_mean(error, read[name]))
            hidden.append(teacher.has(name) & ~batch.has(name))
        where = torch.stack(hidden)
        return (torch.stack(errors) * where).sum() / where.sum().clamp_min(1)

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Means of the tokens of each modality, made ones where it is absent (Fig. 7)."""
        tokens, _ = self.complete(batch, self.retrieve(batch))
        return {name: z.mean(1) for name, z in tokens.items()} if self.kind != "none" else {}

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """What some test samples retrieve (Fig. 6), and how the router weighs the neighbours."""
        ranks = [f"neighbour {rank + 1}" for rank in range(self.memory.k)]
        return {**self.memory.retrieval(), **self.usage.diagnostics(self.task.names, ranks)}


def _alone(batch: Batch, name: str) -> Batch:
    """With this modality alone wherever a sample has it.

    What is hidden is not zeroed: features are taken through `Batch.embed`, which does that.
    """
    column = torch.arange(len(batch.modalities), device=batch.presence.device)
    others = batch.has(name)[:, None] & (column != batch.modalities.index(name))
    return replace(batch, presence=batch.presence & ~others)
