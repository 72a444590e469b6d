"""Leaderboards beside each other and beside papers: differences worked by hand, nothing dropped."""

import numpy as np
import pandas as pd
import pytest

from mmbench.bench.compare import (
    REPORTED,
    against_reported,
    changes,
    read_board,
    read_reported,
    render_changes,
    render_reported,
)
from mmbench.bench.leaderboard import CELL, COLUMNS
from mmbench.paths import folder

NAN = float("nan")


def row(method, mean, low=NAN, high=NAN, *, n=3, **words):
    return {
        **dict.fromkeys(COLUMNS, NAN),
        "data": "mfeat",
        "scenario": "mcar30",
        "condition": "natural",
        "variant": "paper",
        "metric": "accuracy",
        "n_seeds": n,
        "n_seeds_planned": 3,
        "n_folds": 1,
        "mixed": "",
        "protocol": 1,
        "note": "",
        "method": method,
        "mean": mean,
        "ci_low": low,
        "ci_high": high,
        **words,
    }


def board(*rows):
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def printed(name, mean, *, data="mfeat", modalities="a+b", metric="accuracy", **words):
    return {
        "table": "1",
        "row": name,
        "data": data,
        "modalities": modalities,
        "condition": "natural",
        "metric": metric,
        "mean": mean,
        "std": 0.02,
        "source": "A paper",
        **words,
    }


def paper(*rows):
    return pd.DataFrame(list(rows), columns=list(REPORTED))


# --- two leaderboards ---


def test_equal_boards_have_no_changes_and_holes_equal_holes():
    one = board(row("a", 0.5, 0.4, 0.6), row("b", NAN, n=0, protocol=NAN))
    found = changes(one, one.copy())
    assert found.empty
    assert list(found.columns[: len(CELL)]) == CELL
    assert render_changes(found) == "no cell changed\n"


def test_a_change_is_measured_and_set_against_the_interval_of_the_first():
    before = board(row("in", 0.5, 0.4, 0.6), row("out", 0.5, 0.45, 0.55), row("one", 0.5, n=1))
    after = board(row("in", 0.58), row("out", 0.4), row("one", 0.6, n=1))
    found = changes(before, after).set_index("method")
    assert list(found.index) == ["in", "out", "one"]
    np.testing.assert_allclose(found["change"], [0.08, -0.1, 0.1])
    assert found["inside"].tolist() == ["yes", "no", "unknown"]
    assert found["what"].eq("changed").all()
    text = render_changes(found.reset_index())
    assert text.startswith(
        "3 cells changed: 1 outside the interval of A, 1 inside, 1 unknown. "
        "0 only in A, 0 only in B."
    )
    assert "+0.080" in text
    assert "0.450 to 0.550" in text


def test_cells_of_one_side_only_are_listed():
    found = changes(board(row("a", 0.5), row("old", 0.2)), board(row("new", 0.3), row("a", 0.5)))
    assert found[["method", "what"]].to_numpy().tolist() == [
        ["old", "only in A"],
        ["new", "only in B"],
    ]
    assert found["before"].tolist()[0] == 0.2
    assert np.isnan(found["change"]).all()
    assert "0 cells changed" in render_changes(found)


def test_a_hole_that_fills_and_a_protocol_that_moves_are_changes():
    before = board(row("hole", NAN, n=0, protocol=NAN), row("p", 0.5), row("seeds", 0.5, n=2))
    after = board(row("hole", 0.4), row("p", 0.5, protocol=2), row("seeds", 0.5))
    found = changes(before, after).set_index("method")
    assert found.loc["hole", "inside"] == "unknown"
    assert found.loc["hole", ["seeds_before", "seeds_after"]].tolist() == ["0/3", "3/3"]
    assert found["note"].tolist() == ["", "protocol 1 -> 2", ""]
    assert found.loc["seeds", "change"] == 0
    assert "2/3 -> 3/3" in render_changes(found.reset_index())


def test_rounding_to_the_digits_of_a_file_is_no_change():
    exact = board(row("a", 0.123456789, 0.1, 0.2), row("b", 1 / 3))
    rounded = board(row("a", 0.123457, 0.1, 0.2), row("b", 0.333333))
    assert changes(exact, rounded).empty
    assert len(changes(exact, board(row("a", 0.1235, 0.1, 0.2), row("b", 0.333333)))) == 1


