"""ROSMAP: Alzheimer's disease from three omics, in the form that MOGONET published."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Int

from mmbench.data.files import class_numbers, locate, read_matrix, same_length
from mmbench.data.samples import Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.splits import rows_of, stratified
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

OMICS = {"mrna": "1", "methylation": "2", "mirna": "3"}  # number in the file names
WIDTH = 200
PARTS = ("tr", "te")
VAL = 0.15


class Rosmap(DataModule):
    """Gene expression, DNA methylation and microRNA of 351 brains.

    Format: CSV without header, one row a person, in `rosmap/`: `{1,2,3}_{tr,te}.csv` with 200
    columns scaled to 0..1 (1 mRNA, 2 methylation, 3 miRNA) and `labels_{tr,te}.csv`. Files may
    be compressed (.xz, .gz).

    Missing by nature: nothing.

    Classes: 0 control (169), 1 Alzheimer's disease (182).

    Split `given`: MOGONET's 245 rows for training and 106 for the test. It has no validation
    part; 15 % of the training rows are taken for it, stratified, by a hash of the row. It is one
    partition: fold 0. Split `folds`: cross-validation over all 351 rows in 5 stratified folds
    (20 % test, 15 % validation), so every row is tested once; the 200 features of each omics
    were chosen by the authors on MOGONET's training rows, so these scores are slightly
    optimistic. The sample id is the row, test rows after training rows.

    Args:
        root: Folder that has `rosmap/`.
        scenario: See `DataModule`.
        partition: `given` or `folds`, see above.
        **common: Passed to `DataModule`; fold is 0 for `given`, 0..4 for `folds`.

    Raises:
        ValueError: If a fold of the given split other than 0 is asked for.
    """

    source = Source(
        citation="Wang et al., MOGONET integrates multi-omics data using graph convolutional "
        "networks allowing patient classification and biomarker identification, Nature "
        "Communications 12, 2021; De Jager et al., A multi-omic atlas of the human frontal "
        "cortex for aging and Alzheimer's disease research, Scientific Data 5, 2018",
        url="https://github.com/txWang/MOGONET",
        licence="MIT (the repository)",
    )
    folds: ClassVar[int] = 5
    files: ClassVar[tuple[str, ...]] = tuple(
        f"rosmap/{stem}_{part}.csv" for part in PARTS for stem in (*OMICS.values(), "labels")
    )

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        partition: Literal["given", "folds"] = "given",
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        if partition == "given" and self.fold:
            raise ValueError(
                f"fold {self.fold} of rosmap was asked for, but the given split is fold 0 alone; "
                "take partition=folds"
            )
        self.partition = partition

    def describe(self) -> Task:
        """Control or Alzheimer's disease from three vectors of 200 numbers."""
        modalities = tuple(Modality(name, "vector", (WIDTH,)) for name in OMICS)
        return Task("single_label", modalities, ("control", "alzheimer"))

    def load(self, split: Split) -> Samples:
        """Read one split; everything is present.

        Raises:
            ValueError: If a file is not there or is not laid out as described.
        """
        parts = [self._read(part) for part in PARTS]
        target = np.concatenate([labels for _, labels in parts])
        sample_id = np.arange(len(target), dtype=np.int64)
        if self.partition == "folds":
            part = stratified(
                sample_id, target, val=VAL, test=1 / self.folds, fold=self.fold, folds=self.folds
            )
            rows = rows_of(part, split)
        else:
            n_train = len(parts[0][1])
            train, rest = sample_id[:n_train], sample_id[n_train:]
            part = stratified(train, target[:n_train], val=VAL, test=0.0)
            rows = rest if split == "test" else rows_of(part, split)
        return Samples(
            modalities=tuple(OMICS),
            inputs={
                name: np.concatenate([inputs[name] for inputs, _ in parts])[rows] for name in OMICS
            },
            target=target[rows],
            sample_id=sample_id[rows],
            presence=np.ones((len(rows), len(OMICS)), bool),
        )

    def _read(
        self, part: str
    ) -> tuple[dict[str, Float32[np.ndarray, "row feature"]], Int[np.ndarray, " row"]]:
        paths = {name: locate(self.root, f"rosmap/{k}_{part}.csv") for name, k in OMICS.items()}
        inputs = {name: read_matrix(path, width=WIDTH) for name, path in paths.items()}
        path = locate(self.root, f"rosmap/labels_{part}.csv")
        labels = read_matrix(path, width=1)[:, 0]
        same_length({str(path): len(labels)} | {str(paths[k]): len(x) for k, x in inputs.items()})
        return inputs, class_numbers(labels, classes=2, first=0, what=str(path))
