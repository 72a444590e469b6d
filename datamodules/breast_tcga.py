"""TCGA breast tumours: three omics, one of which no test sample has."""

from typing import Any, ClassVar

import numpy as np

from mmbench.data.files import dense, locate, reading, same_length
from mmbench.data.samples import Samples, Split
from mmbench.data.splits import rows_of, stable_ids, stratified
from mmbench.data.task import Modality, Task
from mmbench.data.unpacking import require_stream
from mmbench.datamodule import DataModule, Source

WIDTHS = {"mirna": 184, "mrna": 200, "protein": 142}
SUBTYPES = ("Basal", "Her2", "LumA")
FILE = "breast_tcga/breast.TCGA.rda"
VAL = 0.15


class BreastTCGA(DataModule):
    """microRNA, gene expression and protein of 220 breast tumours; mixOmics' selection.

    Format: one R data file, read by the optional package `rdata`. It holds a list `breast.TCGA`
    of `data.train` and `data.test`, each with matrices `mirna` (184), `mrna` (200) and, in
    training only, `protein` (142), tumours x features with tumour names as rows, and the
    factor `subtype`.

    Missing by nature: protein, for the whole test set. Training and validation have
    everything, so a model that is selected on validation as nature left it is selected for
    another situation than it is tested in; a scenario may hide protein there as well. No
    method has seen protein missing in training either, so the propensity of this pattern is
    zero and no weighting can correct for it.

    Classes: Basal 45 and 21, Her2 30 and 14, LumA 75 and 35 in train and test.

    Split: given, 150 / 70. It has no validation part; 15 % of the training tumours are taken
    for it, stratified, by a hash of the sample id, which is a hash of the tumour's name.
    """

    source = Source(
        citation="Rohart et al., mixOmics: An R package for 'omics feature selection and "
        "multiple data integration, PLoS Computational Biology 13, 2017; The Cancer Genome "
        "Atlas Network, Comprehensive molecular portraits of human breast tumours, Nature 490, "
        "2012",
        url="https://github.com/mixOmicsTeam/mixOmics",
        licence="GPL (the R package)",
    )
    files: ClassVar[tuple[str, ...]] = (FILE,)

    def describe(self) -> Task:
        """Three tumour subtypes from three vectors."""
        return Task(
            "single_label",
            tuple(Modality(name, "vector", (width,)) for name, width in WIDTHS.items()),
            SUBTYPES,
        )

    def load(self, split: Split) -> Samples:
        """Read one split; protein is absent where the file has none.

        Raises:
            ValueError: If `rdata` is not installed, or the file is not there or is not laid out
                as described.
        """
        samples = self._read("data.test" if split == "test" else "data.train")
        if split == "test":
            return samples
        part = stratified(samples.sample_id, samples.target, val=VAL, test=0.0)
        return samples.take(rows_of(part, split))

    def _read(self, name: str) -> Samples:
        path = locate(self.root, FILE)
        try:
            import rdata  # optional, and slow to import
        except ImportError as error:
            raise ValueError(
                f"{path} is an R data file and the package that reads it is missing; "
                "pip install rdata"
            ) from error
        with reading(path, "R data file"):
            require_stream(path)
        try:
            content: dict[str, Any] = rdata.read_rda(path)["breast.TCGA"][name]
            subtype = np.asarray(content["subtype"], dtype=str)
            names = [str(x) for x in content["mirna"].coords["dim_0"].values]
            rows_of_each = {m: content[m].coords["dim_0"].values for m in WIDTHS if m in content}
            rows = {f"{path} {name} {key}": len(x) for key, x in content.items()}
        except Exception as error:  # a damaged file may fail in any way
            raise ValueError(
                f"{path} is not laid out as breast.TCGA of mixOmics: no readable {name} with "
                f"mirna (named rows) and subtype ({type(error).__name__}: {error})"
            ) from error
        n = same_length(rows)
        if (bad := ~np.isin(subtype, SUBTYPES)).any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"{path} {name} row {row + 1}: subtype {subtype[row]!r} is none of "
                f"{', '.join(SUBTYPES)}"
            )
        for modality, ids in rows_of_each.items():
            if [str(x) for x in ids] != names:
                raise ValueError(
                    f"{path} {name}: the rows of {modality} are not the tumours of mirna, in order"
                )
        inputs, present = {}, {}
        for modality, width in WIDTHS.items():
            present[modality] = modality in content
            inputs[modality] = (
                dense(content[modality], width=width, what=f"{path} {name} {modality}")
                if present[modality]
                else np.zeros((n, width), np.float32)
            )
        return Samples(
            modalities=tuple(WIDTHS),
            inputs=inputs,
            target=np.searchsorted(SUBTYPES, subtype).astype(np.int64),
            sample_id=stable_ids(names),
            presence=np.tile(np.array(list(present.values())), (n, 1)),
        )
