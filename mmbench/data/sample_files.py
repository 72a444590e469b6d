"""Pictures, sounds and arrays that lie in files of their own, one a sample."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mmbench.data.files import reading
from mmbench.data.frames import Frame, require_unique
from mmbench.data.sound import SOUNDS
from mmbench.data.task import WITH_LENGTHS, Kind
from mmbench.data.unpacking import TooLargeError, require_size

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
ARRAY = ".npy"
BAGS = (ARRAY, ".pt", ".h5")
FileKind = Kind | Literal["sound"]  # what files hold: sounds are read as sequences
NAMED = 5  # bad samples that a note names
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "La", "RGBa", "RGBX")


@dataclass(frozen=True)
class SampleFiles:
    """Which file each id has.

    Args:
        ids: As text, unique.
        files: One an id.
        places: Where each is named, for messages.
        notes: What was left out, a line each.
    """

    ids: "pd.Index[str]"
    files: Sequence[Path]
    places: Sequence[str]
    notes: Sequence[str]


class Skipped:
    """Bad samples, of which some may pass; they are counted and named in `notes`.

    Args:
        most: Of them that may pass.
        name: Of what holds them.
    """

    def __init__(self, most: int, name: str) -> None:
        self.most = most
        self.name = name
        self.messages: list[str] = []

    @contextmanager
    def may_fail(self, place: str) -> Iterator[None]:
        """Let a sample be bad, if not too many were.

        Args:
            place: Where it is named, for messages.

        Raises:
            ValueError: If too many were; the message names it.
        """
        try:
            yield
        except TooLargeError:  # no fault of the file's, maybe: the setting decides
            raise
        except ValueError as error:
            message = str(error) if place in str(error) else f"{place}: {error}"
            self.messages.append(message)
            if len(self.messages) > self.most:
                already = f"; {self.most} bad samples passed before" if self.most else ""
                raise ValueError(
                    f"{message}{already} (skip_bad: {len(self.messages)} lets it pass)"
                ) from error

    @property
    def notes(self) -> list[str]:
        """A line that says how many passed and names some; none if there were none."""
        if not self.messages:
            return []
        more = f", and {len(self.messages) - NAMED} more" if len(self.messages) > NAMED else ""
        return [
            f"{self.name}: {len(self.messages)} bad samples left out by skip_bad: {self.most}: "
            f"{'; '.join(self.messages[:NAMED])}{more}"
        ]


def endings_of(kind: FileKind) -> tuple[str, ...]:
    """Endings of the files of samples of a kind: pictures, sounds, bags, else `.npy` arrays."""
    return {"image": PICTURES, "sound": SOUNDS, "bag": BAGS}.get(kind, (ARRAY,))


def in_folder(folder: Path, kind: FileKind) -> SampleFiles:
    """Files of a folder that are named by id, see `endings_of`.

    Raises:
        ValueError: If there are none, or two have one id.
    """
    endings = endings_of(kind)
    every = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in every if path.is_file() and path.suffix.lower() in endings]
    if not files:
        raise ValueError(
            f"{folder} has no file named by id that ends in {', '.join(endings)}, as a folder of "
            f"kind {kind} has"
        )
    ids = pd.Index([path.stem.strip() for path in files], dtype=object)
    require_unique(ids, folder)
    others = [path.name for path in every if path not in set(files)]
    notes = [f"{folder.name}: {len(others)} others left out, such as {others[0]}"] if others else []
    return SampleFiles(ids, files, [str(path) for path in files], notes)


def in_column(frame: Frame, root: Path, kind: FileKind) -> SampleFiles:
    """Files whose paths one column names; a sample whose cell is empty has none.

    Args:
        frame: With a single column beside the ids.
        root: What the paths start from, unless they are absolute.
        kind: Of what they hold, for messages.

    Raises:
        ValueError: If there is another number of columns.
    """
    if len(frame.names) != 1:
        raise ValueError(
            f"{frame.path} has the columns {[*frame.names]} beside the id, but of kind {kind} one "
            f"column of paths to {'pictures' if kind == 'image' else 'sounds'} is expected"
        )
    names = frame.text(frame.names[0])
    filled = (names != "").to_numpy(bool)
    frame = frame.take(filled)
    return SampleFiles(
        frame.ids,
        [root / name for name in names[filled].tolist()],
        frame.places,
        frame.notes,
    )


def read_picture(path: Path, size: tuple[int, int] | None) -> UInt8[np.ndarray, "3 height width"]:
    """Read a picture in colour: turned as its camera held it, on white where it is transparent.

    Args:
        path: Of any format with 8 bits a channel; of several frames the first.
        size: Height and width that it is brought to, its proportions changed if need be, by
            bicubic interpolation over all pixels that fall together; None = as it is.

    Raises:
        ValueError: If it is no picture, has more than 8 bits, or is too large to be meant.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    with reading(path, "picture"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the next line is stricter
        with Image.open(path) as image:
            require_size(path, 3 * image.width * image.height)
            if image.mode not in EIGHT_BIT:
                raise ValueError(
                    f"its pixels are of {image.mode}, not 8 bits a channel; write numbers into an "
                    "npz file"
                )
            ImageOps.exif_transpose(image, in_place=True)
            return pixels_of(image, size)


def pixels_of(
    image: Image.Image, size: tuple[int, int] | None
) -> UInt8[np.ndarray, "3 height width"]:
    """Colours of an image, see `read_picture`."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    colour = image.convert("RGB")
    if size is not None and colour.size != size[::-1]:
        colour = colour.resize(size[::-1], Image.Resampling.BICUBIC)
    pixels: NDArray[np.uint8] = np.asarray(colour).transpose(2, 0, 1)
    return pixels


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of pictures from what a user wrote.

    Raises:
        ValueError: If it is neither a side nor height and width.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"size must be a side or height and width, each >= 1, found {size}")
    return pair[0], pair[1]


def read_array(path: Path) -> NDArray[Any]:
    """Map an array; no pickles.

    Raises:
        ValueError: If it is none, or claims more than the file has.
    """
    with reading(path, "npy file of a plain array"):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if not array.ndim:
        raise ValueError(f"{path} holds a single value, but an array is expected")
    return array


def require_alike(
    array: NDArray[Any], file: Path, first: tuple[Path, NDArray[Any]], kind: Kind
) -> None:
    """Refuse an array that does not go together with the first of its modality.

    Raises:
        ValueError: If so.
    """
    free = kind in WITH_LENGTHS
    name, other = first[0].name, first[1]
    if array.shape[free:] != other.shape[free:] or array.dtype.kind != other.dtype.kind:
        raise ValueError(
            f"{file} holds {array.shape} of {array.dtype}, but {name} {other.shape} of "
            f"{other.dtype}; of kind {kind}, "
            + ("all but the first axis" if free else "all shapes")
            + " must be the same"
        )


def stacked(arrays: Sequence[NDArray[Any]], files: Sequence[Path], kind: Kind) -> dict[str, Any]:
    """Arrays side by side, as an npz file has them: `x` and, where they differ in it, `length`.

    Raises:
        ValueError: If their shapes or types do not go together.
    """
    if not arrays:
        raise ValueError("no array is readable")
    first = arrays[0]
    for array, file in zip(arrays, files, strict=True):
        require_alike(array, file, (files[0], first), kind)
    if kind not in WITH_LENGTHS:
        return {"x": np.stack(arrays)}
    length = np.array([len(array) for array in arrays])
    dtype = np.result_type(*{array.dtype for array in arrays})
    x = np.zeros((len(arrays), length.max(), *first.shape[1:]), dtype)
    for row, array in enumerate(arrays):
        x[row, : len(array)] = array
    return {"x": x, "length": length}