def test_a_written_board_reads_back_and_labels_stay_text(tmp_path):
    one = board(row("NA", 0.5, 0.4, 0.6, data="1"), row("nan", NAN, n=0))
    one.to_csv(tmp_path / "leaderboard.csv", index=False)
    for where in (tmp_path, tmp_path / "leaderboard.csv"):
        read = read_board(where)
        assert read["method"].tolist() == ["NA", "nan"]
        assert read["data"].tolist() == ["1", "mfeat"]
        assert changes(one, read).empty


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; give a leaderboard.csv"),
        (b"", "cannot be read as a leaderboard"),
        (b"\xff\xfe\x00\x01", "cannot be read as a leaderboard"),
        (b"x,y\n1,2\n", "is no leaderboard: it lacks the columns data, scenario"),
        (b'a,b\n"1,2\n3', "cannot be read|is no leaderboard"),
    ],
)
def test_a_missing_or_foreign_file_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "leaderboard.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as found:
        read_board(tmp_path)
    assert "\n" not in str(found.value)
    assert str(tmp_path) in str(found.value)


def test_a_word_among_the_numbers_and_a_cell_twice_are_refused(tmp_path):
    path = tmp_path / "leaderboard.csv"
    board(row("a", "high")).to_csv(path, index=False)
    with pytest.raises(ValueError, match="column 'mean' holds what is no number"):
        read_board(path)
    board(row("a", 0.1), row("a", 0.2)).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"holds a cell twice \(mfeat, mcar30, natural, a"):
        read_board(path)
    with pytest.raises(ValueError, match="board B is no leaderboard: it lacks the column mean;"):
        changes(board(row("a", 0.1)), board(row("a", 0.1)).drop(columns="mean"))


# --- a leaderboard and a paper ---


def test_a_reported_number_stands_beside_ours_with_the_gap():
    found = against_reported(
        board(row("zero_fill", 0.8, 0.7, 0.9), row("majority", 0.1, 0.1, 0.1)),
        paper(printed("zero_fill", 0.75), printed("majority", 0.2)),
    )
    assert found["status"].tolist() == ["matched", "matched"]
    np.testing.assert_allclose(found["gap"], [0.05, -0.1])
    assert found["covered"].tolist() == ["yes", "no"]
    assert found["unit"].eq("fraction").all()
    assert found["seeds"].tolist() == ["3/3", "3/3"]


def test_percent_is_converted_where_the_source_or_the_size_of_the_numbers_says_so():
    ours = board(*(row("zero_fill", 0.5, data=name) for name in "abc"), row("m", 1, metric="mae"))
    found = against_reported(
        ours,
        paper(
            printed("zero_fill", 0.9, data="a", source="A paper; in percent"),
            printed("zero_fill", 50.0, data="b", table="2"),
            printed("zero_fill", 0.7, data="c", table="2"),  # its table is in percent
            printed("m", 50.0, metric="mae", table="2"),  # errors have no upper end
        ),
    )
    np.testing.assert_allclose(found["reported"], [0.009, 0.5, 0.007, 50.0])
    np.testing.assert_allclose(found["reported_std"], [0.0002, 0.0002, 0.0002, 0.02])
    assert found["unit"].tolist() == [
        "percent, as the source says",
        "percent, as numbers exceed 1",
        "percent, as numbers exceed 1",
        "as printed",
    ]


@pytest.mark.parametrize("name", ["MoE-Retriever", "moe retriever", "MOE_RETRIEVER"])
def test_names_match_whatever_their_case_and_punctuation(name):
    ours = board(
        row("moe_retriever", 0.5),
        row("moe_retriever_official", 0.6, variant="official"),
        row("moe_retriever(variant=official)", 0.7, variant="official"),
        row("moe_retriever(dim=8)", 0.8),
    )
    found = against_reported(ours, paper(printed(name, 0.5)))
    assert found["ours"].tolist() == [0.5, 0.6, 0.7, 0.8]
    assert found["status"].tolist() == ["matched"] * 3 + ["only ours"]


