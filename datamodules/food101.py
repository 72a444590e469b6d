"""UPMC Food-101: which dish, from a picture and the title of the page that it stood on."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.files import locate, read_csv, read_json
from mmbench.data.sample_files import PICTURES
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.data.splits import stable_ids, stratified
from mmbench.datamodule import Counts, Source
from mmbench.picture_set import Index, PictureTextSet

PARTS = ("train", "test")
TITLES = {part: f"food101/texts/{part}_titles.csv" for part in PARTS}
LISTS = "food101/split.json"
VAL = 6_846 / 67_988  # of the training pictures, as in the lists of MAPs


class Food101(PictureTextSet):
    """90,688 pairs of a picture and a title from a picture search, 101 dishes.

    Format, in `food101/`:

    - `images/{train,test}/<dish>/<dish>_<number>.jpg`.
    - `texts/{train,test}_titles.csv`: picture, title, dish. With or without a header: the first row
      is one if its first cell is no name of a picture.
    - `split.json`, optional, as MAPs makes it: names of pictures under train, val and test.

    Where to get it: visiir.lip6.fr, under the name UPMC Food-101 (not ETH's Food-101).

    Missing by nature: nothing. Pictures without a title are left out, as in the papers.

    Classes: the dishes in the order of the alphabet.

    Split: the official test part. Validation is 6,846 / 67,988 of the training part, the share of
    MAPs: with `split.json` the very pictures that MAPs takes, without it a choice that is balanced
    over dishes and depends on names of pictures alone. The sample id is a hash of the name.

    Traps. The search words were the dish, so most titles name it, and text alone is strong: `notes`
    says for how many training titles. Labels of the training part are noisy. REDEEM and RAGPT have
    no validation part and select the epoch on the test.

    Args:
        root: Folder that has `food101/`.
        scenario: See `DataModule`.
        **common: Passed to `PictureTextSet`: `size`, `skip_bad`, `tokenizer`, `max_tokens`.
    """

    source = Source(
        citation="Wang et al., Recipe Recognition with Large Multimodal Food Dataset, ICME "
        "Workshops 2015",
        url="http://visiir.lip6.fr",
        licence="research only; pictures and titles remain their owners'",
        papers=(
            "MAPs: train 61,142, val 6,846, test 22,716 before pictures without a title are left "
            "out; accuracy",
            "RAGPT, REDEEM: 67,972 / 22,716 without validation, the epoch selected on the test; "
            "accuracy",
        ),
    )
    files: ClassVar[tuple[str, ...]] = ("food101/images", *TITLES.values())
    published: ClassVar[tuple[Counts, ...]] = (
        Counts("Table 2 of REDEEM", None, 90_688),
        Counts("Table 2 of REDEEM", "test", 22_716),
    )
    pictures: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, root: Path, scenario: Scenario, **common: Any) -> None:
        super().__init__(root, scenario, **common)
        if (root / LISTS).is_file():
            self.files = (*self.files, LISTS)  # type: ignore[misc]  # not of the class

    def text_files(self) -> list[Path]:
        """The two lists of titles."""
        return [locate(self.root, name) for name in TITLES.values()]

    def read_index(self) -> Index:
        """See `PictureSet`."""
        files = zip(PARTS, self.text_files(), strict=True)
        tables = [_titles(path).assign(part=part) for part, path in files]
        table = pd.concat(tables, ignore_index=True)
        notes = []
        if (lost := table["title"] == "").any():
            notes.append(f"{int(lost.sum())} pictures without a title left out")
            table = table[~lost].reset_index(drop=True)
        outputs = tuple(sorted(set(table["dish"])))
        target = table["dish"].map(outputs.index).to_numpy(np.int64)
        names = table["picture"].tolist()
        if LISTS in self.files:
            part = self._listed(names)
            rows = np.flatnonzero(part >= 0)
            if len(rows) < len(part):
                notes.append(f"{len(part) - len(rows)} pictures that split.json lacks left out")
        else:
            rows = np.arange(len(table))
            part = np.full(len(table), SPLITS.index("test"))
            train = np.flatnonzero(table["part"] == "train")
            ids = stable_ids([names[row] for row in train])
            part[train] = stratified(ids, target[train], val=VAL, test=0.0)
        table, target, part = table.iloc[rows], target[rows], part[rows]
        said = [
            dish.replace("_", " ") in title.lower().replace("-", " ")
            for dish, title in zip(table["dish"][part == 0], table["title"][part == 0], strict=True)
        ]
        notes.append(f"{100 * np.mean(said):.1f} % of the training titles name their dish")
        folder = self.root / "food101" / "images"
        paths = table["part"] + "/" + table["dish"] + "/" + table["picture"]
        return Index(
            names=table["picture"].tolist(),
            outputs=outputs,
            target=target,
            part=part,
            pictures={"image": [folder / path for path in paths]},
            texts={"text": table["title"].tolist()},
            notes=tuple(notes),
        )

    def _listed(self, names: list[str]) -> NDArray[np.int64]:
        """Split of each picture as `split.json` says, -1 = it does not."""
        path = locate(self.root, LISTS)
        lists = read_json(path)
        if not isinstance(lists, dict) or set(lists) != set(SPLITS):
            raise ValueError(f"{path} must hold lists of pictures under train, val and test")
        number: dict[str, int] = {}
        for word, pictures in lists.items():
            for name in pictures:
                if name in number:
                    raise ValueError(f"{path}: {name} is in two lists, or twice in one")
                number[name] = SPLITS.index(word)
        return np.array([number.get(name, -1) for name in names], dtype=np.int64)


def _titles(path: Path) -> pd.DataFrame:
    table: pd.DataFrame = read_csv(path, header=None, dtype=str, keep_default_na=False)
    if table.shape[1] != 3:
        raise ValueError(
            f"{path} has {table.shape[1]} columns, but picture, title and dish are expected"
        )
    table.columns = pd.Index(["picture", "title", "dish"])
    for name in table:
        table[name] = table[name].str.strip()
    header = int(not table["picture"][0].lower().endswith(PICTURES))
    table = table.iloc[header:].reset_index(drop=True)
    for column in ("picture", "dish"):
        odd = table[column].isin(["", ".", ".."]) | table[column].str.contains(r"[/\\]")
        if odd.any():
            row = int(np.argmax(odd.to_numpy()))
            raise ValueError(
                f"{path} row {row + 1 + header}: {column} is {table[column][row]!r}, no name"
            )
    return table
