"""Texts as token ids: by the words of the training split, or by a published model's tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from mmbench.data.features import text_folder
from mmbench.data.pieces import Pieces
from mmbench.data.vocabulary import encode, vocabulary, words

PACKAGED = "packaged"  # the tokenizer that installs with its model


@dataclass(frozen=True)
class Tokens:
    """Texts as rows of token ids.

    Args:
        x: Token ids, 0 = padding.
        length: Tokens of each text, >= 1.
        vocab_size: One more than the largest id.
        notes: What was cut, a line each.
    """

    x: Int[np.ndarray, "text steps"]
    length: Int[np.ndarray, " text"]
    vocab_size: int
    notes: tuple[str, ...]


def pieces_of(root: Path, tokenizer: str | None) -> Pieces | None:
    """The tokenizer that a user named.

    Args:
        root: What a relative folder starts from.
        tokenizer: Folder of a published model, `packaged` for that of MiniLM, None = none.

    Raises:
        ValueError: If the folder has none.
    """
    if tokenizer is None:
        return None
    return Pieces(text_folder() if tokenizer == PACKAGED else root / tokenizer)


def tokenised(
    texts: Sequence[str],
    train: Bool[np.ndarray, " text"],
    *,
    pieces: Pieces | None,
    max_tokens: int | None,
    name: str,
) -> Tokens:
    """Turn texts into token ids.

    Args:
        texts: Any texts.
        train: Whether each is of the training split, whose words alone get ids of their own.
        pieces: A published model's tokenizer in place of words.
        max_tokens: Longer texts are cut; None = the longest decides, or what the tokenizer's model
            reads at most.
        name: Of what holds them, for notes.
    """
    if pieces is not None:
        counts = pieces.counts(texts)
        limit = max_tokens or pieces.longest
    else:
        counts = [max(len(words(text)), 1) for text in texts]
        limit = max_tokens
    longest = max(counts, default=1)
    steps = longest if limit is None else min(longest, limit)
    cuts = sum(count > steps for count in counts)
    notes = (f"{name}: {cuts} texts cut to {steps} tokens",) if cuts else ()
    if pieces is not None:
        x, length = pieces.encode(texts, steps=steps)
        return Tokens(x, length, pieces.size, notes)
    ids = vocabulary(compress(texts, train))
    x, length = encode(texts, ids, steps=steps)
    return Tokens(x, length, 2 + len(ids), notes)  # padding and unknown words
