"""Features of instances, one file a sample: patches of a slide, sentences of a report.

All instances lie one sample after another in a mapped file, in the type of the files. Of a sample
that has more than `most`, so many are drawn when it is read: in training others every epoch, in
validation and test always the same. So a draw costs a gather, and padding no disk.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from numpy.typing import NDArray

from mmbench.data.files import reading
from mmbench.data.hashing import hashed
from mmbench.data.mapped import MappedRows
from mmbench.data.parsed import Arrays, Room, refused
from mmbench.data.sample_files import read_array
from mmbench.data.unpacking import TooLargeError

MOST = 2048  # instances of a sample that are read, unless the user says otherwise


class Bags(MappedRows):
    """Instances of samples, of each at most so many, zeros beyond the last; as an array.

    Args:
        values: (instance, feature) of all samples, one after another.
        count: (sample,) how many each has; 0 = it is absent.
        key: (sample,) whose draws they are, such as hashes of the samples' names.
        most: Instances that are drawn of a sample that has more, >= 1.
    """

    def __init__(
        self,
        values: Shaped[np.ndarray, "instance feature"],
        count: Int[np.ndarray, " sample"],
        key: Int[np.ndarray, " sample"],
        *,
        most: int,
    ) -> None:
        super().__init__(values, np.cumsum(count) - count)  # where those of each begin
        self.count, self.key, self.most = count, key, most
        self.width = min(most, int(count.max()))  # that all are padded to

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        return len(self.rows), self.width, self.values.shape[1]

    @property
    def ndim(self) -> int:
        """As of an array."""
        return 3

    @property
    def cut(self) -> int:
        """Samples that have more instances than are read of them."""
        return int((self.count > self.most).sum())

    @property
    def length(self) -> Int[np.ndarray, " sample"]:
        """Instances that are read of each sample; 1 where it is absent."""
        length: NDArray[np.int64] = self.count.clip(1, self.most)
        return length

    def take(self, some: NDArray[Any]) -> "Bags":
        """See `MappedRows`; padded as before."""
        other = copy.copy(self)
        other.rows, other.count, other.key = self.rows[some], self.count[some], self.key[some]
        return other

    def read(
        self, samples: Int[np.ndarray, " row"], view: Int[np.ndarray, " row"] | None = None
    ) -> Shaped[np.ndarray, "row instance feature"]:
        """Instances of some samples, in their order.

        Args:
            samples: Their positions.
            view: Which draw of each; None = the one for validation and test.
        """
        count = self.count[samples]
        draw = np.zeros(len(samples), np.int64) if view is None else view
        place = np.tile(np.arange(self.width), (len(samples), 1))
        if (more := count > self.most).any():
            place[more] = _drawn(count[more], self.key[samples][more], draw[more], self.most)
        valid = np.arange(self.width) < count[:, None]
        x = np.zeros((*place.shape, self.values.shape[1]), self.dtype)
        x[valid] = self.gathered((self.rows[samples][:, None] + place)[valid])
        return x

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Entries as of an array, read from the file now."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is None or first is Ellipsis:
            return np.asarray(np.asarray(self)[key])
        samples = np.arange(len(self))[first]
        x = self.read(np.atleast_1d(samples))
        if not samples.ndim:
            return np.asarray(x[(0, *rest)])
        whole = slice(None) if isinstance(first, slice) else np.arange(len(samples))
        return np.asarray(x[(whole, *rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All samples, read into memory.

        Raises:
            ValueError: If a view is asked for, which there is not.
        """
        if copy is False:
            raise ValueError("bags of a mapped file have no array that could be referred to")
        return np.asarray(self.read(np.arange(len(self))), dtype)


def _drawn(
    count: Int[np.ndarray, " bag"],
    key: Int[np.ndarray, " bag"],
    view: Int[np.ndarray, " bag"],
    most: int,
) -> Int[np.ndarray, "bag most"]:
    """Places of the instances with the smallest random numbers, ascending; each bag has more."""
    place = torch.arange(int(count.max()))
    bits = hashed(torch.from_numpy(key)[:, None], torch.from_numpy(view)[:, None], place)
    bits = bits.masked_fill(place >= torch.from_numpy(count)[:, None], torch.iinfo(bits.dtype).max)
    chosen: NDArray[np.int64] = bits.topk(most, largest=False).indices.sort().values.numpy()
    return chosen


def read_bags(
    files: Sequence[Path], room: Room, refuse: Callable[[int, ValueError], None] = refused
) -> Arrays:
    """Read the instances of many samples, one sample after another, where there is room.

    Args:
        files: Of a sample each, see `read_bag`; every one is read twice.
        room: For the array.
        refuse: Called with the number of a file that cannot be read, and why; it raises unless
            that may pass.

    Returns:
        `instances` (instance, feature) in the type of the files, and `count` (file,), 0 = it was
        refused.

    Raises:
        ValueError: If none can be read; and what `refuse` raises.
    """
    count = np.zeros(len(files), np.int64)
    first: tuple[Path, int, np.dtype[Any]] | None = None
    for number, file in enumerate(files):
        room.held.require()
        try:
            bag = read_bag(file)
            first = first or (file, bag.shape[1], bag.dtype)
            if (bag.shape[1], bag.dtype) != first[1:]:
                raise ValueError(
                    f"{file} has {bag.shape[1]} features of {bag.dtype}, but {first[0].name} "
                    f"{first[1]} of {first[2]}"
                )
        except TooLargeError:
            raise
        except ValueError as error:
            refuse(number, error)
        else:
            count[number] = len(bag)
    if first is None:
        raise ValueError("no file of instances is readable")
    some = np.flatnonzero(count)
    x = room.decode(
        "instances",
        (int(count.sum()), first[1]),
        first[2],
        [files[number] for number in some.tolist()],
        read_bag,
        starts=np.cumsum(count[some]) - count[some],
    )
    return {"instances": x, "count": count}


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
