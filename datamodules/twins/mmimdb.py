"""A twin of MM-IMDb, as its folder and, where h5py is installed, as its hdf5 file."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.twins._parts import picture, sign, text

GENRES = (
    "Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror",
    "Documentary", "Mystery", "Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music",
    "Animation", "Musical", "Western", "Sport", "Short", "Film-Noir",
)  # fmt: skip
SIZES = {"train": 120, "dev": 30, "test": 50}


def write(root: Path, *, seed: int = 0) -> None:
    """Write it below `root`."""
    rng = np.random.default_rng(seed)
    folder = root / "mmimdb"
    (folder / "dataset").mkdir(parents=True)
    numbers = rng.choice(10**6, sum(SIZES.values()), replace=False)
    names = [f"{number:07d}" for number in numbers.tolist()]
    main = rng.integers(0, 4, len(names))  # the four most frequent genres
    target = rng.random((len(names), len(GENRES))) < 0.08
    target[np.arange(len(names)), main] = True
    for name, genre, row in zip(names, main.tolist(), target, strict=True):
        picture(rng, genre, 4).save(folder / "dataset" / f"{name}.jpeg")
        plots = [text(rng, genre, length=12), text(rng, genre, length=20)]
        film: dict[str, Any] = {"title": name, "plot": plots}
        if rng.random() < 0.5:
            film["plot outline"] = text(rng, genre, length=6)
        film["genres"] = [one for one, has in zip(GENRES, row, strict=True) if has]
        if rng.random() < 0.1:
            film["genres"].append("News")
        path = folder / "dataset" / f"{name}.json"
        path.write_text(json.dumps(film), encoding="utf-8")
    cuts = np.cumsum(list(SIZES.values()))[:-1]
    parts = [part.tolist() for part in np.split(np.array(names), cuts)]
    lists = dict(zip(SIZES, parts, strict=True))
    (folder / "split.json").write_text(json.dumps(lists), encoding="utf-8")
    if importlib.util.find_spec("h5py") is not None:
        centres = rng.standard_normal((2, 4, 300))
        centres[:, :, 20:] = 0
        x = [c[main] + rng.standard_normal((len(names), 300)) for c in centres]
        image = np.zeros((len(names), 4096), np.float16)  # most of a VGG's features are 0, too
        image[:, :300] = np.maximum(x[0], 0)
        _write_hdf5(folder / "multimodal_imdb.hdf5", names, target, image, x[1])
    sign(folder, seed)


def _write_hdf5(
    path: Path, names: list[str], target: NDArray[Any], image: NDArray[Any], words: NDArray[Any]
) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        options = {"compression": "gzip", "track_times": False}
        file.create_dataset("vgg_features", data=image.astype(np.float32), **options)
        file.create_dataset("features", data=words.astype(np.float32), **options)
        genres = file.create_dataset("genres", data=target.astype(np.int32), track_times=False)
        genres.attrs["target_names"] = json.dumps(GENRES)
        ids = np.array(names, dtype="S7")
        file.create_dataset("imdb_ids", data=ids, track_times=False)
        kind = np.dtype(
            [("split", "S5"), ("source", "S12"), ("start", np.int64), ("stop", np.int64)]
        )
        stops = np.cumsum(list(SIZES.values())).tolist()
        rows = [
            (part, source, stop - SIZES[part], stop)
            for part, stop in zip(SIZES, stops, strict=True)
            for source in ("features", "genres", "vgg_features")
        ]
        file.attrs["split"] = np.array(rows, dtype=kind)
