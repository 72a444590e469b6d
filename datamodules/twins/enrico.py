"""A twin of ENRICO."""

from pathlib import Path

import numpy as np

from datamodules.twins._parts import picture, sign, values

TOPICS = (
    "bare", "camera", "chat", "dialer", "editor", "form", "gallery", "list", "login", "maps",
    "mediaplayer", "menu", "modal", "news", "other", "profile", "search", "settings", "terms",
    "tutorial",
)  # fmt: skip
EACH = 8
SHAPE = (36, 20)  # pixels, upright


def write(root: Path, *, seed: int = 0) -> None:
    """Write it below `root`; the two damaged screens are in the list, without wireframes."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    folder = root / "enrico"
    for name in ("screenshots", "wireframes"):
        (folder / name).mkdir(parents=True)
    numbers = rng.choice(50_000, EACH * len(TOPICS), replace=False)
    rows = [(str(n), k % len(TOPICS)) for k, n in enumerate(numbers.tolist())]
    rows = [rows[k] for k in rng.permutation(len(rows))]
    lines = ["screen_id,topic", *(f"{name},{TOPICS[topic]}" for name, topic in rows)]
    lines[5:5] = ["50105,list", "50109,form"]
    (folder / "design_topics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, topic in rows:
        picture(rng, topic, len(TOPICS), SHAPE).save(folder / "screenshots" / f"{name}.jpg")
        grey = values(rng, topic, len(TOPICS), SHAPE).astype(np.uint8)
        Image.fromarray(grey).save(folder / "wireframes" / f"{name}.png")
    sign(folder, seed)
