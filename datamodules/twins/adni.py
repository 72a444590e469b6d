"""A twin of ADNI, with a small template and few people."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.adni import MASK, SCANS, SUBJECTS
from datamodules.twins._parts import sign

PEOPLE = 120
TEMPLATE = (12, 14, 12)  # 91 x 109 x 91 of the real one
SNPS = 30


def write(root: Path, *, seed: int = 0) -> None:
    """Write 120 people, 1 MB; all have clinical records, many no scan, genes or biospecimen."""
    rng = np.random.default_rng(seed)
    folder = root / "adni"
    for name in ("image", "genomic", "clinical", "biospecimen"):
        (folder / name).mkdir(parents=True)
    names = np.array([f"{k % 90:03d}_S_{1000 + k}" for k in range(PEOPLE)])
    stage = rng.permutation(np.arange(PEOPLE) % 3)
    label = pd.DataFrame({"PTID": names, "DIAGNOSIS": stage + 1})
    label.to_csv(folder / "label.csv", index=False)
    dealt = rng.permutation(names).tolist()
    parts = {"training": dealt[:84], "validation": dealt[84:102], "testing": dealt[102:]}
    (folder / "PTID_splits.json").write_text(json.dumps(parts))
    _write_scans(folder, names, stage, rng)

    def table(columns: dict[str, object], path: str, share: float) -> None:
        frame = pd.DataFrame({"PTID": names, **columns})
        frame[rng.random(PEOPLE) < share].to_csv(folder / path, index=False)

    snps = rng.binomial(2, (0.15 + 0.2 * (np.arange(SNPS) < 10) * stage[:, None]).clip(0, 1))
    genes = {f"rs{1000 + k}": snps[:, k] for k in range(SNPS)}
    table(genes, "genomic/genomic_merged.csv", 0.6)
    age = (70 + 4 * stage + rng.normal(0, 5, PEOPLE)).round(1)
    memory = np.where(rng.random(PEOPLE) < 0.2, np.nan, (28 - 3 * stage + rng.normal(0, 3, PEOPLE)))
    clinical = {
        "AGE": age, "MEMORY": memory.round(1), "PTGENDER": rng.integers(1, 3, PEOPLE),
        # as in the real files; each gives the diagnosis away
        "PTCOGBEG": np.where(stage > 0, 2000 + stage, np.nan), "PTADDX": 1.0 * (stage == 2),
        "PTADBEG_2004": 1.0 * (stage == 2), "PTADDDX": 9_999 - stage,
    }  # fmt: skip
    table(clinical, "clinical/clinical_merged.csv", 1.1)
    tau = (200 + 60 * stage + rng.normal(0, 60, PEOPLE)).round(1)
    amyloid = (1_200 - 250 * stage + rng.normal(0, 250, PEOPLE)).round(1)
    table({"TAU": tau, "ABETA42": amyloid}, "biospecimen/biospecimen_merged.csv", 0.5)
    sign(folder, seed)


def _write_scans(
    folder: Path, names: np.ndarray, stage: np.ndarray, rng: np.random.Generator
) -> None:
    """Scans of 70 % of the people, two of every third; the older one says nothing."""
    mask = np.zeros(TEMPLATE, np.uint8)
    mask[2:-2, 2:-2, 2:-2] = rng.choice(np.array([150, 10], np.uint8), (8, 10, 8), p=[0.6, 0.4])
    voxels = int((mask == 150).sum())
    shrinks = np.arange(voxels) < voxels // 3
    lines, scans = [], []
    for k in np.flatnonzero(rng.random(PEOPLE) < 0.7):
        for date in ("2011-03-01", "2009-10-05")[: 2 if k % 3 == 0 else 1]:
            newest = date.startswith("2011")
            lines.append(f"{names[k]}_{date}")
            scans.append(100 + rng.normal(0, 30, voxels) - 12 * stage[k] * newest * shrinks)
    np.save(folder / SCANS, np.array(scans, np.float32))
    (folder / SUBJECTS).write_text("\n".join(lines) + "\n")
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *TEMPLATE, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 2, 8)
    struct.pack_into("<f", head, 108, 352)
    head[344:348] = b"n+1\0"
    content = bytes(head) + mask.tobytes(order="F")
    (folder / MASK).write_bytes(gzip.compress(content, mtime=0))
