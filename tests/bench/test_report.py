"""The page of a suite: whole, safe, small, and usable without a network or a mouse."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from published import published_board

from mmbench.bench import plots, report
from mmbench.bench.leaderboard import leaderboard, robustness
from mmbench.bench.record import Run
from mmbench.bench.report import safe_json, write_plots, write_report
from mmbench.bench.result import write_result
from mmbench.bench.robustness import affordable
from mmbench.bench.spec import RunSpec, load_suite
from mmbench.bench.verdict import ALL, COLUMNS, EVERY, Verdict
from mmbench.diagnostics import (
    Matrix,
    Recovery,
    Retrieval,
    RouterUsage,
    write_diagnostics,
)
from mmbench.metrics.metric import metrics_for
from mmbench.store import write_arrays, write_json
from results import condition, result

HOSTILE = "<script>alert(1)</script>"
CLOSING = "$x$ </script><!-- \" ' & ]]>"
METRICS = metrics_for("regression")
PATTERNS = {"audio+text": 1 / 3, "audio": 2 / 3, "text": 2 / 3}
CONDITIONS = {  # name -> mechanism, nominal rate, realised rate
    "complete": ("mcar", 0.0, 0.0),
    "mcar_0.3": ("mcar", 0.3, 0.3),
    "mcar_0.5": ("mcar", 0.5, 0.5),
    **{name: ("pattern", None, rate) for name, rate in PATTERNS.items()},
}

DOUBT = "the class <i>rare</i> is never trained on"


def spec(method, data, seed):
    return RunSpec(
        method=method,
        data=data,
        scenario={"name": "mixed", "train": {"mechanism": "mcar", "missing_rate": 0.3}},
        seed=seed,
        trainer_args={"max_epochs": 3},
        select={"metric": "mse", "on": "val"},
        method_label=method,
        data_label=data,
    )


def finished(spec, runs, loss, *, bayes=None, undefined=()):
    """A finished run whose losses grow with what is missing."""
    folder = runs / spec.folder
    folder.mkdir(parents=True)
    conditions = {}
    for name, (mechanism, nominal, rate) in CONDITIONS.items():
        scores = dict.fromkeys(METRICS, loss + rate) | dict.fromkeys(undefined, math.nan)
        conditions[name] = condition(
            mechanism=mechanism,
            missing_rate_nominal=nominal,
            missing=rate,
            incomplete=min(1.0, 2 * rate),
            scores=scores,
            bayes={} if bayes is None else {"mse": bayes + rate},
            bayes_se={} if bayes is None else {"mse": 0.01},
        )
    cost = {"params_total": 1000 + int(1000 * loss), "train_s": 10 * loss}
    notes = (DOUBT,) if spec.data == "first" else ()
    write_result(folder, result("regression", conditions, cost=cost, code="0.1-abc", notes=notes))
    write_json(folder / "env.json", {"code": "0.1-abc", "versions": {"torch": "9.8.7"}})
    rows = "".join(f"{e},{e},{1 / (e + 1)},\n{e},{e},,{0.1 * e}\n" for e in range(3))
    (folder / "metrics.csv").write_text("epoch,step,train/task,val/mse\n" + rows)
    return Run(spec, folder, "done")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four methods on two data sets with two seeds; a failure, a skip and a run to come."""
    tmp_path = tmp_path_factory.mktemp("runs")
    found = []
    for data in ("first", "second"):
        for seed in (0, 1):
            for method, loss in (("steady", 0.1), ("wide", 0.3), (HOSTILE, 0.2), (CLOSING, 0.4)):
                one = spec(method, data, seed)
                bayes = 0.05 if data == "first" else None
                found.append(finished(one, tmp_path, loss + 0.01 * seed, bayes=bayes))
    write_diagnostics(
        found[0].folder / "diagnostics.npz",
        {
            "<b>use</b>": matrix([[0.1, 0.9], [0.5, np.nan]]),
            "load": matrix([[1, 2, 3]]),
            "vast": matrix(np.zeros((500, 500))),
        },
    )
    lost = found[-1]
    return [
        *found[:-1],
        Run(lost.spec, lost.folder, "failed", "OutOfMemoryError: <img src=x onerror=alert(2)>"),
        Run(spec("choosy", "first", 0), tmp_path, "skipped", "needs four modalities"),
        Run(spec("choosy", "second", 0), tmp_path, "waiting"),
    ]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("page")
    path = write_report("tiny <suite>", runs, leaderboard(runs), tmp_path, metric="mse")
    assert path == tmp_path / "report.html"
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Elements with their attributes, and the text outside scripts and styles."""

    VOID = ("meta", "br", "input", "link", "img", "hr")

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open, self.scripts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


# --- structure --------------------------------------------------------------------------------


def test_every_element_is_closed_and_every_id_occurs_once(page):
    parsed = Page(page)
    assert parsed.open == []
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    pointed = {
        word
        for _, a in parsed.elements
        for value in a.values()
        for word in re.findall(r"(?:^|url\()#([^)]+)", value or "")
    }
    assert pointed
    assert pointed <= set(ids)


def test_nothing_points_outside_the_page(page):
    parsed = Page(page)
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "img", "iframe", "object", "base")
        for name in ("src", "href", "action", "poster", "data", "xlink:href"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"https?://|@import|url\((?!#)", markup)
    policy = next(a["content"] for a in parsed.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_the_policy_admits_the_page_s_own_script_and_no_other(page):
    parsed = Page(page)
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[-1].encode()).digest()).decode()
    policy = next(a["content"] for a in parsed.all("meta") if "http-equiv" in a)
    script_rule = next(rule for rule in policy.split("; ") if rule.startswith("script-src"))
    assert script_rule == f"script-src 'sha256-{digest}'"


def test_every_plot_has_words_in_its_place_or_is_decoration(page):
    images = Page(page).all("svg")
    assert images
    for attributes in images:
        if attributes.get("aria-hidden") == "true":
            continue
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 20
    labels = [a["aria-label"] for a in images if "aria-label" in a]
    assert len(labels) == len(set(labels))


def test_the_alternative_of_a_curve_ranks_the_methods_best_first(page):
    labels = [a["aria-label"] for a in Page(page).all("svg") if "aria-label" in a]
    curve = next(text for text in labels if text.startswith("mse on first under mcar at missing"))
    assert "0 to 0.5" in curve
    assert f"best first: steady 0.605, {HOSTILE} 0.705, wide 0.805" in curve


def test_sections_are_there_and_reached_by_links(page):
    parsed = Page(page)
    sections = [a["id"] for a in parsed.all("section")]
    assert sections == [
        "leaderboard", "data", "across", "cost", "inside", "holes", "provenance", "runs",
    ]  # fmt: skip
    links = [a["href"] for a in parsed.all("a")]
    assert {f"#{name}" for name in sections} <= set(links)
    assert parsed.all("html") == [{"lang": "en"}]
    for place in parsed.all("div"):
        if place.get("class") == "scroll":  # scrolls sideways, so a keyboard must reach it
            assert place["tabindex"] == "0"
            assert place["aria-label"]


# --- safety -----------------------------------------------------------------------------------


def test_names_from_outside_are_text_and_never_markup(page):
    parsed = Page(page)
    assert len(parsed.all("script")) == 3  # two of data and the page's own
    assert parsed.all("img") == []
    assert parsed.all("suite") == []
    assert HOSTILE in parsed.text
    assert "OutOfMemoryError: <img src=x onerror=alert(2)>" in parsed.text
    assert "tiny <suite>" in parsed.text
    assert not any(name.startswith("on") for _, a in parsed.elements for name in a)


def test_a_dollar_in_a_name_is_a_dollar_in_every_plot(page):
    shown = [w for w in Page(page).words if w.startswith("$x$")]
    assert len(shown) > 5
    assert "mathdefault" not in page


def test_embedded_data_cannot_end_its_script_and_says_the_same(page):
    board, details = (json.loads(text) for text in Page(page).scripts[:2])
    assert HOSTILE in board["columns"]["name"]["values"]
    assert CLOSING in board["columns"]["name"]["values"]
    assert any(run[2].startswith("OutOfMemoryError: <img") for run in details["runs"])


def test_json_in_a_page_holds_no_character_that_markup_begins_with():
    words = {"</script>": ["<!--", "a & b", "\u2028", "\udcff"]}
    text = safe_json(words)
    assert not set("<>&\u2028\udcff") & set(text)
    assert json.loads(text) == words


def test_a_file_name_that_is_no_unicode_does_not_stop_the_page(runs, tmp_path):
    odd = Run(spec("bad\x00name", "first", 0), tmp_path, "failed", "lost \udcff")
    path = write_report("x", [*runs, odd], leaderboard([*runs, odd]), tmp_path, metric="mse")
    assert "lost ?" in path.read_text(encoding="utf-8")


# --- what it says -----------------------------------------------------------------------------


def test_holes_and_failures_are_shown_with_their_reasons(page):
    text = Page(page).text
    assert f"failed {CLOSING} second mixed 1 OutOfMemoryError" in text
    assert "skipped choosy first mixed 0 needs four modalities" in text
    assert "waiting choosy second mixed 0" in text
    assert "(1/2)" in text
    assert "15 done" in text
    assert "of 18 planned runs" in text


def test_a_metric_without_a_value_is_a_hole_of_its_own(runs, tmp_path):
    odd = finished(spec("odd", "first", 0), tmp_path, 0.3, undefined=("mae",))
    board = leaderboard([*runs, odd])
    text = Page(write_report("x", [*runs, odd], board, tmp_path, metric="mse").read_text()).text
    assert "Undefined scores" in text
    assert "odd first mixed mae" in text


def test_the_numbers_of_the_table_are_those_of_the_board(page, runs):
    columns = json.loads(Page(page).scripts[0])["columns"]
    board = leaderboard(runs)
    shown = {}
    for row in range(len(columns["mean"])):
        key = tuple(
            columns[n]["values"][columns[n]["codes"][row]]
            for n in ("data", "scenario", "condition", "name", "metric")
        )
        assert key not in shown
        shown[key] = columns["mean"][row]
    assert len(shown) == len(board)
    for row in board.itertuples():
        found = shown[row.data, row.scenario, row.condition, row.method, row.metric]
        assert found == (pytest.approx(row.mean, rel=1e-4) if row.mean == row.mean else None)


def test_the_table_begins_with_the_chosen_metric_and_its_best_methods(page):
    words = json.loads(Page(page).scripts[0])
    first = {
        n: [words["columns"][n]["values"][i] for i in words["columns"][n]["codes"][:5]]
        for n in ("metric", "name", "data", "condition")
    }
    assert first["name"] == ["steady", HOSTILE, "wide", CLOSING, "choosy"]  # holes last
    assert set(first["metric"]) == {"mse"}
    assert set(zip(first["data"], first["condition"], strict=True)) == {("first", "complete")}
    assert words["metric"] == "mse"
    assert "mse" in words["lower"]


def test_ranks_over_data_sets_leave_out_methods_with_holes(page):
    labels = [a["aria-label"] for a in Page(page).all("svg") if "aria-label" in a]
    ranks = next(text for text in labels if text.startswith("Mean ranks over 2 data sets"))
    assert f"steady 1.00, {HOSTILE} 2.00, wide 3.00;" in ranks
    assert CLOSING not in ranks
    assert f"Left out for their holes: {CLOSING}" in Page(page).text


def test_without_two_data_sets_the_page_says_why_there_are_no_ranks(runs, tmp_path):
    some = [run for run in runs if run.spec.data == "first"]
    text = Page(write_report("x", some, leaderboard(some), tmp_path, metric="mse").read_text()).text
    assert "No ranks over data sets: they need at least 3 methods" in text


# --- the first screen -------------------------------------------------------------------------


def board_of(ranks, tables, *, variant="paper"):
    """Rows of a board: mean ranks of methods, and for each table its ranks and p against the best.

    Args:
        ranks: Method -> mean rank.
        tables: For each table method -> (rank, p).
        variant: Of all of them.
    """
    return pd.DataFrame(
        {
            "data": "d", "scenario": "s", "condition": f"c{i}", "name": name, "variant": variant,
            "metric": "mse", "mean": 0.5, "n_seeds": 3, "n_seeds_planned": 3,
            "rank": float(rank), "p_vs_best": p, "rank_borda": ranks[name],
        }
        for i, table in enumerate(tables)
        for name, (rank, p) in table.items()
    )  # fmt: skip


SURE = {"a": (1, np.nan), "b": (2, 0.01), "c": (3, 0.04)}
OPEN = {"a": (1, np.nan), "b": (2, 0.6), "c": (3, 0.04)}
LOST = {"b": (1, np.nan), "a": (2, 0.02), "c": (3, 0.01)}
RANKS = {"a": 1.0, "b": 2.0, "c": 3.0}


@pytest.mark.parametrize(
    ("tables", "beyond", "why"),
    [
        ([SURE, SURE], "yes", "Best in 2 of 2 conditions, in 2 of them ahead of every other"),
        ([SURE, OPEN], "partly", "Best in 2 of 2 conditions, in 1 of them"),
        ([OPEN, LOST], "no", "Best in 1 of 2 conditions, in 0 of them ahead of every other"),
        ([SURE, LOST], "partly", "beaten beyond chance in 1 (p"),
    ],
)
def test_the_page_begins_with_who_leads_and_whether_it_is_beyond_chance(tables, beyond, why):
    found = report._answer(board_of(RANKS, tables))
    assert (found.leader, found.second, found.beyond) == ("a", "b (2.00)", beyond)
    assert why in found.why


def test_what_was_not_tested_or_is_shared_or_unranked_is_said_so():
    untested = [{name: (rank, np.nan) for name, (rank, _) in SURE.items()}]
    found = report._answer(board_of(RANKS, untested))
    assert (found.beyond, found.why) == ("not tested", "Best in 1 of 1 conditions.")
    assert report._answer(board_of(RANKS | {"b": 1.0}, [SURE])).leader == "a and b"
    assert report._answer(board_of(dict.fromkeys(RANKS, np.nan), [SURE])) is None
    assert report._answer(board_of(RANKS, [SURE], variant="official")) is None


def test_a_rival_without_a_p_does_not_make_a_lead_sure():
    assert report._answer(board_of(RANKS, [SURE | {"c": (3, np.nan)}])).beyond == "no"


def test_the_answer_stands_before_everything_else(runs, tmp_path):
    said = Verdict(["A verdict."], pd.DataFrame(columns=COLUMNS))
    path = write_report("x", runs, leaderboard(runs), tmp_path, metric="mse", verdict=said)
    words = Page(path.read_text()).text
    order = ["steady leads", "beyond chance: not tested", "A verdict.", "of 18 planned", "filter"]
    places = [words.find(one) for one in order[:-1]]
    assert -1 not in places
    assert places == sorted(places)


def test_the_ceiling_is_drawn_only_where_it_is_known(page):
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    curves = [Page(f).text for f in figures if "over the missing rate" in f]
    assert len(curves) == 2
    assert ["best possible" in text for text in curves] == [True, False]


def test_where_all_patterns_were_tested_it_is_shown_what_a_modality_is_worth(page):
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    worth = [Page(f) for f in figures if "What a modality is worth" in f]
    assert len(worth) == 2
    [label] = [a["aria-label"] for a in worth[0].all("svg") if "aria-label" in a]
    assert label.startswith("mse on first with one to all modalities, a line a method: ")
    # a score is the loss and the realised rate: 2/3 with one modality, 1/3 with both
    assert "steady 0.772 to " in label


def test_where_costs_are_known_the_curve_is_over_what_is_spent(runs, tmp_path):
    def captions(costs):
        path = write_report("x", runs, leaderboard(runs), tmp_path, metric="mse", costs=costs)
        figures = re.findall(r"<figure.*?</figure>", path.read_text(), flags=re.DOTALL)
        return [Page(f).text for f in figures if "What a modality is worth" in f]

    first, _ = captions({"audio": 1.0, "text": 5.0})
    assert "over what is spent (audio 1, text 5)" in first
    assert "spent on modalities" in first
    assert "Not over costs: none is given for text." in captions({"audio": 1.0, "txt": 5.0})[0]


def test_the_score_within_a_budget_is_that_of_what_it_buys():
    over = affordable({"audio": 1.0, "text": 5.0})
    scores = {"audio": 0.2, "text": 0.6, "text+audio": 0.7}
    budgets, mean, low, high = report._within(over, scores)
    assert budgets.tolist() == [1, 5, 6]
    assert mean == pytest.approx([0.2, 0.4, 0.7])  # for 5 either one, by which came first
    assert low == pytest.approx([0.2, 0.2, 0.7])
    assert high == pytest.approx([0.2, 0.6, 0.7])


def test_bands_that_would_cover_the_plot_are_bars_and_the_caption_says_so(runs, tmp_path):
    board = leaderboard(runs)

    def caption(board):
        path = write_report("x", runs, board, tmp_path, metric="mse")
        figures = re.findall(r"<figure.*?</figure>", path.read_text(), flags=re.DOTALL)
        return next(Page(f).text for f in figures if "over the missing rate" in f)

    assert "Bands: 95 % t interval" in caption(board)
    assert "Thin bars" not in caption(board)
    wide = caption(board.assign(ci_low=board["ci_low"] - 9, ci_high=board["ci_high"] + 9))
    assert "Bands" not in wide
    assert "Thin bars: one standard deviation to either side" in wide


def classified(folder, scenario, method, *, sure):
    """A finished run with predictions: the surest half is right, the other half is not."""
    asked = spec(method, "d", 0)
    asked = replace(asked, scenario=asked.scenario | {"name": scenario})
    home = folder / asked.folder
    (home / "predictions").mkdir(parents=True)
    target = np.tile([0, 1], 50)
    right = np.arange(100) < 50
    logits = np.eye(2)[np.where(right, target, 1 - target)] * np.where(right, sure, 1)[:, None]
    conditions = {}
    for name, (mechanism, nominal, rate) in CONDITIONS.items():
        conditions[name] = condition(
            mechanism=mechanism, missing_rate_nominal=nominal, missing=rate,
            scores={"accuracy": 0.5},
        )  # fmt: skip
        write_arrays(
            home / "predictions" / f"{name}.npz", {"logits": logits.astype("f4"), "target": target}
        )
    write_result(home, outcome(conditions))
    return Run(asked, home, "done")


def outcome(conditions):
    made = result("single_label", conditions)
    return replace(made, task=replace(made.task, outputs=("no", "yes")))


def test_errors_are_drawn_over_coverage_from_the_predictions_of_all_patterns(tmp_path):
    some = [
        classified(tmp_path, "one", "knows", sure=3), classified(tmp_path, "one", "guesses", sure=1)
    ]  # fmt: skip
    path = write_report("x", some, leaderboard(some), tmp_path / "page", metric="accuracy")
    page = Page(path.read_text())
    [label] = [a["aria-label"] for a in page.all("svg") if "Error rate" in a.get("aria-label", "")]
    assert "4 patterns together" in label
    assert label.endswith("knows 0.000 and 0.500, guesses 0.500 and 0.500")
    assert "reliability" in [a["id"] for a in page.all("section")]


def test_scores_by_class_that_two_scenarios_share_are_drawn_once_with_both_names(tmp_path):
    runs = [classified(tmp_path, name, "knows", sure=3) for name in ("one", "two")]
    path = write_report("x", runs, leaderboard(runs), tmp_path / "page", metric="accuracy")
    figures = re.findall(r"<figure.*?</figure>", path.read_text(), flags=re.DOTALL)
    [text] = [Page(f).text for f in figures if "F1 by class" in f]
    assert text.endswith("d, one and two: F1 by class, complete, first training.")


def test_diagnostics_of_a_sensible_size_are_drawn(page):
    labels = [a["aria-label"] for a in Page(page).all("svg") if "aria-label" in a]
    assert "<b>use</b> of steady on first, mixed: from 0.1 to 0.9" in labels
    assert "load of steady on first, mixed: from 1 to 3" in labels
    assert not any(text.startswith("vast") for text in labels)


def matrix(values):
    values = np.array(values, float)
    row, column = ([f"{s}{i}" for i in range(n)] for s, n in zip("rc", values.shape, strict=True))
    return Matrix(values=values, row=np.array(row), column=np.array(column))


def shown_inside(runs, tmp_path, shown, name="shown"):
    """The page of one more run that shows this of itself."""
    run = finished(spec(name, "first", 0), tmp_path / "more", 0.2)
    write_diagnostics(run.folder / "diagnostics.npz", shown)
    some = [runs[0], run]
    path = write_report("x", some, leaderboard(some), tmp_path, metric="mse")
    return path.read_text(encoding="utf-8")


def test_router_weights_are_drawn_by_pattern_and_name_their_experts(runs, tmp_path):
    usage = RouterUsage(
        pattern=np.array(["audio", "<i>text</i>"]),
        expert=np.array(["own", "shared"]),
        share=np.array([[0.1, 0.9], [0.8, 0.2]]),
        count=np.array([3.0, 4.0]),
    )
    page = Page(shown_inside(runs, tmp_path, {"router": usage}))
    labels = [a["aria-label"] for a in page.all("svg") if "aria-label" in a]
    assert (
        "router of shown on first, mixed, 2 patterns by 2 experts: audio mostly shared; "
        "<i>text</i> mostly own"
    ) in labels
    assert "Router: share of each expert by present modalities." in page.text
    assert page.all("i") == []


def test_of_very_many_patterns_the_most_frequent_are_drawn(runs, tmp_path):
    count = np.arange(100.0) + 1
    names = np.array([f"p{i}" for i in range(100)])
    usage = RouterUsage(
        pattern=names, expert=np.array(["a", "b"]), share=np.full((100, 2), 0.5), count=count
    )
    text = Page(shown_inside(runs, tmp_path, {"router": usage})).text
    assert "The 64 most frequent of 100 patterns." in text


def test_retrieval_is_shown_in_numbers_and_where_there_are_any_in_pictures(runs, tmp_path):
    found = Retrieval(
        query=np.array([7, 9]),
        neighbour=np.array([[11, 12], [13, -1]]),
        score=np.array([[0.5, 0.25], [0.75, np.nan]]),
        label=np.array([[1, 1], [0, np.nan]]),
        by=np.array(["values", "values"]),
    )
    page = Page(shown_inside(runs, tmp_path, {"retrieval": found}))
    assert "7 11, 12 0.5 1 9 13 0.75 0" in page.text
    assert "Their labels agree in a share of 0.67." in page.text
    assert "Looked up by values." in page.text
    found = replace(
        found,
        query_image=np.zeros((2, 3, 8, 8), np.uint8),
        neighbour_image=np.full((2, 2, 3, 8, 8), 255, np.uint8),
    )
    page = Page(shown_inside(runs, tmp_path / "b", {"retrieval": found}))
    pictures = page.all("image")
    assert len(pictures) == 6 + 2  # and the heat maps, of patterns and of the first run's routing
    assert all(a["href"].startswith("data:image/png;base64,") for a in pictures)
    words = "pictures of 2 queries of shown on first, mixed and what was retrieved for each"
    assert words in [a.get("aria-label") for a in page.all("svg")]


@pytest.mark.parametrize(("n", "how"), [(8, "principal components"), (40, "t-SNE")])
def test_recovered_embeddings_are_laid_out_beside_the_true_ones(runs, tmp_path, n, how):
    true = np.random.default_rng(0).normal(size=(n, 5))
    found = Recovery(modality=np.array(["text"] * n), recovered=true + 0.5, true=true)
    text = Page(shown_inside(runs, tmp_path, {"recovery": found})).text
    assert f"joined to the true ones ({how})." in text
    assert f"text 0.5 of {true.std():.3g}" in text


def test_recovered_embeddings_that_are_not_finite_do_not_stop_the_page(runs, tmp_path):
    nan = np.full((5, 2), np.nan)
    found = Recovery(modality=np.array(["text"] * 5), recovered=nan, true=np.zeros((5, 2)))
    assert "steady" in Page(shown_inside(runs, tmp_path, {"recovery": found})).text


def test_diagnostics_of_another_version_are_named_and_do_not_stop_the_page(runs, tmp_path):
    run = finished(spec("older", "first", 0), tmp_path / "more", 0.2)
    write_arrays(run.folder / "diagnostics.npz", {"router_weight": np.zeros((2, 2))})
    some = [runs[0], run]
    path = write_report("x", some, leaderboard(some), tmp_path, metric="mse")
    assert "holds no diagnostics that this version can read" in Page(path.read_text()).text


@pytest.mark.parametrize("metric", ["brier", "split_conformal_coverage_90"])
def test_reliability_is_drawn_by_pattern_where_it_is_known(metric, runs, tmp_path):
    board = leaderboard(runs)
    mse = board[board["metric"] == "mse"]
    path = write_report(
        "x", runs, pd.concat([board, mse.assign(metric=metric)]), tmp_path, metric="mse"
    )
    labels = [a["aria-label"] for a in Page(path.read_text()).all("svg") if "aria-label" in a]
    assert [label.split(",")[0] for label in labels if label.startswith(metric)] == [
        f"{metric} on first", f"{metric} on second"
    ]  # fmt: skip
    assert "under 4 conditions" in next(label for label in labels if label.startswith(metric))


def test_without_probabilities_there_is_no_section_on_them(page):
    assert 'id="reliability"' not in page


def test_what_missing_modalities_cost_has_a_section_of_its_own(runs, tmp_path):
    robust = robustness(runs)
    path = write_report("x", runs, leaderboard(runs), tmp_path, metric="mse", robust=robust)
    page = Page(path.read_text(encoding="utf-8"))
    assert "robustness" in [a["id"] for a in page.all("section")]
    assert "area under rate curve, mcar 0 to 0.5" in page.text
    # losses .105 + rate: .105, .405, .605 at 0, .3, .5
    assert "steady 0.355 ± 0.007" in page.text
    assert len(page.all("script")) == 3
    assert f"{HOSTILE} 0.455" in page.text


def test_plots_of_a_leaderboard_are_whole_files(runs, tmp_path):
    paths = write_plots(leaderboard(runs), tmp_path / "plots", metric="mse")
    assert sorted(path.name for path in paths) == sorted(
        path.name for path in (tmp_path / "plots").iterdir()
    )
    assert {path.name.split("_")[0] for path in paths} == {"conditions", "cost", "ranks.svg"}
    for path in paths:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.get("width")) > 100
        assert not root.findall(".//{*}script")
        assert len(root.get("aria-label")) > 20


def test_committed_plots_are_drawn_from_the_committed_leaderboard(tmp_path):
    home = Path(__file__).parents[2]
    committed = sorted((home / "results" / "quickstart").glob("*.svg"))
    readme = (home / "README.md").read_text()
    assert sum(f"(results/quickstart/{path.name})" in readme for path in committed) == 2
    metric = load_suite("quickstart", []).select.metric
    write_plots(published_board("quickstart", tmp_path), tmp_path, metric=metric)
    for path in committed:
        # the numbers; lines and letters may differ between versions of matplotlib
        old, new = (ElementTree.parse(p).getroot() for p in (path, tmp_path / path.name))
        assert old.get("aria-label") == new.get("aria-label")


def test_a_watched_page_says_so_and_others_do_not(runs, page, tmp_path):
    assert "data-watched" not in page
    path = write_report("x", runs, leaderboard(runs), tmp_path, metric="mse", watched=True)
    text = path.read_text(encoding="utf-8")
    assert "<body data-watched>" in text
    assert "reloads itself" in Page(text).text


def test_details_of_a_run_are_its_whole_specification_and_curve(page, runs):
    details = json.loads(Page(page).scripts[1])
    title, state, _, key, pooled, environment, curve = details["runs"][0]
    asked = {n: details["pool"][i] for n, i in zip(details["keys"], pooled, strict=True)}
    assert asked == runs[0].spec.to_json()
    assert (title, key) == (runs[0].spec.title, runs[0].spec.key)
    assert details["states"][state] == "done"
    assert details["pool"][environment]["versions"] == {"torch": "9.8.7"}
    assert curve["val/mse"] == [[0, 1, 2], [0, 0.1, 0.2]]
    assert "torch = 9.8.7" in Page(page).text


def test_a_suite_of_which_nothing_ran_has_a_page_too(tmp_path):
    waiting = [Run(spec("steady", "first", 0), tmp_path / "none", "waiting")]
    path = write_report("x", waiting, leaderboard(waiting), tmp_path, metric="mse")
    text = Page(path.read_text()).text
    assert "No run has finished" in text
    assert "waiting steady first mixed 0" in text
    empty = write_report("x", [], leaderboard([]), tmp_path, metric="mse")
    assert "of 0 planned runs" in Page(empty.read_text()).text


def test_a_data_set_without_the_metric_is_shown_with_its_own(runs, tmp_path):
    board = leaderboard(runs)
    board = board[(board["data"] != "second") | (board["metric"] != "mse")]
    text = Page(write_report("x", runs, board, tmp_path, metric="mse").read_text()).text
    other = next(m for m in dict.fromkeys(board["metric"]) if m != "mse")
    assert f"mse is not defined here; shown is {other}" in text


def test_the_same_records_give_the_same_page(page, runs, tmp_path):
    again = write_report("tiny <suite>", runs, leaderboard(runs), tmp_path / "b", metric="mse")
    assert again.read_text(encoding="utf-8") == page


def test_rows_beyond_the_limit_are_counted(runs, tmp_path, monkeypatch):
    board = leaderboard(runs)
    of_mse = int((board["metric"] == "mse").sum())
    monkeypatch.setattr(report, "ROWS", of_mse)
    page = Page(write_report("x", runs, board, tmp_path, metric="mse").read_text())
    assert json.loads(page.scripts[0])["n"] == of_mse
    assert f"{len(board) - of_mse} rows of other metrics did not fit" in page.text


# --- plots ------------------------------------------------------------------------------------


def test_names_that_differ_only_at_their_end_stay_apart_in_every_plot():
    names = [f"retrieval_augmented_prompts(num_experts={n})" for n in (4, 8, 16)]
    names += [f"retrieval_augmented_prompts(dim={n}, heads=4)" for n in (64, 128)]
    one = np.array([0.0, 0.5])
    lines = [
        plots.Line(name, i, one, one + i, one * np.nan, one * np.nan)
        for i, name in enumerate(names)
    ]
    dots = [plots.Dot(name, i, 10.0**i, float(i)) for i, name in enumerate(names)]
    ranks = {name: (float(i + 1), i) for i, name in enumerate(names)}
    drawn = [
        plots.curves(lines, None, metric="mse", higher=False, alt="curves of five methods"),
        plots.pareto(dots, cost="s", metric="mse", higher=False, alt="costs of five methods"),
        plots.heat(np.zeros((5, 2)), names, ["x", "y"], alt="five methods by two"),
        plots.bars(np.arange(5.0), names, alt="bars of five methods", across="x"),
        plots.critical_difference(ranks, 1.0, alt="ranks of five methods"),
    ]
    for svg in drawn:
        texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
        short = [text for text in texts if "…" in text]
        assert len(set(short)) == 5, short
        assert max(map(len, short)) <= 21


def test_what_two_long_names_share_goes_where_cutting_the_middle_would_make_them_alike():
    pair = [
        "a_very_long_common_beginning_x1_and_a_common_end",
        "a_very_long_common_beginning_x2_and_a_common_end",
    ]
    assert plots._apart(pair) == ["a_very…1_and_a_common", "a_very…2_and_a_common"]
    assert plots._apart(["short", "a_very_long_name_that_is_cut_at_all"]) == [
        "short",
        "a_very_lon…cut_at_all",
    ]
    assert (
        plots._apart(["x" * 40, "x" * 40 + "y"])[0] != plots._apart(["x" * 40, "x" * 40 + "y"])[1]
    )


def test_labels_move_as_little_as_needed_and_never_overlap():
    places = plots._spread(np.array([10.0, 10.0, 50.0]), 12.0, 100.0)
    assert places.tolist() == [4.0, 16.0, 50.0]
    crowded = plots._spread(np.full(5, 98.0), 12.0, 100.0)
    assert np.diff(crowded).min() >= 12.0 - 1e-9
    assert crowded.max() <= 100.0


@pytest.mark.parametrize("column", ["m0+m1+m2", "image+english+german", "c"])
def test_what_the_columns_of_a_table_of_colours_are_lies_inside_it(column):
    svg = plots.heat(
        np.eye(7), list("abcdefg"), [f"{column}{i}" for i in range(7)], alt="", across="ACROSS"
    )
    height = float(re.search(r'viewBox="0 0 \S+ (\S+)"', svg)[1])
    (place,) = re.findall(r' y="(\S+)"[^>]*>ACROSS<', svg)
    assert float(place) < height - 2


def test_groups_of_equal_methods_are_the_largest_ones():
    ranks = np.array([1.0, 1.5, 2.4, 4.0])
    assert plots._cliques(ranks, 1.0) == [(0, 1), (1, 2)]
    assert plots._cliques(ranks, 1.5) == [(0, 2)]
    assert plots._cliques(ranks, 0.1) == []


def test_chance_does_not_squeeze_the_axis_of_the_others():
    low, high = plots.limits([np.array([0.02]), np.array([0.8, 0.9]), np.array([0.85])], True)
    assert 0.7 < low < 0.8
    assert 0.9 < high < 1
    low, high = plots.limits([np.array([9.0]), np.array([0.8, 0.9]), np.array([0.85])], False)
    assert 0.7 < low < 0.8
    assert 0.9 < high < 1


@pytest.mark.parametrize(("low", "high"), [(0.5, 900.0), (9.0, 90.0), (3e5, 7e5), (1.0, 1e9)])
def test_ticks_of_a_cost_axis_are_few_and_inside(low, high):
    ticks = plots._round_amounts(low, high)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)
    assert plots._amount(1500.0) == "1.5k"
    assert plots._amount(2e6) == "2M"


# --- outside ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_report_needs_no_torch(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from mmbench.bench.leaderboard import leaderboard\n"
        "from mmbench.bench.report import write_report\n"
        f"write_report('x', [], leaderboard([]), Path({str(tmp_path)!r}), metric='accuracy')\n"
        "heavy = {'torch', 'lightning', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


@pytest.mark.slow
def test_a_missing_library_is_one_line_that_says_what_to_install(runs, tmp_path):
    program = (
        "import sys, importlib.util as u\nfrom pathlib import Path\n"
        "true = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'jinja2' else true(n, *a)\n"
        "from mmbench.bench.leaderboard import leaderboard\n"
        "from mmbench.bench.report import write_report\n"
        "try:\n"
        f"    write_report('x', [], leaderboard([]), Path({str(tmp_path)!r}), metric='accuracy')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=600, capture_output=True, text=True
    )
    assert done.stdout.strip() == (
        "a report needs jinja2, not installed here; run: pip install 'mmbench[report]'"
    )


@pytest.mark.slow
def test_a_page_of_48_runs_is_small(tmp_path):
    runs = [
        finished(spec(f"method_{m}", f"data_{d}", s), tmp_path, 0.1 * m + 0.01 * s, bayes=0.05)
        for d in range(3)
        for m in range(8)
        for s in range(2)
    ]
    path = write_report("x", runs, leaderboard(runs), tmp_path, metric="mse")
    assert path.stat().st_size < 1.5e6


# --- in a browser -----------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium")
DRIVE = """
const head = (name) => [...document.querySelectorAll("#board thead th")].find(
  (th) => th.textContent === name);
