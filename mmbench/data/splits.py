"""Partitions that depend on sample ids alone: same ids, same parts, in any order and anywhere."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped
from numpy.typing import NDArray

from mmbench.data.samples import SPLITS, Split

SPLIT_WORDS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test",
}  # fmt: skip
_GOLDEN = (5**0.5 - 1) / 2


def stable_hash(text: str) -> int:
    """Turn a name into a sample id: the first 63 bits of its BLAKE2b digest, 0 <= id < 2^63.

    The same on every platform and in every process, unlike `hash`. Two of a million names
    share an id with a chance of 1 in 18 million; `Samples` refuses them.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stable_ids(names: Sequence[str]) -> Int[np.ndarray, " sample"]:
    """Sample ids of many names, see `stable_hash`."""
    return np.array([stable_hash(name) for name in names], dtype=np.int64)


def _shuffled(ids: NDArray[Any], salt: str) -> NDArray[np.int_]:
    """Positions in an order that looks random and is fixed by the ids and the salt."""
    keys = [stable_hash(f"{salt}:{one}") for one in ids.tolist()]
    return np.argsort(np.array(keys, dtype=np.int64), kind="stable")


def stratified(
    sample_id: Int[np.ndarray, " sample"],
    stratum: Shaped[np.ndarray, " sample"],
    *,
    val: float,
    test: float,
    fold: int = 0,
    folds: int = 1,
) -> Int[np.ndarray, " sample"]:
    """Deal samples into train, val and test, each stratum in the same shares.

    The samples of a stratum stand in hash order on a circle. Fold k begins at k / folds of the
    way round: first its test part, then its validation part, the rest is train. So the test
    parts of the folds do not overlap as long as `test` <= 1 / `folds`, and with
    `test` = 1 / `folds` they cover every sample exactly once (cross-validation). Where a share
    of a stratum is not a whole number, strata round at different places, so that the totals
    come out right as well.

    Args:
        sample_id: Unique ids; nothing else decides the order.
        stratum: Class (or anything else) to be balanced.
        val: Share of validation samples, 0 <= val.
        test: Share of test samples, 0 <= test, val + test < 1.
        fold: Which partition, 0 <= fold < folds.
        folds: Number of partitions.

    Returns:
        Position in `SPLITS` for each sample: 0 train, 1 val, 2 test.

    Raises:
        ValueError: If the shares leave nothing for train or are negative.
    """
    _require_shares(val, test)
    assert 0 <= fold < folds, f"fold {fold} of {folds}"
    part = np.zeros(len(sample_id), dtype=np.int64)
    for number, value in enumerate(np.unique(stratum)):
        rows = np.flatnonzero(stratum == value)
        order = rows[_shuffled(sample_id[rows], "stratified")]
        # multiples of an irrational number: no product below ever falls on a whole number,
        # where floating point could round either way
        offset = (number + 1) * _GOLDEN % 1
        begin = fold / folds
        cuts = [_cut(x, len(rows), offset) for x in (begin, begin + test, begin + test + val)]
        part[order[np.arange(cuts[0], cuts[1]) % len(rows)]] = SPLITS.index("test")
        part[order[np.arange(cuts[1], cuts[2]) % len(rows)]] = SPLITS.index("val")
    return part


def _cut(turns: float, size: int, offset: float) -> int:
    """Whole number of places on a circle of `size` places that `turns` of it amount to."""
    whole = int(turns + 1e-9)  # 0.8 + 0.2 must be one turn
    return whole * size + int(max(turns - whole, 0.0) * size + offset)


def stratified_groups(
    group: Shaped[np.ndarray, " sample"],
    stratum: Shaped[np.ndarray, " sample"],
    *,
    val: float,
    test: float,
    fold: int = 0,
    folds: int = 1,
) -> Int[np.ndarray, " sample"]:
    """Deal whole groups (patients, speakers) into train, val and test as `stratified` does samples.

    A group counts for the stratum that most of its samples have. The groups of a stratum stand on
    the circle in the hash order of their names, each as long as it has samples, and a group
    belongs to the part in which one point of it lies. So a group is never cut, the test parts of
    the folds do not overlap as long as `test` <= 1 / `folds`, and a stratum is off its share by
    less than its largest group.

    Args:
        group: Group of each sample; anything with a stable `str`. Names alone decide the order.
        stratum: See `stratified`.
        val: See `stratified`.
        test: See `stratified`.
        fold: See `stratified`.
        folds: See `stratified`.

    Returns:
        Position in `SPLITS` for each sample.

    Raises:
        ValueError: If the shares leave nothing for train or are negative.
    """
    _require_shares(val, test)
    assert 0 <= fold < folds, f"fold {fold} of {folds}"
    names, member = np.unique(group, return_inverse=True)
    values, label = np.unique(stratum, return_inverse=True)
    counts = np.zeros((len(names), len(values)), dtype=np.int64)
    np.add.at(counts, (member, label), 1)
    size, common = counts.sum(axis=1), counts.argmax(axis=1)
    part = np.zeros(len(names), dtype=np.int64)
    for number in range(len(values)):
        rows = np.flatnonzero(common == number)
        order = rows[_shuffled(names[rows], "stratified")]
        offset = 1 - (number + 1) * _GOLDEN % 1  # as in `stratified`: strata round differently
        before = np.cumsum(size[order]) - size[order]
        point = (before + offset * size[order]) / max(size[order].sum(), 1)
        turned = (point - fold / folds) % 1
        part[order[turned < test + val]] = SPLITS.index("val")
        part[order[turned < test]] = SPLITS.index("test")
    dealt: NDArray[np.int64] = part[member]
    return dealt


def _require_shares(val: float, test: float) -> None:
    if min(val, test) < 0 or val + test >= 1:
        raise ValueError(
            f"val {val} and test {test} were asked for, but shares are >= 0 and leave some train"
        )


def grouped(
    sample_id: Int[np.ndarray, " sample"], group: Shaped[np.ndarray, " sample"], *, share: float
) -> Bool[np.ndarray, " sample"]:
    """Choose whole groups (speakers, videos, patients) until they hold a share of the samples.

    Args:
        sample_id: Unique ids; samples are counted, groups are chosen in the hash order of names.
        group: Group of each sample; anything with a stable `str`.
        share: Wanted share of the samples, 0 < share < 1.

    Returns:
        True = chosen. A group goes in as long as that brings the total nearer to the share, so
        the total is off by at most half of the largest group considered.

    Raises:
        ValueError: If there are fewer than two groups.
    """
    names, sizes = np.unique(group, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"{len(names)} group was found, but two parts need at least two groups")
    wanted = share * len(sample_id)
    chosen: list[Any] = []
    total = 0
    for k in _shuffled(names, "grouped"):
        if chosen and abs(total + sizes[k] - wanted) > abs(total - wanted):
            continue
        if len(chosen) == len(names) - 1:
            break
        chosen.append(names[k])
        total += int(sizes[k])
    return np.isin(group, chosen)


def rows_of(part: Int[np.ndarray, " sample"], split: Split) -> Int[np.ndarray, " rows"]:
    """Positions of the samples that `stratified` gave to a split."""
    return np.flatnonzero(part == SPLITS.index(split))
