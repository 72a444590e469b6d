"""What a folder of a user's files seems to be: arguments of the data set `table`, each with why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mmbench.data.files import COMPRESSIONS, read_npz
from mmbench.data.frames import columns_of, likely_cause, read_frame, to_numbers
from mmbench.data.sample_files import (
    ARRAY,
    BAGS,
    PICTURES,
    FileKind,
    in_folder,
    read_array,
    read_picture,
)
from mmbench.data.sound import SOUNDS
from mmbench.data.splits import SPLIT_WORDS
from mmbench.data.task import Kind

TABLES = (".csv", ".tsv", ".txt", ".parquet")
SIDE = 224  # that pictures of several sizes are brought to
LOOKED_AT = 50  # pictures whose sizes are compared
SEVERAL = 20  # different numbers from which on a target of numbers is no class
ID = re.compile(
    r"(?:.*[_\W])?id|id|(?:sample|patient|subject|case|participant|person|record|item)s?(?:[_\W]?id)?",
    re.IGNORECASE,
)
TARGET = re.compile(
    r"(?:.*[_\W])?(?:label|labels|target|class|diagnosis|outcome|y|genre|genres|sentiment|score)",
    re.IGNORECASE,
)
TIME = re.compile(
    r"(?:.*[_\W])?(?:time(?:[_\W]to[_\W].*)?|duration|survival|follow[_\W]?up)|"
    r"(?:.*[_\W])?(?:time|survival|os|pfs|dfs|follow[_\W]?up)[_\W](?:days|weeks|months|years)|"
    r"(?:days|weeks|months|years)(?:[_\W]to[_\W].*)?",
    re.IGNORECASE,
)
EVENT = re.compile(
    r"(?:.*[_\W])?(?:event|status|dead|died|death|deceased|relapse|recurrence)", re.IGNORECASE
)
TEXT = re.compile(r"note|text|report|comment|title|transcript|abstract", re.IGNORECASE)
GROUP = re.compile(r"(?:patient|subject|person|group|family|site)(?:[_\W]?id)?", re.IGNORECASE)
FOLD = re.compile(r"(?:cv[_\W]?)?folds?", re.IGNORECASE)
KINDS: dict[int, Kind] = {2: "vector", 3: "sequence", 4: "image", 5: "volume"}  # by axes of x


@dataclass
class Guess:
    """Arguments of `table` for a folder.

    Args:
        folder: That is described.
        args: What was guessed.
        reasons: Why, a line each.
        unknown: What could not be guessed, a line each that says what to do.
    """

    folder: Path
    args: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def guess(folder: Path) -> Guess:
    """Look at a folder's files and say what they seem to be.

    The ids are the column that all tables have and that repeats in none; the labels file has a
    column whose name says so; every other table, npz file, and folder of pictures or arrays is a
    modality. Columns of a labels file that are neither label, split nor group are left out.

    Args:
        folder: Of one data set.

    Raises:
        ValueError: If there is no such folder, or nothing in it that `table` reads.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    answer = Guess(folder)
    every = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    tables: dict[Path, list[str]] = {}
    others: list[Path] = []
    for path in every:
        if _is_table(path):
            try:
                tables[path] = columns_of(path)
            except ValueError as error:
                answer.unknown.append(f"{error}; it is left out")
        elif path.suffix == ".npz" or (path.is_dir() and _kind_of_folder(path)):
            others.append(path)
    if not tables:
        raise ValueError(
            f"{folder} has no table ({', '.join(TABLES)}) that could name samples and their labels"
        )
    ids = _ids(answer, tables)
    labels = _labels(answer, tables)
    if ids is None or labels is None:
        return answer
    named = read_frame(labels, ids, only=[]).ids
    _roles(answer, labels, ids, tables[labels])
    files: dict[str, str] = {}
    kinds: dict[str, FileKind] = {}
    paths = [*(path for path in tables if path != labels), *others]
    for path in paths:
        if _is_presence(path, tables.get(path, []), ids, paths):
            answer.reasons.append(
                f"left out: {path.name}, which says who has which modality; "
                f"`mmbench masks import {path.name} --format own` makes a scenario of it"
            )
            continue
        try:
            kind = _modality(answer, path, ids, named, tables.get(path))
        except ValueError as error:
            answer.unknown.append(f"{error}; it is left out")
            continue
        name = _identifier(path, files)
        files[name] = path.name
        answer.reasons.append(f"files: {name} is {path.name}, of kind {kind}")
        if kind != "vector":
            kinds[name] = kind
    target = answer.args.get("target")
    targets = target if isinstance(target, list) else [target]
    roles = {ids, *targets, answer.args.get("split"), answer.args.get("group")}
    rest = [name for name in tables[labels] if name not in roles and name]
    if not files and rest:
        files[_identifier(labels, files)] = labels.name
        answer.reasons.append(
            f"files: the columns of {labels.name} beside label, split and group are the only "
            "modality; take out what gives the label away"
        )
    elif rest:
        answer.reasons.append(
            f"left out: {', '.join(rest[:5])}{', ...' if len(rest) > 5 else ''} of {labels.name}; "
            f"to read them as a modality, add {_identifier(labels, files)}: {labels.name} to files"
        )
    if not files:
        answer.unknown.append("files: no file is a modality; say files: {modality: file}")
    answer.args = {"files": files, "labels": labels.name, **answer.args}
    if kinds:
        answer.args["kinds"] = kinds
    return answer


