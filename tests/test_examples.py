"""Every example runs as it is, in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHOWS = {
    "your_data": ("mean_fusion", "features_0.5", "results/mine"),
    "your_method": ("0 broken", "MaxFusion", "mean_fusion"),
    "reading_results": ("brier", "zero_fill", "logits of the first test batch"),
}


def test_every_example_is_listed_and_has_an_expectation():
    assert {file.stem for file in EXAMPLES} == set(SHOWS)
    text = (ROOT / "examples" / "README.md").read_text()
    assert all(f"({file.name})" in text for file in EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs_and_shows_what_it_says(file, tmp_path):
    shutil.copy(file, tmp_path)
    done = subprocess.run(
        [sys.executable, file.name],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in SHOWS[file.stem]:
        assert part in done.stdout
