"""Sequences of text, audio and video as published pickles of sentiment data have them.

Two layouts: a dictionary of `train`, `valid` and `test`, each a dictionary of arrays.

- MMSA (`aligned_50.pkl`, `unaligned_50.pkl`): `text` (n, T, 768) of a frozen BERT, `audio`,
  `vision`, `regression_labels` (n,), `id`, `raw_text`.
- MultiBench (`mosi_data.pkl`): `text` (n, T, 300) of GloVe, `audio`, `vision`, `labels` (n, 1, 1),
  `id`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data.parsed import Arrays
from mmbench.data.samples import SPLITS, Split
from mmbench.data.unpickling import read_pickle

MODALITIES = {"text": "text", "audio": "audio", "video": "vision"}
PARTS: Mapping[Split, str] = {"train": "train", "val": "valid", "test": "test"}
TARGETS = ("regression_labels", "labels")


def sequences(path: Path) -> Arrays:
    """Read such a pickle.

    Zeros before and after what is said are padding: sequences are moved to the front, all
    modalities of a sample by one offset where they have equally many steps and so are aligned. What
    is no finite number (the audio has -inf, the log of nothing) becomes 0. A modality that is 0
    throughout is absent, and a sample without any is left out.

    Returns:
        All samples in order of train, val and test: for each of text, audio and video `NAME`
        (sample, step, feature) and `NAME_length`; `presence` (sample, modality), `score`, `split`
        as positions in `SPLITS`, `id`, `words` ("" if the file has none) and `notes`.

    Raises:
        ValueError: If it is no such file; the message says what is missing.
    """
    content = read_pickle(path)
    parts = [_part(content, split, path) for split in SPLITS]
    x = {name: _joined([part[name] for part in parts], name, path) for name in MODALITIES}
    notes = []
    for name, values in x.items():
        wrong = ~np.isfinite(values)
        if wrong.any():
            rows = int(wrong.any(axis=(1, 2)).sum())
            notes.append(f"{path.name}: {name} of {rows} samples has values that are no finite "
                         "number; they are 0")  # fmt: skip
            values[wrong] = 0
    # (sample, step): where something is said
    said = {name: np.asarray(values.any(axis=2)) for name, values in x.items()}
    presence = np.stack([np.asarray(steps.any(axis=1)) for steps in said.values()], axis=1)
    if len({values.shape[1] for values in x.values()}) == 1:  # aligned
        together: NDArray[np.bool_] = np.any(list(said.values()), axis=0)
        said = dict.fromkeys(x, together)
    arrays: dict[str, NDArray[Any]] = {"presence": presence}
    for column, name in enumerate(x):
        arrays[name], length = _moved(x[name], said[name])
        arrays[f"{name}_length"] = np.where(presence[:, column], length, 1)
    arrays["score"] = np.concatenate([part["score"] for part in parts])
    arrays["split"] = np.repeat(np.arange(len(SPLITS)), [len(part["score"]) for part in parts])
    arrays["id"] = np.array([one for part in parts for one in part["id"]])
    arrays["words"] = np.array([one for part in parts for one in part["words"]])
    ids, counts = np.unique(arrays["id"], return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{path}: id {ids[counts > 1][0]} occurs {counts.max()} times")
    some = presence.any(axis=1)
    if not some.all():
        notes.append(f"{path.name}: {int((~some).sum())} samples without any modality left out")
        arrays = {name: values[some] for name, values in arrays.items()}
    return arrays | {"notes": np.array(notes, dtype=str)}


def _part(content: Any, split: Split, path: Path) -> dict[str, Any]:
    part = content.get(PARTS[split]) if isinstance(content, Mapping) else None
    if not isinstance(part, Mapping):
        raise ValueError(
            f"{path} has no dictionary {PARTS[split]!r}; a pickle of MMSA or MultiBench is a "
            f"dictionary of {', '.join(PARTS.values())}"
        )
    target = next((name for name in TARGETS if name in part), TARGETS[0])
    wanted = (*MODALITIES.values(), target, "id")
    if lost := [name for name in wanted if name not in part]:
        raise ValueError(
            f"{path} has no {lost[0]} in {PARTS[split]!r}; it has {', '.join(map(str, part))[:200]}"
        )
    arrays: dict[str, Any] = {name: np.asarray(part[inside]) for name, inside in MODALITIES.items()}
    arrays["score"] = np.asarray(part[target], dtype=np.float32).reshape(-1)
    arrays["id"] = [_name(one) for one in part["id"]]
    arrays["words"] = [str(one) for one in part.get("raw_text", [""] * len(arrays["id"]))]
    sizes = {name: len(value) for name, value in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{path}: {PARTS[split]} has unequally many samples: {sizes}")
    return arrays


def _joined(parts: Sequence[NDArray[Any]], name: str, path: Path) -> NDArray[np.float32]:
    if any(x.ndim != 3 or x.dtype.kind not in "fiu" for x in parts):
        shapes = [f"{x.shape} of {x.dtype}" for x in parts]
        raise ValueError(f"{path}: {name} must be (sample, step, feature) numbers, found {shapes}")
    if len({x.shape[1:] for x in parts}) != 1:
        raise ValueError(f"{path}: {name} differs in shape between splits")
    return np.concatenate(parts).astype(np.float32)


def _moved(
    x: NDArray[np.float32], said: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Sequences from their first step that is said, zero after the last; and their lengths."""
    steps = x.shape[1]
    first = said.argmax(axis=1)
    length = np.where(said.any(axis=1), steps - said[:, ::-1].argmax(axis=1) - first, 0)
    place = np.minimum(first[:, None] + np.arange(steps), steps - 1)
    moved = np.take_along_axis(x, place[:, :, None], axis=1)
    moved[np.arange(steps) >= length[:, None]] = 0
    return moved, length


def _name(one: Any) -> str:
    """Name of an utterance, `video_number`; MMSA joins them by `$_$`, MultiBench keeps letters."""
    if isinstance(one, list | tuple | np.ndarray):
        parts = [_name(part) for part in np.ravel(np.asarray(one, dtype=object))]
        return ("" if all(len(part) <= 1 for part in parts) else "_").join(parts)
    text = one.decode("latin1") if isinstance(one, bytes) else str(one)
    return text.replace("$_$", "_")
