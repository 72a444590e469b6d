r"""LaTeX tables: every name prints as itself, marks follow ranks and p, holes stay holes."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.bench.compare import read_board
from mmbench.bench.latex import escape, latex
from mmbench.bench.leaderboard import COLUMNS

NAN = float("nan")


def row(method, mean, *, rank=NAN, p=NAN, std=0.01, n=3, note="", **words):
    """One cell of a board; what is not given is unknown."""
    return {
        **dict.fromkeys(COLUMNS, NAN),
        "data": "mfeat",
        "scenario": "mcar30",
        "condition": "complete",
        "variant": "paper",
        "metric": "accuracy",
        "n_seeds": n,
        "n_seeds_planned": 3,
        "n_folds": 1,
        "mixed": "",
        "method": method,
        "mean": mean,
        "std_seeds": std,
        "rank": rank,
        "p_vs_best": p,
        "note": note,
        **words,
    }


def board(*rows):
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def cells(text, method):
    """Cells of a method's only row."""
    found = [line for line in text.splitlines() if line.startswith(f"{method} & ")]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].removesuffix(r"\\").split(" & ")[1:]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zero_fill", r"zero\_fill"),
        ("50%", r"50\%"),
        ("a&b", r"a\&b"),
        ("#1", r"\#1"),
        ("{x}", r"\{x\}"),
        ("$x$", r"\$x\$"),
        ("a~b", r"a\textasciitilde{}b"),
        ("x^2", r"x\textasciicircum{}2"),
        (r"a\b", r"a\textbackslash{}b"),
        (r"\{_", r"\textbackslash{}\{\_"),
        ("[1]*", "{[}1]{*}"),
        ("a\n\tb", "a b"),
        ("natural+mcar_0.3", r"natural+mcar\_0.3"),
    ],
)
def test_text_is_escaped(text, expected):
    assert escape(text) == expected


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(alphabet=r"ab_%&#${}~^\|<>[]*", max_size=12))
def test_an_escaped_text_reads_back_as_the_text(text):
    words = {
        r"\textbackslash{}": "\\",
        r"\textasciitilde{}": "~",
        r"\textasciicircum{}": "^",
        r"\textless{}": "<",
        r"\textgreater{}": ">",
        r"\textbar{}": "|",
        "{[}": "[",
        "{*}": "*",
    }
    pattern = "|".join([*map(re.escape, words), r"\\[&%$#_{}]"])
    read = re.sub(pattern, lambda m: words.get(m[0], m[0][-1]), escape(text))
    assert read == text
    rest = re.sub(pattern, "", escape(text))
    assert not set(rest) & set(r"_%&#${}~^\|<>[*")  # nothing special is left bare


def test_the_whole_table_is_the_one_written_by_hand():
    text = latex(
        board(
            row("zero_fill", 0.7, rank=1, std=0.1, bayes=0.9, bayes_se=0.02),
            row("majority", 0.1, rank=2, std=0.0, bayes=0.9, bayes_se=0.02),
        ),
        metric="accuracy",
    )
    assert text == (
        r"""% needs \usepackage{booktabs}

\begin{table}
\centering
\caption{mfeat, mcar30: accuracy (higher is better), mean $\pm$ standard deviation over 3 seeds. """
        r"""Bold: the best; underlined: the next; ($n/m$): only $n$ of $m$ """
        r"""runs finished, not ranked.}
\label{tab:mfeat-mcar30-accuracy}
\begin{tabular}{lc}
\toprule
method & complete \\
\midrule
zero\_fill & $\mathbf{0.700} \pm 0.100$ \\
majority & $\underline{0.100} \pm 0.000$ \\
\midrule
best possible & $0.900 \pm 0.020$ \\
\bottomrule
\end{tabular}
\end{table}
"""
    )


def test_a_method_that_is_not_told_apart_from_the_best_is_bold_and_the_next_is_underlined():
    text = latex(
        board(
            row("a", 0.80, rank=1),
            row("b", 0.79, rank=2, p=0.2),
            row("c", 0.70, rank=3, p=0.05),  # p must exceed the level
            row("d", 0.60, rank=4, p=0.001),
        ),
        metric="accuracy",
    )
    assert cells(text, "a") == [r"$\mathbf{0.800} \pm 0.010$"]
    assert cells(text, "b") == [r"$\mathbf{0.790} \pm 0.010$"]
    assert cells(text, "c") == [r"$\underline{0.700} \pm 0.010$"]
    assert cells(text, "d") == [r"$0.600 \pm 0.010$"]
    assert "$p > 0.05$" in text


