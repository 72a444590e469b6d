"""Build tabler.npz: interface icons as an outline, for some a filled drawing, and tags.

Besides the packages that are unpacked here, it needs Pillow:

    npm pack @tabler/icons@3.51.0
    mkdir -p packages && tar xzf tabler-icons-3.51.0.tgz -C packages
    pip install --no-deps --target packages resvg-py==0.5.0
    python datamodules/assets/build_tabler.py --source packages --out datamodules/assets
"""

import argparse
import importlib
import json
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from datamodules.assets.packing import (
    close_pairs,
    join_groups,
    rasterise,
    split_groups,
    token_ids,
    vocabulary,
    write_npz,
)
from mmbench.data.splits import stable_hash
from mmbench.data.vocabulary import words

_LEAST_ICONS = 50  # in a category
_NEAR = 5.0  # grey levels


def label_words(categories: Collection[str]) -> set[str]:
    """Words that name a category outright, in singular and plural."""
    result = {"ecommerce", "commerce"}
    for word in {word for category in categories for word in words(category) if len(word) > 1}:
        singular = f"{word[:-3]}y" if word.endswith("ies") else word.removesuffix("s")
        plural = f"{singular[:-1]}ies" if singular.endswith("cy") else f"{singular}s"
        result |= {word, singular, plural}
    return result


def families(icons: dict[str, Any], labels: Collection[str]) -> dict[str, str]:
    """Say of which icon each one is a variant: bell, bell-plus and bell-off are all of bell.

    A head is an icon whose name others of its category extend: message-circle-x is a variant of
    message-circle, which is a head itself and none of message. An icon that is named like a
    category heads no family, or number-0 .. number-9 were one. An icon that is struck out (-off)
    always goes with the one that is not.
    """
    nearest = {}
    for name, icon in icons.items():
        parts = name.split("-")
        heads = ["-".join(parts[:length]) for length in range(len(parts) - 1, 0, -1)]
        nearest[name] = next(
            (
                head
                for head in heads
                if head not in labels
                and head in icons
                and icons[head]["category"] == icon["category"]
            ),
            name,
        )
    extended = {head for name, head in nearest.items() if head != name}
    plain = {name: base if (base := name.removesuffix("-off")) in icons else name for name in icons}
    return {name: base if base in extended else nearest[base] for name, base in plain.items()}


def build(source: Path, out: Path) -> str:
    """Write tabler.npz and return its SHA-256.

    Args:
        source: Folder that holds the unpacked packages.
        out: Folder to write into.
    """
    sys.path.insert(0, str(source))
    try:
        resvg = importlib.import_module("resvg_py")
    finally:
        sys.path.remove(str(source))
    package = source / "package"
    icons = json.loads((package / "icons.json").read_text("utf-8"))
    sizes = Counter(icon["category"] for icon in icons.values())
    classes = sorted(category for category, size in sizes.items() if size >= _LEAST_ICONS)
    icons = {name: icon for name, icon in icons.items() if icon["category"] in classes}
    names = sorted(icons, key=stable_hash)

    labels = label_words(classes)
    rows, spoken = [], 0
    for name in names:
        published = [words(str(tag)) for tag in icons[name]["tags"] if tag is not None]
        label = label_words([icons[name]["category"]])
        spoken += any(word in label for tag in published for word in tag)
        # dropped in all classes, or the gap itself would tell the class
        texts = [[word for word in tag if word not in labels] for tag in published]
        rows.append([tag for tag in texts if tag])
    print(f"{spoken / len(names):.3f} of the icons have a tag that names their category")
    tags = [[word for tag in row for word in tag] for row in rows]

    outline = np.stack([_grey(package / "icons/outline" / f"{name}.svg", resvg) for name in names])
    has_filled = np.array(["filled" in icons[name]["styles"] for name in names])
    filled = np.zeros_like(outline)
    for row in np.flatnonzero(has_filled):
        filled[row] = _grey(package / "icons/filled" / f"{names[row]}.svg", resvg)

    target = np.array([classes.index(icons[name]["category"]) for name in names], np.uint8)
    sample_id = np.array([stable_hash(name) for name in names], np.int64)
    alike = close_pairs(outline, _NEAR) & (target[:, None] == target)
    head = families(icons, labels)
    split = split_groups(sample_id, target, join_groups([head[name] for name in names], alike))

    vocab = vocabulary([tags[row] for row in np.flatnonzero(split == 0)], least=2)
    ids, lengths = token_ids(tags, vocab)
    return write_npz(
        out / "tabler.npz",
        {
            "sample_id": sample_id,
            "target": target,
            "split": split,
            "class_names": np.array(classes),
            "names": np.array(names),
            "outline": outline,
            "filled": filled,
            "has_filled": has_filled,
            "tags": ids,
            "tags_lengths": lengths,
            "tags_vocabulary": np.array(vocab),
            "tags_text": np.array([", ".join(" ".join(tag) for tag in row) for row in rows]),
        },
    )


def _grey(svg: Path, resvg: Any) -> UInt8[np.ndarray, "channel=1 height=32 width=32"]:
    return rasterise(svg, resvg)[:1]  # black on white: the three colours are equal


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, default=Path("packages"), help="unpacked packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    print(build(arguments.source, arguments.out))
