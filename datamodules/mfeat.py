"""UCI Multiple Features: handwritten digits in six feature sets; ships with mmbench.

Format: 2,000 digits from Dutch utility maps, each as six vectors: `fou` 76 Fourier coefficients
of the shape, `fac` 216 profile correlations, `kar` 64 Karhunen-Loeve coefficients, `pix` 240
averages of 2 x 3 pixels, `zer` 47 Zernike moments, `mor` 6 morphological features. A complete
set, nothing is missing by nature.

Classes: the digits 0 to 9, 200 samples each.

Split: ours, 140 / 30 / 30 of each digit, fixed by the file; who wrote a digit is not published.
The sample id is the row of the published tables, which are sorted by class; here the rows come in
an order that tells nothing about the class.

Sanity, accuracy of a logistic regression on val / test (majority .100 / .100): fou .780 / .843,
fac .977 / .987, kar .947 / .967, pix .967 / .977, zer .813 / .837, mor .707 / .767.

Source: van Breukelen et al., "Handwritten digit recognition by combined classifiers",
Kybernetika 34(4), 1998. Terms: see `assets/LICENSE-mfeat`. Built by `assets/build_mfeat.py`.
"""

from typing import ClassVar

import numpy as np

from datamodules.assets import shipped
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

_WIDTHS = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}


class Mfeat(DataModule):
    """Which digit is it, from six descriptions of one handwritten picture?"""

    source: ClassVar[Source] = Source(
        citation="Duin, R., Multiple Features, UCI Machine Learning Repository, 1998, "
        "doi:10.24432/C5HC70",
        url="https://archive.ics.uci.edu/dataset/72/multiple+features",
        licence="CC BY 4.0",
        checksum="a60cf01f55b89acb7541ccf7c0a341ee0a0e9406172b7056c92ac8540b2f5012",
    )

    def describe(self) -> Task:
        """Ten classes from six vectors."""
        return Task(
            "single_label",
            tuple(Modality(name, "vector", (width,)) for name, width in _WIDTHS.items()),
            tuple("0123456789"),
        )

    def load(self, split: Split) -> Samples:
        """Read one split.

        Raises:
            ValueError: If the installed file is damaged.
        """
        arrays = shipped.read("mfeat", self.source.checksum)
        rows = arrays["split"] == SPLITS.index(split)
        return Samples(
            modalities=tuple(_WIDTHS),
            inputs={name: arrays[name][rows] for name in _WIDTHS},
            target=arrays["target"][rows].astype(np.int64),
            sample_id=arrays["sample_id"][rows],
            presence=np.ones((int(rows.sum()), len(_WIDTHS)), bool),
        )
