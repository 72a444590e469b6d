"""BBC news cut into four segments, each a modality of sparse word counts."""

from typing import ClassVar

import numpy as np

from mmbench.data.files import class_numbers, dense, locate, read_matlab, same_length
from mmbench.data.samples import Samples, Split
from mmbench.data.splits import rows_of, stratified
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

WIDTHS = {"segment1": 4659, "segment2": 4633, "segment3": 4665, "segment4": 4684}
TOPICS = 5
FILE = "bbc4view/BBC4view_685.mat"


class BBC4View(DataModule):
    """Word counts of 685 BBC news articles, each cut into four segments.

    Format: one MATLAB file (version 5). `X`: cells of four sparse matrices, articles x words,
    counts 0..27; `Y`: articles x 1, topic 1..5. Read into dense float32, 51 MB in all.

    Missing by nature: nothing. Three pairs of articles are identical in all four segments
    (rows 325 and 343, 614 and 631, 518 and 671), each pair with the same label.

    Classes: topics 134, 82, 226, 70, 173; the file does not name them, so they are called by
    their numbers.

    Split: none is given. Here 70 / 15 / 15 %, stratified by topic, in the order of a hash of
    the row number; 5 folds whose test parts do not overlap. The sample id is the row.
    """

    source = Source(
        citation="Greene and Cunningham, Practical Solutions to the Problem of Diagonal "
        "Dominance in Kernel Document Clustering, ICML 2006; four-segment form",
        url="https://github.com/zskong/Multi-view-data",
        licence="made available for non-commercial research; the texts remain the BBC's",
    )
    folds: ClassVar[int] = 5
    files: ClassVar[tuple[str, ...]] = (FILE,)

    def describe(self) -> Task:
        """Five topics from four vectors of word counts."""
        return Task(
            "single_label",
            tuple(Modality(name, "vector", (width,)) for name, width in WIDTHS.items()),
            tuple(f"topic {k}" for k in range(1, TOPICS + 1)),
        )

    def load(self, split: Split) -> Samples:
        """Read one split; everything is present.

        Raises:
            ValueError: If the file is not there or is not laid out as described.
        """
        path = locate(self.root, FILE)
        cells, label = read_matlab(path, "X", "Y")
        views = cells.reshape(-1)
        if len(views) != len(WIDTHS):
            raise ValueError(f"{path} X has {len(views)} cells, but {len(WIDTHS)} are expected")
        n = same_length(
            {f"{path} Y": len(label)}
            | {name: view.shape[0] for name, view in zip(WIDTHS, views, strict=True)}
        )
        target = class_numbers(label, classes=TOPICS, first=1, what=f"{path} Y")
        sample_id = np.arange(n, dtype=np.int64)
        part = stratified(sample_id, target, val=0.15, test=0.15, fold=self.fold, folds=self.folds)
        rows = rows_of(part, split)
        return Samples(
            modalities=tuple(WIDTHS),
            inputs={
                name: dense(view, width=width, what=f"{path} X ({name})")[rows]
                for (name, width), view in zip(WIDTHS.items(), views, strict=True)
            },
            target=target[rows],
            sample_id=sample_id[rows],
            presence=np.ones((len(rows), len(WIDTHS)), bool),
        )
