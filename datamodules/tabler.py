"""Tabler icons: an outline, for a fifth of them a filled drawing, and tags; ships with mmbench.

Format: the 4,835 interface icons of Tabler 3.51 whose category has 50 icons or more. `outline` and
`filled` are grey pictures of 32 x 32 pixels, black on white; `tags` are the words of the published
tags, about ten an icon (id 0 is padding, 1 a word that fewer than two training rows have).

Missing by nature: `filled` exists for 20 % of the icons, and how often depends on the class: none
in Currencies, 2 % in Math, 36 % in Nature, 49 % in Letters. So absence itself tells something.

Classes: 26 categories, 50 (Nature) to 796 (System) samples.

Tags: as published they name the category for 49 % of the icons (all of Letters and Numbers, 99 %
of Brand). The words of all 26 category names, singular
and plural, are therefore dropped from the tags of every icon. Habits of single categories remain,
such as "logo" for every brand. The tags that are left stand in the file as `tags_text`.

Split: ours, 70 / 15 / 15 % of each class, fixed by the file. Variants of an icon (bell, bell-off,
bell-plus) and outlines of a class that are all but equal lie in the same part. Communication,
whose icons are mostly four such families, is split 82 / 18 / 23.

Sanity, accuracy of a logistic regression on val / test (majority .164 / .163), among the icons
that have the modality: outline .312 / .267, filled .215 / .333, tags .655 / .679 (bag of words).

With `features: pretrained` a drawing is a vector of 1,280 features of a frozen EfficientNet-Lite0
and the tags one of 384 of a frozen MiniLM (`mmbench.data.features`; the extra `pretrained`, no
download). Computed once, in the first run that asks, and kept in the cache folder.
Logistic regression then reaches: outline .367 / .373, filled .367 / .397, tags .739 / .733.

Terms: see `assets/LICENSE-tabler`. Built by `assets/build_tabler.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.assets import shipped
from mmbench.data.features import IMAGE_WIDTH, TEXT_WIDTH, frozen_features, installed
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

_CLASSES = (
    "Arrows",
    "Brand",
    "Buildings",
    "Communication",
    "Currencies",
    "Design",
    "Development",
    "Devices",
    "Document",
    "E-commerce",
    "Food",
    "Health",
    "Letters",
    "Map",
    "Math",
    "Media",
    "Mood",
    "Nature",
    "Numbers",
    "Photography",
    "Shapes",
    "Sport",
    "System",
    "Text",
    "Vehicles",
    "Weather",
)


class Tabler(DataModule):
    """Which category is an icon filed under, from its drawings and its tags?

    Args:
        features: `raw`, pixels and words; or `pretrained`, vectors of frozen encoders.

    Raises:
        ValueError: If these are not installed.
    """

    source: ClassVar[Source] = Source(
        citation="Tabler Icons 3.51.0, Paweł Kuna",
        url="https://tabler.io/icons",
        licence="MIT",
        checksum="3f89ee77d3c440e6412384de1795cf88c9f4c97e0ad45a0fb902535862c9fb1f",
    )

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        features: Literal["raw", "pretrained"] = "raw",
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        self.features = features
        if features != "raw":
            installed()

    def describe(self) -> Task:
        """Twenty-six classes from two images and a row of tokens, or from three vectors."""
        if self.features == "pretrained":
            modalities = (
                Modality("outline", "vector", (IMAGE_WIDTH,)),
                Modality("filled", "vector", (IMAGE_WIDTH,)),
                Modality("tags", "vector", (TEXT_WIDTH,)),
            )
        else:
            modalities = (
                Modality("outline", "image", (1, 32, 32)),
                Modality("filled", "image", (1, 32, 32)),
                Modality("tags", "tokens", (22,), vocab_size=2774),
            )
        return Task("single_label", modalities, _CLASSES)

    def load(self, split: Split) -> Samples:
        """Read one split; `filled` is present where the icon has such a drawing.

        Raises:
            ValueError: If the installed file is damaged, or the encoders are not installed.
        """
        arrays = shipped.read("tabler", self.source.checksum)
        rows = arrays["split"] == SPLITS.index(split)
        names = ("outline", "filled", "tags")
        has_filled = arrays["has_filled"][rows]
        always = np.ones_like(has_filled)
        is_raw = self.features == "raw"
        inputs = arrays if is_raw else self._encoded(arrays)
        return Samples(
            modalities=names,
            inputs={name: inputs[name][rows] for name in names},
            target=arrays["target"][rows].astype(np.int64),
            sample_id=arrays["sample_id"][rows],
            presence=np.stack([always, has_filled, always], axis=1),
            lengths={"tags": arrays["tags_lengths"][rows]} if is_raw else {},
        )

    def _encoded(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Features of all samples, in the order of the file; zeros where there is no drawing."""
        has_filled = arrays["has_filled"]
        vectors = frozen_features(
            self.source.checksum,
            pictures={
                name: np.repeat(arrays[name][rows], 3, axis=1)  # of three colours
                for name, rows in (("outline", slice(None)), ("filled", has_filled))
            },
            texts={"tags": arrays["tags_text"].tolist()},
        )
        filled = np.zeros_like(vectors["outline"])
        filled[has_filled] = vectors["filled"]
        return {**vectors, "filled": filled}
