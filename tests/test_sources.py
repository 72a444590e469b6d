"""Sources of a class: every file that decides its numbers, by content, and no other."""

import sys

import pytest

from mmbench import sources as module
from mmbench.registry import DATASETS, METHODS
from mmbench.sources import distributions, sources


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package whose method imports a module of its own, one of ours and one of torch."""
    home = tmp_path / "my_plugin_of_sources"
    home.mkdir()
    (home / "__init__.py").write_text("")
    (home / "parts.py").write_text("WIDTH = 3\n")
    (home / "other.py").write_text("NOT_IMPORTED = 1\n")
    (home / "mine.py").write_text(
        "import torch\nfrom . import parts\n\n\n"
        "class Mine:\n    def f(self):\n        from mmbench.layers import late_fusion\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield home
    for name in [n for n in sys.modules if n.startswith(home.name)]:
        del sys.modules[name]


def found(*things):
    for kept in (module._file, module._read):
        kept.cache_clear()
    return sources(*things)


def test_all_that_a_method_imports_is_named_and_nothing_else(plugin):
    from my_plugin_of_sources.mine import Mine

    names = set(found(Mine))
    assert names >= {
        "my_plugin_of_sources.mine",
        "my_plugin_of_sources.parts",
        "mmbench.layers.late_fusion",
        "mmbench.layers.encoders",  # what late_fusion imports
    }
    assert "my_plugin_of_sources.other" not in names
    assert not any(name.startswith(("torch", "mmbench.bench")) for name in names)


@pytest.mark.parametrize(("file", "changes"), [("parts", True), ("mine", True), ("other", False)])
def test_an_edit_shows_in_what_imports_it_and_only_there(plugin, file, changes):
    from my_plugin_of_sources.mine import Mine

    before = found(Mine)
    path = plugin / f"{file}.py"
    path.write_text(path.read_text() + "# edited\n")
    after = found(Mine)
    assert (before != after) is changes
    assert {n for n in before if before[n] != after[n]} == (
        {f"my_plugin_of_sources.{file}"} if changes else set()
    )


def test_methods_share_what_they_import_and_differ_in_their_own_file():
    data = DATASETS.get("mfeat")
    one, two = (found(METHODS.get(name), data) for name in ("zero_fill", "mean_fusion"))
    assert "datamodules.mfeat" in one
    assert "mmbench.methods.zero_fill" in one
    assert "mmbench.methods.zero_fill" not in two
    assert one["mmbench.method"] == two["mmbench.method"]
    # what plans, shows and keeps decides no number, though the package's first file names it
    assert not {"mmbench.sweep", "mmbench.trained", "mmbench.bench.report"} & one.keys()


def test_a_class_without_a_file_has_no_sources():
    assert found(type("Typed", (), {"__module__": "nowhere_at_all"})) == {}


def test_a_plugin_is_named_by_its_distribution_and_ours_are_not():
    assert distributions("mmbench.method", "datamodules.mfeat") == {}
    assert distributions("filelock._api", "mmbench.method").keys() == {"filelock"}
