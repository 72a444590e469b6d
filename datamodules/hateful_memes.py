"""Hateful Memes: is a meme hateful, from its picture and the words on it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmbench.data.files import locate
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.datamodule import Counts, Source
from mmbench.picture_set import Index, PictureTextSet

FIELDS: dict[str, type] = {"id": int, "img": str, "text": str, "label": int}


class HatefulMemes(PictureTextSet):
    """10,000 memes; hate that neither the picture nor the words show alone.

    Format, in `hateful_memes/`, as the archive unpacks:

    - `img/`: one picture a meme, `42953.png`.
    - `train.jsonl` (8,500), `dev_seen.jsonl` (500), `test_seen.jsonl` (1,000): a line a meme,
      `{"id": 42953, "img": "img/42953.png", "label": 0, "text": "its their character"}`.
      `dev.jsonl` of the first release holds the same 500 as `dev_seen.jsonl` and does, too.
      `test.jsonl` of the first release has no labels and is not read.

    Where to get it: hatefulmemeschallenge.com, after its terms are agreed to.

    Missing by nature: nothing.

    Classes: 0 benign, 1 hateful. Papers report the AUROC.

    Split: the official one, with `dev_seen` for validation and `test_seen` for the test. The
    sample id is a hash of the meme's number.

    Traps. For many hateful memes there are benign confounders: the same words on another picture,
    or the other way round, with the other label. Methods that retrieve by one modality meet them as
    nearest neighbours, so `notes` counts how many memes share their words with another one of the
    training split and how often labels of such pairs agree. A confounder may lie in another split
    than its hateful meme: test words that training has seen with the other label are by design.

    Args:
        root: Folder that has `hateful_memes/`.
        scenario: See `DataModule`.
        **common: Passed to `PictureTextSet`: `size`, `skip_bad`, `tokenizer`, `max_tokens`.
    """

    source = Source(
        citation="Kiela et al., The Hateful Memes Challenge: Detecting Hate Speech in Multimodal "
        "Memes, NeurIPS 2020",
        url="https://hatefulmemeschallenge.com",
        licence="Hateful Memes Dataset License Agreement (research; no redistribution)",
        papers=(
            "MAPs, MSPs, RAGPT: 8,500 / 500 / 1,000, test labels from test_seen; AUROC",
            "REDEEM: the same; Table 2 prints 1,500 test memes, but test_seen has 1,000; AUROC",
        ),
    )
    files: ClassVar[tuple[str, ...]] = (
        "hateful_memes/img",
        "hateful_memes/train.jsonl",
        "hateful_memes/dev_seen.jsonl",
        "hateful_memes/test_seen.jsonl",
    )
    published: ClassVar[tuple[Counts, ...]] = (
        Counts("Table 2 of REDEEM", "train", 8_500),
        Counts("Table 2 of REDEEM", "val", 500),
        Counts("the official release", "test", 1_000),
    )
    pictures: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, root: Path, scenario: Scenario, **common: Any) -> None:
        super().__init__(root, scenario, **common)
        folder = root / "hateful_memes"
        if (folder / "dev.jsonl").exists() and not (folder / "dev_seen.jsonl").exists():
            self.files = tuple(  # type: ignore[misc]  # of the first release
                name.replace("dev_seen", "dev") for name in self.files
            )

    def text_files(self) -> list[Path]:
        """The three lists of memes."""
        return [locate(self.root, name) for name in self.files if name.endswith(".jsonl")]

    def read_index(self) -> Index:
        """See `PictureSet`."""
        parts = [_memes(path) for path in self.text_files()]
        memes = [meme for part in parts for meme in part]
        folder = self.root / "hateful_memes"
        return Index(
            names=[str(meme["id"]) for meme in memes],
            outputs=("benign", "hateful"),
            target=np.array([meme["label"] for meme in memes], dtype=np.int64),
            part=np.repeat(np.arange(len(SPLITS)), [len(part) for part in parts]),
            pictures={"image": [folder / meme["img"] for meme in memes]},
            texts={"text": [meme["text"] for meme in memes]},
            notes=_confounders(parts[0]),
        )


def _memes(path: Path) -> list[dict[str, Any]]:
    memes = []
    for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path} row {row}"
        try:
            meme = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}") from error
        if not isinstance(meme, dict):
            raise ValueError(f"{where} is no mapping, but {line[:60]!r}")
        if "label" not in meme:
            raise ValueError(
                f"{where} has no label; the test list of the first release has none, take "
                "test_seen.jsonl of the second"
            )
        meme["id"] = int(meme["id"]) if str(meme.get("id", "")).isdecimal() else meme.get("id")
        for name, kind in FIELDS.items():
            if type(meme.get(name)) is not kind:
                raise ValueError(
                    f"{where}: {name} must be {kind.__name__}, found {meme.get(name)!r}"
                )
        if meme["label"] not in (0, 1):
            raise ValueError(f"{where}: label must be 0 or 1, found {meme['label']}")
        if ".." in Path(meme["img"]).parts or Path(meme["img"]).is_absolute():
            raise ValueError(f"{where}: img {meme['img']!r} does not lie in the folder")
        memes.append(meme)
    return memes


def _confounders(train: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """How often training memes with the same words have the same label."""
    labels: dict[str, Counter[int]] = {}
    for meme in train:
        labels.setdefault(" ".join(meme["text"].lower().split()), Counter())[meme["label"]] += 1
    shared = [count for count in labels.values() if count.total() > 1]
    pairs = sum(count.total() * (count.total() - 1) // 2 for count in shared)
    if not pairs:
        return ()
    same = sum(n * (n - 1) // 2 for count in shared for n in count.values())
    return (
        f"{sum(count.total() for count in shared)} of {len(train)} training memes share their "
        f"words with another; labels of such pairs agree in {100 * same / pairs:.1f} %",
    )
