"""Pictures and texts with a weak signal, and the note that tells a twin from the real set."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

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