def _is_table(path: Path) -> bool:
    name = path.name.lower()
    for ending in COMPRESSIONS[1:]:
        name = name.removesuffix(ending)
    return path.is_file() and name.endswith(TABLES)


def _kind_of_folder(path: Path) -> FileKind | None:
    files = [one for one in sorted(path.iterdir()) if not one.name.startswith(".")]
    if any(one.suffix.lower() in PICTURES for one in files):
        return "image"
    if any(one.suffix.lower() in SOUNDS for one in files):
        return "sound"
    if any(one.suffix in BAGS and one.suffix != ARRAY for one in files):
        return "bag"
    first = next((one for one in files if one.suffix == ARRAY), None)
    return None if first is None else KINDS.get(read_array(first).ndim + 1, "vector")


def _ids(answer: Guess, tables: dict[Path, list[str]]) -> str | None:
    """The column of ids: in most tables, without repetition."""
    names = dict.fromkeys(name for columns in tables.values() for name in columns if name)
    ranked = sorted(names, key=lambda name: not ID.fullmatch(name))
    best: tuple[int, str] | None = None
    for name in ranked[:LOOKED_AT]:
        count = sum(
            _has_ids(path, name)
            for path, columns in tables.items()
            if name in columns or not columns[0]
        )
        if count and (best is None or count > best[0]):
            best = count, name
    if best is None:
        answer.unknown.append(
            "id: no column names each row once; say id: COLUMN, and join several rows of a sample"
        )
        return None
    count, name = best
    why = f"it names each row once in {count} of {len(tables)} tables"
    answer.reasons.append(f"id: {name}, since {why}")
    if name != "id":
        answer.args["id"] = name
    return name


def _has_ids(path: Path, name: str) -> bool:
    try:
        return len(read_frame(path, name, only=[]).ids) > 1
    except ValueError:
        return False


def _labels(answer: Guess, tables: dict[Path, list[str]]) -> Path | None:
    """The table with a column that is called like a target, or with a time and an event."""
    with_target = [path for path, names in tables.items() if any(map(TARGET.fullmatch, names))] or [
        path
        for path, names in tables.items()
        if any(map(TIME.fullmatch, names)) and any(map(EVENT.fullmatch, names))
    ]
    called = [path for path in tables if re.search(r"label|target|outcome", path.name.lower())]
    both = [path for path in called if path in with_target]
    for choice, why in (
        (both, "its name and its columns say so"),
        (called, "its name says so"),
        (with_target, "it has a column that is called like a target"),
        (list(tables) if len(tables) == 1 else [], "it is the only table"),
    ):
        if len(choice) == 1:
            answer.reasons.append(f"labels: {choice[0].name}, since {why}")
            return choice[0]
        if choice:
            names = " or ".join(path.name for path in choice)
            answer.unknown.append(f"labels: {names}; say which has the labels")
            return None
    answer.unknown.append(
        "labels: no table seems to have them; say labels: FILE and target: COLUMN"
    )
    return None