def test_a_higher_level_tells_more_methods_apart():
    rows = board(row("a", 0.80, rank=1), row("b", 0.79, rank=2, p=0.2))
    assert cells(latex(rows, metric="accuracy", level=0.3), "b") == [
        r"$\underline{0.790} \pm 0.010$"
    ]


def test_equal_means_share_a_mark():
    text = latex(
        board(row("a", 0.8, rank=1), row("b", 0.8, rank=1), row("c", 0.5, rank=3),
              row("d", 0.5, rank=3)),
        metric="accuracy",
    )  # fmt: skip
    for name in "ab":
        assert cells(text, name)[0].startswith(r"$\mathbf")
    for name in "cd":
        assert cells(text, name)[0].startswith(r"$\underline")


def test_holes_are_shown_and_never_marked():
    text = latex(
        board(
            row("whole", 0.5, rank=1),
            row("hole", 0.9, n=2),
            row("failed", NAN, n=0, std=NAN, note="failed: out of memory"),
            row("undefined", NAN, n=2, std=NAN),
            row("foreign", NAN, n=0, std=NAN, note="skipped: needs two modalities"),
        ),
        metric="accuracy",
    )
    assert cells(text, "hole") == [r"$0.900 \pm 0.010$ (2/3)"]
    assert cells(text, "failed") == ["0/3"]
    assert cells(text, "undefined") == ["2/3"]
    assert cells(text, "foreign") == ["--"]
    assert cells(text, "whole") == [r"$\mathbf{0.500} \pm 0.010$"]


def test_a_hole_of_a_board_read_from_a_file_counts_in_whole_seeds(tmp_path):
    rows = board(row("a", 0.5, rank=1), row("hole", 0.9, n=2, protocol=1))
    rows.to_csv(tmp_path / "leaderboard.csv", index=False)
    text = latex(read_board(tmp_path), metric="accuracy")
    assert cells(text, "hole") == [r"$0.900 \pm 0.010$ (2/3)"]


def test_one_seed_has_no_spread_and_a_negative_mean_keeps_its_sign():
    text = latex(board(row("a", -0.1234, rank=1, std=NAN, metric="r2")), metric="r2")
    assert cells(text, "a") == [r"$\mathbf{-0.123}$"]


def test_variants_stand_apart_and_are_never_marked():
    text = latex(
        board(row("a", 0.8, rank=1), row("a_official", 0.9, rank=1, variant="official")),
        metric="accuracy",
    )
    assert cells(text, "a")[0].startswith(r"$\mathbf")
    assert cells(text, r"a\_official")[0].startswith("$0.900")
    between = text[text.index("\na &") : text.index("\na\\_official &")]
    assert r"\midrule" in between


def test_conditions_go_across_in_order_and_an_unknown_ceiling_is_a_dash():
    text = latex(
        board(
            row("a", 0.8, rank=1, condition="z"),
            row("a", 0.7, rank=1, condition="b_1", bayes=0.9, bayes_se=NAN),
            row("b", 0.6, rank=2, condition="b_1", bayes=0.9, bayes_se=NAN),
        ),
        metric="accuracy",
    )
    assert cells(text, "method") == ["z", r"b\_1"]
    assert cells(text, "b")[0] == ""
    assert cells(text, "best possible") == ["--", "$0.900$"]
    assert r"\begin{tabular}{lcc}" in text


def test_each_data_set_and_scenario_has_a_table_with_a_label_of_its_own():
    text = latex(
        board(row("a", 0.8, rank=1, data="x_1"), row("a", 0.8, rank=1, data="x-1"),
              row("a", 0.8, rank=1, scenario="other")),
        metric="accuracy",
    )  # fmt: skip
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert labels == [
        "tab:x-1-mcar30-accuracy", "tab:x-1-mcar30-accuracy-2", "tab:mfeat-other-accuracy",
    ]  # fmt: skip
    assert r"\caption{x\_1, mcar30:" in text


def test_the_caption_says_which_way_is_better():
    text = latex(board(row("a", 0.1, rank=1, metric="log_loss_ipw")), metric="log_loss_ipw")
    assert r"log\_loss\_ipw (lower is better)" in text


def test_an_unknown_metric_is_one_line_with_a_suggestion():
    with pytest.raises(ValueError, match="no metric 'acuracy' on the board; did you mean") as found:
        latex(board(row("a", 0.1, rank=1)), metric="acuracy")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("level", [-0.1, 5.0, np.nan])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(ValueError, match="no probability"):
        latex(board(row("a", 0.1, rank=1)), metric="accuracy", level=level)
