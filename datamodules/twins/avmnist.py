"""A twin of AV-MNIST: each digit has its place and its pitch."""

import wave
from pathlib import Path

import numpy as np

from datamodules.twins._parts import sign

SPEAKERS, TAKES = ("ann", "bob"), 14  # takes 0 to 4 test, 5 to 9 validation
PICTURES = {"train": 25, "t10k": 12}  # of each digit
RATE_HZ = 8_000


def write(root: Path, *, seed: int = 0) -> None:
    """Write 280 recordings and 370 pictures, 1 MB."""
    rng = np.random.default_rng(seed)
    mnist, recordings = root / "avmnist" / "mnist", root / "avmnist" / "fsdd" / "recordings"
    for folder in (mnist, recordings):
        folder.mkdir(parents=True)
    sign(root / "avmnist", seed)
    for part, each in PICTURES.items():
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), each))
        pictures = rng.integers(0, 120, (len(labels), 28, 28), np.uint8)
        for picture, digit in zip(pictures, labels, strict=True):
            row, column = divmod(int(digit), 4)
            picture[4 + 8 * row : 10 + 8 * row, 2 + 6 * column : 8 + 6 * column] += 90
            picture += np.uint8(4 * digit)
        _write_idx(mnist / f"{part}-images-idx3-ubyte", pictures)
        _write_idx(mnist / f"{part}-labels-idx1-ubyte", labels)
    for digit in range(10):
        for speaker in SPEAKERS:
            for take in range(TAKES):
                time = np.arange(rng.integers(1_200, 2_400)) / RATE_HZ
                tone = np.sin(2 * np.pi * (300 + 200 * digit + rng.normal(0, 40)) * time)
                sound = (0.05 + 0.04 * digit) * tone + rng.normal(0, 0.1, len(time))
                with wave.open(str(recordings / f"{digit}_{speaker}_{take}.wav"), "wb") as file:
                    file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
                    file.writeframes((sound.clip(-1, 1) * 32_767).astype("<i2").tobytes())


def _write_idx(path: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(head + values.tobytes())
