"""Presence tables of a data set: drawn as a run draws them, taken over, compared, written."""

import errno
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mmbench.config import JSON
from mmbench.data.masks import (
    PresenceTable,
    missing_aware_prompts_legacy,
    own_table,
    redeem_file_legacy,
)
from mmbench.data.missingness.fixed import Natural
from mmbench.data.missingness.protocol import Missingness
from mmbench.data.missingness.stream import Stream
from mmbench.data.samples import SPLITS, PresenceArray, Split
from mmbench.data.scenario import Scenario
from mmbench.datamodule import DataModule
from mmbench.registry import suggest

Format = Literal["own", "missing_aware_prompts", "redeem"]
Lacking = Literal["text", "image", "both"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, or a limit, says


def missingness_of(
    scenario: Scenario, names: tuple[str, ...], split: Split, condition: str | None = None
) -> Missingness:
    """The mechanism of a split.

    Args:
        scenario: That has it.
        names: Modalities of the data set.
        split: Which split.
        condition: Test condition; needed where there are several, and only of the test split.

    Raises:
        ValueError: If there is no such condition, or it must be chosen.
    """
    if split != "test":
        if condition is not None:
            raise ValueError(
                f"--condition {condition} belongs to the test split, but --split is {split}; "
                "leave one of them out"
            )
        return scenario.train if split == "train" else scenario.val
    conditions = scenario.conditions(names)
    known = list(conditions)
    if condition is None and len(known) > 1:
        raise ValueError(
            f"scenario {scenario.name!r} has {len(known)} test conditions; choose one with "
            f"--condition: {', '.join(known)}"
        )
    if condition is not None and condition not in conditions:
        raise ValueError(
            f"scenario {scenario.name!r} has no test condition {condition!r}"
            f"{suggest(condition, known)}; there are {', '.join(known)}"
        )
    return conditions[known[0] if condition is None else condition]


def draw_table(
    data: DataModule,
    scenario: Scenario,
    split: Split,
    missingness: Missingness,
    about: Mapping[str, JSON],
) -> PresenceTable:
    """Draw what each sample of a split shows, exactly as a run does.

    Args:
        data: The data set.
        scenario: Whose mask seed counts.
        split: Which split.
        missingness: From `missingness_of`.
        about: What else the table says of itself: name, arguments and fold of the data.
    """
    samples = data.samples(split)
    presence = missingness.draw(samples, Stream(scenario.mask_seed, split))
    inner = missingness.simulated if isinstance(missingness, Natural) else missingness
    parameters = {} if inner is None else asdict(inner)  # type: ignore[call-overload]
    drawn = {
        **parameters,
        "mechanism": missingness.mechanism,
        "mask_seed": scenario.mask_seed,
        "scenario": scenario.name,
        **about,
        "split": split,
    }
    if split == "test":
        drawn["condition"] = missingness.label
    return PresenceTable(data.task.names, samples.sample_id, presence, drawn)


def import_table(
    file: Path,
    form: Format,
    data: DataModule,
    about: Mapping[str, JSON],
    *,
    split: Split | None = None,
    incomplete_rate: float | None = None,
    missing: Lacking | None = None,
    id_column: str = "id",
) -> PresenceTable:
    """Turn a user's file, or one that a paper's released code saved, into a presence table.

    Args:
        file: The file.
        form: Whose it is. Files of released code hold no ids: the data set must list its samples
            in the authors' order.
        data: The data set.
        about: What else the table says of itself: name, arguments and fold of the data.
        split: Of the file (`missing_aware_prompts`), or whose rows are kept; None = all.
        incomplete_rate: Which column of a file of `redeem`, in [0, 1].
        missing: What incomplete samples lack in it.
        id_column: Name of the column of ids of a user's own.

    Returns:
        A table with the modalities in the order of the data.

    Raises:
        ValueError: If the file does not fit the data, or an argument is missing or one too many.
    """
    redeem = form == "redeem"
    if not redeem and (incomplete_rate is not None or missing is not None):
        raise ValueError(
            "--incomplete-rate and --missing belong to --format redeem; leave them out"
        )
    if form == "missing_aware_prompts" and split is None:
        raise ValueError("a file of missing_aware_prompts holds one split; add --split test, say")
    chosen = SPLITS if split is None else (split,)
    in_file = chosen if form == "missing_aware_prompts" else SPLITS
    if redeem and (incomplete_rate is None or missing is None):
        raise ValueError(
            "a file of redeem has a column a rate and does not say what is missing; add "
            "--incomplete-rate 0.7 --missing text, image or both"
        )
    sample_id = np.concatenate([data.samples(one).sample_id for one in in_file])
    if form == "own":
        table = own_table(file, data.task.names, sample_id, id_column=id_column)
    elif incomplete_rate is not None and missing is not None:
        table = redeem_file_legacy(file, sample_id, incomplete_rate, missing)
    else:
        table = missing_aware_prompts_legacy(file, sample_id)
    rows = np.isin(table.sample_id, np.concatenate([data.samples(one).sample_id for one in chosen]))
    drawn = {**table.drawn, **about} | ({} if split is None else {"split": split})
    table = PresenceTable(table.modalities, table.sample_id[rows], table.presence[rows], drawn)
    for one in chosen:
        rows_of(table, data, one, f"{file} does not fit {about['data']} {one}")
    names = data.task.names
    columns = [table.modalities.index(column) for column in names]
    return replace(table, modalities=names, presence=table.presence[:, columns])


def rows_of(table: PresenceTable, data: DataModule, split: Split, otherwise: str) -> PresenceArray:
    """A table's rows for the samples of a split.

    Raises:
        ValueError: If it does not fit them; the message begins with `otherwise`.
    """
    try:
        return table.over(data.samples(split))
    except ValueError as error:
        raise ValueError(f"{otherwise}: {error}") from None


def require_known(table: PresenceTable, data: DataModule, otherwise: str) -> None:
    """Refuse rows of samples that no split has.

    Raises:
        ValueError: If there are such; the message begins with `otherwise`.
    """
    known = np.concatenate([data.samples(split).sample_id for split in SPLITS])
    unknown = table.sample_id[~np.isin(table.sample_id, known)]
    if len(unknown):
        raise ValueError(
            f"{otherwise}: sample {unknown[0]} ({len(unknown)} in all) is in none of its splits; "
            "was it drawn for other arguments or another fold?"
        )


def save_new(table: PresenceTable, path: Path) -> None:
    """Write a table; a file that holds something else is never overwritten.

    Raises:
        ValueError: If there is one, or the file cannot be written.
    """
    if path.exists():
        try:
            if PresenceTable.load(path).checksum == table.checksum:
                return
        except ValueError:
            pass  # whatever it is, it is not ours to replace
        raise ValueError(
            f"{path} is there and holds something else; remove it or give another --out"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
    except OSError as error:
        if error.errno in FULL:  # nothing is wrong with the place that was asked for
            raise
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); choose another --out"
        ) from error


def split_of(table: PresenceTable, split: Split | None, file: Path) -> Split:
    """The split that a table is for: as asked, or as it says.

    Raises:
        ValueError: If nobody says.
    """
    said = split or table.drawn.get("split", "")
    for known in SPLITS:
        if said == known:
            return known
    raise ValueError(f"{file} does not say which split it is for; add --split test, say")