const names = () => [...document.querySelectorAll("#board tbody th")].map((th) => th.textContent);
const choose = (label, text) => {
  const box = [...document.querySelectorAll("#board-controls label")].find(
    (l) => l.firstChild.textContent === label).querySelector("select");
  box.value = [...box.options].find((o) => o.textContent === text).value;
  box.dispatchEvent(new Event("change"));
};
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
(async () => {
  const found = {};
  found.place = document.querySelector("#board tbody th small").textContent;
  choose("data", "first");
  choose("condition", "complete");
  found.plain = names();
  head("score").querySelector("button").focus();
  found.focused = document.activeElement.textContent;
  document.activeElement.click();
  found.once = [head("score").ariaSort, names()];
  document.activeElement.click();
  found.twice = [head("score").ariaSort, names()];
  const words = document.querySelector("#board-controls input");
  words.value = "ALERT(1)";
  words.dispatchEvent(new Event("input"));
  await wait(300);
  found.filtered = [names(), document.getElementById("board-status").textContent];
  document.getElementById("runs-details").open = true;
  await wait(50);
  const runs = [...document.querySelectorAll("#runs-list details")];
  runs[0].open = true;
  await wait(50);
  found.runs = runs.length;
  found.spec = JSON.parse(runs[0].querySelector("pre").textContent);
  found.curves = [...runs[0].querySelectorAll("svg")].map((svg) => svg.getAttribute("aria-label"));
  found.more = document.querySelector("#leaderboard .scroll").hasAttribute("data-more");
  const box = document.querySelector("#leaderboard .scroll");
  box.scrollLeft = box.scrollWidth;
  box.dispatchEvent(new Event("scroll"));  // a busy browser sends its own when it has time
  await wait(200);
  found.end = box.hasAttribute("data-more");
  found.second = document.querySelectorAll("#board thead th")[1].textContent;
  found.wide = document.documentElement.scrollWidth - innerWidth;
  const numbers = document.querySelector("#data details");
  numbers.open = false;
  dispatchEvent(new Event("beforeprint"));
  found.printed = numbers.open;
  dispatchEvent(new Event("afterprint"));
  found.shut = !numbers.open;
  document.body.replaceChildren();
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
})();
"""


def browse(path, profile, *options):
    """The document after its scripts ran."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={profile}", "--virtual-time-budget=5000", *options, path.as_uri(),
        ],
        check=True, timeout=600, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no program named chromium on the PATH")
