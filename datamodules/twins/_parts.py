"""Parts of twins with a signal, and the note that tells a twin from the real set."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from scipy import io

SIDE = 32  # pixels
COMMON = ("the", "of", "with", "a", "very", "on", "my", "and", "some", "good", "old", "day")


def sign(folder: Path, seed: int) -> None:
    """Say in the folder of a set that it is generated."""
    name = folder.name
    (folder / "TWIN.txt").write_text(
        f"These files are generated and only look like {name}: no number on them is about it.\n"
        f"Written by `mmbench data twin {name} --seed {seed}`.\n",
        encoding="utf-8",
    )


def values(
    rng: np.random.Generator, number: int, classes: int, shape: tuple[int, ...] = (SIDE, SIDE)
) -> Float[np.ndarray, "*shape"]:
    """Noise in 0..255 whose mean rises with the class."""
    mean = 60 + 130 * number / max(classes - 1, 1) + rng.normal(0, 25)
    return np.clip(mean + rng.normal(0, 30, shape), 0, 255)


def picture(
    rng: np.random.Generator, number: int, classes: int, shape: tuple[int, int] = (SIDE, SIDE)
) -> Image.Image:
    """A picture whose colour depends on the class, with noise of the same size."""
    angle = 2 * np.pi * (number / classes + np.arange(3) / 3)
    colour = 128 + 70 * np.cos(angle) + rng.normal(0, 30, 3)
    pixels = np.clip(colour + rng.normal(0, 30, (*shape, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def text(rng: np.random.Generator, number: int, *, stem: str = "word", length: int = 8) -> str:
    """Words of which two of three texts have some of their class's own."""
    chosen = list(rng.choice(COMMON, length))
    if rng.random() < 2 / 3:
        for place in rng.integers(0, length, 2):
            chosen[place] = f"{stem}{number}"
    return " ".join(chosen)


def signal(
    rng: np.random.Generator, target: Int[np.ndarray, " sample"], width: int, *, scale: float = 1.0
) -> Float[np.ndarray, "sample feature"]:
    """Features of which a third move with the class."""
    centres = rng.standard_normal((int(target.max()) + 1, width))
    centres[:, width // 3 :] = 0
    features: NDArray[np.float64] = scale * (
        2 * centres[target] + rng.standard_normal((len(target), width))
    )
    return features


def word_counts(
    rng: np.random.Generator, target: Int[np.ndarray, " sample"], width: int
) -> Float[np.ndarray, "sample word"]:
    """Small whole numbers, most of them 0, no row empty; each class has 40 words of its own."""
    classes = int(target.max()) + 1
    rate = np.full((classes, width), 0.02)
    for number in range(classes):
        rate[number, number * 40 : (number + 1) * 40] = 1.0
    x: NDArray[np.float64] = rng.poisson(rate[target]).astype(np.float64)
    x[np.arange(len(x)), target * 40] += 1
    return x


def save_matlab(path: Path, content: dict[str, Any]) -> None:
    """Write a MATLAB file whose header tells no time, so that equal contents are equal bytes."""
    path.parent.mkdir(parents=True)
    io.savemat(path, content)
    with path.open("r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file".ljust(116))
