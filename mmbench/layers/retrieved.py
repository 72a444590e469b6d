"""What retrieved samples lend: their tokens, through means and attention, and their labels.

Notation: B batch, K neighbours, N tokens of a modality, D width, b tokens of a prompt, C outputs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.data.task import Task
from mmbench.layers.pooling import window_weights


def fit_width(width: int, dim: int) -> nn.Module:
    """A Linear from one width to another; nothing if they are equal."""
    return nn.Identity() if width == dim else nn.Linear(width, dim)


def mean_retrieved(
    retrieved: Float[Tensor, "batch rank token dim"], read: Bool[Tensor, "batch rank token"]
) -> tuple[Float[Tensor, "batch token dim"], Bool[Tensor, "batch token"]]:
    """Mean over the neighbours that have a token at a place, and where there is any.

    Returns:
        Means, zeros where no neighbour has a token, and False there.
    """
    share = read / read.sum(1, keepdim=True).clamp_min(1)
    return torch.einsum("bkn,bknd->bnd", share.to(retrieved.dtype), retrieved), read.any(1)


def pool_rows(read: Bool[Tensor, "batch row"], length: int) -> Float[Tensor, "batch prompt row"]:
    """Weights of adaptive average pooling to `length` rows of those that are read.

    Window i of R rows runs from ⌊iR/b⌋ to ⌈(i+1)R/b⌉; rows that are read come first.
    """
    return window_weights(read.sum(1), read.shape[1], length)


def attend_pooled(
    query: Float[Tensor, "batch row dim"],
    retrieved: Float[Tensor, "batch rank token dim"],
    read: Bool[Tensor, "batch rank token"] | None,
    pool: Float[Tensor, "batch prompt row"],
    *,
    jointly: bool,
) -> Float[Tensor, "batch prompt dim"]:
    """Rows of attention to neighbours' tokens, pooled before they meet the tokens.

    With Q' = (Q W_Q + b_Q) W_Kᵀ / √D as `query`, and a linear map for the values applied to what
    comes out, this is Pool(Softmax(Q Kᵀ / √D) V) exactly: the bias of K cancels in the softmax,
    rows of attention sum to one, and pooling is linear. Neighbours are never projected.

    Args:
        query: Q', one row a token.
        retrieved: Tokens of K neighbours.
        read: Which of them take part; None = all.
        pool: Weights that average rows, b of them.
        jointly: Whether a row attends to the tokens of all neighbours at once, or to those of
            each by itself, averaged over the neighbours.
    """
    k, tokens = retrieved.shape[1:3]
    flat = retrieved.flatten(1, 2)  # (B, K N, D)
    scores = query @ flat.transpose(1, 2)
    if read is not None:
        # a finite floor: a neighbour without any token must not become NaN
        scores = scores.masked_fill(~read.flatten(1)[:, None], torch.finfo(scores.dtype).min)
    if jointly:
        attention = scores.softmax(2)
    else:
        attention = scores.view(*scores.shape[:2], k, tokens).softmax(3).flatten(2) / k
    return (pool.to(scores.dtype) @ attention) @ flat


def mean_target(target: Tensor, task: Task) -> Float[Tensor, "batch output"]:
    """Mean of the neighbours' targets: shares of classes or labels, or the mean of values.

    Args:
        target: (B, K) classes, or (B, K, C).
        task: Whose targets they are.
    """
    if task.kind == "single_label":
        target = F.one_hot(target, task.num_outputs)
    return target.float().mean(1)


class LabelPrompt(nn.Module):
    """A vector for each label: their mean over neighbours is a token, all of them are the head.

    The token is inserted before the prompts and read at the end. The output of label c is the
    product of its vector with MLP([what was read; the token]).

    Source: released code of Lang et al., "Retrieval-Augmented Dynamic Prompt Tuning for Incomplete
    Multimodal Learning" (RAGPT), AAAI 2025; vectors start from N(0, 1), the MLP from N(0, 0.02²).

    Args:
        outputs: C.
        widths: D of each stream of the backbone; vectors have that of the first.
        pooled_width: Of what is read at the end.
    """

    def __init__(self, outputs: int, widths: Sequence[int], pooled_width: int) -> None:
        super().__init__()
        hidden = pooled_width + widths[0]
        self.labels = nn.Parameter(torch.randn(outputs, widths[0]))
        self.enter = nn.ModuleList(fit_width(widths[0], width) for width in widths)
        first, last = nn.Linear(hidden, hidden), nn.Linear(hidden, widths[0])
        for part in (first, last):
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
        self.head = nn.Sequential(first, nn.LayerNorm(hidden), nn.GELU(), last)

    def forward(self, share: Float[Tensor, "batch output"]) -> Float[Tensor, "batch dim"]:
        """Mean vector of the neighbours' labels, from the mean of their targets."""
        return share @ self.labels

    def token(
        self, label: Float[Tensor, "batch dim"], stream: int
    ) -> Float[Tensor, "batch 1 width"]:
        """The same as a token of one stream."""
        z: Tensor = self.enter[stream](label)
        return z[:, None]

    def compare(
        self, pooled: Float[Tensor, "batch pooled"], label: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch output"]:
        """Outputs, from what was read at the end."""
        z: Tensor = self.head(torch.cat([pooled, label], 1))
        return z @ self.labels.T
