"""100 leaves: plant species by the margin, shape and texture of a leaf."""

from typing import ClassVar

import numpy as np

from mmbench.data.files import class_numbers, dense, locate, read_matlab, same_length
from mmbench.data.samples import Samples, Split
from mmbench.data.splits import rows_of, stratified
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

VIEWS = ("margin", "shape", "texture")
WIDTH = 64
SPECIES = 100
FILE = "hundred_leaves/100Leaves.mat"


class HundredLeaves(DataModule):
    """Three descriptors of 1,600 leaves of 100 species, 16 of each.

    Format: one MATLAB file (version 5). `X`: cells of margin, shape and texture, leaves x 64;
    `Y`: leaves x 1, species 1..100. The file does not name its views. The order stated here
    follows from the values: margin is a histogram in steps of 1 / 512, shape a distance
    signature of values below 0.004, texture a histogram in steps of 1 / 1,024.

    Missing by nature: nothing is marked. But the texture of the first leaf, the one that the
    published collection lacks, is the mean of the other 15 of its species: it was filled in
    with knowledge of the class. Values are left as they are.

    Classes: species, named by their number.

    Split: none is given. Here 70 / 15 / 15 %, stratified by species, in the order of a hash of
    the row number; 5 folds whose test parts do not overlap. The sample id is the row.
    """

    source = Source(
        citation="Mallah, Cope and Orwell, Plant Leaf Classification Using Probabilistic "
        "Integration of Shape, Texture and Margin Features, SPPRA 2013; UCI repository",
        url="https://github.com/zskong/Multi-view-data",
        licence="CC BY 4.0 (UCI)",
    )
    folds: ClassVar[int] = 5
    files: ClassVar[tuple[str, ...]] = (FILE,)

    def describe(self) -> Task:
        """100 species from three vectors of 64 numbers."""
        return Task(
            "single_label",
            tuple(Modality(name, "vector", (WIDTH,)) for name in VIEWS),
            tuple(f"species {k}" for k in range(1, SPECIES + 1)),
        )

    def load(self, split: Split) -> Samples:
        """Read one split; everything is present.

        Raises:
            ValueError: If the file is not there or is not laid out as described.
        """
        path = locate(self.root, FILE)
        cells, label = read_matlab(path, "X", "Y")
        views = cells.reshape(-1)
        if len(views) != len(VIEWS):
            raise ValueError(f"{path} X has {len(views)} cells, but {len(VIEWS)} are expected")
        inputs = {
            name: dense(view, width=WIDTH, what=f"{path} X ({name})")
            for name, view in zip(VIEWS, views, strict=True)
        }
        n = same_length({f"{path} Y": len(label)} | {k: len(x) for k, x in inputs.items()})
        target = class_numbers(label, classes=SPECIES, first=1, what=f"{path} Y")
        sample_id = np.arange(n, dtype=np.int64)
        part = stratified(sample_id, target, val=0.15, test=0.15, fold=self.fold, folds=self.folds)
        return Samples(
            modalities=VIEWS,
            inputs=inputs,
            target=target,
            sample_id=sample_id,
            presence=np.ones((n, len(VIEWS)), bool),
        ).take(rows_of(part, split))
