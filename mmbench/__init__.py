"""mmbench: a benchmark suite for multimodal learning with missing modalities.

`Sweep` is a suite with its runs; `load` gives back the trained method of a run that kept its
weights. Importing this package imports no torch.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:  # what tools read; Python looks names up below
    from mmbench.sweep import Sweep as Sweep
    from mmbench.trained import load as load

    __version__: str

HOMES = {"Sweep": "mmbench.sweep", "load": "mmbench.trained"}


def __getattr__(name: str) -> object:
    """Look a name up where it is defined, when it is asked for."""
    import importlib
    import importlib.metadata

    if name == "__version__":
        return importlib.metadata.version("mmbench")
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'mmbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names for completion."""
    return [*globals(), *HOMES, "__version__"]