def test_the_page_works_in_a_browser(page, runs, tmp_path):
    driven = tmp_path / "driven.html"
    # the page's policy would refuse the test's script as it refuses any other
    driven.write_text(
        re.sub(r"<meta http-equiv[^>]*>", "", page).replace(
            "</body>", f"<script>{DRIVE}</script></body>"
        )
    )
    text = browse(driven, tmp_path / "profile", "--window-size=500,900")
    words = re.search("FOUND(.*)END", text, flags=re.DOTALL)
    assert words, text[-2000:]
    unescaped = words[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    found = json.loads(unescaped.replace("&nbsp;", "\u00a0"))
    order = ["steady", HOSTILE, "wide", CLOSING, "choosy"]
    assert found["place"] == "first · complete"  # its columns lie beyond the edge
    assert found["plain"] == order
    assert found["focused"] == "score"
    assert found["once"] == ["ascending", order]  # a loss: less is better, so less comes first
    assert found["twice"] == ["descending", [CLOSING, "wide", HOSTILE, "steady", "choosy"]]
    assert found["filtered"] == [[HOSTILE], "rows 1 to 1 of 1"]
    assert found["runs"] == len(runs)
    assert found["spec"] == runs[0].spec.to_json()
    assert [label.split(":")[0] for label in found["curves"]] == ["train/task", "val/mse"]
    assert found["second"] == "score"  # what one looks for comes first where little fits
    assert (found["more"], found["end"]) == (True, False)  # it hints at scrolling until the end
    assert (found["printed"], found["shut"]) == (True, True)  # paper has the tables in any case
    assert found["wide"] <= 0  # nothing sticks out of a narrow window


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no program named chromium on the PATH")
def test_the_policy_lets_the_page_s_script_run_and_refuses_others(page, tmp_path):
    whole = tmp_path / "report.html"
    whole.write_text(
        page.replace("</body>", "<script>document.title = 'taken over'</script></body>")
    )
    text = browse(whole, tmp_path / "profile")
    assert "rows 1 to 50 of 60" in text
    assert re.findall(r"<title>(.*?)</title>", text) == [
        "tiny &lt;suite&gt; \N{EN DASH} mmbench report"
    ]


def test_doubts_about_a_data_set_are_said_once_and_escaped(page):
    said = "<li><b>first</b>: the class &lt;i&gt;rare&lt;/i&gt; is never trained on</li>"
    assert page.count(said) == 1
    assert "<li><b>second</b>" not in page


def test_the_page_shows_what_its_sentences_rest_on_with_both_errors_apart(runs, tmp_path):
    row = dict.fromkeys(COLUMNS, 0.0) | {
        "method": HOSTILE, "reference": "steady", "metric": "mse", "n_trainings": 2, "p": 0.0004,
        "gain": 0.05, "ci_low": 0.03, "ci_high": 0.07, "se_seeds": 0.011, "se_samples": 0.022,
    }  # fmt: skip
    places = [
        ("first", ALL), (EVERY, ALL), (EVERY, "rate 0.5"), (EVERY, "rate 0"), (EVERY, "patterns"),
    ]  # fmt: skip
    table = pd.DataFrame([row | {"data": data, "over": over} for data, over in places])
    said = Verdict(["Nobody <b>wins</b>."], table)
    path = write_report("x", runs, leaderboard(runs), tmp_path, metric="mse", verdict=said)
    source = path.read_text(encoding="utf-8")
    text = " ".join(Page(source).text.split())
    assert "Nobody <b>wins</b>." in text
    assert HOSTILE not in source
    assert "+0.050 [+0.030, +0.070] < 0.001 +0.050 s 0.011 t 0.022" in text
    assert "method rate 0 rate 0.5 patterns" in text
    assert text.count("+0.050 [+0.030, +0.070] *") == 3


def test_ranks_stand_for_each_missing_rate_and_patterns_are_no_rate(page):
    text = " ".join(Page(page).text.split())
    assert "mean rank over data sets at each missing rate" in text
    assert "method rate 0 rate 0.3 rate 0.5" in text
    assert "Order at the lowest and at the highest missing rate: Kendall's tau 1.00" in text
