"""The page of what released code and single mechanisms are worth."""

import importlib.util

import pytest

import mmbench
from mmbench.bench.spec import load_suite
from mmbench.bench.verdict import EVERY
from mmbench.paths import folder
from mmbench.registry import METHODS

pytestmark = pytest.mark.slow
FILE = folder("benchmarks") / "reproduction_gap.py"


@pytest.fixture(scope="module")
def gap():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("reproduction_gap", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three methods of the suite, two of which apply to both data sets, trained for one epoch."""
    labels = ("m3care", "m3care.official", "shaspec", "shaspec.without_hiding")
    suite = load_suite("reproduction_gap")
    words = suite.model_dump() | {
        "methods": [e.model_dump() for e in suite.methods if e.label in labels],
        "seeds": 2,
        "limit": 64,
        "trainer": {"max_epochs": 1},
    }
    words["data"] = words["data"][:1]
    sweep = mmbench.Sweep(words, results=tmp_path_factory.mktemp("results"))
    sweep.run(workers=1)
    return sweep


def test_every_method_with_a_released_variant_is_in_the_suite_and_every_change_is_one_argument(gap):
    entries = load_suite("reproduction_gap").methods
    of = gap.families(entries)
    assert sum(map(len, of.values())) == len(entries)
    released = {name for name in METHODS.names() if "official" in str(variants(name))}
    assert released == {m for m, own in of.items() if any("official" in e.label for e in own)}


def variants(name):
    parameter = mmbench.bench.spec.parameters(METHODS.get(name))
    return [each.annotation for each in parameter if each.name == "variant"]


def test_what_a_change_is_worth_is_the_paired_difference_of_means(gap, small):
    table = gap.worth(small)
    assert set(table["change"]) == {"official", "without_hiding"}
    records = small.records()
    own = records[records["metric"] == "macro_f1"].groupby("method")["value"].mean()
    row = table[(table["method"] == "shaspec") & (table["data"] == EVERY)].iloc[0]
    assert row["worth"] == pytest.approx(own["shaspec"] - own["shaspec.without_hiding"])
    assert row["ci_low"] <= row["worth"] <= row["ci_high"]


def test_a_method_whose_trainings_ended_too_early_is_not_counted(gap, small, monkeypatch):
    def said():
        table = gap.worth(small).assign(p=0.001)
        rows = table[table["data"] == EVERY].set_index("change")
        better = [gap._better(rows.loc[c], official=False) for c in ("official", "without_hiding")]
        return gap._sentence(table, "changes", "macro_f1").split(" beyond")[0], better

    words, better = said()
    assert words == "**2 of 2 changes"
    assert "still rising" not in better
    records = small.records()
    early = records.assign(rising=records["method"] == "shaspec")
    monkeypatch.setattr(small, "records", lambda: early)
    equal = gap.worth(small).assign(worth=0.0, se_samples=0.0, rising=False).iloc[0]
    assert gap._better(equal, official=True) == "the same"
    words, better = said()
    assert words == "**1 of 1 changes"
    assert better[1] == "still rising" != better[0]


def test_the_page_has_a_row_and_a_command_for_each_change(gap, small, tmp_path):
    text = gap.page(small, tmp_path)
    released, parts = text.split("## What mechanisms are worth")
    row = "| [`m3care`](#m3care) | [its file](../mmbench/methods/m3care.py) | "
    assert row in released
    assert "| [`shaspec`](#shaspec) | without hiding | `hide: True -> False` |" in parts
    assert text.count("mmbench run reproduction_gap 'methods=") == 2
    assert {f"### {name}" for name in ("m3care", "shaspec")} <= set(text.splitlines())
    assert (folder("mmbench") / "methods" / "m3care.py").is_file()
    assert "Not here: `mmbench run moe_retriever_mosi --tune 10`" in text


def test_the_published_mosi_table_stands_beside_the_papers(gap):
    reported = gap.read_reported(folder("benchmarks") / "reported")
    text = gap._mosi(folder("benchmarks").parent / "results", reported)
    assert "Order of the methods here and in the paper: Kendall's tau" in text
    [line] = [
        line
        for line in text.splitlines()
        if line.startswith("| cmu_mosi(video+audio) | mcar_0.3 | `shaspec` | accuracy |")
    ]
    paper = float(line.split(" | ")[4].split(" ± ")[0])
    published = reported[
        (reported["row"] == "shaspec") & (reported["modalities"] == "video+audio")
        & (reported["metric"] == "accuracy") & reported["data"].str.contains("mosi")
        & (reported["condition"] == "mcar_0.3")
    ]  # fmt: skip
    assert paper == round(published["mean"].iloc[0] / 100, 3)


def test_a_papers_own_ablation_stands_beside_ours(gap):
    reported = gap.read_reported(folder("benchmarks") / "reported")
    said = gap._reported("moe_retriever", "without_intra", reported)
    assert said.startswith("+3.26 accuracy on adni; +2.00 macro_f1 on adni (Yun and Xin")
    assert gap._reported("shaspec", "without_hiding", reported) == gap.DASH


def test_a_page_without_runs_is_one_line(gap, tmp_path):
    with pytest.raises(ValueError, match="no run of reproduction_gap has ended"):
        gap.worth(mmbench.Sweep("reproduction_gap", results=tmp_path))
