"""Presence tables as small files, for checking, for sharing, and to drive a run.

A file is text: header lines that begin with `#`, then one line a sample.

    # mmbench presence table, version 1
    # drawn: {"mask_seed": 0, "mechanism": "mcar", "missing_rate": 0.3, "split": "test"}
    # sha256: 6f0c...
    sample_id,audio,text
    17,1,0

1 = the sample has the modality. The checksum covers every line but its own.

The functions `*_legacy` read or redo the tables of authors' released code, for reproducing their
numbers. Each gives a `PresenceTable` for sample ids in the authors' order; save it, and the
mechanism `table` drives a run by it. No scenario uses them by default: the rates they realise in
a split are not the nominal ones.
"""

import csv
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from mmbench.config import JSON
from mmbench.data.samples import PresenceArray, Samples
from mmbench.data.splits import stable_hash
from mmbench.store import write_text

TITLE = "# mmbench presence table, version 1"


@dataclass(frozen=True)
class PresenceTable:
    """Which modalities each sample shows.

    Args:
        modalities: Names, in the order of the columns of `presence`.
        sample_id: Unique.
        presence: True = shown; at least one in every row.
        drawn: How it was drawn, for people: mechanism, rates, mask seed, split.

    Raises:
        ValueError: If sizes differ, an id repeats, or a row is empty.
    """

    modalities: tuple[str, ...]
    sample_id: Int[np.ndarray, " sample"]
    presence: PresenceArray
    drawn: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.presence.shape != (len(self.sample_id), len(self.modalities)):
            raise ValueError(
                f"{len(self.sample_id)} sample ids and {len(self.modalities)} modalities, but "
                f"presence has the shape {self.presence.shape}"
            )
        if len(set(self.modalities)) < len(self.modalities) or "" in self.modalities:
            raise ValueError(
                f"a modality has no name, or two have the same: {', '.join(self.modalities)}"
            )
        ids, counts = np.unique(self.sample_id, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"sample id {ids[counts > 1][0]} occurs {counts.max()} times")
        if not self.presence.any(axis=1).all():
            lost = self.sample_id[~self.presence.any(axis=1)][0]
            raise ValueError(f"sample {lost} shows no modality at all; one must stay")

    @cached_property
    def _lines(self) -> tuple[str, str]:
        head = f"{TITLE}\n# drawn: {json.dumps(dict(self.drawn), sort_keys=True)}\n"
        rows = zip(self.sample_id.tolist(), self.presence.astype(int).tolist(), strict=True)
        body = [",".join(map(str, (sample, *flags))) for sample, flags in rows]
        return head, "\n".join([",".join(("sample_id", *self.modalities)), *body, ""])

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's lines without its own."""
        return hashlib.sha256("".join(self._lines).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the file; the same table gives the same bytes."""
        head, body = self._lines
        write_text(path, f"{head}# sha256: {self.checksum}\n{body}")

    @classmethod
    def load(cls, path: Path) -> "PresenceTable":
        """Read a file and check it against its own checksum.

        Raises:
            ValueError: If it cannot be read, is no presence table, or has been changed.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as a presence table: {error}") from None
        lines = text.split("\n", 4)
        if (
            len(lines) < 5
            or lines[0] != TITLE
            or not lines[1].startswith("# drawn: ")
            or not lines[2].startswith("# sha256: ")
            or not lines[3].startswith("sample_id,")
        ):
            raise ValueError(
                f"{path} is no presence table: it must begin with {TITLE!r}; a table of your own "
                f"becomes one by `mmbench masks import {path} --format own`"
            )
        said = lines[2].removeprefix("# sha256: ")
        checksum = hashlib.sha256("\n".join([*lines[:2], *lines[3:]]).encode()).hexdigest()
        if said != checksum:
            raise ValueError(
                f"{path} has been changed: its checksum is {checksum[:12]}..., the file says "
                f"{said[:12]}...; export it again"
            )
        names = tuple(lines[3].split(",")[1:])
        if len({row.count(",") for row in lines[4].split("\n")[:-1]} - {len(names)}):
            raise ValueError(f"{path} is no presence table: a line has not {1 + len(names)} cells")
        try:
            cells = np.array(lines[4].replace("\n", ",").split(",")[:-1], dtype=np.int64)
            cells = cells.reshape(-1, 1 + len(names))
        except (ValueError, OverflowError):
            raise ValueError(
                f"{path} is no presence table: a line is no row of integers of 64 bits"
            ) from None
        try:
            drawn = json.loads(lines[1].removeprefix("# drawn: "), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no presence table: drawn is no JSON: {error}") from None
        if not isinstance(drawn, dict):
            raise ValueError(f"{path} is no presence table: drawn must be a mapping")
        if not np.isin(cells[:, 1:], (0, 1)).all():
            raise ValueError(f"{path} is no presence table: presence must be 0 or 1")
        try:
            return cls(names, cells[:, 0], cells[:, 1:] == 1, drawn)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def over(self, samples: Samples) -> PresenceArray:
        """Return the rows of these samples, in their order and that of their modalities.

        Raises:
            ValueError: If modalities differ, a sample is not in the table, or the table shows
                what a sample lacks by nature.
        """
        if set(self.modalities) != set(samples.modalities):
            raise ValueError(
                f"the presence table has the modalities {', '.join(self.modalities)}, "
                f"the data have {', '.join(samples.modalities)}"
            )
        order = np.argsort(self.sample_id, kind="stable")
        place = np.searchsorted(self.sample_id, samples.sample_id, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)] if len(order) else place
        lost = (
            self.sample_id[rows] != samples.sample_id if len(order) else np.ones(len(samples), bool)
        )
        if lost.any():
            raise ValueError(
                f"sample {samples.sample_id[lost][0]} is not in the presence table, nor are "
                f"{lost.sum() - 1} others of {len(samples)}; export it from the same data"
            )
        columns = [self.modalities.index(name) for name in samples.modalities]
        presence: PresenceArray = self.presence[rows][:, columns]
        if (beyond := presence & ~samples.presence).any():
            row, column = np.argwhere(beyond)[0]
            raise ValueError(
                f"the presence table shows {samples.modalities[column]} of sample "
                f"{samples.sample_id[row]}, which lacks it by nature"
            )
        return presence


# --- tables of users and of authors -------------------------------------------------------------

TEXT_IMAGE = ("text", "image")
IdArray = Int[np.ndarray, " sample"]


def own_table(
    path: Path, modalities: Sequence[str], sample_id: IdArray, *, id_column: str = "id"
) -> PresenceTable:
    """Read a user's table: a column of ids as in the data, and one of 0 / 1 for each modality.

    Args:
        path: CSV or parquet; other columns are not read.
        modalities: Names of the columns; 1 or true = shown.
        sample_id: Of all samples of the data set. Its ids stand in the file as they are, or as
            the names that `stable_hash` turned into them.
        id_column: Name of the column of ids.

    Raises:
        ValueError: If a column is not there, an id is none of the data or repeats, or a value is
            neither 0 nor 1; the message names the row.
    """
    from mmbench.data.files import reading  # pandas, which nothing else about masks needs
    from mmbench.data.frames import read_frame

    with reading(path, "file"):  # one that is not there has no stamp, either
        path.stat()
    frame = read_frame(path, id_column, only=modalities)
    numbers = [int(one) if re.fullmatch(r"0|-?[1-9]\d{0,17}", one) else None for one in frame.ids]
    hashes = [stable_hash(one) for one in frame.ids]
    known = set(sample_id.tolist())
    ids = [
        number if number is not None and number in known else hashed
        for number, hashed in zip(numbers, hashes, strict=True)
    ]
    if lost := [row for row, one in enumerate(ids) if one not in known]:
        raise ValueError(
            f"{frame.where(lost[0])}: no sample of the data has this id ({len(lost)} such in all)"
        )
    said = {"0": False, "1": True, "false": False, "true": True}
    presence = np.zeros((len(ids), len(modalities)), bool)
    for column, name in enumerate(modalities):
        for row, cell in enumerate(frame.text(name)):
            if cell.lower() not in said:
                raise ValueError(f"{frame.where(row)}: {name} is {cell!r}, but wanted is 0 or 1")
            presence[row, column] = said[cell.lower()]
    if not (some := presence.any(axis=1)).all():
        row = int(np.flatnonzero(~some)[0])
        raise ValueError(f"{frame.where(row)} shows no modality at all; one must stay")
    return PresenceTable(
        tuple(modalities), np.array(ids, dtype=np.int64), presence, {"own": path.name}
    )


def missing_aware_prompts_legacy(path: Path, sample_id: IdArray) -> PresenceTable:
    """Read a table that missing-aware prompts saved: `<split>_missing_<type>_<rate>.pt`.

    Codes: 0 complete, 1 without text, 2 without image; one entry an image, in the order of the
    split's arrow file. Neither seed nor `both_ratio` is in the name of such a file, and an old one
    was used again in silence, so nothing says how it was drawn.

    Source: Lee et al., CVPR 2023; YiLunLee/missing_aware_prompts, vilt/datasets.

    Raises:
        ValueError: If it is no tensor of these codes, or one that would run a program.
    """
    import torch  # this one format needs it; nothing else about masks does

    _refuse_pickle(path)
    try:
        codes = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no type for what it refuses
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a saved tensor: {reason}") from None
    if not isinstance(codes, torch.Tensor):
        raise ValueError(f"{path} holds {type(codes).__name__}, no tensor")
    plain = codes.layout == torch.strided and codes.device.type == "cpu" and not codes.is_quantized
    if not plain or codes.is_nested or codes.is_complex():
        raise ValueError(f"{path} holds no plain tensor of real numbers, one code a sample")
    if codes.shape != sample_id.shape:  # before it is copied: its shape may claim anything
        raise ValueError(
            f"{path} has the shape {tuple(codes.shape)}, but there are {len(sample_id)} samples"
        )
    drawn = {"legacy": "missing_aware_prompts", "file": path.name}
    return _coded(
        codes.detach().double().numpy(),
        {0: (1, 1), 1: (0, 1), 2: (1, 0)},
        sample_id,
        drawn,
        str(path),
    )


def redeem_file_legacy(
    path: Path, sample_id: IdArray, eta: float, missing: Literal["text", "image", "both"]
) -> PresenceTable:
    """Read a table that RAGPT or REDEEM saved, once it has been turned into CSV.

    Rows are those of train, valid and test, one after the other; the column is
    `missing_mask_<eta in whole tenths>`, so 0.70 and 0.75 share one. Codes: 0 incomplete,
    1 complete; in the tables for `both`: 0 without text, 1 without image, 2 complete.

    Source: Lang et al., AAAI 2025 and KDD 2025; Jian-Lang/REDEEM, src/utils/core_tools.py.

    Raises:
        ValueError: If it is still a pickle, lacks the column, or holds other codes.
    """
    _refuse_pickle(path)
    column = f"missing_mask_{int(eta * 10)}"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    if not rows or column not in rows[0]:
        columns = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise ValueError(f"{path} has no column {column}; found {columns}")
    meaning = {
        "text": {0: (0, 1), 1: (1, 1)},
        "image": {0: (1, 0), 1: (1, 1)},
        "both": {0: (0, 1), 1: (1, 0), 2: (1, 1)},
    }[missing]
    drawn = {"legacy": "redeem", "file": path.name, "incomplete_rate": eta, "missing": missing}
    try:
        codes = np.array([float(row[column]) for row in rows])
    except (TypeError, ValueError):
        raise ValueError(f"{path}: the column {column} holds something that is no number") from None
    return _coded(codes, meaning, sample_id, drawn, str(path))


def redeem_legacy(
    sample_id: IdArray, eta: float, missing: Literal["text", "image", "both"], seed: int = 2024
) -> PresenceTable:
    """Draw as the released code of RAGPT and REDEEM does, right after seeding.

    One draw over train, valid and test together, in that order, so the rate that a split comes to
    is not eta. The same rows lose text or image; for `both`, floor(k / 2) rows each, k being
    floor(eta N). The second of these draws runs over a Python set in the order of its hash
    table, so it is as stable as CPython's.

    Source: see `redeem_file_legacy`.

    Args:
        sample_id: All splits, in the authors' order of rows.
        eta: Share of incomplete samples.
        missing: What they lack.
        seed: Of NumPy's former global generator.
    """
    rng = np.random.RandomState(seed)  # what np.random.seed(seed) sets up
    n = len(sample_id)
    k = int(n * eta)
    presence = np.ones((n, 2), bool)
    if missing == "both":
        without_text = rng.choice(n, k // 2, replace=False)
        others = list(set(range(n)) - set(without_text.tolist()))
        presence[without_text, 0] = False
        presence[rng.choice(others, k // 2, replace=False), 1] = False
    else:
        presence[rng.choice(n, k, replace=False), TEXT_IMAGE.index(missing)] = False
    drawn = {"legacy": "redeem", "seed": seed, "incomplete_rate": eta, "missing": missing}
    return PresenceTable(TEXT_IMAGE, sample_id, presence, drawn)


def cp_imoe_legacy(
    sample_id: IdArray,
    modalities: tuple[str, str],
    rate: float,
    batch_size: int,
    missing: Literal["primary", "secondary", "alternate"],
) -> PresenceTable:
    """Withhold from the first floor(rate B) samples of every batch, as CP-IMoE's code does.

    A sample's place in the file decides whether it is complete, and the last, shorter batch
    loses fewer; `alternate` withholds the first modality from even places of a batch.

    Source: lijing-coder/CP-IMoE, Model/CP_IMoE.py.

    Args:
        sample_id: In file order.
        modalities: First (fundus) and second (OCT).
        rate: Share of incomplete samples in a full batch.
        batch_size: B, which is part of the table.
        missing: Which modality.
    """
    n = len(sample_id)
    place = np.arange(n) % batch_size
    size = np.minimum(batch_size, n - (np.arange(n) - place))
    lost = place < (size * rate).astype(int)
    first = {"primary": lost, "secondary": lost & False, "alternate": lost & (place % 2 == 0)}
    presence = np.stack([~first[missing], ~(lost & ~first[missing])], axis=1)
    drawn = {"legacy": "cp_imoe", "rate": rate, "batch_size": batch_size, "missing": missing}
    return PresenceTable(modalities, sample_id, presence, drawn)


def mosare_legacy(
    sample_id: IdArray, modalities: tuple[str, ...], rate: float, seed: int
) -> PresenceTable:
    """Draw as MoSARe's released code does, for one split, right after seeding.

    Every modality first loses exactly floor(rate N) samples. Samples left with nothing get one
    modality back; as many others that have two or more are then asked for one, which they may
    lack already. Last, samples without the first two modalities get one of them, the earlier
    half the first and the later half the second. So nobody is left with the third alone, and
    the realised rate is below the nominal one.

    Source: NazaninMn/MoSARe, core/dataset/dataset.py, get_mask. Its generator is not seeded
    where it draws, so no seed gives back the authors' own table.

    Args:
        sample_id: The split, in the authors' order of rows.
        modalities: In their order: slide, genes, report; at least two.
        rate: Share of samples that each modality loses at first, in [0, 1].
        seed: Of NumPy's former global generator.
    """
    rng = np.random.RandomState(seed)
    n, count = len(sample_id), len(modalities)
    present = np.ones((count, n), bool)
    present[:, : int(n * rate)] = False
    for row in present:
        rng.shuffle(row)
    empty = np.flatnonzero(~present.any(axis=0))
    for sample in empty:
        present[rng.randint(0, count), sample] = True
    # the first that could spare one, in the order of rows; what each is asked for is drawn
    for sample in np.flatnonzero(present.sum(axis=0) > 1)[: len(empty)]:
        present[rng.randint(0, count), sample] = False
    without = np.flatnonzero(~present[0] & ~present[1])
    present[0, without[: len(without) // 2]] = True
    present[1, without[len(without) // 2 :]] = True
    drawn = {"legacy": "mosare", "seed": seed, "missing_rate": rate}
    return PresenceTable(modalities, sample_id, present.T.copy(), drawn)


def _refuse_constant(word: str) -> JSON:
    raise ValueError(f"{word} is no JSON")


def _refuse_pickle(path: Path) -> None:
    if path.suffix in (".pkl", ".pickle"):
        raise ValueError(
            f"{path} is a pickle, which may run any program when read; convert it where you "
            f"trust it: pandas.read_pickle({path.name!r}).to_csv('{path.stem}.csv', index=False)"
        )


def _coded(
    codes: NDArray[Any],
    meaning: Mapping[int, tuple[int, int]],
    sample_id: IdArray,
    drawn: Mapping[str, JSON],
    where: str,
) -> PresenceTable:
    """Turn one code a sample into (text, image)."""
    if codes.shape != sample_id.shape:
        raise ValueError(
            f"{where} has {codes.size} entries, but there are {len(sample_id)} samples"
        )
    if not np.isin(codes, list(meaning)).all():
        odd = codes[~np.isin(codes, list(meaning))][0]
        raise ValueError(f"{where} holds the code {odd:g}; known are {sorted(meaning)}")
    lookup = np.zeros((max(meaning) + 1, 2), bool)
    for code, flags in meaning.items():
        lookup[code] = flags
    return PresenceTable(TEXT_IMAGE, sample_id, lookup[codes.astype(int)], drawn)
