"""Made-up files in the layouts of the data sets that users bring, so that tests need no data.

Each function writes one data set below a folder, smaller than the real one but with its files,
widths, classes and gaps, and with a signal in every modality.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import io, sparse

from mmbench.registry import DATASETS

Write = Callable[[Path, np.random.Generator], None]


def signal(rng, target, width, *, scale=1.0):
    """Features of which a third move with the class."""
    centres = rng.standard_normal((int(target.max()) + 1, width))
    centres[:, width // 3 :] = 0
    return scale * (2 * centres[target] + rng.standard_normal((len(target), width)))


def counts(rng, target, width):
    """Word counts: sparse, small, whole, no row empty; each class has words of its own."""
    classes = int(target.max()) + 1
    rate = np.full((classes, width), 0.02)
    for c in range(classes):
        rate[c, c * 40 : (c + 1) * 40] = 1.0
    x = rng.poisson(rate[target]).astype(np.float64)
    x[np.arange(len(x)), target * 40] += 1
    return x


def write_rosmap(root: Path, rng: np.random.Generator) -> None:
    """60 and 24 persons, features in 0..1."""
    folder = root / "rosmap"
    folder.mkdir(parents=True)
    target = rng.permutation(np.arange(84) % 2)
    for k in (1, 2, 3):
        x = signal(rng, target, 200)
        x = (x - x.min(axis=0)) / (x.max(axis=0) - x.min(axis=0))
        np.savetxt(folder / f"{k}_tr.csv", x[:60], delimiter=",")
        np.savetxt(folder / f"{k}_te.csv", x[60:], delimiter=",")
    np.savetxt(folder / "labels_tr.csv", target[:60].astype(float))
    np.savetxt(folder / "labels_te.csv", target[60:].astype(float))


def write_three_sources(root: Path, rng: np.random.Generator) -> None:
    """120 stories; how often a source is absent depends on the topic."""
    target = rng.permutation(np.arange(120) % 6)
    present = rng.random((120, 3)) > 0.15 + 0.07 * target[:, None]
    present[~present.any(axis=1), 0] = True
    present[:6] = True  # no matter what the draw, the widest pattern is there
    content = {
        f"V{k + 1}": (counts(rng, target, width) * present[:, [k]]).astype(np.uint8)
        for k, width in enumerate((3560, 3631, 3068))
    }
    content |= {"ind": present.astype(np.uint8), "label": (target + 1).astype(np.uint8)[:, None]}
    _save(root / "three_sources" / "Data_3Sources.mat", content)


def write_hundred_leaves(root: Path, rng: np.random.Generator) -> None:
    """100 species x 8 leaves."""
    target = np.repeat(np.arange(100), 8)
    cells = np.empty((1, 3), object)
    for k in range(3):
        cells[0, k] = np.abs(signal(rng, target, 64, scale=0.01))
    label = (target + 1).astype(np.uint8)[:, None]
    _save(root / "hundred_leaves" / "100Leaves.mat", {"X": cells, "Y": label})


def write_bbc4view(root: Path, rng: np.random.Generator) -> None:
    """60 articles in four sparse matrices."""
    target = rng.permutation(np.arange(60) % 5)
    cells = np.empty((1, 4), object)
    for k, width in enumerate((4659, 4633, 4665, 4684)):
        cells[0, k] = sparse.csc_array(counts(rng, target, width))
    label = (target + 1).astype(np.uint8)[:, None]
    _save(root / "bbc4view" / "BBC4view_685.mat", {"X": cells, "Y": label})


def write_breast_tcga(root: Path, rng: np.random.Generator) -> None:
    """40 and 20 tumours; no protein in the test part. Needs the package rdata."""
    import rdata
    import xarray
    from rdata.conversion.to_r import DEFAULT_CLASS_MAP

    def matrix(data, converter):
        found = converter.convert_to_r_object(data.values.ravel(order="F"))
        names = [np.array(data.coords[axis].values, dtype=str) for axis in data.dims]
        shape = np.array(data.shape, dtype=np.int32)
        found.info.attributes = True
        found.attributes = converter.convert_to_r_attributes({"dim": shape, "dimnames": names})
        return found

    target = rng.permutation(np.arange(60) % 3)
    blocks = {
        name: signal(rng, target, width)
        for name, width in (("mirna", 184), ("mrna", 200), ("protein", 142))
    }
    names = [f"A{k:03d}" for k in range(60)]

    def part(rows, without=()):
        content = {
            name: xarray.DataArray(
                x[rows],
                dims=("dim_0", "dim_1"),
                coords={
                    "dim_0": names[rows],
                    "dim_1": [f"{name}-{j}" for j in range(x.shape[1])],
                },
            )
            for name, x in blocks.items()
            if name not in without
        }
        subtype = np.array(["Basal", "Her2", "LumA"])[target[rows]]
        return content | {"subtype": pd.Categorical(subtype)}

    path = root / "breast_tcga" / "breast.TCGA.rda"
    path.parent.mkdir(parents=True)
    rdata.write_rda(
        path,
        {
            "breast.TCGA": {
                "data.train": part(slice(0, 40)),
                "data.test": part(slice(40, 60), without=("protein",)),
            }
        },
        constructor_dict={**DEFAULT_CLASS_MAP, xarray.DataArray: matrix},
    )


def _save(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True)
    io.savemat(path, content)


def _shipped(name: str) -> Write:
    """Writes the twin that comes with a data set."""

    def write(root: Path, rng: np.random.Generator) -> None:
        DATASETS.get(name).write_twin(root, seed=int(rng.integers(2**31)))

    return write


WRITE: dict[str, Write] = {
    "cmu_mosi": _shipped("cmu_mosi"),
    "rosmap": write_rosmap,
    "three_sources": write_three_sources,
    "breast_tcga": write_breast_tcga,
    "hundred_leaves": write_hundred_leaves,
    "bbc4view": write_bbc4view,
}


# sets that bring a twin of their own
TWINS: dict[str, Write] = {
    name: _shipped(name)
    for name in (
        "adni", "avmnist", "derm7pt", "enrico", "food101", "harvard_glaucoma", "hateful_memes",
        "mimic_iv", "mmc_amd", "mmimdb", "tcga",
    )
}  # fmt: skip
