"""A twin of mixOmics' breast tumours, of fewer tumours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

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
            name: _Matrix(
                blocks[name][rows], tumours[rows], [f"{name}-{j}" for j in range(WIDTHS[name])]
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
        constructor_dict={**DEFAULT_CLASS_MAP, _Matrix: _in_r},
    )
    sign(folder, seed)


@dataclass(frozen=True)
class _Matrix:
    values: Float[np.ndarray, "row column"]
    rows: list[str]
    columns: list[str]


def _in_r(matrix: _Matrix, converter: Any) -> Any:
    """A matrix of R, with names of its rows and columns."""
    result = converter.convert_to_r_object(matrix.values.ravel(order="F"))
    names = [np.array(names, dtype=str) for names in (matrix.rows, matrix.columns)]
    shape = np.array(matrix.values.shape, dtype=np.int32)
    result.info.attributes = True
    result.attributes = converter.convert_to_r_attributes({"dim": shape, "dimnames": names})
    return result
