"""OpenMoji: emoji as a picture, an English name and a German name; ships with mmbench.

Format: 1,898 emoji without skin tones. `image` is the colour drawing at 32 x 32 pixels on white,
`english` and `german` are the short names as sub-word tokens. A complete set, nothing is missing
by nature.

Classes: 9 groups of the Unicode emoji list, 85 (Activities) to 385 (People & Body) samples.

Tokens: lower-case names cut by 300 merges learned on the training rows of each language (id 0 is
padding, 1 an unseen letter). Names are short and mostly unique: of the test names, 38 % of the
English and 53 % of the German ones have no word at all that training shows, while their pieces
are known. The names as published stand beside the tokens in the file, as `english_text` and
`german_text`, except that "flagge" at the front of a German name is dropped: it names the class,
and the English list leaves it out.

Split: ours, 70 / 15 / 15 % of each class, fixed by the file. Emoji that differ only by the sex of
a person or the direction it looks, and pictures of a class that are all but equal (flags of one
country under two names), lie in the same part.

Sanity, accuracy of a logistic regression on val / test (majority .204 / .204): image .581 / .606,
english .507 / .602, german .475 / .535 (bags of tokens).

With `features: pieces` the names are cut into the word pieces of a frozen MiniLM, for backbones
that read these (`backbone: packaged`, or `vilt:/folder` with the same vocabulary); pictures stay
pixels.

With `features: pretrained` the picture is a vector of 1,280 features of a frozen EfficientNet-Lite0
and each name one of 384 of a frozen MiniLM, which knows English: of German names it reads pieces
(`mmbench.data.features`; the extra `pretrained`, no download). Computed once, in the first run that
asks, and kept in the cache folder. Logistic regression then reaches: image .725 / .715,
english .835 / .852, german .577 / .549.

Terms: see `assets/LICENSE-openmoji`. Built by `assets/build_openmoji.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.assets import shipped
from mmbench.data.features import (
    IMAGE_WIDTH,
    TEXT_PIECES,
    TEXT_TOKENIZER,
    TEXT_WIDTH,
    frozen_features,
    installed,
    text_pieces,
)
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

_CLASSES = (
    "Activities",
    "Animals & Nature",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
_LONGEST = {"english": 12, "german": 25}  # word pieces of the longest name, [CLS] and [SEP] too


class Openmoji(DataModule):
    """Which group does an emoji belong to, from its picture and its names in two languages?

    Args:
        root: Not read; the data ship with mmbench.
        scenario: See `DataModule`.
        features: `raw`, pixels and tokens; `pieces`, pixels and the ids of MiniLM's word pieces; or
            `pretrained`, vectors of frozen encoders.
        **common: Passed to `DataModule`.

    Raises:
        ValueError: If `features` is not raw and the encoders are not installed.
    """

    source: ClassVar[Source] = Source(
        citation="OpenMoji 17.0, HfG Schwäbisch Gmünd; names: Unicode CLDR through emoji 2.16",
        url="https://openmoji.org",
        licence="CC BY-SA 4.0 (pictures), BSD-3-Clause and MIT (names, groups)",
        checksum="2e5ccdc052c7c9a5143dbc6cfb8a078aa0b9f804b7913c24c1d3169ceaa795d8",
    )

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        features: Literal["raw", "pieces", "pretrained"] = "raw",
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        self.features = features
        if features != "raw":
            installed()

    def describe(self) -> Task:
        """Nine classes from one image and two rows of tokens, or from three vectors."""
        if self.features == "pretrained":
            modalities = (
                Modality("image", "vector", (IMAGE_WIDTH,)),
                Modality("english", "vector", (TEXT_WIDTH,)),
                Modality("german", "vector", (TEXT_WIDTH,)),
            )
        elif self.features == "pieces":
            english, german = (
                Modality(name, "tokens", (steps,), TEXT_PIECES, TEXT_TOKENIZER)
                for name, steps in _LONGEST.items()
            )
            modalities = (Modality("image", "image", (3, 32, 32)), english, german)
        else:
            modalities = (
                Modality("image", "image", (3, 32, 32)),
                Modality("english", "tokens", (22,), vocab_size=333),
                Modality("german", "tokens", (23,), vocab_size=342),
            )
        return Task("single_label", modalities, _CLASSES)

    def load(self, split: Split) -> Samples:
        """Read one split.

        Raises:
            ValueError: If the installed file is damaged, or the encoders are not installed.
        """
        arrays = shipped.read("openmoji", self.source.checksum)
        rows = arrays["split"] == SPLITS.index(split)
        names: tuple[str, ...] = ("image", "english", "german")
        inputs, with_lengths = arrays, names[1:]
        if self.features == "pretrained":
            inputs, with_lengths = self._encoded(arrays), ()
        lengths = {name: arrays[f"{name}_lengths"] for name in with_lengths}
        if self.features == "pieces":
            pieces = {
                name: text_pieces(arrays[f"{name}_text"].tolist(), steps=steps)
                for name, steps in _LONGEST.items()
            }
            inputs = {"image": arrays["image"]} | {name: ids for name, (ids, _) in pieces.items()}
            lengths = {name: steps for name, (_, steps) in pieces.items()}
        return Samples(
            modalities=names,
            inputs={name: inputs[name][rows] for name in names},
            target=arrays["target"][rows].astype(np.int64),
            sample_id=arrays["sample_id"][rows],
            presence=np.ones((int(rows.sum()), len(names)), bool),
            lengths={name: steps[rows] for name, steps in lengths.items()},
        )

    def _encoded(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Features of all samples, in the order of the file."""
        return frozen_features(
            self.source.checksum,
            pictures={"image": arrays["image"]},
            texts={name: arrays[f"{name}_text"].tolist() for name in ("english", "german")},
        )
