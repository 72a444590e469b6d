"""3Sources: news stories reported by up to three sources; most lack one by nature."""

from typing import ClassVar

import numpy as np

from mmbench.data.files import class_numbers, dense, locate, read_matlab, same_length
from mmbench.data.samples import Samples, Split
from mmbench.data.splits import rows_of, stratified
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

WIDTHS = {"bbc": 3560, "guardian": 3631, "reuters": 3068}
TOPICS = ("business", "entertainment", "health", "politics", "sport", "technology")
FILE = "three_sources/Data_3Sources.mat"


class ThreeSources(DataModule):
    """Word counts of 416 news stories in the BBC, the Guardian and Reuters.

    Format: one MATLAB file (version 5). `V1`, `V2`, `V3`: stories x words, counts 0..28, zeros
    where a source did not report the story; `ind`: stories x 3, 1 = the source has it;
    `label`: stories x 1, 1..6.

    Missing by nature: 59.4 % of the stories lack a source. Present sources and stories: all 169,
    bbc+guardian 81, bbc+reuters 70, guardian+reuters 43, bbc 32, reuters 12, guardian 9.

    Classes: the dominant topic of a story: business 104, entertainment 60, health 54,
    politics 49, sport 89, technology 60. The file numbers them; the names follow from the 169
    complete stories, whose counts (56, 21, 11, 18, 51, 12) are those published by topic.

    Split: none is given. Here 70 / 15 / 15 %, stratified by topic, in the order of a hash of
    the row number; 5 folds whose test parts do not overlap. The sample id is the row.
    """

    source = Source(
        citation="Greene and Cunningham, A Matrix Factorization Approach for Integrating "
        "Multiple Data Views, ECML PKDD 2009; incomplete form of the 3Sources collection of "
        "University College Dublin",
        url="https://github.com/zskong/Multi-view-data",
        licence="made available for non-commercial research; the news texts remain the publishers'",
    )
    folds: ClassVar[int] = 5
    files: ClassVar[tuple[str, ...]] = (FILE,)

    def describe(self) -> Task:
        """Six topics from three vectors of word counts."""
        return Task(
            "single_label",
            tuple(Modality(name, "vector", (width,)) for name, width in WIDTHS.items()),
            TOPICS,
        )

    def load(self, split: Split) -> Samples:
        """Read one split; the presence is the file's `ind`.

        Raises:
            ValueError: If the file is not there or is not laid out as described.
        """
        path = locate(self.root, FILE)
        *views, ind, label = read_matlab(path, "V1", "V2", "V3", "ind", "label")
        names = ("V1", "V2", "V3", "ind", "label")
        n = same_length(
            {f"{path} {name}": len(x) for name, x in zip(names, (*views, ind, label), strict=True)}
        )
        target = class_numbers(label, classes=len(TOPICS), first=1, what=f"{path} label")
        said = dense(ind, width=len(WIDTHS), what=f"{path} ind")
        if not np.isin(said, (0, 1)).all():
            row = int(np.argwhere(~np.isin(said, (0, 1)))[0][0])
            raise ValueError(f"{path} ind row {row + 1} is {said[row].tolist()}, expected 0 or 1")
        presence = said == 1
        sample_id = np.arange(n, dtype=np.int64)
        part = stratified(sample_id, target, val=0.15, test=0.15, fold=self.fold, folds=self.folds)
        return Samples(
            modalities=tuple(WIDTHS),
            inputs={
                name: dense(view, width=width, what=f"{path} {key}")
                for (name, width), view, key in zip(WIDTHS.items(), views, names, strict=False)
            },
            target=target,
            sample_id=sample_id,
            presence=presence,
        ).take(rows_of(part, split))
