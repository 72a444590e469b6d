"""Reads the data sets that ship inside the package."""

import hashlib
import io
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray


@cache
def read(name: str, checksum: str) -> Mapping[str, NDArray[Any]]:
    """Read a file of arrays, once in a process; whoever gets them must not write into them.

    Args:
        name: Data set, "openmoji".
        checksum: SHA-256 that the file must have, in hexadecimal.

    Raises:
        ValueError: If the file is missing or is not the one that was published.
    """
    path = files("datamodules") / "assets" / f"{name}.npz"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} is not there; install mmbench again") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != checksum:
        raise ValueError(
            f"{path} is damaged: its SHA-256 should begin with {checksum[:12]}, but begins with "
            f"{actual[:12]}; install mmbench again"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)
