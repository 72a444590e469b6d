"""A twin of the three TCGA cohorts, narrow and few."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from datamodules.twins._parts import sign

PATIENTS, SECOND_SLIDES = 60, 12
WIDTH, GENES, PROTOTYPES = 24, 40, 16  # 1,024, 4,999 and 16 of the real ones
FOLDS = 5
COHORTS = {
    "BRCA": {"IDC": "invasive ductal carcinoma", "ILC": "invasive lobular carcinoma"},
    "RCC": {"CCRCC": "clear cell carcinoma", "PRCC": "papillary carcinoma"},
    "NSCLC": {"LUSC": "squamous cell carcinoma", "LUAD": "adenocarcinoma"},
}
HINTS = (("glandular", "fibrous", "large"), ("solid", "linear", "small"))


def write(root: Path, *, seed: int = 0) -> None:
    """Write three cohorts of 72 slides of 60 patients, 3 MB; some lack patches, RNA or a report."""
    for number, (cohort, classes) in enumerate(COHORTS.items()):
        _cohort(root / "tcga" / cohort, classes, np.random.default_rng([seed, number]))
    sign(root / "tcga", seed)


def _cohort(folder: Path, classes: dict[str, str], rng: np.random.Generator) -> None:
    names = list(classes)
    target = rng.permutation(np.arange(PATIENTS) % 3 == 0).astype(int)
    patients = [f"TCGA-{rng.integers(36**2):02X}"[:7] + f"-{k:04X}" for k in range(PATIENTS)]
    of = [*range(PATIENTS), *rng.choice(PATIENTS, SECOND_SLIDES, replace=False)]
    slides = [f"{patients[k]}-01Z-00-DX{1 + (n >= PATIENTS)}.{n:08X}" for n, k in enumerate(of)]
    label = [names[target[k]] for k in of]
    for name in ("feats_pt_wsi", "proto_save_wsi", "proto_save_text", "global_text"):
        (folder / name).mkdir(parents=True)
    lean = rng.standard_normal((2, 4, WIDTH)) + np.array([-0.2, 0.2])[:, None, None]
    for n, (slide, k) in enumerate(zip(slides, of, strict=True)):
        middle = lean[target[k]]
        if n % 10 != 3:
            _save(folder / "feats_pt_wsi", slide, _around(middle[0], int(rng.integers(8, 30)), rng))
            _save(folder / "proto_save_wsi", slide, _around(middle[1], PROTOTYPES, rng))
        if k % 8 != 5:
            _save(folder / "proto_save_text", slide, _around(middle[2], PROTOTYPES, rng))
            torch.save(_around(middle[3], 1, rng), folder / "global_text" / f"{slide}.pt")
    table = pd.DataFrame({"slide_id": slides, "label": label})
    table.to_csv(folder / "labels.csv", index=False)
    table = table.rename(columns={"slide_id": "filename"})
    fold = rng.permutation(np.arange(PATIENTS) % FOLDS)[of]
    for k in range(FOLDS):
        table[fold != k].to_csv(folder / f"train_fold_{k}.csv", index=False)
        table[fold == k].to_csv(folder / f"test_fold_{k}.csv", index=False)
    genes = rng.gamma(2, 1, (PATIENTS, GENES))
    genes[:, : GENES // 4] += 1.5 * target[:, None]
    rna = pd.DataFrame(genes.round(4), columns=[f"GENE{k}" for k in range(GENES)])
    rna.insert(0, "index", [f"{one}-01A-11R-A0{k:02d}-07" for k, one in enumerate(patients)])
    rna[np.arange(PATIENTS) % 6 > 0].to_csv(folder / "rna_all.csv", index=False)
    reports = [
        f"Diagnosis: {classes[names[c]]}. Tissue is {', '.join(rng.choice(HINTS[c], 2))} and "
        f"{rng.choice(HINTS[0] + HINTS[1])}; margins {rng.choice(['free', 'involved'])}."
        for c in target
    ]
    text = pd.DataFrame(
        {"patient_filename": [f"{one}.0-UUID" for one in patients], "text": reports}
    )
    text[np.arange(PATIENTS) % 8 != 5].to_csv(folder / "reports.csv", index=False)


def _around(middle: NDArray[Any], rows: int, rng: np.random.Generator) -> NDArray[np.float32]:
    instances: NDArray[np.float32] = (middle + 2 * rng.standard_normal((rows, WIDTH))).astype(
        np.float32
    )
    return instances


def _save(folder: Path, slide: str, values: NDArray[np.float32]) -> None:
    torch.save(torch.from_numpy(values), folder / f"{slide}.pt")
