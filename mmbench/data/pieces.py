"""Texts as the tokenizer of a published model cuts them, and the name of its vocabulary.

Word vectors that were learned elsewhere mean something under the ids of their own tokenizer alone.
A modality therefore says whose ids it holds (`Modality.tokenizer`), and a backbone with published
weights refuses all others.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mmbench.data.digest import digest
from mmbench.data.files import content_of

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
NO_LIMIT = 10**6  # transformers writes 10^30 where a model has none


class Pieces:
    """The tokenizer of a model's folder, read when it is first needed.

    Args:
        folder: With the tokenizer's files.

    Raises:
        ValueError: If it has none of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = files_of(folder)

    @property
    def content(self) -> str:
        """Hash of its files."""
        return digest({file.name: content_of(file) for file in self.files})

    @cached_property
    def _tokenizer(self) -> Any:
        return tokenizer_of(self.folder)

    @cached_property
    def name(self) -> str:
        """See `vocabulary_name`."""
        return vocabulary_name(self._tokenizer)

    @cached_property
    def size(self) -> int:
        """Number of token ids: one more than the largest."""
        ids: dict[str, int] = self._tokenizer.get_vocab()
        return 1 + max(ids.values())

    @property
    def longest(self) -> int | None:
        """Tokens of a text that its model reads at most; None if the folder does not say."""
        limit: int = self._tokenizer.model_max_length
        return limit if limit < NO_LIMIT else None

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, uncut."""
        if not texts:
            return []
        return [len(ids) for ids in self._tokenizer(list(texts), verbose=False)["input_ids"]]

    def encode(
        self, texts: Sequence[str], *, steps: int
    ) -> tuple[Int[np.ndarray, "text steps"], Int[np.ndarray, " text"]]:
        """See `cut`."""
        return cut(texts, self._tokenizer, steps=steps)


def files_of(folder: Path) -> list[Path]:
    """Files of the tokenizer in a model's folder.

    Raises:
        ValueError: If there are none.
    """
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if not {"tokenizer.json", "vocab.txt", "vocab.json"} & {file.name for file in files}:
        raise ValueError(
            f"{folder} holds no tokenizer: tokenizer.json, vocab.txt or vocab.json is needed to "
            "know whether token ids are the model's own"
        )
    return files


def tokenizer_of(folder: Path) -> Any:
    """Load the tokenizer of a model's folder; nothing is downloaded.

    Raises:
        ValueError: If there is none.
    """
    from transformers import AutoTokenizer

    files_of(folder)
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
    pieces = tokenizer(list(texts), truncation=True, max_length=steps)["input_ids"] if texts else []
    rows = np.zeros((len(texts), steps), dtype=np.int32)
    for row, numbers in zip(rows, pieces, strict=True):
        row[: len(numbers)] = numbers
    return rows, np.array([len(numbers) for numbers in pieces], dtype=np.int64)
