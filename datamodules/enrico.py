"""ENRICO: the design topic of an app's screen, from its picture and its wireframe."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmbench.data.files import locate, read_texts
from mmbench.data.scenario import Scenario
from mmbench.datamodule import Counts, Source
from mmbench.picture_set import Index, PictureSet

TOPICS = 20
DAMAGED = ("50105", "50109")  # their wireframes
TRAIN, VAL = 0.65, 0.15
ORDER_SEED = 42
LIST = "enrico/design_topics.csv"


class Enrico(PictureSet):
    """1,460 screens of Android apps in 20 design topics, each as a screenshot and as a wireframe.

    Format, in `enrico/`, as the archives unpack:

    - `design_topics.csv`, header `screen_id,topic`.
    - `screenshots/{screen_id}.jpg` and `wireframes/{screen_id}.png`, 540 x 960 pixels, here
      brought to 128 x 256 (`size` [256, 128]) as MultiBench does. Hierarchies and metadata are not
      read.

    Where to get it: github.com/luileito/enrico names the archives.

    Missing by nature: nothing. Papers hide entries at random.

    Classes: the topics in the order of the alphabet, from 265 (list) to 6 (dialer).

    Split: that of MultiBench, which I2MoE and MoE-Retriever build on: without the screens 50105 and
    50109, whose wireframes are damaged, the lines of the list are shuffled by Python's generator
    with seed 42 and cut at 65 and 80 %. So it is 947 / 219 / 292, it depends on the order of lines,
    and it is not balanced: rare topics may lack test screens. The sample id is a hash of the
    screen's number.

    Traps. I2MoE's loader flips and blurs screenshots once, when they are loaded, those of the test
    as well; here nothing is changed. Screens of one app may lie in two splits: the list does not
    name apps. The authors' list of issues (81 screens) is not applied.

    Args:
        root: Folder that has `enrico/`.
        scenario: See `DataModule`.
        size: See `PictureSet`.
        **common: Passed to `PictureSet`: `skip_bad`.
    """

    source = Source(
        citation="Leiva, Hota and Oulasvirta, Enrico: A High-quality Dataset for Topic Modeling of "
        "Mobile UI Designs, MobileHCI Adjunct 2020",
        url="https://github.com/luileito/enrico",
        licence="MIT (the repository)",
        papers=(
            "MultiBench: 65 / 15 / 20 % by a shuffle of the list with seed 42, two screens left "
            "out; accuracy",
            "MoE-Retriever: 1,460 screens, 70 / 15 / 15 % said, but the code it builds on cuts 65 "
            "/ 15 / 20; each modality hidden with probability .3; VGG11 with 16 features; accuracy",
        ),
    )
    files: ClassVar[tuple[str, ...]] = (LIST, "enrico/screenshots", "enrico/wireframes")
    published: ClassVar[tuple[Counts, ...]] = (
        Counts("the list of 1,460 without two damaged screens", None, 1_458),
    )
    pictures: ClassVar[tuple[str, ...]] = ("screenshot", "wireframe")

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        size: int | Sequence[int] = (256, 128),
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, size=size, **common)

    def read_index(self) -> Index:
        """See `PictureSet`."""
        path = locate(self.root, LIST)
        table = read_texts(path, "screen_id", "topic")
        for column in ("screen_id", "topic"):
            if (empty := (table[column].str.strip() == "").to_numpy()).any():
                raise ValueError(f"{path} row {int(np.argmax(empty)) + 2}: {column} is empty")
        damaged = table["screen_id"].isin(DAMAGED)
        table = table[~damaged].reset_index(drop=True)
        topics = sorted(set(table["topic"]))
        if len(topics) != TOPICS:
            raise ValueError(f"{path} has {len(topics)} topics, but ENRICO has {TOPICS}: {topics}")
        order = list(range(len(table)))
        random.Random(ORDER_SEED).shuffle(order)
        cuts = [int(len(order) * TRAIN), int(len(order) * (TRAIN + VAL))]
        part = np.empty(len(order), dtype=np.int64)
        for number, rows in enumerate(np.split(np.array(order), cuts)):
            part[rows] = number
        folder = self.root / "enrico"
        names = table["screen_id"].tolist()
        left_out = int(damaged.sum())
        return Index(
            names=names,
            outputs=tuple(topics),
            target=table["topic"].map(topics.index).to_numpy(np.int64),
            part=part,
            pictures={
                "screenshot": [folder / "screenshots" / f"{name}.jpg" for name in names],
                "wireframe": [folder / "wireframes" / f"{name}.png" for name in names],
            },
            notes=(f"{left_out} screens with damaged wireframes left out",) if left_out else (),
        )
