"""MoE-Retriever: replace a missing modality by what experts make of similar samples and the rest.

Paper: Yun, Xin et al., "Generate, Then Retrieve: Addressing Missing Modalities in Multimodal
Learning via Generative AI and MoE", GenAI4Health workshop at AAAI 2025.
Idea: for a sample that lacks modality T, take two contexts: embeddings of T from training samples
that have T and all that this sample has (intra-modal), and the sample's own embeddings
(inter-modal). They attend to each other; a router sends each token to a few of the experts of T
and of the shared ones; the average of the answers stands in for T in an ordinary transformer.
Notation: presence (B, M); z = P_(i,m) tokens (B, M, P, D); a query is one (sample, missing T)
pair, Q of them in order of T; context (E, P, D), the embeddings of one query after another, in each
those from other samples first; x = P' after attention; E_T experts for each modality and E_sh
shared ones.
Differences from the paper:
- Eq. 3 leaves open how answers to several tokens become one embedding: here half the mean over
  the intra-modal and half the mean over the inter-modal ones, for each token position. Where one
  context is empty, the other counts in full.
- The router is noisy in training and its importance and load are balanced (weight 0.01), as in
  the released code; the paper names neither. Balance is sought among the experts that serve one
  target modality, over which the softmax of Eq. 1 runs, too.
- Where no training sample has all that a sample has and T as well, samples that have T are drawn;
  where there is none either, the intra-modal context is empty. `diagnostics` counts both.
- Draws are a function of (seed, epoch, sample, modality), in evaluation without the epoch, so a
  prediction depends on nothing but the sample. Only training rows are ever drawn.
- P' = MHA(P) is one pre-norm layer, x = LN(P + drop(MHA(LN(P)))); the paper names neither norm nor
  residual. Attention weights of the context are not dropped out, as they are in the release: on a
  CPU that would cost a fifth of a training step.
- The "linear combination with the inputs" of the text is taken for the gates of Eq. 3: what comes
  out are answers of experts alone, without a residual.
- The suite's encoders and batches. AdamW at 3e-4; released are Adam, 1e-4 and batches of 16.
- Several routers: the paper does not say who uses which; see `routers`.
- Tokens are averaged for each modality before the head, as released: the paper's vectors have no
  places to keep apart, and retrieved tokens are themselves means over tokens of one place.
`variant="official"` computes what the released code computes: the output of attention and experts
is discarded and the mean of the raw context tokens taken, so there is no router at all; the
attention layer of the fusion loses its input (x = a + drop(a) for a = attend(norm(x))); tokens of
a vector are patches of it; gaps are zero in five epochs of warm-up, of which none is selected.
Kept different even there: support comes from training rows alone (the release draws from the test
rows, too), draws repeat, an empty pool is no error, and the warm-up comes before the epochs of the
suite, not out of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.bounds import AtLeastZero, Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.hashing import hashed
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic, Matrix, Retrieval
from mmbench.layers.attention import SelfAttention
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import presence_code
from mmbench.layers.moe import (
    GATE_LOSS_WEIGHT,
    Experts,
    NoisyTopKGate,
    Routing,
    SparseBlock,
)
from mmbench.layers.retrieval import NOTED, NOTED_EACH, Draw, SupportBank, candidates, queries
from mmbench.layers.usage import UsageMeter
from mmbench.method import Applies, Method, Paper, Stage
from mmbench.search import Choice, Real, ranges

Tokens = Float[Tensor, "batch modality token dim"]
Routers = Literal["one", "context", "modality"]

OFFICIAL_WARM_UP = 5  # epochs
FUSION_EXPERTS = 32  # if the fusion layers are sparse, as in the released code


@dataclass(frozen=True, slots=True)
class Context:
    """What is known about the gaps of a batch; queries in order of the modality they lack.

    Args:
        tokens: (E, P, D), one embedding after another, query by query.
        query: (E,), which query an embedding is for.
        intra: (E,), True = from another sample; these come first.
        source: (E,), modality that an embedding is of.
        code: (E,), pattern of the sample that an embedding comes from.
        counts: (E,), False = padding, or computed for nothing, see `queries`; None = all count.
        lengths: Embeddings of each query; all the same where there is padding.
        target: (Q,), modality that a query lacks.
        sizes: Queries for each target.
    """

    tokens: Float[Tensor, "embedding token dim"]
    query: Int[Tensor, " embedding"]
    intra: Bool[Tensor, " embedding"]
    source: Int[Tensor, " embedding"]
    code: Int[Tensor, " embedding"]
    counts: Bool[Tensor, " embedding"] | None
    lengths: list[int]
    target: Int[Tensor, " query"]
    sizes: list[int]


class ExpertMix(nn.Module):
    """Context-aware routing: attention over the context, then experts (Eq. 1 and 3)."""

    pools: Tensor

    def __init__(
        self,
        modalities: int,
        dim: int,
        *,
        heads: int,
        modality_experts: int,
        shared: int,
        k: int,
        routers: Routers,
        dropout: float,
    ) -> None:
        super().__init__()
        if k > modality_experts + shared:
            raise ValueError(
                f"asked for {k} experts a token, but a pool has {modality_experts} + {shared} "
                "shared ones; lower top_k or raise modality_experts or shared_experts"
            )
        self.routers = routers
        self.own_count = modality_experts
        self.norm_attend = nn.LayerNorm(dim)
        # no dropout of its weights: on a CPU that would cost a fifth of a training step
        self.attend = SelfAttention(dim, heads=heads)
        self.drop = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.gate = NoisyTopKGate(
            dim,
            modalities * modality_experts + shared,
            k,
            routers={"one": 1, "context": 2, "modality": modalities}[routers],
            normalise="all",  # Eq. 1
        )
        self.specific = nn.ModuleList(
            Experts(modality_experts, dim, 2 * dim) for _ in range(modalities)
        )
        self.shared = Experts(shared, dim, 2 * dim) if shared else None
        # who may be asked for each target: its own experts and the shared ones
        pools = torch.eye(modalities, dtype=torch.bool).repeat_interleave(modality_experts, dim=1)
        pools = torch.cat([pools, torch.ones(modalities, shared, dtype=torch.bool)], dim=1)
        self.register_buffer("pools", pools, persistent=False)

    def forward(
        self, context: Context
    ) -> tuple[
        Float[Tensor, "embedding token dim"],
        Float[Tensor, ""],
        Bool[Tensor, "embedding token expert"],
    ]:
        """Answers to each token, balance of the experts, and who was asked."""
        tokens, counts = context.tokens, context.counts
        each = tokens.shape[1]
        if not len(tokens):
            return tokens, tokens.new_zeros(()), self.pools.new_zeros(0, each, self.pools.shape[1])
        x = tokens.flatten(0, 1)  # (E P, D)
        normed = self.norm_attend(x)
        if counts is None:
            read = self.attend.packed(normed, [n * each for n in context.lengths if n])
        else:
            padded = normed.view(len(context.lengths), -1, x.shape[1])
            present = counts.repeat_interleave(each).view(padded.shape[:2])
            read = self.attend(padded, present).flatten(0, 1)
        x = self.norm(x + self.drop(read))  # P' = MHA(P)
        routing: Routing = self.gate(
            x,
            self.pools[context.target[context.query]].repeat_interleave(each, dim=0),
            self.router_of(context),
        )
        if counts is not None:
            routing = routing.only(counts.repeat_interleave(each))
        lengths = iter(context.lengths)
        y, balance = self.ask(
            x, routing, [sum(islice(lengths, size)) * each for size in context.sizes]
        )
        return y.view_as(tokens), balance, (routing.gates > 0).view(len(tokens), each, -1)

    def router_of(self, context: Context) -> Int[Tensor, " token"] | None:
        """Which router scores each token."""
        if self.routers == "one":
            return None
        which = context.source if self.routers == "modality" else (~context.intra).long()
        return which.repeat_interleave(context.tokens.shape[1])

    def ask(
        self, x: Float[Tensor, "token dim"], routing: Routing, sizes: list[int]
    ) -> tuple[Float[Tensor, "token dim"], Float[Tensor, ""]]:
        """Mix the answers (Eq. 3) of each target's own experts and of the shared ones."""
        first_shared = len(self.specific) * self.own_count
        answers, balances = [], []
        parts = zip(torch.split(x, sizes), routing.split(sizes), strict=True)
        for target, (part, choice) in enumerate(parts):
            if not len(part):
                continue
            begin = target * self.own_count
            pool = slice(begin, begin + self.own_count)
            answers.append(self.specific[target](part, choice.gates[:, pool]))
            balances.append(choice.of(pool, slice(first_shared, None)).balance())
        y = torch.cat(answers)
        if self.shared is not None:
            y = y + self.shared(x, routing.gates[:, first_shared:])
        return y, torch.stack(balances).mean()


