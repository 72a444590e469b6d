"""A twin of the glaucoma part of Harvard-FairVision."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.twins._parts import sign, values

SIZES = {"Training": 60, "Validation": 16, "Test": 24}
EMPTY = 12  # every so often a person lacks one of the two


def write(root: Path, *, seed: int = 0) -> None:
    """Write it below `root`, with volumes of 9 x 24 x 24 in place of 200 x 200 x 200."""
    rng = np.random.default_rng(seed)
    folder = root / "harvard_glaucoma"
    rows = ["filename,age,gender,race,ethnicity,language,maritalstatus,glaucoma,use"]
    number = 0
    for part, n in SIZES.items():
        (folder / part).mkdir(parents=True)
        for k in range(n):
            number += int(rng.integers(1, 5))
            label = int(rng.random() < 0.45)
            volume = values(rng, label, 2, (9, 24, 24)).astype(np.uint8)
            fundus = values(rng, label, 2, (24, 24)).astype(np.uint8)
            Image.fromarray(fundus.T).resize((66, 51)).save(folder / part / f"slo_{number:05d}.jpg")
            if k % EMPTY == EMPTY - 1:
                volume, fundus = (volume[:0], fundus) if k % 2 else (volume, fundus[:0])
            np.savez(
                folder / part / f"data_{number:05d}.npz",
                glaucoma=np.array(float(label)),
                oct_bscans=volume,
                slo_fundus=fundus,
                race=np.array(int(rng.integers(0, 3))),
                male=np.array(int(rng.integers(0, 2))),
                hispanic=np.array(int(rng.integers(0, 2))),
                maritalstatus=np.array(0),
                language=np.array(0),
            )
            said = "yes" if label else "no"
            rows.append(f"data_{number:05d}.npz,60,female,white,no,english,single,{said},{part}")
    (folder / "data_summary_glaucoma.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    sign(folder, seed)
