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

Terms: see `assets/LICENSE-openmoji`. Built by `assets/build_openmoji.py`.
"""

from typing import ClassVar

import numpy as np

from datamodules.assets import shipped
from mmbench.data.samples import SPLITS, Samples, Split
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


class Openmoji(DataModule):
    """Which group does an emoji belong to, from its picture and its names in two languages?"""

    source: ClassVar[Source] = Source(
        citation="OpenMoji 17.0, HfG Schwäbisch Gmünd; names: Unicode CLDR through emoji 2.16",
        url="https://openmoji.org",
        licence="CC BY-SA 4.0 (pictures), BSD-3-Clause and MIT (names, groups)",
        checksum="2e5ccdc052c7c9a5143dbc6cfb8a078aa0b9f804b7913c24c1d3169ceaa795d8",
    )

    def describe(self) -> Task:
        """Nine classes from one image and two rows of tokens."""
        return Task(
            "single_label",
            (
                Modality("image", "image", (3, 32, 32)),
                Modality("english", "tokens", (22,), vocab_size=333),
                Modality("german", "tokens", (23,), vocab_size=342),
            ),
            _CLASSES,
        )

    def load(self, split: Split) -> Samples:
        """Read one split.

        Raises:
            ValueError: If the installed file is damaged.
        """
        arrays = shipped.read("openmoji", self.source.checksum)
        rows = arrays["split"] == SPLITS.index(split)
        names = ("image", "english", "german")
        return Samples(
            modalities=names,
            inputs={name: arrays[name][rows] for name in names},
            target=arrays["target"][rows].astype(np.int64),
            sample_id=arrays["sample_id"][rows],
            presence=np.ones((int(rows.sum()), len(names)), bool),
            lengths={name: arrays[f"{name}_lengths"][rows] for name in ("english", "german")},
        )
