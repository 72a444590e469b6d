"""Pickles of arrays and plain values, read without running what else a pickle may hold."""

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data.files import reading


class RefusedError(ValueError):
    """A pickle holds something else than arrays and plain values."""


def read_pickle(path: Path) -> Any:
    """Read a pickle that consists of numpy arrays, builtins and strings.

    Old ones of Python 2 as well, whose bytes are taken for latin-1.

    Raises:
        RefusedError: If it holds anything else; the message names it. Nothing of it has run.
        ValueError: If it is damaged.
    """
    with reading(path, "pickle of arrays and plain values"), path.open("rb") as file:
        try:
            return _Unpickler(file, encoding="latin1").load()
        except RefusedError as error:
            refused = str(error)
    raise RefusedError(
        f"{path} holds {refused}, which is neither a numpy array nor a plain value and may run any "
        "program when it is read; where you trust the file, take the arrays out of it with "
        "numpy.savez"
    )


def _encode(text: Any, encoding: Any) -> bytes:
    """What old protocols write bytes by."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"codecs.encode by {encoding!r}")
    return codecs.encode(text, "latin1")


# private names of numpy, which are what its arrays are pickled by: numpy 1 wrote `numpy.core`
_reconstruct: Any = np.empty(0).__reduce__()[0]
_scalar: Any = np.float32(0).__reduce__()[0]
_frombuffer: Any = np.zeros(1).__reduce_ex__(5)[0]

ADMITTED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.{module}", name): made
        for core in ("core", "_core")
        for module, name, made in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
    **{
        (module, cls.__name__): cls
        for module in ("builtins", "__builtin__")
        for cls in (set, frozenset, complex)
    },
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Look a global up among those that only make values."""
        if (module, name) not in ADMITTED:
            raise RefusedError(f"{module}.{name}")
        return ADMITTED[module, name]
