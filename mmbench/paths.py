"""Where the suites and scenarios that come with mmbench lie."""

from pathlib import Path


def folder(name: str) -> Path:
    """Return the folder `configs` or `benchmarks`.

    A wheel carries them inside the package (see `force-include` in pyproject.toml); a checkout
    has them beside it, so that an edit counts at once.
    """
    package = Path(__file__).parent
    beside = package.parent / name
    return beside if (package.parent / "pyproject.toml").is_file() else package / name
