"""Features of instances, one file a sample: patches of a slide, sentences of a report."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data.files import reading
from mmbench.data.sample_files import read_array


def read_bag(path: Path) -> NDArray[Any]:
    """Read the instances of one sample: (instance, feature) real numbers, in the type of the file.

    Args:
        path: `.npy`; `.pt` of one tensor or numpy array, read without running what else a pickle
            may hold; or `.h5` with the data set `features`, as CLAM writes it (needs h5py).

    Returns:
        Its array; axes of size 1 in front are left out, and a single vector is one instance.

    Raises:
        ValueError: If it is none of these, is empty, or holds NaN or infinity.
    """
    if path.suffix == ".npy":
        instances = read_array(path)
    elif path.suffix == ".pt":
        instances = _read_tensor(path)
    else:
        instances = _read_hdf5(path)
    while instances.ndim > 2 and len(instances) == 1:
        instances = instances[0]
    instances = instances[None] if instances.ndim == 1 else instances
    if instances.ndim != 2 or instances.dtype.kind not in "iuf" or not instances.size:
        raise ValueError(
            f"{path} holds {instances.shape} of {instances.dtype}, but (instance, feature) numbers "
            "are expected"
        )
    if not np.isfinite(instances).all():
        row = int(np.argwhere(~np.isfinite(instances))[0][0])
        raise ValueError(f"{path}: instance {row} holds NaN or infinity")
    return instances


def _read_tensor(path: Path) -> NDArray[Any]:
    import torch
    from torch.serialization import safe_globals

    types = [type(np.dtype(one)) for one in ("f2", "f4", "f8", "i4", "i8", "u1")]
    made: Any = np.empty(0).__reduce__()[0]  # what arrays are pickled by; numpy 1 called it so, too
    admitted = [np.ndarray, np.dtype, made, (made, "numpy.core.multiarray._reconstruct"), *types]
    with reading(path, "file of one tensor"), safe_globals(admitted):
        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, torch.Tensor):
            return content.detach().numpy()
        if not isinstance(content, np.ndarray):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content


def _read_hdf5(path: Path) -> NDArray[Any]:
    with reading(path, "HDF5 file with the data set features"):
        try:
            import h5py
        except ImportError as error:
            raise ValueError("the package for it is missing; pip install h5py") from error
        with h5py.File(path, "r") as file:
            link = file.get("features", getlink=True)
            if not isinstance(link, h5py.HardLink):  # another file may be anybody's
                raise ValueError(f"it has {', '.join(file) or 'nothing'}, not features of its own")
            features = file["features"]
            if not isinstance(features, h5py.Dataset) or features.external or features.is_virtual:
                raise ValueError("features is no data set of its own")
            instances: NDArray[Any] = features[()]
    return instances


def drawn(instances: NDArray[Any], most: int, seed: int) -> NDArray[Any]:
    """At most so many instances, in their order; which of them, the seed says.

    Args:
        instances: (instance, feature).
        most: Instances that are left, >= 1.
        seed: Of the choice, such as a hash of the sample's name.
    """
    if len(instances) <= most:
        return instances
    rows = np.random.default_rng(seed).choice(len(instances), most, replace=False)
    return instances[np.sort(rows)]
