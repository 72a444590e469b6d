"""DCP: prompts that know of each other, of the other modality and of the input.

Paper: Hu et al., "Deep Correlated Prompting for Visual Recognition with Missing Modalities",
NeurIPS 2024.
Idea: a multimodal transformer stays frozen. Each modality gets three kinds of prompts, chosen by
the pattern of what is there. Correlated ones of a layer are made from those of the layer before,
of all modalities; common ones are one set that is mapped to each modality; dynamic ones read the
sample's own tokens. Correlated ones are new at each layer, the other two stay in the sequence.
Notation: presence (B, M); pattern p as in `mmbench.layers.prompts`, S = 2^M - 1 of them; R prompts
of a kind for a modality; P_im correlated prompts of layer i (S, R, D_m); G_im bottlenecks of two
layers with a GELU. P_im = G_im(LN_i([P_(i-1)1, ..., P_(i-1)M])), from learned P_(-1)m.
Differences from the paper:
- Any modalities, and backbones with one stream as well as two: a stream gets the prompts of its
  modalities side by side. R is 4 instead of 12, as the small backbone has few tokens.
- Absent modalities are hidden from attention; there, the paper reads an empty text or a blank
  image, and the released code then sets the features of that tower to zero.
- A pattern that no training sample has gets the mean of the learned starts of the patterns that
  contain it, as of all if none does; the paper trains and tests on the same.
- A dynamic prompt reads by one head, without a bias for keys, which would not learn.
- `variant="official"`: the learned starts of a modality depend on whether that is there, not on
  the whole pattern; the dynamic prompts' queries are drawn once and never learn, as they are no
  parameters there.
- The pooler and a head of two layers learn with the prompts, as in the suite's other prompt
  methods; the released code trains the last norms, the projections and one linear layer.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from mmbench.bounds import Count, Depth
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.prompts import fallback, pattern_index, patterns_seen
from mmbench.method import ALL_TASKS, Applies, Paper
from mmbench.prompting import PromptMethod
from mmbench.search import Choice, ranges

Table = Float[Tensor, "pattern row _"]
Rows = Float[Tensor, "batch row dim"]

REDUCTION = 16  # of bottlenecks


def bottleneck(width: int, out: int) -> nn.Sequential:
    """G: two linear layers, 16 times narrower between them."""
    hidden = max(1, width // REDUCTION)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


class Correlated(nn.Module):
    """Prompts of each layer from those of the layer before.

    Args:
        widths: D_m.
        layers: How many layers have prompts.
    """

    def __init__(self, widths: Sequence[int], layers: int) -> None:
        super().__init__()
        total = sum(widths)
        self.norms = nn.ModuleList(nn.LayerNorm(total) for _ in range(layers))
        self.make = nn.ModuleList(
            nn.ModuleList(bottleneck(total, width) for width in widths) for _ in range(layers)
        )

    def forward(self, start: Sequence[Table]) -> list[list[Table]]:
        """For each layer, the prompts of each modality.

        Args:
            start: P_(-1)m of each modality.
        """
        made: list[list[Table]] = []
        for norm, make in zip(self.norms, self.make, strict=True):
            joint = norm(torch.cat([*(made[-1] if made else start)], dim=2))
            assert isinstance(make, nn.ModuleList)
            made.append([part(joint) for part in make])
        return made


class Dynamic(nn.Module):
    """Attention of queries over a modality's own tokens, one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        queries: Rows,
        tokens: Float[Tensor, "batch token dim"],
        read: Bool[Tensor, "batch token"],
    ) -> Rows:
        """Read the tokens that may be read; of an absent modality, tokens that are zero."""
        readable = (read | ~read.any(1, keepdim=True))[:, None]
        heads = (self.query(queries), self.key(tokens), self.value(tokens))
        z: Tensor = self.out(scaled_dot_product_attention(*heads, attn_mask=readable))
        return z