def integrate(
    answers: Float[Tensor, "embedding token dim"], context: Context
) -> Float[Tensor, "query token dim"]:
    """One embedding a query: half from other samples, half from its own; an empty half is left."""
    query, queries = context.query, len(context.target)
    counts = answers.new_ones(len(answers)) if context.counts is None else context.counts
    half = 2 * query + context.intra
    sizes = answers.new_zeros(2 * queries).index_add(0, half, counts.to(answers))
    halves = (sizes > 0).view(-1, 2).sum(1)
    share = counts / (sizes[half] * halves[query]).clamp_min(1)
    gap = answers.new_zeros(queries, *answers.shape[1:])
    return gap.index_add(0, query, (answers * share[:, None, None]).to(gap))


def scatter(retrieved: Float[Tensor, "query token dim"], rows: list[Tensor], z: Tokens) -> Tokens:
    """Put the retrieved embeddings where they belong."""
    parts = torch.split(retrieved, [len(row) for row in rows])
    gap = torch.zeros_like(z[:, 0])
    pairs = zip(rows, parts, strict=True)
    return torch.stack([gap.index_copy(0, row, part.to(gap)) for row, part in pairs], dim=1)


class MoERetriever(Method):
    """Retrieval of missing embeddings by a sparse mixture of experts.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's equations, or what its released code computes.
        dim: D, width of a token.
        tokens: P, tokens for each modality.
        heads: Attention heads; has to divide `dim`.
        modality_experts: E_T, experts of each target modality, >= 1.
        shared_experts: E_sh, experts of all, >= 0.
        top_k: Experts for each token, 1 to E_T + E_sh; at most as many as there are.
        routers: One for all tokens; one for tokens of each context (R = 2 in Table 3); or one
            for tokens of each modality (R = 4, with the four modalities of ADNI).
        use_intra: Whether other samples are drawn.
        use_inter: Whether a sample's own embeddings are used.
        routing: Attention and experts, or the plain mean of the context ("w/o Context-Aware
            Routing" in Table 3).
        n_intra: Samples to draw; None = as many as the sample has modalities.
        fusion_layers: Transformer layers after retrieval, >= 1.
        fusion_sparse: Whether their MLPs are mixtures of 32 experts, of which 4 answer.
        warm_up: Epochs in which gaps are left zero, before those of the suite; None = 0, in the
            official variant 5.
        gate_loss: Weight of the balance of the experts, >= 0.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper(
        "Generate, Then Retrieve: Addressing Missing Modalities in Multimodal Learning via "
        "Generative AI and MoE",
        "AAAI workshop GenAI4Health",
        2025,
        "https://github.com/UNITES-Lab/moe-retriever",
    )
    applies = Applies(min_modalities=2, max_modalities=12)  # counts are kept for all 2^M patterns
    search = ranges(
        tokens=Choice((4, 8, 16)),
        modality_experts=Choice((4, 8, 16)),
        gate_loss=Real(1e-3, 1.0, log=True),
    )

    draw_key: Tensor
    routed: Tensor
    fallbacks: Tensor

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 128,
        tokens: Count = 16,
        heads: Count = 4,
        modality_experts: Count = 8,
        shared_experts: AtLeastZero = 4,
        top_k: Count = 4,
        routers: Routers = "one",
        use_intra: bool = True,
        use_inter: bool = True,
        routing: Literal["moe", "mean"] = "moe",
        n_intra: Count | None = None,
        fusion_layers: Depth = 1,
        fusion_sparse: bool = False,
        warm_up: AtLeastZero | None = None,
        gate_loss: LossWeight = GATE_LOSS_WEIGHT,
        dropout: Rate = 0.5,
        lr: LearningRate = 3e-4,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if not (use_intra or use_inter):
            raise ValueError(
                "use_intra and use_inter are both false, so there is nothing to fill a gap with; "
                "keep one, or take zero_fill"
            )
        modalities, official = len(task.modalities), variant == "official"
        self.use_intra, self.use_inter = use_intra, use_inter
        self.n_intra, self.gate_loss = n_intra, gate_loss
        self.fusion_sparse = fusion_sparse
        self.warm_up = OFFICIAL_WARM_UP * official if warm_up is None else warm_up
        self.epoch = 0
        self.encode = ModalityEncoders(task, dim, tokens=tokens, patches=official)
        self.bank = SupportBank(task)
        self.mix = (
            ExpertMix(
                modalities,
                dim,
                heads=heads,
                modality_experts=modality_experts,
                shared=shared_experts,
                k=top_k,
                routers=routers,
                dropout=dropout,
            )
            if routing == "moe" and not official
            else None
        )
        self.position = nn.Parameter(torch.zeros(modalities * tokens, dim))
        self.fusion = nn.ModuleList(
            SparseBlock(
                dim,
                heads=heads,
                experts=FUSION_EXPERTS if fusion_sparse else None,
                dropout=dropout,
                lose_input=official,
            )
            for _ in range(fusion_layers)
        )
        self.head = nn.Linear(modalities * dim, task.num_outputs)
        self.experts = [f"{n}_{e + 1}" for n in task.names for e in range(modality_experts)]
        self.experts += [f"shared_{e + 1}" for e in range(shared_experts)]
        self.register_buffer("draw_key", torch.randint(1 << 62, (1,)))
        self.usage = UsageMeter(modalities, len(self.experts))
        self._drawn: list[tuple[Tensor, Tensor]] = []  # some queries, and who supports them
        self.register_buffer("fallbacks", torch.zeros(3, dtype=torch.long), persistent=False)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """With a warm-up, first one in which gaps are left zero; its last epoch goes on."""
        fit = Stage("fit")
        if not self.warm_up:
            return (fit,)
        return (Stage("warm_up", epochs=self.warm_up, select="last"), fit)

    def prepare(self, train: Iterable[Batch]) -> None:
        """Keep the training split to draw from."""
        self.bank.fill(train)

    def on_train_epoch_start(self) -> None:
        """Draw anew each epoch."""
        self.epoch = self.current_epoch

    def train(self, mode: bool = True) -> "MoERetriever":
        """Switch modes; each evaluation counts afresh."""
        if not mode:
            self.fallbacks.zero_()
            self._drawn = []
        super().train(mode)
        return self

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        z, _ = self.complete(self.encode(batch), batch)
        return self.fuse(z)[0]

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss and balance of the experts."""
        z, balance = self.complete(self.encode(batch), batch)
        output, fusion_balance = self.fuse(z)
        terms = {"task": self.task_loss(output, batch.target)}
        if self.mix is not None or self.fusion_sparse:
            terms["gate"] = self.gate_loss * (balance + fusion_balance)
        return terms

    def complete(self, z: Tokens, batch: Batch) -> tuple[Tokens, Float[Tensor, ""]]:
        """Fill the gaps; the balance of the experts comes along."""
        balance = z.new_zeros(())
        if self.stage == "warm_up":
            return z, balance
        # in order of what samples have, so that queries of one size are neighbours
        order = batch.presence.sum(1).argsort(stable=True)
        rows = [order[r] for r in queries(batch.presence[order])]
        if not sum(map(len, rows)):
            return z, balance
        context = self.gather(z, batch, rows)
        answers = context.tokens
        if self.mix is not None:
            answers, balance, load = self.mix(context)
            if not self.training:
                self.usage.add(load.sum(1).to(answers), context.code)
        filled = scatter(integrate(answers, context), rows, z)
        return torch.where(batch.presence[:, :, None, None], z, filled), balance

    def gather(self, z: Tokens, batch: Batch, rows: list[Tensor]) -> Context:
        """Collect both contexts of all queries."""
        sizes, row = [len(r) for r in rows], torch.cat(rows)
        target = torch.cat([torch.full_like(r, t) for t, r in enumerate(rows)])
        code = presence_code(batch.presence)[row]
        lacks = ~batch.presence[row, target]
        # what there is to take from, and for each query and place in its context (Q, S): which
        # of these, whether it is there, of which modality, and from a sample of which pattern
        tokens = [z.flatten(0, 1)]
        slots: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        if self.use_intra and len(self.bank):
            drawn = self.draw(batch, row, target, code)
            if not self.training:
                counts = [lacks, lacks & drawn.relaxed, lacks & drawn.empty]
                self.fallbacks += torch.stack(counts).sum(1)
                self._note(batch.sample_id[row], drawn)
            each = zip(
                self.encode.in_order,
                torch.split(drawn.rows, sizes),
                torch.split(drawn.chosen, sizes),
                strict=True,
            )
            for t, (encoder, these, chosen) in enumerate(each):
                wanted = these.flatten()[candidates(chosen.flatten())]
                if len(wanted):
                    tokens.append(self.bank.encode(t, wanted, encoder))
            taken = candidates(drawn.chosen.flatten())
            at = torch.arange(len(taken), device=taken.device) + len(tokens[0])
            which = torch.zeros_like(drawn.rows).flatten().index_copy(0, taken, at)
            source = target[:, None].expand_as(drawn.rows)
            theirs = presence_code(self.bank.presence.index_select(0, drawn.rows.flatten()))
            slots.append((which.view_as(drawn.rows), drawn.chosen, source, theirs.view_as(source)))
        n_intra = slots[0][0].shape[1] if slots else 0
        if self.use_inter:
            # present ones first; the last is not needed, as one is missing
            others = (~batch.presence).long().argsort(stable=True)[:, :-1]
            present = batch.presence.gather(1, others)[row]
            which = row[:, None] * z.shape[1] + others[row]
            slots.append((which, present, others[row], code[:, None].expand_as(which)))
        if not slots:  # nothing to draw from yet
            nothing = row.new_zeros(len(row), 0)
            slots.append((nothing, nothing.bool(), nothing, nothing))
        which, present, source, codes = (torch.cat(part, 1) for part in zip(*slots, strict=True))
        length = present.shape[1]
        at = candidates(present.flatten())
        padded = len(at) == present.numel()
        return Context(
            tokens=torch.cat(tokens).index_select(0, which.flatten()[at]),
            query=at // max(length, 1),
            intra=at % max(length, 1) < n_intra,
            source=source.flatten()[at],
            code=codes.flatten()[at],
            counts=(present & lacks[:, None]).flatten() if padded else None,
            lengths=[length] * len(row) if padded else present.sum(1).tolist(),
            target=target,
            sizes=sizes,
        )

    def _note(self, query: Tensor, drawn: Draw) -> None:
        if len(self._drawn) < NOTED // NOTED_EACH:
            support = torch.where(drawn.chosen, self.bank.sample_id[drawn.rows], -1)
            self._drawn.append((query[:NOTED_EACH], support[:NOTED_EACH]))

    def draw(self, batch: Batch, row: Tensor, target: Tensor, code: Tensor) -> Draw:
        """Choose supporting samples, anew each epoch of training."""
        modalities = batch.presence.shape[1]
        most = modalities - 1 if self.n_intra is None else self.n_intra
        count = batch.presence.sum(1)[row]
        if self.n_intra is not None:
            count = torch.full_like(count, self.n_intra)
        epoch = self.epoch if self.training else -1
        key = hashed(self.draw_key, batch.sample_id[row], target, epoch)
        return self.bank.draw(code, target, count, key, most)

    def fuse(self, z: Tokens) -> tuple[Float[Tensor, "batch output"], Float[Tensor, ""]]:
        """Transformer over the tokens of all modalities, and the head."""
        x = z.flatten(1, 2) + self.position  # (B, M P, D)
        balance = z.new_zeros(())
        for layer in self.fusion:
            x, routing = layer(x)
            if routing is not None:
                balance = balance + routing.balance()
        output: Tensor = self.head(x.view_as(z).mean(2).flatten(1))
        return output, balance

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """Who was asked in evaluation, as in Fig. 3, and who supported whom.

        A token counts under the pattern of the sample that it comes from, be it retrieved or the
        query's own.

        Returns:
            `router`: a pattern's choices over the experts (Fig. 3b), a modality's own, numbered
            from 1, then the shared ones; `patterns of an expert`: an expert's choices over the
            patterns, columns sum to 1 or are zero (Fig. 3c); `fallbacks`: the queries, those
            without a supporting group, those without any sample to draw; `support`: who was
            drawn for some of them.
        """
        result: dict[str, Diagnostic] = {}
        for name, usage in self.usage.diagnostics(self.task.names, self.experts).items():
            chosen = usage.share * usage.count[:, None]
            result[name] = usage
            result["patterns of an expert"] = Matrix(
                values=chosen / chosen.sum(0).clip(1e-9),
                row=usage.pattern,
                column=usage.expert,
            )
        if self._drawn:
            parts = zip(*self._drawn, strict=True)
            query, support = (torch.cat(part).cpu().numpy() for part in parts)
            unscored = np.full(support.shape, np.nan, np.float32)
            result["support"] = Retrieval(query=query, neighbour=support, score=unscored)
            result["fallbacks"] = Matrix(
                values=self.fallbacks.cpu().numpy()[None].astype(float),
                row=np.array(["queries"]),
                column=np.array(["all", "without a supporting group", "without any sample"]),
            )
        return result