def _roles(answer: Guess, labels: Path, ids: str, columns: Sequence[str]) -> None:
    """Target, split and group, each a column of the labels file."""
    names = [name for name in columns if name and name != ids]
    text = {name: read_frame(labels, ids, only=[name]).text(name) for name in names[:LOOKED_AT]}
    for name, column in text.items():
        if column.str.lower().isin(SPLIT_WORDS).all():
            answer.args["split"] = name
            answer.reasons.append(f"split: {name}, since it says train, val or test throughout")
        elif FOLD.fullmatch(name) and column.str.fullmatch(r"\d{1,2}").all():
            answer.args["split"] = name
            answer.reasons.append(f"split: {name}, since it numbers folds")
        elif GROUP.fullmatch(name) and column.duplicated().any():
            answer.args["group"] = name
            answer.reasons.append(f"group: {name}, since it repeats; a {name} stays in one split")
    taken = {answer.args.get("split"), answer.args.get("group")}
    left = [name for name in text if name not in taken]
    called = [name for name in left if TARGET.fullmatch(name)]
    if not called and (pairs := _times_and_events({name: text[name] for name in left})):
        _survival(answer, pairs, text, labels.name)
        return
    called = called or left
    if len(called) != 1:
        among = ", ".join(called[:10]) or "none is left"
        answer.unknown.append(f"target: which column of {labels.name} is to predict? {among}")
        return
    (target,) = called
    answer.reasons.append(f"target: {target} of {labels.name}")
    answer.args["target"] = target
    _task(answer, text[target], labels.name)


def _times_and_events(text: dict[str, "pd.Series[str]"]) -> list[tuple[str, str]]:
    """Pairs of columns that may be a time above 0 and whether the event occurred then.

    Where there are several times or events, those belong together that begin alike (`os_`).
    """
    times, events = [], []
    for name, column in text.items():
        filled = column[column != ""].reset_index(drop=True)
        if EVENT.fullmatch(name) and set(filled.str.lower()) in ({"0", "1"}, {"false", "true"}):
            events.append(name)
        elif TIME.fullmatch(name) and len(filled):
            numbers, bad = to_numbers(filled)
            if not bad.any() and (numbers > 0).all():
                times.append(name)
    pairs = [(time, event) for time in times for event in events]
    if len(pairs) > 1:
        alike = [pair for pair in pairs if len({re.split(r"[_\W]", one)[0] for one in pair}) == 1]
        pairs = alike or pairs
    return pairs


def _survival(
    answer: Guess, pairs: Sequence[tuple[str, str]], text: dict[str, "pd.Series[str]"], file: str
) -> None:
    if len(pairs) > 1:
        among = ", ".join(f"[{time}, {event}]" for time, event in pairs[:10])
        answer.unknown.append(
            f"target: which time and event of {file} are to predict? task: survival with one of "
            f"{among}"
        )
        return
    [(time, event)] = pairs
    _unlabelled(answer, int(((text[time] == "") | (text[event] == "")).sum()), file)
    answer.args |= {"target": [time, event], "task": "survival"}
    answer.reasons.append(
        f"task: survival, since {time} of {file} holds times above 0 and {event} 0 and 1, taken as "
        "1 = the event occurred then, 0 = last seen without it"
    )


def _unlabelled(answer: Guess, rows: int, file: str) -> None:
    if rows:
        answer.args["unlabelled"] = "predict"
        answer.reasons.append(
            f"unlabelled: predict, since {rows} rows of {file} have no label; they are in no split"
        )


