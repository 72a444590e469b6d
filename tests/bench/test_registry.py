"""Names to classes: built-in files, plugins, clashes and suggestions."""

import sys
from importlib.metadata import EntryPoint

import pytest

import mmbench.registry as module
from mmbench.registry import DATASETS, METHODS, Registry

PLUGIN = """
{imports}

class Mine({base}):
    "A plugin's method."
    def forward(self, batch):
        return batch.target
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a module as the plugin `mine`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(source, target="plugin_under_test:Mine", name="mine"):
        (tmp_path / "plugin_under_test.py").write_text(source)
        sys.modules.pop("plugin_under_test", None)
        points = [EntryPoint(name, target, "mmbench.methods")]
        monkeypatch.setattr(module, "entry_points", lambda group: points)
        return Registry(
            "method", home="mmbench.methods", base="mmbench.method:Method", group="mmbench.methods"
        )

    return install


def test_every_name_leads_to_its_class_and_its_line():
    for registry in (METHODS, DATASETS):
        for name in registry.names():
            file, _, line = registry.origin(name).rpartition(":")
            assert file.endswith(f"{name}.py")
            assert int(line) > 1
            assert registry.summary(name), f"{name} has no first docstring line"


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="no method named 'shapsec'; did you mean 'shaspec'"):
        METHODS.get("shapsec")
    with pytest.raises(ValueError, match="no data set named 'mfeet'; did you mean 'mfeat'"):
        DATASETS.get("mfeet")


def test_a_plugin_is_found_beside_the_built_in_methods(plugin):
    registry = plugin(PLUGIN.format(imports="from mmbench.method import Method", base="Method"))
    assert "plugin_under_test/mine" in registry.names()
    assert registry.get("plugin_under_test/mine").__name__ == "Mine"
    assert registry.get("plugin_under_test.Mine").__name__ == "Mine"


def test_a_plugin_that_does_not_import_is_one_line(plugin):
    registry = plugin("import nothing_of_this_name")
    with pytest.raises(
        ValueError, match=r"'plugin_under_test/mine' does not import: ModuleNotFoundError"
    ) as error:
        registry.get("plugin_under_test/mine")
    assert "\n" not in str(error.value)


def test_a_plugin_of_the_wrong_base_is_refused(plugin):
    registry = plugin("class Mine: pass")
    with pytest.raises(ValueError, match=r"Mine in .* is no Method; derive it from"):
        registry.get("plugin_under_test/mine")
    with pytest.raises(ValueError, match="there is no class Other"):
        plugin("class Mine: pass", target="plugin_under_test:Other").get("plugin_under_test/mine")


def test_a_plugin_of_the_other_lightning_is_told_so(plugin):
    registry = plugin(
        PLUGIN.format(
            imports="from pytorch_lightning import LightningModule", base="LightningModule"
        )
    )
    with pytest.raises(ValueError, match="derives from pytorch_lightning"):
        registry.get("plugin_under_test/mine")


def test_a_plugin_may_have_the_name_of_a_built_in_method_and_stays_apart(plugin):
    registry = plugin(
        PLUGIN.format(imports="from mmbench.method import Method", base="Method"), name="shaspec"
    )
    assert registry.get("shaspec").__module__ == "mmbench.methods.shaspec"
    assert registry.get("plugin_under_test/shaspec").__module__ == "plugin_under_test"


def test_a_plugin_without_its_package_is_told_its_name(plugin):
    registry = plugin("class Mine: pass")
    with pytest.raises(
        ValueError, match="no method named 'mine'; did you mean 'plugin_under_test/"
    ):
        registry.get("mine")


def test_two_plugins_of_one_name_in_one_package_are_refused(plugin, monkeypatch):
    registry = plugin("class Mine: pass")
    points = [EntryPoint("mine", f"plugin_under_test:{c}", "mmbench.methods") for c in ("A", "B")]
    monkeypatch.setattr(module, "entry_points", lambda group: points)
    with pytest.raises(ValueError, match="two methods are named 'plugin_under_test/mine'"):
        registry.names()
