"""Text as token ids: words of the training split, and one id for all others."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

PADDING = 0
UNKNOWN = 1
_WORD = re.compile(r"(?:[^\W_]|')+")


def words(text: str) -> list[str]:
    """Split into lower-case words: runs of letters, digits and apostrophes."""
    return _WORD.findall(text.lower())


def vocabulary(texts: Iterable[str], *, min_count: int = 2) -> dict[str, int]:
    """Number the words of the training texts, most frequent first.

    Args:
        texts: Training texts alone; a word of the test split has no business here.
        min_count: Rarer words get no id of their own, so that the id for unknown words is
            trained as well.

    Returns:
        Word -> id, from 2 upwards: 0 is padding, 1 stands for every other word.
    """
    counts = Counter(word for text in texts for word in words(text))
    frequent = sorted(
        (word for word in counts if counts[word] >= min_count),
        key=lambda word: (-counts[word], word),
    )
    return {word: number for number, word in enumerate(frequent, start=UNKNOWN + 1)}


def encode(
    texts: Sequence[str], ids: Mapping[str, int], *, steps: int
) -> tuple[Int[np.ndarray, "text steps"], Int[np.ndarray, " text"]]:
    """Turn texts into rows of token ids.

    Args:
        texts: Any texts; one without a word becomes a single unknown word.
        ids: From `vocabulary`.
        steps: Length of a row; longer texts are cut.

    Returns:
        Token ids padded with 0, and the length of each text in tokens, 1 <= length <= steps.
    """
    rows = np.full((len(texts), steps), PADDING, dtype=np.int64)
    lengths = np.zeros(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        numbers = [ids.get(word, UNKNOWN) for word in words(text)][:steps] or [UNKNOWN]
        rows[row, : len(numbers)] = numbers
        lengths[row] = len(numbers)
    return rows, lengths