def _task(answer: Guess, column: "pd.Series[str]", file: str) -> None:
    filled = column[column != ""]
    _unlabelled(answer, len(column) - len(filled), file)
    numbers, bad = to_numbers(filled.reset_index(drop=True))
    if not bad.any() and len(np.unique(numbers)) > max(SEVERAL, len(filled) // 10):
        answer.args["task"] = "regression"
        answer.reasons.append(
            f"task: regression, since the target has {len(np.unique(numbers))} different numbers"
        )
        return
    for mark in "|;":
        parts = [one.strip() for cell in filled.unique() for one in cell.split(mark)]
        if filled.str.contains(mark, regex=False).any() and len(set(parts)) < len(parts):
            answer.args |= {"task": "multi_label", "separator": mark}
            answer.reasons.append(f"task: multi_label, since cells hold labels between {mark}")
            return
    answer.reasons.append(f"task: single_label, since the target has {filled.nunique()} classes")


def _is_presence(path: Path, columns: Sequence[str], ids: str, paths: Sequence[Path]) -> bool:
    """Whether a table's columns are called like the other modalities, and hold 0 and 1."""
    names = {other.name.split(".")[0] for other in paths if other != path}
    rest = [name for name in columns if name and name != ids]
    if not rest or not set(rest) <= names or ids not in columns:
        return False
    frame = read_frame(path, ids, only=rest)
    return all(bool(frame.text(name).isin(["0", "1"]).all()) for name in rest)


def _modality(
    answer: Guess, path: Path, ids: str, named: "pd.Index[str]", columns: Sequence[str] | None
) -> FileKind:
    """Kind of a file or folder.

    Raises:
        ValueError: If it cannot be read, or has no sample of the labels file.
    """
    if path.is_dir():
        kind = _kind_of_folder(path)
        assert kind is not None
        samples = in_folder(path, kind)
        _require_known(path, samples.ids, named)
        if kind == "image":
            _size(answer, path.name, samples.files)
        return kind
    if columns is None:
        arrays = read_npz(path)
        if not {"id", "x"} <= arrays.keys():
            raise ValueError(f"{path} has the arrays {', '.join(arrays)}, but id and x are read")
        _require_known(path, pd.Index(arrays["id"].astype(str)), named)
        x = arrays["x"]
        if x.ndim == 2 and x.dtype.kind in "iu" and "length" in arrays:
            return "tokens"
        if x.ndim == 3 and x.dtype == np.uint8:
            return "image"
        return KINDS.get(x.ndim, "vector")
    features = [name for name in columns if name and name != ids]
    _require_known(path, read_frame(path, ids, only=[]).ids, named)
    if len(features) != 1:
        return "vector"
    text = read_frame(path, ids, only=features).text(features[0])
    filled = text[text != ""]
    if filled.str.lower().str.endswith(PICTURES).all():
        _size(answer, path.name, [answer.folder / name for name in filled])
        return "image"
    if filled.str.lower().str.endswith(SOUNDS).all():
        return "sound"
    _, bad = to_numbers(filled)
    called = TEXT.search(path.name) or TEXT.search(features[0])
    wordy = filled.str.contains(r"\s", regex=True).mean() > 0.5
    return "tokens" if bad.any() and (called or wordy) else "vector"


def _require_known(path: Path, ids: "pd.Index[str]", named: "pd.Index[str]") -> None:
    if len(ids) and not ids.isin(named).any():
        why = likely_cause(ids, named, (path.name, "the labels file"))
        raise ValueError(f"{path}: none of its {len(ids)} ids is in the labels file; {why}")


def _size(answer: Guess, name: str, files: Sequence[Path]) -> None:
    sizes = {read_picture(file, None).shape[1:] for file in files[:LOOKED_AT]}
    if len(sizes) > 1:
        answer.args["size"] = SIDE
        answer.reasons.append(f"size: {SIDE}, since pictures of {name} differ in size")


def _identifier(path: Path, taken: dict[str, str]) -> str:
    """Name of a modality: letters, digits and _."""
    name = re.sub(r"\W+", "_", path.name.split(".")[0]).strip("_") or "modality"
    name = name if name.isidentifier() else f"m_{name}"
    return name if name not in taken else f"{name}_{len(taken)}"


def suite_of(answer: Guess) -> str:
    """A suite in YAML that compares a few methods on the folder; reasons are its comments."""
    metric = {"regression": "mae", "survival": "c_index"}.get(
        answer.args.get("task", ""), "macro_f1"
    )
    name = re.sub(r"[^\w-]+", "_", answer.folder.resolve().name) or "own"
    suite = {
        "name": name,
        "data": [{"name": "table", "args": answer.args}],
        "methods": ["majority", "best_single_modality", "zero_fill", "mean_fusion", "shaspec"],
        "scenarios": ["natural"],
        "seeds": 3,
        "select": {"metric": metric, "on": "val"},
    }
    said = [
        *(f"guessed: {line}" for line in answer.reasons),
        *(f"OPEN: {line}" for line in answer.unknown),
    ]
    comments = "".join(f"# {' '.join(line.split())}\n" for line in said)
    return comments + yaml.safe_dump(suite, sort_keys=False, allow_unicode=True, width=100)
