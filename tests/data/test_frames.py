"""Reading users' tables: what was written comes back, whatever program wrote it."""

import csv
import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmbench.data.files import exact
from mmbench.data.frames import likely_cause, read_frame, to_numbers

some = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the file is written anew
)
# no carriage return (which text files turn into a line feed) and nothing that UTF-8 has not
cell = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)


def write(path, rows, separator=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)


@some
@given(
    st.lists(st.tuples(cell, cell), min_size=1, max_size=6),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
)
def test_texts_come_back_as_they_were_written(tmp_path, cells, separator, label):
    path = tmp_path / "t.csv"
    rows = [[f"p{k}", *row] for k, row in enumerate(cells)]
    write(path, [["id", "one", "two"], *rows], separator)
    asked = {"only": ["two", "one"]} if label else {"text": True}
    frame = read_frame(path, "id", **asked)
    for k, name in enumerate(("one", "two")):
        assert frame.text(name).tolist() == [row[k].strip() for row in cells]
    assert list(frame.ids) == [row[0] for row in rows]


@some
@given(
    st.lists(
        st.one_of(
            st.none(), st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6, allow_nan=False, width=32)
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([",", ";", "\t", ";,"]),
)
def test_numbers_come_back_as_they_were_written(tmp_path, values, separator):
    path = tmp_path / "t.csv"
    texts = ["" if v is None else repr(v) for v in values]
    if separator == ";,":  # decimal commas
        texts = [text.replace(".", ",") for text in texts]
    write(path, [["id", "x", "y"], *([k, x, 1] for k, x in enumerate(texts))], separator[0])
    frame = read_frame(path, "id")
    wanted = [np.nan if v is None else v for v in values]
    np.testing.assert_allclose(frame.numbers[:, 0], wanted, rtol=1e-15)
    assert frame.names == ("x", "y")


def test_a_header_that_holds_other_separators_is_cut_at_the_right_one(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,"a;b;c;d"\np1,3\n')
    assert read_frame(path, "id").names == ("a;b;c;d",)
    path.write_text("id;a,b;c,d,e,f\np1;3;4\n")
    assert read_frame(path, "id").names == ("a,b", "c,d,e,f")


def test_compressed_files_and_capital_endings_are_read(tmp_path):
    text = "id,x\np1,2\n"
    (tmp_path / "t.CSV").write_text(text)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("t.CSV", "t.csv.gz"):
        assert read_frame(tmp_path / name, "id").numbers.tolist() == [[2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t.csv is empty"),
        (b"\n\n", "t.csv is empty"),
        (
            "id,x\np1,\u00e4\n".encode("latin-1"),
            "no UTF-8 text .*; save it as CSV UTF-8",
        ),
        (
            "id,x\np1,2\n".encode("utf-16"),
            "no UTF-8 text .*; save it as CSV UTF-8",
        ),
        (b"name,x\np1,2\n", "t.csv has no column 'id'; it has name, x"),
        (b"id,x,id\np1,2,p1\n", "t.csv has 2 columns 'id'; rename all but one"),
        (b"id,x\n ,2\n", "t.csv row 2: id is empty"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_frame(tmp_path / "t.csv", "id")
    assert "\n" not in str(caught.value)


def test_columns_may_share_a_name_unless_they_are_asked_for(tmp_path):
    (tmp_path / "t.csv").write_text("id,x,x\np1,2,3\n")
    frame = read_frame(tmp_path / "t.csv", "id")
    assert frame.numbers.tolist() == [[2, 3]]
    assert frame.without(["x"]).names == ()
    with pytest.raises(ValueError, match="has 2 columns 'x'"):
        read_frame(tmp_path / "t.csv", "id", only=["x"])


def test_a_part_of_a_frame_knows_its_lines(tmp_path):
    (tmp_path / "t.csv").write_text("id,x,s\np1,2,a\np2,3,b\np3,4,c\n")
    part = read_frame(tmp_path / "t.csv", "id").take(np.array([2, 0])).without(["x"])
    assert part.where(0) == f"{tmp_path / 't.csv'} row 4 (id p3)"
    assert part.text("s").tolist() == ["c", "a"]


def test_a_point_groups_thousands_where_decimals_are_commas():
    texts = pd.Series(["1,5", "1.500", "NA", "x", ""], dtype=object)
    numbers, bad = to_numbers(texts, comma=True)
    assert numbers[0] == 1.5
    assert bad.tolist() == [False, True, False, True, False]
    numbers, bad = to_numbers(texts)
    assert numbers[1] == 1.5
    assert bad.tolist() == [True, False, False, True, False]


def test_numbers_are_narrowed_only_where_nothing_is_lost():
    assert exact(np.array([0.5, np.nan, 2.0**24])).dtype == np.float32
    assert exact(np.array([0.1])).dtype == np.float64
    assert exact(np.array([2.0**24 + 1])).dtype == np.float64
    assert exact(np.array([1e60])).dtype == np.float64


def test_ids_that_differ_in_nothing_known_are_shown_alone():
    said = likely_cause(pd.Index(["a"]), pd.Index(["b"]), ("x.csv", "y.csv"))
    assert said == "ids of x.csv look like 'a', of y.csv like 'b'"
    said = likely_cause(pd.Index(["T-0"]), pd.Index(["T-0-01"]), ("x.csv", "y.csv"))
    assert said.endswith("those of y.csv go on, here with '-01'")