def test_a_row_that_the_board_lacks_has_the_name_of_the_registry():
    found = against_reported(board(row("majority", 0.5)), paper(printed("FuseMoE", 0.5)))
    assert found["method"].tolist() == ["fuse_moe", "majority"]


def test_a_data_set_matches_with_its_modalities():
    ours = board(
        row("shaspec", 0.1, data="cmu_mosi(modalities=['video', 'audio'])"),
        row("shaspec", 0.2, data="cmu_mosi(text+video)"),
        row("shaspec", 0.3, data="cmu_mosi"),
        row("shaspec", 0.4, data="cmu_mosi(limit=3)"),
    )
    found = against_reported(
        ours,
        paper(
            *(
                printed("shaspec", 0.5, data="CMU-MOSI", modalities=words)
                for words in ("video+audio", "video+text", "audio+text", "video+audio+text")
            )
        ),
    )
    assert found["status"].tolist() == [
        "matched", "matched", "only reported", "matched", "only ours",
    ]  # fmt: skip
    np.testing.assert_array_equal(found["ours"], [0.1, 0.2, NAN, 0.3, 0.4])
    assert found["why"].tolist()[2] == "no data set CMU-MOSI(audio+text) on the board"


def test_what_has_no_match_is_listed_with_the_reason():
    found = against_reported(
        board(row("shaspec", 0.5), row("zero_fill", 0.4)),
        paper(
            printed("shaspec", 0.5, data="adni"),
            printed("without_intra", 0.5),
            printed("shaspec", 0.5, condition="mcar_0.3"),
            printed("shaspec", 0.5, metric="macro_f1"),
        ),
    )
    assert found["why"].tolist() == [
        "no data set adni on the board",
        "no method without_intra for mfeat on the board",
        "no condition mcar_0.3 for mfeat on the board",
        "no metric macro_f1 for mfeat on the board",
        "not reported",
        "not reported",
    ]
    assert found["status"].tolist() == ["only reported"] * 4 + ["only ours"] * 2
    text = render_reported(found)
    assert "4 reported numbers and 2 of our cells have no match" in text
    for word in ("adni", "without_intra", "mcar_0.3", "macro_f1", "zero_fill"):
        assert word in text


def test_one_reported_number_stands_beside_each_scenario_and_a_hole_covers_nothing():
    found = against_reported(
        board(row("shaspec", NAN, n=0), row("shaspec", 0.5, 0.4, 0.6, scenario="other")),
        paper(printed("shaspec", 55.0)),
    )
    assert found["scenario"].tolist() == ["mcar30", "other"]
    assert found["covered"].tolist() == ["unknown", "yes"]
    text = render_reported(found)
    assert text.startswith(
        "2 matches: 1 reported means inside our interval, 0 outside, 1 unknown. "
        "0 reported numbers and 0 of our cells have no match."
    )
    assert "-0.050" in text
    assert "percent, as numbers exceed 1" in text
    assert "Sources: A paper" in text


def test_shipped_tables_are_read_whole_and_scores_in_percent():
    where = folder("benchmarks") / "reported"
    table = read_reported(where)
    assert len(table) == sum(len(read_reported(file)) for file in where.glob("*.csv"))
    found = against_reported(board(row("shaspec", 0.5)), where)
    assert len(found) == len(table) + 1
    theirs = found[found["status"] == "only reported"]
    cost = theirs["metric"].isin(["params_trainable_millions", "train_flops_g"])
    assert theirs.loc[cost, "unit"].eq("as printed").all()
    assert theirs.loc[~cost, "unit"].eq("percent, as the source says").all()
    assert theirs.loc[~cost, "reported"].between(0, 1).all()


def test_an_empty_folder_or_a_foreign_table_of_reported_numbers_is_one_line(tmp_path):
    for where in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(ValueError, match=r"no reported numbers in .*; give a CSV file"):
            read_reported(where)
    (tmp_path / "a.csv").write_text("row,mean\nx,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is no table of reported numbers: it lacks the columns"):
        against_reported(board(row("shaspec", 0.5)), tmp_path)
