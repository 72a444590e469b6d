"""A twin of CMU-MOSI: features of utterances, and sequences in the form of MultiBench."""

import csv
import lzma
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from datamodules.twins._parts import sign

WIDTHS = {"text": 100, "audio": 73, "video": 100}
SEQUENCES = {"text": 300, "audio": 5, "vision": 20}
STEPS = 12  # 50 of the real ones
PARTS = {"train": 60, "valid": 20, "test": 30}


def write(root: Path, *, seed: int = 0) -> None:
    """Write 12 videos of 2 to 6 utterances, every fifth file compressed, and 110 as sequences."""
    rng = np.random.default_rng(seed)
    _write_features(root, rng)
    _write_pickle(root / "cmu_mosi" / "mosi_data.pkl", rng)
    sign(root / "cmu_mosi", seed)


def _write_pickle(path: Path, rng: np.random.Generator) -> None:
    """Zeros stand before what is said; audio has -inf, and some text is zero throughout."""
    content = {}
    for part, count in PARTS.items():
        score = rng.uniform(-3, 3, count).astype(np.float32)
        arrays: dict[str, object] = {"labels": score[:, None, None]}
        padding = rng.integers(0, STEPS - 3, count)
        for name, width in SEQUENCES.items():
            x = rng.standard_normal((count, STEPS, width)) + 0.2 * score[:, None, None]
            x[np.arange(STEPS) < padding[:, None]] = 0
            arrays[name] = x.astype(np.float32)
        arrays["audio"][0, -1, 0] = -np.inf  # type: ignore[index]
        arrays["text"][1] = 0  # type: ignore[index]
        arrays["id"] = np.array([[f"{part}{k // 5:02d}", str(k)] for k in range(count)])
        content[part] = arrays
    path.write_bytes(pickle.dumps(content, protocol=4))


def _signal(
    rng: np.random.Generator, target: Int[np.ndarray, " row"], width: int
) -> Float[np.ndarray, "row width"]:
    """Features of which a third move with the class."""
    centres = rng.standard_normal((int(target.max()) + 1, width))
    centres[:, width // 3 :] = 0
    x: Float[np.ndarray, "row width"] = 2 * centres[target]
    return x + rng.standard_normal((len(target), width))


def _write_features(root: Path, rng: np.random.Generator) -> None:
    folder = root / "cmu_mosi"
    folder.mkdir(parents=True)
    mood = {True: ["GREAT", "LOVED", "FUNNY"], False: ["BORING", "AWFUL", "SAD"]}
    rows = []
    for video in range(12):
        name = f"vid{video:02d}"
        for k in range(1, 6 + video % 5):
            score = [0.0, -0.5, 0.5, 1.5][k - 1] if video == 0 and k < 5 else rng.uniform(-3, 3)
            score = round(float(score), 2)
            text = ["IT", "WAS", *rng.choice(mood[score >= 0], 2), f"RARE{video}{k}X"]
            rows.append((f"{name}_{k}", " ".join(text), video + 1, int(score >= 0), score, name))
    order = rng.permutation(len(rows))  # transcripts are in another order than the features
    rows = [rows[k] for k in order]
    with (folder / "transcripts.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(row[:4] for row in rows)
    number = np.array([row[2] for row in rows])
    split = np.select([number <= 6, number <= 8], ["train", "valid"], "test")
    labels = pd.DataFrame(rows, columns=["utterance", "text", "number", "label", "score", "video"])
    labels["split"] = split
    labels[["utterance", "video", "split", "score"]].sort_values("utterance").to_csv(
        folder / "mosi_labels.csv", index=False
    )
    label = labels["label"].to_numpy()
    for part, mine in (("train", number % 3 != 0), ("test", number % 3 == 0)):
        where = rng.permutation(np.flatnonzero(mine))
        pd.DataFrame({"transcript_row": where}).to_csv(folder / f"rows_{part}.csv", index=False)
        for modality, width in WIDTHS.items():
            x = _signal(np.random.default_rng(7), label, width)[where]
            if modality == "video":
                x[:, 68:] = 0.0  # 32 constant columns
            lines = "\n".join(
                ",".join(f'"{v}"' for v in (*row, float(y)))
                for row, y in zip(x, label[where], strict=True)
            )
            if modality == "text":
                path = folder / f"{modality}_{part}0.csv.xz"
                path.write_bytes(lzma.compress(lines.encode()))
            else:
                (folder / f"{modality}_{part}0.csv").write_text(lines)
