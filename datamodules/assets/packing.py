"""What the build scripts share: one rule for splits, token ids and files."""

import hashlib
import io
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8
from numpy.typing import NDArray

from mmbench.data.splits import stable_hash

UNKNOWN = 1  # token id of a word that no training row has; 0 is padding


def join_groups(
    keys: Sequence[str], alike: Bool[np.ndarray, "sample sample"] | None = None
) -> Int[np.ndarray, " sample"]:
    """Number the groups of samples that must stay in one split.

    Args:
        keys: Samples with the same key belong together.
        alike: True = this pair belongs together too.

    Returns:
        The position of the first sample of each sample's group.
    """
    first: dict[str, int] = {}
    group = np.array([first.setdefault(key, row) for row, key in enumerate(keys)])
    if alike is not None:
        for a, b in np.argwhere(alike):
            low, high = sorted((group[a], group[b]))
            group[group == high] = low
    return group


def split_groups(
    ids: Int[np.ndarray, " sample"],
    target: Integer[np.ndarray, " sample"],
    group: Int[np.ndarray, " sample"],
) -> UInt8[np.ndarray, " sample"]:
    """Put 70 / 15 / 15 % of each class into train, val and test, and no group into two.

    Groups of a class come in the order of the hashed id of their first sample. Each goes to val
    if it still fits there, else to test if it fits, else to train. A part that is short of its
    `round(0.15 n)` samples, because what is left are large groups, gets the one of them that
    brings it closest.

    Args:
        ids: Sample ids; they alone decide the order.
        target: Class of each sample.
        group: Group of each sample, see `join_groups`; all of one class.

    Returns:
        0 = train, 1 = val, 2 = test.
    """
    split = np.zeros(len(ids), np.uint8)
    for label in np.unique(target):
        members: dict[int, list[int]] = defaultdict(list)
        for row in np.flatnonzero(target == label):
            members[int(group[row])].append(int(row))
        quota = round(0.15 * int((target == label).sum()))
        room = {1: quota, 2: quota}
        left = []
        for rows in sorted(members.values(), key=lambda rows: stable_hash(f"split {ids[rows[0]]}")):
            part = next((part for part in room if len(rows) <= room[part]), 0)
            if part == 0:
                left.append(rows)
                continue
            split[rows] = part
            room[part] -= len(rows)
        for part in room:
            sizes = [abs(room[part] - len(rows)) for rows in left]
            if left and min(sizes) < room[part]:
                rows = left.pop(sizes.index(min(sizes)))
                split[rows] = part
    return split


def learn_pieces(texts: Iterable[str], merges: int) -> list[tuple[str, str]]:
    """Learn which neighbouring pieces to merge, the most frequent pair first.

    Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units",
    ACL 2016, Algorithm 1; ties go to the pair that sorts first, pairs seen once are left.
    """
    counts = Counter(tuple(" " + word) for text in texts for word in text.split())
    learned: list[tuple[str, str]] = []
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in counts.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        learned.append(best)
        counts = Counter({_merge(word, best): n for word, n in counts.items()})
    return learned


def pieces(text: str, learned: Sequence[tuple[str, str]]) -> list[str]:
    """Cut a text into pieces; each word begins with a blank, so joining them gives it back."""
    parts: list[str] = []
    for word in text.split():
        cut = tuple(" " + word)
        for pair in learned:
            cut = _merge(cut, pair)
        parts += cut
    return parts


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def vocabulary(train: Iterable[Sequence[str]], least: int) -> list[str]:
    """List the tokens that occur `least` times or more in training rows, most frequent first.

    The first two entries stand for padding and for every other token.
    """
    counts = Counter(token for tokens in train for token in tokens)
    known = sorted((-count, token) for token, count in counts.items() if count >= least)
    return ["", "\N{REPLACEMENT CHARACTER}", *(token for _, token in known)]


def token_ids(
    rows: Sequence[Sequence[str]], vocab: Sequence[str]
) -> tuple[Int[np.ndarray, "sample time"], Int[np.ndarray, " sample"]]:
    """Number the tokens of each row, padded with 0 to the longest row; also give the lengths."""
    number = {token: index for index, token in enumerate(vocab)}
    lengths = np.array([len(row) for row in rows], np.int16)
    ids = np.zeros((len(rows), lengths.max()), np.int16)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = [number.get(token, UNKNOWN) for token in tokens]
    return ids, lengths


def rasterise(svg: Path, resvg: Any) -> UInt8[np.ndarray, "channel=3 height=32 width=32"]:
    """Draw an SVG on white at 64 x 64 pixels and average each 2 x 2 block.

    Args:
        svg: The drawing; has no text, so that no font of the machine matters.
        resvg: The imported module `resvg_py`.
    """
    from PIL import Image  # only who rebuilds the files needs it

    png = resvg.svg_to_bytes(
        svg_path=str(svg), background="white", width=64, height=64, skip_system_fonts=True
    )
    with Image.open(io.BytesIO(bytes(png))) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.uint16)
    blocks = pixels.reshape(32, 2, 32, 2, 3).sum(axis=(1, 3))
    mean: NDArray[np.uint8] = ((blocks + 2) // 4).astype(np.uint8)
    return mean.transpose(2, 0, 1)


def close_pairs(
    pictures: UInt8[np.ndarray, "sample channel height width"], rms: float
) -> Bool[np.ndarray, "sample sample"]:
    """Say which pairs differ by a root mean square of less than `rms` grey levels (of 255)."""
    x = pictures.reshape(len(pictures), -1).astype(np.float64)  # exact: sums stay below 2^53
    square = (x**2).sum(axis=1)
    distance = square[:, None] + square[None] - 2 * x @ x.T
    close: NDArray[np.bool_] = np.triu(distance < rms**2 * x.shape[1], k=1)
    return close


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write arrays so that the same arrays give the same bytes; return the SHA-256 of the file.

    Members have a fixed date and are packed by bzip2, whose output does not depend on the
    version of the library as that of zlib and liblzma does. `numpy.load` reads the file.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_BZIP2
            member.create_system = 3  # or Windows would write another byte
            member.external_attr = 0o644 << 16
            buffer = io.BytesIO()
            # a little-endian copy in C order, whatever the machine
            fixed = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            np.lib.format.write_array(buffer, fixed, version=(1, 0), allow_pickle=False)
            archive.writestr(member, buffer.getvalue())
    return hashlib.sha256(path.read_bytes()).hexdigest()
