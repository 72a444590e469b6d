"""What holds for the repository as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from published import published

from mmbench.bench.plan import plan
from mmbench.bench.spec import load_suite, suites
from mmbench.checks.methods import METHOD_CHECKS
from mmbench.checks.tasks import sample_tasks
from mmbench.registry import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """File names in a wheel built from this checkout, and its size."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = out.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return archive.namelist(), file.stat().st_size


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel):
    names, _ = wheel
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"mmbench", "datamodules"}
    assert {"mmbench/py.typed", "datamodules/py.typed"} <= set(names)


def test_the_wheel_brings_data_licences_suites_and_scenarios(wheel):
    names, size = wheel
    for data in ("openmoji", "mfeat", "tabler"):
        assert f"datamodules/assets/{data}.npz" in names
        assert f"datamodules/assets/LICENSE-{data}" in names
    assert "mmbench/benchmarks/quickstart.yaml" in names
    assert "mmbench/configs/scenario/mcar.yaml" in names
    assert size < 8 * 2**20
    assert not [name for name in names if "runs/" in name or name.endswith(".pyc")]


def test_a_method_has_one_name_everywhere():
    home = ROOT / "tests" / "methods"
    for file in (ROOT / "mmbench" / "methods").glob("[!_]*.py"):
        assert file.stem in METHODS.names()
        assert (home / f"test_{file.stem}.py").is_file(), f"{file.stem} has no tests of its own"


PARTICIPLES = {"found", "own", "kept", "shown", "asked", "lent", "told", "there"}


def names_in(tree):
    """Names that a module gives: of variables, parameters, attributes, functions and classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                yield node.lineno, name


@pytest.mark.parametrize("folder", ["mmbench", "datamodules", "benchmarks"])
def test_names_are_nouns_and_no_participles_that_hide_what_they_hold(folder):
    bad = [
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for line, name in names_in(ast.parse(file.read_text()))
        if name.strip("_") in PARTICIPLES
    ]
    assert not bad, "name the noun of what it holds: " + ", ".join(bad)


def test_a_participle_is_seen_wherever_a_name_can_stand():
    code = (
        "for found in (own := []): self._kept = lambda shown: [there for there in own]\n"
        "try: import a as lent\nexcept OSError as told: pass\ndef asked(): pass"
    )
    seen = {name.strip("_") for _, name in names_in(ast.parse(code))}
    assert seen >= PARTICIPLES


def test_no_package_re_exports():
    for file in [*ROOT.glob("mmbench/**/__init__.py"), *ROOT.glob("datamodules/**/__init__.py")]:
        lines = [line for line in file.read_text().splitlines() if line.strip()]
        assert lines[0].startswith('"""'), file
        assert not any(line.startswith(("import ", "from ")) for line in lines), file


def test_every_method_names_its_paper_notation_and_differences():
    for name in METHODS.names():
        doc = sys.modules[METHODS.get(name).__module__].__doc__
        for heading in ("Paper:", "Notation:", "Differences from the paper:"):
            assert heading in doc, f"{name} does not say {heading}"


def test_every_dependency_has_its_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("dependencies = [")
    block = lines[start + 1 : lines.index("]", start)]
    for i, line in enumerate(block):
        if line.strip().startswith('"'):
            above = block[i - 1].strip()
            together = above.startswith('"lightning')  # two names of one library
            assert above.startswith("#") or "#" in line or together, f"{line} has no reason"


def imports(node, early=True):
    """Top-level names that a piece of code imports; whether as soon as its module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.split(".")[0], early) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module.split(".")[0], early
        else:
            yield from imports(child, early and not isinstance(child, ast.FunctionDef))


def test_what_the_packages_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    always = {name_of(line) for line in project["dependencies"]}
    extras = project["optional-dependencies"]
    asked = {name_of(line) for extra in extras if extra != "dev" for line in extras[extra]}
    own = {"mmbench", "datamodules", *sys.stdlib_module_names}
    sources = packages_distributions() | {"pynvml": ["nvidia-ml-py"]}  # of the extra for GPUs
    for_reports = ROOT / "mmbench" / "bench" / "plots.py"  # itself imported when one is asked for
    for file in [*ROOT.glob("mmbench/**/*.py"), *ROOT.glob("datamodules/**/*.py")]:
        if file.is_relative_to(ROOT / "datamodules" / "assets"):
            continue  # scripts that made the shipped files
        for name, early in imports(ast.parse(file.read_text())):
            if name in own:
                continue
            found = {source.lower().replace("_", "-") for source in sources.get(name, [name])}
            allowed = always if early and file != for_reports else always | asked
            assert found & allowed, f"{file.relative_to(ROOT)} imports {name}, not declared"


def name_of(requirement):
    return re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")


def test_constraints_pin_exactly_and_name_no_address():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in pins)
    assert {"torch==2.14.1", "torchvision==0.29.1"} <= set(pins)


def test_what_the_readme_tells_to_type_exists():
    make = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.M):
        assert f"\n{target}:" in make, f"README says make {target}"
    shown = subprocess.run(
        [sys.executable, "-m", "mmbench", "--help"], capture_output=True, text=True
    )
    for command in set(re.findall(r"^mmbench (\w+)", README, flags=re.M)):
        assert re.search(rf"\b{command}\b", shown.stdout), f"README says mmbench {command}"
    for suite in re.findall(r"benchmarks/(\w+)\.yaml", README):
        assert suite in suites()


def test_the_method_and_the_suite_that_the_readme_shows_work(tmp_path, monkeypatch):
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    (tmp_path / "max_fusion_of_readme.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    cls = METHODS.get("max_fusion_of_readme.MaxFusion")
    for examine in METHOD_CHECKS.values():
        for task in sample_tasks(cls):
            examine(cls, task)
    [suite] = re.findall(r"```yaml\n(.*?)```", README, flags=re.S)
    (tmp_path / "mine.yaml").write_text(suite)
    assert len(plan(load_suite(str(tmp_path / "mine.yaml")))) == 2 * 3 * 2 * 3


def test_the_readme_shows_the_committed_quickstart_table():
    board = published("quickstart/leaderboard.md")
    by_condition = board.split(": over conditions")[0]  # those over conditions are left out
    said = [line for line in by_condition.splitlines() if line and not line.startswith("#")]
    assert " beat " in said[0]
    assert any(line.startswith("|") for line in said)
    for line in said:
        assert line in README


def test_the_readme_says_of_the_main_table_what_the_program_says():
    [said] = re.findall(r"<!-- main: .*? -->(.*?)<!-- end -->", README, flags=re.S)
    verdict = [line for line in published("main/leaderboard.md").splitlines() if line][1:]
    sentences = [line for line in said.splitlines() if line]
    assert sentences == verdict[: len(sentences)]
    assert " beat " in sentences[0]


def test_shapes_in_signatures_are_checked_when_tests_run():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    [words] = [word for word in options["addopts"] if word.startswith("--jaxtyping-packages=")]
    packages = words.partition("=")[2].split(",")[:-1]  # the last is what checks them
    unchecked = {
        name
        for folder in ("mmbench", "datamodules")
        for path in (ROOT / folder).rglob("*.py")
        if "from jaxtyping" in path.read_text()
        and (name := ".".join(path.relative_to(ROOT).with_suffix("").parts))
        and not any(f"{name}.".startswith(f"{package}.") for package in packages)
    }
    assert unchecked == {"mmbench.datamodule"}  # why stands beside the option


def test_the_version_is_said_once():
    words = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert words["project"]["version"]
    assert words["project"]["version"] not in (ROOT / "mmbench" / "__init__.py").read_text()
