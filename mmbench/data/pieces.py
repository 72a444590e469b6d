"""Texts as the tokenizer of a published model cuts them, and the name of its vocabulary.

Word vectors that were learned elsewhere mean something under the ids of their own tokenizer alone.
A modality therefore says whose ids it holds (`Modality.tokenizer`), and a backbone with published
weights refuses all others.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int


def tokenizer_of(folder: Path) -> Any:
    """Load the tokenizer of a model's folder; nothing is downloaded.

    Raises:
        ValueError: If there is none.
    """
    from transformers import AutoTokenizer

    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt", "vocab.json")):
        raise ValueError(
            f"{folder} holds no tokenizer: tokenizer.json, vocab.txt or vocab.json is needed to "
            "know whether token ids are the model's own"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged file may fail in any way
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the tokenizer in {folder} cannot be read: {line}") from error


def vocabulary_name(tokenizer: Any) -> str:
    """Name of a vocabulary: a hash of its pieces in the order of their ids."""
    ids: dict[str, int] = tokenizer.get_vocab()
    pieces = sorted(ids, key=lambda piece: ids[piece])
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest()[:16]


def cut(
    texts: Sequence[str], tokenizer: Any, *, steps: int
) -> tuple[Int[np.ndarray, "text steps"], Int[np.ndarray, " text"]]:
    """Turn texts into rows of a published tokenizer's ids, its special tokens included.

    Args:
        texts: Any texts.
        tokenizer: As of `tokenizer_of`.
        steps: Length of a row, padded with 0; longer texts are cut.

    Returns:
        Token ids, and the length of each text in tokens.
    """
    pieces = tokenizer(list(texts), truncation=True, max_length=steps)["input_ids"]
    rows = np.zeros((len(texts), steps), dtype=np.int32)
    for row, found in zip(rows, pieces, strict=True):
        row[: len(found)] = found
    return rows, np.array([len(found) for found in pieces], dtype=np.int64)
