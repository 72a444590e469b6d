"""A twin of mixOmics' breast tumours, of fewer tumours."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.twins._parts import sign, signal

TRAIN, TEST = 40, 20
WIDTHS = {"mirna": 184, "mrna": 200, "protein": 142}
SUBTYPES = np.array(["Basal", "Her2", "LumA"])


def write(root: Path, *, seed: int = 0) -> None:
    """Write 40 and 20 tumours, 0.3 MB; the test part has no protein.

    Raises:
        ValueError: If the package `rdata` is missing.
    """
    try:
        import rdata
        import xarray
        from rdata.conversion.to_r import DEFAULT_CLASS_MAP
    except ImportError as error:
        raise ValueError(
            "the twin is an R data file and the package that writes it is missing; "
            "pip install rdata"
        ) from error
    rng = np.random.default_rng(seed)
    target = rng.permutation(np.arange(TRAIN + TEST) % len(SUBTYPES))
    blocks = {name: signal(rng, target, width) for name, width in WIDTHS.items()}
    tumours = [f"A{k:03d}" for k in range(TRAIN + TEST)]

    def part(rows: slice, names: tuple[str, ...]) -> dict[str, Any]:
        content: dict[str, Any] = {
            name: xarray.DataArray(
                blocks[name][rows],
                dims=("dim_0", "dim_1"),
                coords={
                    "dim_0": tumours[rows],
                    "dim_1": [f"{name}-{j}" for j in range(WIDTHS[name])],
                },
            )
            for name in names
        }
        return content | {"subtype": pd.Categorical(SUBTYPES[target[rows]])}

    folder = root / "breast_tcga"
    folder.mkdir(parents=True)
    parts = {
        "data.train": part(slice(0, TRAIN), ("mirna", "mrna", "protein")),
        "data.test": part(slice(TRAIN, None), ("mirna", "mrna")),
    }
    rdata.write_rda(
        folder / "breast.TCGA.rda",
        {"breast.TCGA": parts},
        compression="xz",
        constructor_dict={**DEFAULT_CLASS_MAP, xarray.DataArray: _matrix},
    )
    sign(folder, seed)


def _matrix(data: Any, converter: Any) -> Any:
    """A matrix of R, with names of its rows and columns."""
    matrix = converter.convert_to_r_object(data.values.ravel(order="F"))
    names = [np.array(data.coords[axis].values, dtype=str) for axis in data.dims]
    shape = np.array(data.shape, dtype=np.int32)
    matrix.info.attributes = True
    matrix.attributes = converter.convert_to_r_attributes({"dim": shape, "dimnames": names})
    return matrix
