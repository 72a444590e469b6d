"""Learned prompts for the first layers of a backbone.

Notation: B batch, S sets of prompts, n prompts of a layer, D width. A layer has one part of n
tokens (`input`), or two parts of n/2, keys and values (`attention`).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.data.missingness.protocol import every_pattern, pattern_name
from mmbench.diagnostics import Matrix
from mmbench.layers.attention import Prefix
from mmbench.layers.backbones import Backbone, Insert, Prefixes
from mmbench.layers.fusion import presence_code

PromptKind = Literal["input", "attention"]
Dummy = Literal["masked", "zeros", "ones", "table1"]


class Prompts(nn.Module):
    """Sets of prompts, one of which, or a mixture, goes into the first layers.

    A prompt starts as zeros but for one row of ones, another for each set, so that sets differ.

    Source: Lee et al., "Multimodal Prompting with Missing Modalities for Visual Recognition",
    CVPR 2023, Section 3.3: input-level and attention-level prompts.

    Args:
        backbone: Into which they go; one table for each of its streams.
        sets: S.
        length: n, >= 1, even for `attention`.
        layers: How many of the first layers have prompts; at most all of the backbone's.
        kind: `input` puts n new tokens before the sequence at each of these layers, where they
            stay; `attention` gives each of these layers n/2 keys and n/2 values.

    Raises:
        ValueError: If `length` or `layers` is too small, or `length` is odd for `attention`.
    """

    def __init__(
        self, backbone: Backbone, sets: int, *, length: int, layers: int, kind: PromptKind
    ) -> None:
        super().__init__()
        if length < 1 or layers < 1:
            raise ValueError(f"prompts need a length and layers >= 1, found {length} and {layers}")
        if kind == "attention" and length % 2:
            raise ValueError(
                f"attention prompts are half keys, half values: {length} is odd, take {length + 1}"
            )
        self.kind = kind
        parts = 2 if kind == "attention" else 1
        shape = (sets, min(layers, backbone.depth), parts, length // parts)
        self.tables = nn.ParameterList()
        for stream in backbone.streams:
            start = torch.zeros(*shape, backbone.widths[stream[0]])
            for index in range(sets):
                start[index, :, :, index % shape[-1]] = 1
            self.tables.append(nn.Parameter(start))

    def inject(
        self, chosen: Sequence[Float[Tensor, "batch layer part row _"]]
    ) -> tuple[Insert | None, Prefixes | None]:
        """What `Backbone.run` takes as `insert` and `prefix`.

        Args:
            chosen: Prompts of each sample, for each stream.
        """

        def insert(layer: int, stream: int) -> Tensor | None:
            prompts = chosen[stream]
            return prompts[:, layer, 0] if layer < prompts.shape[1] else None

        def prefix(layer: int, stream: int) -> Prefix | None:
            prompts = chosen[stream]
            return (
                (prompts[:, layer, 0], prompts[:, layer, 1]) if layer < prompts.shape[1] else None
            )

        return (insert, None) if self.kind == "input" else (None, prefix)


def with_dummies(
    backbone: Backbone, batch: Batch, dummy: Dummy
) -> tuple[dict[str, Float[Tensor, "batch _ _"]], dict[str, Tensor]]:
    """Tokens and keys of a batch, dummies standing for what is absent.

    Args:
        backbone: Which makes the tokens.
        batch: Samples.
        dummy: `masked` hides the tokens of absent modalities. With `zeros` and `ones`, tokens of
            inputs that say nothing are read: empty texts, features that are zero, and images and
            volumes of zeros or ones. With `table1`, empty texts are read and all else is hidden:
            that is what the baselines in the code of RAGPT do, from which the rows in Table 1 of
            REDEEM (Lang et al., KDD 2025) come.
    """
    tokens, keys = backbone.tokens(batch), backbone.keys(batch)
    if dummy == "masked":
        return tokens, keys
    for name, modality in backbone.modalities.items():
        if dummy == "table1" and modality.kind != "tokens":
            continue
        grid = modality.kind in ("image", "volume")
        blank, real = backbone.blank(name, 1.0 if grid and dummy == "ones" else 0.0)
        present = batch.has(name)[:, None]
        tokens[name] = torch.where(present[:, :, None], tokens[name], blank)
        keys[name] = torch.where(present, keys[name], real)
    return tokens, keys


def pattern_index(presence: Bool[Tensor, "batch modality"]) -> Int[Tensor, " batch"]:
    """Number of a sample's set of prompts, in 0..2^M - 2; no sample lacks everything."""
    return presence_code(presence) - 1


def fallback(seen: Bool[Tensor, " pattern"]) -> Float[Tensor, "pattern pattern"]:
    """Weights with which a pattern uses the prompts of all patterns.

    Args:
        seen: Which patterns have trained prompts; at least one.

    Returns:
        Rows that sum to 1: its own prompts for a seen pattern; otherwise the mean of those of
        seen patterns that contain it, or of all seen ones where none does.
    """
    index = torch.arange(1, len(seen) + 1, device=seen.device)
    contains = (index & index[:, None]) == index[:, None]
    contains = contains & seen
    contains = torch.where(contains.any(1, keepdim=True), contains, seen)
    same = torch.eye(len(seen), dtype=torch.bool, device=seen.device)
    use = torch.where(seen[:, None], same, contains)
    return use / use.sum(1, keepdim=True)


def patterns_seen(seen: Bool[Tensor, " pattern"], names: Sequence[str]) -> Matrix:
    """Which patterns have trained prompts, as a diagnostic: 1 = seen in training."""
    presence = every_pattern(len(names))[1:]
    return Matrix(
        values=seen.cpu().double().numpy()[None],
        row=np.array(["seen"]),
        column=np.array([pattern_name(row, names) for row in presence]),
    )
