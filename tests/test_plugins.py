"""Packages of strangers: `mmbench new`, and an example that is installed and swept."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from mmbench.cli.app import app

ROOT = Path(__file__).parents[1]
KINDS = ("method", "data", "scenario")


def new(*words):
    return CliRunner().invoke(app, ["new", *map(str, words)])


@pytest.mark.parametrize("kind", KINDS)
def test_new_writes_a_package_with_an_entry_point_a_file_a_test_and_a_readme(kind, tmp_path):
    assert new(kind, "odd_idea", "--into", tmp_path / "deep").exit_code == 0
    folder = tmp_path / "deep" / "mmbench-odd-idea"
    assert [path.name for path in folder.parent.iterdir()] == ["mmbench-odd-idea"]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    end = "yaml" if kind == "scenario" else "py"
    assert files == {
        "README.md",
        "pyproject.toml",
        "src/mmbench_odd_idea/__init__.py",
        f"src/mmbench_odd_idea/odd_idea.{end}",
        "tests/test_odd_idea.py",
    }
    text = "".join((folder / file).read_text() for file in files)
    assert "mmbench-odd-idea/odd_idea" in text
    assert "$" not in text
    assert "NAME" not in text.replace("NAMES", "")
    for file in folder.rglob("*.py"):
        compile(file.read_text(), str(file), "exec")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("method", "Odd"), "cannot name a file of Python"),
        (("method", "../x"), "cannot name a file of Python"),
        (("method", "class"), "cannot name a file of Python"),
        (("data", "fine", "--package", "a/b"), "cannot name a package"),
        (("data", "fine", "--into", ROOT / "tests"), "lies in mmbench's own checkout"),
        (("data", "taken"), "is there already"),
    ],
)
def test_new_refuses_what_would_go_wrong_and_writes_nothing(words, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mmbench-taken").mkdir()
    done = new(*words)
    assert isinstance(done.exception, ValueError)
    assert part in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mmbench-taken"]


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A virtual environment that has what this one has and some plugins, and a folder of results.

    Nothing is downloaded: what they depend on is found where it is installed already.
    """
    home = tmp_path_factory.mktemp("outside")
    venv.create(home / "venv", with_pip=True)
    python = home / "venv" / "bin" / "python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    here = sysconfig.get_path("purelib")
    (Path(packages) / "here.pth").write_text(f"{ROOT}\nimport site; site.addsitedir({here!r})\n")
    shutil.copytree(ROOT / "tests" / "plugin_example", home / "plugin_example")
    for kind in KINDS:
        assert new(kind, f"my_{kind}", "--into", home).exit_code == 0
    folders = [home / "plugin_example", *(home / f"mmbench-my-{kind}" for kind in KINDS)]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    for folder in folders:
        subprocess.run([python, "-m", "pip", "install", *options, "-e", folder], check=True)

    def run(*words, code=0):
        environment = os.environ | {"MMBENCH_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [python, "-m", *map(str, words)],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return home, run


@pytest.mark.slow
def test_installed_plugins_are_listed_by_package_and_name(outside):
    _, run = outside
    for what, names in {
        "methods": ("plugin-example/max_fusion", "mmbench-my-method/my_method"),
        "data": ("plugin-example/two_groups", "mmbench-my-data/my_data"),
        "mechanisms": ("plugin-example/day_and_night",),
        "scenarios": ("plugin-example/light_loss", "mmbench-my-scenario/my_scenario"),
    }.items():
        out = run("mmbench", "list", what)
        for name in names:
            assert f"\n{name} " in out


@pytest.mark.slow
def test_the_tests_of_new_packages_pass(outside):
    home, run = outside
    folders = [home / f"mmbench-my-{kind}" for kind in KINDS]
    assert "3 passed" in run("pytest", "-q", "-p", "no:cacheprovider", *folders)


@pytest.mark.slow
def test_an_installed_plugin_is_swept_and_named_with_version_and_files_in_every_record(outside):
    home, run = outside
    suite = {
        "name": "stranger",
        "data": ["plugin-example/two_groups"],
        "methods": ["plugin-example/max_fusion", "majority"],
        "scenarios": ["plugin-example/light_loss"],
        "seeds": 1,
        "trainer": {"max_epochs": 2},
    }
    (home / "stranger.yaml").write_text(json.dumps(suite))
    run("mmbench", "run", "stranger.yaml", "--workers", "1")
    board = pd.read_csv(home / "results" / "stranger" / "leaderboard.csv")
    assert set(board["method"]) == {"plugin-example/max_fusion", "majority"}
    assert set(board["data"]) == {"plugin-example/two_groups"}
    assert set(board["scenario"]) == {"plugin-example/light_loss"}
    assert set(board["condition"]) == {
        "complete", "mcar_0.2", "night_0.5", "night_0.5+segments_0.3",
    }  # fmt: skip
    records = sorted((home / "results" / "stranger" / "runs").rglob("metrics.json"))
    assert len(records) == 2
    for file in records:
        made_by = json.loads(file.read_text())
        assert made_by["distributions"] == {"plugin-example": "1.2.3"}
        hashes = made_by["sources"]
        assert len(hashes["plugin_example.two_groups"]) == 16
        assert len(hashes["plugin_example.day_and_night"]) == 16
        assert "mmbench.data.missingness.within" in hashes
        assert ("plugin_example.max_fusion" in hashes) == ("max_fusion" in str(file))


@pytest.mark.slow
def test_check_reports_a_plugin_as_json(outside):
    _, run = outside
    report = json.loads(run("mmbench", "check", "plugin-example/two_groups", "--json"))
    assert report["name"] == "plugin-example/two_groups"
    assert report["broken"] == 0
    assert {finding["outcome"] for finding in report["findings"]} == {"passed"}
    assert sys.executable not in json.dumps(report)