class DCP(PromptMethod):
    """Deep correlated prompting.

    Args:
        task: What goes in and what is predicted.
        variant: Starts by pattern and learned queries, or what the released code computes.
        rows: R, prompts of each kind for each modality, >= 1.
        layers: How many of the first layers have correlated prompts, >= 1, at most all.
        **common: Backbone, regime and optimiser, see `PromptMethod`.

    Raises:
        ValueError: If `rows` or `layers` is below 1.
    """

    paper = Paper(
        "Deep Correlated Prompting for Visual Recognition with Missing Modalities",
        "NeurIPS",
        2024,
        "https://arxiv.org/abs/2410.06558",
    )
    # 2^M - 1 sets of prompts
    applies = Applies(tasks=ALL_TASKS, min_modalities=2, max_modalities=8)
    search = ranges(
        rows=Choice((2, 4, 8)),
    )

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        rows: Count = 4,
        layers: Depth = 6,
        **common: Any,
    ) -> None:
        super().__init__(task, **common)
        if rows < 1 or layers < 1:
            raise ValueError(f"prompts need rows and layers >= 1, found {rows} and {layers}")
        self.official = variant == "official"
        self.rows, self.layers = rows, min(layers, self.backbone.depth)
        modalities = len(task.modalities)
        patterns = 2**modalities - 1
        widths = [self.backbone.widths[name] for name in task.names]

        def table(sets: int, width: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(sets, rows, width).normal_(std=0.02))

        starts = 2 if self.official else patterns
        self.starts = nn.ParameterList(table(starts, width) for width in widths)
        self.correlated = Correlated(widths, self.layers)
        self.common = table(patterns, widths[0])
        self.project = nn.ModuleList(bottleneck(widths[0], width) for width in widths)
        self.queries = nn.ParameterList(table(patterns, width) for width in widths)
        self.queries.requires_grad_(not self.official)
        self.dynamic = nn.ModuleList(Dynamic(width) for width in widths)
        self.head = self.make_head()
        self.seen: Tensor
        self.register_buffer("seen", torch.ones(patterns, dtype=torch.bool))
        codes = torch.arange(1, patterns + 1)[:, None] >> torch.arange(modalities)
        self.has: Tensor  # (S, M), 1 = the pattern has the modality
        self.register_buffer("has", codes & 1, persistent=False)

    def prepare(self, train: Iterable[Batch]) -> None:
        """Note which patterns occur in training."""
        self.seen.zero_()
        for batch in train:
            self.seen[pattern_index(batch.presence)] = True

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Run the frozen backbone with the prompts of each sample in it."""
        tokens, read = self.backbone.tokens(batch), self.backbone.keys(batch)
        pattern = pattern_index(batch.presence)
        correlated = [
            dict(zip(self.task.names, (table[pattern] for table in layer), strict=True))
            for layer in self.correlated(self.start())
        ]
        staying = self.staying(tokens, read, pattern)
        xs, reads = [], []
        for stream, depth in enumerate(self.backbone.depths):
            names = self.backbone.streams[stream]
            x, readable = self.backbone.sequence(stream, tokens, read)
            x = torch.cat([*(staying[name] for name in names), x], dim=1)
            readable = pad(readable, (3 * self.rows * len(names), 0), value=True)
            for i in range(depth):
                if i < self.layers:
                    old = self.rows * len(names) if i else 0
                    x = torch.cat([*(correlated[i][name] for name in names), x[:, old:]], dim=1)
                x = self.backbone.layer(i, stream, x, readable)
            xs.append(x)
            reads.append(readable)
        output: Tensor = self.head(self.backbone.pool(xs, reads))
        return output

    def start(self) -> list[Table]:
        """P_(-1)m of each pattern, for each modality."""
        if self.official:
            return [table[has] for table, has in zip(self.starts, self.has.T, strict=True)]
        use = fallback(self.seen)
        return [torch.tensordot(use, table, 1) for table in self.starts]

    def staying(
        self,
        tokens: Mapping[str, Float[Tensor, "batch _ _"]],
        read: Mapping[str, Bool[Tensor, "batch _"]],
        pattern: Tensor,
    ) -> dict[str, Float[Tensor, "batch more _"]]:
        """Common and dynamic prompts of each modality, 2 R of them."""
        use = fallback(self.seen)
        common = torch.tensordot(use, self.common, 1)
        parts = zip(self.task.names, self.project, self.queries, self.dynamic, strict=True)
        made = {}
        for name, project, queries, dynamic in parts:
            query = torch.tensordot(use, queries, 1)[pattern]
            made[name] = torch.cat(
                [project(common)[pattern], dynamic(query, tokens[name], read[name])], dim=1
            )
        return made

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """Which patterns were seen in training; those that were not use the mean of others."""
        return {"seen_in_training": patterns_seen(self.seen, self.task.names)}
