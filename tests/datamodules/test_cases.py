"""Files as they come from other programs: what each means, or the line that refuses it."""

import importlib.util
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from datamodules.table import Table
from mmbench.bench.run.notes import notes
from mmbench.bench.spec import bind
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
N = 30
IDS = [f"p{k:02d}" for k in range(N)]
CLASSES = ["red", "green", "blue"]
needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="parquet is read by pyarrow"
)


def lines(rows, end=""):
    return "".join(",".join(str(cell) for cell in row) + end + "\n" for row in rows)


def numbers(ids=IDS):
    """Rows of a file: two features that name their row."""
    return [["id", "w", "x"], *([one, k + 0.25, -k] for k, one in enumerate(ids))]


def labels(words=CLASSES, ids=IDS, column="label"):
    """Rows of a labels file with a split in it, so that the row of an id is its rank."""
    split = ["train"] * 18 + ["val"] * 6 + ["test"] * 6
    body = ([one, words[k % len(words)], split[k]] for k, one in enumerate(ids))
    return [["id", column, "split"], *body]


@pytest.fixture
def root(tmp_path):
    """A folder with a good a.csv, b.csv and labels.csv; tests write over one of them."""
    (tmp_path / "a.csv").write_text(lines(numbers()))
    (tmp_path / "b.csv").write_text(lines(numbers()))
    (tmp_path / "labels.csv").write_text(lines(labels()))
    return tmp_path


def table(root, **arguments):
    plain = {"files": {"a": "a.csv", "b": "b.csv"}, "labels": "labels.csv", "split": "split"}
    return Table(root, SCENARIO, **bind(Table, plain | arguments, ("root", "scenario", "fold")))


def by_share(root, **arguments):
    """One modality, dealt by shares (or a column of folds)."""
    plain = {"files": {"a": "a.csv"}, "labels": "labels.csv", "split": [0.6, 0.2, 0.2]}
    return Table(root, SCENARIO, **(plain | arguments))


def whole(data):
    """All samples of a data module, in the order of the labels file (ids sort like it)."""
    parts = [data.load(split) for split in SPLITS]
    found = {name: np.concatenate([p.inputs[name] for p in parts]) for name in data.paths}
    presence = np.concatenate([p.presence for p in parts])
    return found, np.concatenate([p.target for p in parts]), presence


def refused(data, *words):
    """The one line that a data module refuses with; it has all of these words."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        data.describe()
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said
    return said


# --- labels and ids are text ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "outputs"),
    [
        (["01", "1", "7"], ("01", "1", "7")),
        (["1.1", "1.10", "2.5"], ("1.1", "1.10", "2.5")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["NA", "EU", "APAC"], ("APAC", "EU", "NA")),
        (["None", "mild", "severe"], ("None", "mild", "severe")),
        (["nan", "null", "N/A"], ("N/A", "nan", "null")),
        (["red ", "green", " red"], ("green", "red")),
        (["True", "False"], ("False", "True")),
        (["1e3", "1000", "x"], ("1000", "1e3", "x")),
    ],
)
def test_classes_are_the_texts_of_the_file(root, words, outputs):
    (root / "labels.csv").write_text(lines(labels(words)))
    data = table(root)
    assert data.describe().outputs == outputs
    said = [outputs[k] for k in whole(data)[1]]
    assert said == [words[k % len(words)].strip() for k in range(N)]


@pytest.mark.parametrize("word", ["NA", "None", "nan", "null", "01", "1.0", "true"])
def test_a_word_that_is_an_id_stays_an_id(root, word):
    ids = [word, *IDS[1:]]
    for file in ("a.csv", "b.csv"):
        (root / file).write_text(lines(numbers(ids)))
    (root / "labels.csv").write_text(lines(labels(ids=ids)))
    inputs, _, presence = whole(table(root))
    assert presence.all()
    assert inputs["a"][0].tolist() == [0.25, 0]


def test_quotes_spaces_and_a_mark_of_byte_order_are_no_part_of_an_id(root):
    text = lines(
        [["id", "w", "x"], *([f'"{i}"' if k % 2 else f"{i} ", k, 0] for k, i in enumerate(IDS))]
    )
    (root / "a.csv").write_text("\ufeff" + text, encoding="utf-8")
    (root / "labels.csv").write_text("\ufeff" + lines(labels()), encoding="utf-8")
    inputs, _, presence = whole(table(root))
    assert presence.all()
    assert inputs["a"][:, 0].tolist() == list(range(N))


def test_texts_that_read_none_or_na_are_texts_and_an_empty_one_is_missing(root):
    said = ["no change", "None", "N/A", "nan", "null", "NA", "", "  "]
    rows = [["id", "note"], *([one, said[k % 8]] for k, one in enumerate(IDS))]
    (root / "b.csv").write_text(lines(rows))
    data = table(root, kinds={"b": "tokens"})
    _, _, presence = whole(data)
    assert presence[:, 1].tolist() == [said[k % 8].strip() != "" for k in range(N)]
    assert data.describe().modalities[1].vocab_size == 2 + 8  # no change none n a nan null na


def test_texts_that_are_numbers_keep_their_zeros(root):
    rows = [["id", "note"], *([one, "007" if k % 2 else "7"] for k, one in enumerate(IDS))]
    (root / "b.csv").write_text(lines(rows))
    inputs, _, _ = whole(table(root, kinds={"b": "tokens"}))
    assert len(np.unique(inputs["b"])) == 2


@needs_pyarrow
def test_ids_that_parquet_holds_as_floats_are_whole_numbers(root):
    frame = pd.DataFrame({"id": np.arange(float(N)), "w": np.arange(N) + 0.5})
    frame.to_parquet(root / "a.parquet")
    np.savez(root / "b.npz", id=np.arange(float(N)), x=np.ones((N, 1)))
    (root / "labels.csv").write_text(lines(labels(ids=range(N))))
    data = table(root, files={"a": "a.parquet", "b": "b.npz"})
    inputs, _, presence = whole(data)
    assert presence.all()
    assert inputs["a"][:, 0].tolist() == [k + 0.5 for k in range(N)]
    frame.assign(id=frame["id"] + 2.0**60).to_parquet(root / "a.parquet")
    refused(table(root, files={"a": "a.parquet"}), "a.parquet column id", "beyond 2^53")
    frame.assign(id=pd.Timestamp("2020-01-01")).to_parquet(root / "a.parquet")
    refused(table(root, files={"a": "a.parquet"}), "a.parquet column id", "save it as text")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda one: f"T.{one[1:]}", "'T.00', of labels.csv like 'T-00': they differ in . - _"),
        (lambda one: f"t-{one[1:]}", "they differ in capitals"),
        (lambda one: f"T-{one[1:]}-01A", "those of a.csv go on, here with '-01A'"),
        (lambda one: f"x{one}", "ids of a.csv look like 'xp00', of labels.csv like 'T-00'"),
    ],
)
def test_ids_that_never_match_are_shown_with_the_likely_cause(root, change, cause):
    (root / "a.csv").write_text(lines(numbers([change(one) for one in IDS])))
    (root / "labels.csv").write_text(lines(labels(ids=[f"T-{one[1:]}" for one in IDS])))
    refused(table(root), "a.csv: none of its 30 ids is in labels.csv", cause)


def test_leading_zeros_are_named_where_ids_never_match(root):
    (root / "a.csv").write_text(lines(numbers([f"{k:03d}" for k in range(1, N + 1)])))
    (root / "labels.csv").write_text(lines(labels(ids=range(1, N + 1))))
    refused(table(root), "they differ in leading zeros")


# --- separators and columns without a name -------------------------------------------------------


def same(root, **arguments):
    """Whether what is read is what the good files hold."""
    data = table(root, **arguments)
    inputs, target, presence = whole(data)
    assert presence.all()
    assert inputs["a"].tolist() == [[k + 0.25, -k] for k in range(N)]
    assert target.tolist() == [("blue", "green", "red").index(CLASSES[k % 3]) for k in range(N)]
    return data


def test_tabs_and_semicolons_separate(root):
    (root / "a.tsv").write_text(lines(numbers()).replace(",", "\t"))
    (root / "labels.csv").write_text(lines(labels()).replace(",", ";"))
    same(root, files={"a": "a.tsv", "b": "b.csv"})
    (root / "a.csv").write_text(lines(numbers()).replace(",", "\t"))
    same(root)


def test_decimals_are_commas_where_semicolons_separate(root):
    text = lines(numbers()).replace(",", ";")
    (root / "a.csv").write_text(text)  # with points
    same(root)
    (root / "a.csv").write_text(text.replace(".", ","))
    same(root)
    (root / "a.csv").write_text(text.replace("\n", ";1.5\n").replace("id;w;x;1.5", "id;w;x;y"))
    assert whole(table(root))[0]["a"].shape == (N, 3)
    mixed = text.replace(".25;", ",25;").replace("\n", ";1.5\n").replace("id;w;x;1.5", "id;w;x;y")
    (root / "a.csv").write_text(mixed)
    refused(table(root), "column w has decimal commas and column y has points")


def test_targets_have_decimal_commas_as_features_do(root):
    text = lines(labels([1.5, 2.25, -3], column="price")).replace(",", ";").replace(".", ",")
    (root / "labels.csv").write_text(text)
    data = table(root, target="price", task="regression")
    assert whole(data)[1][:3, 0].tolist() == [1.5, 2.25, -3]
    (root / "labels.csv").write_text(text.replace("2,25", "1.500"))
    refused(table(root, target="price", task="regression"), "'1.500' is no finite number")


@pytest.mark.parametrize("file", ["a.csv", "labels.csv"])
def test_a_separator_at_each_line_is_no_column(root, file):
    rows = numbers() if file == "a.csv" else labels()
    (root / file).write_text(lines(rows[:1]) + lines(rows[1:], end=","))
    same(root)
    (root / file).write_text(lines(rows, end=","))
    same(root)


def test_a_column_without_a_name_that_holds_something_is_refused(root):
    rows = numbers()
    (root / "a.csv").write_text(lines([[*rows[0], ""], *([*row, 7] for row in rows[1:])]))
    refused(table(root), "a.csv: column 4 has no name and holds", "give it a name")


def test_a_row_that_is_cut_off_is_refused(root):
    (root / "a.csv").write_text(lines(numbers()[:-1]) + "p29,1\n")
    refused(table(root), "a.csv row 31 has 2 cells, but 3 are expected")
    (root / "a.csv").write_text(lines(numbers()[:-1]) + "p29,1,2,3\n")
    refused(table(root), "a.csv is no readable CSV file", "line 31")


@pytest.mark.parametrize("start", [0, 1])
def test_the_index_that_a_program_wrote_is_no_feature(root, start):
    rows = numbers()
    body = [[k + start, *row] for k, row in enumerate(rows[1:])]
    for head in (["", *rows[0]], rows[0], ["Unnamed: 0", *rows[0]]):  # pandas, R's write.table
        (root / "a.csv").write_text(lines([head, *body]))
        data = same(root)
        assert data.notes() == (
            "a.csv: the first column has no name and counts the rows; left out",
        )
    (root / "a.csv").write_text(
        lines([["", *rows[0]], *([k * k, *r] for k, r in enumerate(rows[1:]))])
    )
    refused(table(root), "a.csv: its first column has no name and begins '0', '1'")


def test_names_of_rows_are_the_ids_if_there_are_no_others(root):
    rows = numbers()
    for head in (["", "w", "x"], ["w", "x"]):  # R's write.csv and write.table
        (root / "a.csv").write_text(lines([head, *rows[1:]]))
        assert same(root).notes() == ("a.csv: the ids are the first column, which has no name",)
    counted = lines([["", "w", "x"], *([k, *row[1:]] for k, row in enumerate(rows[1:]))])
    (root / "a.csv").write_text(counted)
    refused(table(root), "only counts the rows", 'say id: "Unnamed: 0"')
    (root / "b.csv").write_text(counted)
    (root / "labels.csv").write_text(lines(labels(ids=range(N))).replace("id,", ",", 1))
    same(root, id="Unnamed: 0")


def test_what_is_predicted_is_never_a_feature(root):
    rows = [[*r, *a[1:]] for r, a in zip(labels(column="outcome"), numbers(), strict=True)]
    (root / "all.csv").write_text(lines(rows))
    data = table(root, files={"a": "all.csv"}, labels="all.csv", target="outcome")
    inputs, _, _ = whole(data)
    assert inputs["a"].tolist() == [[k + 0.25, -k] for k in range(N)]
    assert data.notes() == (
        "all.csv: left out outcome, split, which give the target away or deal the samples, and so "
        "are no features",
    )
    (root / "all.csv").write_text(lines([["outcome", *rows[0][1:]], *rows[1:]]))
    refused(
        table(root, files={"a": "all.csv"}, labels="all.csv", target="outcome", id="w"),
        "2 columns 'outcome'; rename all but one",
    )


# --- what a column of features holds -------------------------------------------------------------


def column(root, values, **arguments):
    rows = [["id", "y"], *([one, values[k % len(values)]] for k, one in enumerate(IDS))]
    (root / "a.csv").write_text(lines(rows))
    return table(root, **arguments)


def test_one_empty_cell_is_filled_with_the_median_of_training(root):
    rows = numbers()
    rows[6][1] = ""  # p05, of training; the others have 0.25, 1.25, ... without 5.25
    rows[30][1] = "NA"  # p29, of the test
    (root / "a.csv").write_text(lines(rows))
    data = table(root)
    inputs, _, presence = whole(data)
    assert presence.all()
    wanted = np.median([k + 0.25 for k in range(18) if k != 5])
    assert inputs["a"][5].tolist() == [wanted, -5]
    assert inputs["a"][29].tolist() == [wanted, -29]
    [note] = data.notes()
    assert note.startswith("a.csv: empty cells filled with the median")
    assert note.endswith("of training; cells: 2, rows: 2")
    inputs, _, _ = whole(table(root, indicators=True))
    assert inputs["a"].shape == (N, 3)
    assert np.flatnonzero(inputs["a"][:, 2]).tolist() == [5, 29]


def test_a_row_is_absent_only_if_all_of_it_is_empty(root):
    rows = numbers()
    rows[3][1:] = ["", "NA"]
    rows[4][1:] = ["", 1]
    (root / "a.csv").write_text(lines(rows))
    assert np.flatnonzero(~whole(table(root))[2][:, 0]).tolist() == [2]


def test_texts_are_categories_of_training(root):
    sex = ["F", "M"] * (N // 2)
    sex[29], sex[28], sex[3] = "X", "", ""  # of the test, the test, training
    rows = [["id", "w", "sex", "x"], *([i, k, sex[k], -k] for k, i in enumerate(IDS))]
    (root / "a.csv").write_text(lines(rows))
    data = table(root)
    inputs, _, _ = whole(data)
    assert inputs["a"][:2].tolist() == [[0, 1, 0, 0], [1, 0, 1, -1]]
    assert inputs["a"][29].tolist() == [29, 0, 0, -29]
    assert inputs["a"][[3, 28], 1:3].tolist() == [[1, 0], [1, 0]]  # F is the most frequent one
    assert [note.partition(":")[2][:30] for note in data.notes()] == [
        " column sex has 1 rows of cate", " empty cells filled with the m",
    ]  # fmt: skip
    assert whole(table(root, indicators=True))[0]["a"][:, 4].nonzero()[0].tolist() == [3, 28]


def test_true_and_false_are_one_and_zero(root):
    for words in (["True", "False"], ["TRUE", "false"]):
        inputs, _, _ = whole(column(root, words))
        assert inputs["a"][:2, 0].tolist() == [1, 0]
    assert whole(column(root, ["true", "false", "NA"]))[0]["a"][:2, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["2021-03-04", "2021-03-05"], ["'2021-03-04' is a date or a time", "write the days"]),
        (["04.03.21", "5.3.21"], ["'04.03.21' is a date"]),
        (["03/04/2021 10:15", "03/05/2021 10:15"], ["is a date or a time"]),
        (["4 Mar 2021", "5 Mar 2021"], ["is a date or a time"]),
        (["10:15", "11:20"], ["is a date or a time"]),
        (['"1,200"', '"12,000"'], ["'1,200' is a number with something else around it"]),
        (["<5", "<5", "7"], ["'<5' is no finite number, but others of the column are"]),
        (["12 %", "13 %"], ["'12 %' is a number with something else"]),
        (["1", "high", "2"], ["a.csv row 3 (id p01), column y: 'high' is no finite number"]),
        (["1", "true"], ["'true' is no finite number"]),
        (["1", "-inf", "2"], ["a.csv row 3 (id p01), column y: '-inf' is no finite number"]),
        ([f"word{k}" for k in range(N)], ["holds 18 different texts in 18 rows", "kind tokens"]),
    ],
)
def test_what_no_feature_can_be_made_of_is_refused_by_name(root, values, words):
    refused(column(root, values), "a.csv", "column y", *words)


@needs_pyarrow
def test_parquet_columns_are_read_by_what_they_hold(root):
    rng = np.random.default_rng(0)
    emb = rng.normal(size=(N, 3))
    frame = pd.DataFrame(
        {
            "id": IDS,
            "w": np.arange(N),
            "emb": list(emb),
            "sex": pd.Categorical(["F", "M"] * (N // 2)),
            "ill": np.arange(N) % 2 == 0,
            "cost": [Decimal("1.5")] * N,
            "code": [f"{k:02d}" for k in range(N)],
        }
    )
    frame.to_parquet(root / "a.parquet")
    inputs, _, _ = whole(table(root, files={"a": "a.parquet"}))
    x = inputs["a"]
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x[:, 1:4], emb)
    assert x[:2, [0, 4, 5, 6, 7, 8]].tolist() == [[0, 1, 0, 1, 1.5, 0], [1, 0, 1, 0, 1.5, 1]]
    ragged = frame.assign(emb=[row[: 2 + k % 2] for k, row in enumerate(emb)])
    ragged.to_parquet(root / "a.parquet")
    refused(
        table(root, files={"a": "a.parquet"}), "column emb", "(id p01)", "2 numbers are expected"
    )
    frame.assign(born=pd.Timestamp("2001-02-03")).to_parquet(root / "a.parquet")
    said = refused(table(root, files={"a": "a.parquet"}), "column born holds Timestamp")
    assert "write the days since" in said
    frame.assign(w=pd.array([None, 2] * (N // 2), dtype="Int64")).to_parquet(root / "a.parquet")
    assert (whole(table(root, files={"a": "a.parquet"}))[0]["a"][:, 0] == 2).all()


def test_seconds_since_1970_keep_their_hundredths(root):
    seconds = [1700000009.46 + 0.01 * k for k in range(N)]
    inputs, _, _ = whole(column(root, seconds))
    np.testing.assert_allclose(inputs["a"][:, 0], seconds, rtol=1e-15)
    np.savez(root / "a.npz", id=IDS, x=np.array(seconds)[:, None])
    inputs, _, _ = whole(table(root, files={"a": "a.npz"}))
    np.testing.assert_array_equal(inputs["a"][:, 0], seconds)


def test_an_offset_makes_no_difference_to_what_a_method_sees(root):
    def seen(first):
        data = column(root, [f"{first + k}.5" for k in range(N)], batch_size=N)
        return next(data.batches("train")).inputs["a"].numpy()

    assert seen(0).std() > 0.9
    np.testing.assert_allclose(seen(1_700_000_000), seen(0), atol=1e-6)


def test_a_factor_makes_no_difference_to_what_a_method_sees(root):
    def seen(unit):
        data = column(root, [f"{k}{unit}" for k in range(N)], batch_size=N)
        return next(data.batches("train")).inputs["a"].numpy()

    np.testing.assert_allclose(seen("e-9"), seen(""), atol=1e-6)


def test_small_numbers_are_numbers(root):
    values = [f"{k}e-9" for k in range(1, 8)]
    inputs, _, _ = whole(column(root, values))
    assert inputs["a"][:7, 0].tolist() == [float(v) for v in values]


# --- arrays --------------------------------------------------------------------------------------


def arrays(root, kind, x, **more):
    np.savez(root / "x.npz", id=IDS, x=x, **more)
    return table(root, files={"a": "a.csv", "x": "x.npz"}, kinds={"x": kind})


def test_channels_may_come_last(root):
    x = np.random.default_rng(0).integers(0, 256, (N, 5, 6, 3), dtype=np.uint8)
    data = arrays(root, "image", x)
    inputs, _, _ = whole(data)
    assert inputs["x"].dtype == np.uint8
    np.testing.assert_array_equal(inputs["x"], x.transpose(0, 3, 1, 2))
    assert "has its channels last; turned to (sample, channel" in data.notes()[0]
    assert arrays(root, "image", x[:, :3]).describe().modalities[1].shape == (3, 6, 3)
    assert arrays(root, "image", x[..., 0]).describe().modalities[1].shape == (1, 5, 6)
    refused(arrays(root, "image", x[:, :5, :5, :2]), "(30, 5, 5, 2), whose channels may be last")
    volume = np.zeros((N, 5, 6, 7, 1))
    assert arrays(root, "volume", volume).describe().modalities[1].shape == (1, 5, 6, 7)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.full((N, 2), 1 + 1j), ["complex128", "numpy.abs(x)"]),
        (np.full((N, 2), "7"), ["x holds text"]),
        (np.full((N, 2), np.datetime64("2020-01-01")), ["x holds dates"]),
        (
            np.full((N, 2), np.inf),
            ["id p00: x holds NaN or infinity in part (inf at feature 0; 30"],
        ),
    ],
)
def test_arrays_that_would_have_to_be_cast_are_refused(root, x, words):
    refused(arrays(root, "vector", x), "x.npz", *words)


def steps():
    x = np.arange(N * 6 * 2, dtype=np.float32).reshape(N, 6, 2)
    return x, np.array([1 + k % 6 for k in range(N)])


def test_what_lies_beyond_the_length_may_be_nan(root):
    x, length = steps()
    beyond = np.arange(6) >= length[:, None]
    x[beyond] = np.nan
    inputs, _, presence = whole(arrays(root, "sequence", x, length=length))
    assert presence.all()
    np.testing.assert_array_equal(inputs["x"], np.nan_to_num(x))
    x[3, 0, 1] = np.nan  # before the end
    refused(arrays(root, "sequence", x, length=length), "id p03", "nan at time 0, feature 1")


def test_an_entry_of_length_zero_is_absent(root):
    x, length = steps()
    x[:4], length[:4] = np.nan, 0
    length[5] = 0  # with values in it
    x[7] = np.nan  # of any length
    _, _, presence = whole(arrays(root, "sequence", x, length=length))
    assert np.flatnonzero(~presence[:, 1]).tolist() == [0, 1, 2, 3, 5, 7]
    length[9] = 7
    refused(arrays(root, "sequence", x, length=length), "id p09: length is not in 1..6, found 7")
    refused(arrays(root, "sequence", x, length=length / 2), "length needs one whole number")


def test_minus_infinity_is_named_with_its_place_and_the_way_out(root):
    x, length = steps()
    x[3, 1, 0] = x[9, 2, 1] = -np.inf
    refused(
        arrays(root, "sequence", x, length=length),
        "id p03", "-inf at time 1, feature 0; 2 entries in all", "x[~numpy.isfinite(x)] = 0",
    )  # fmt: skip


def test_a_length_that_the_kind_does_not_read_is_refused(root):
    x, length = steps()
    refused(arrays(root, "vector", x[:, :, 0], length=length), "kinds={name: sequence}")


def test_a_vector_with_nan_in_part_is_filled_as_a_csv_file_is(root):
    x = np.arange(2.0 * N).reshape(N, 2)
    x[5, 0] = x[7] = np.nan
    inputs, _, presence = whole(arrays(root, "vector", x))
    assert np.flatnonzero(~presence[:, 1]).tolist() == [7]
    assert inputs["x"][5].tolist() == [np.nanmedian(x[:18, 0]), 11]


# --- labels, splits, groups ----------------------------------------------------------------------


def test_targets_keep_the_digits_of_the_file(root):
    prices = [289764.01, 183911.02, 1.5e9 + 0.25]
    (root / "labels.csv").write_text(lines(labels(prices, column="price")))
    _, target, _ = whole(table(root, target="price", task="regression"))
    assert target[:3, 0].tolist() == prices
    (root / "labels.csv").write_text(lines(labels([1, "NA"], column="price")))
    refused(table(root, target="price", task="regression"), "row 3 (id p01): price is empty (15")


def test_nearly_as_many_classes_as_samples_are_noted(root):
    (root / "labels.csv").write_text(lines(labels([k / 7 for k in range(N)])))
    assert "training has 18 classes for 18 samples; is the target a number to predict?" in notes(
        table(root)
    )


def test_a_class_that_training_never_shows_has_an_output(root):
    rows = labels()
    rows[30][1] = "violet"
    (root / "labels.csv").write_text(lines(rows))
    data = table(root)
    assert data.describe().outputs == ("blue", "green", "red", "violet")
    assert 3 not in data.load("train").target
    assert data.load("test").target[-1] == 3
    [note] = notes(data)
    assert note.startswith("1 of 4 class names occur in test and never in training, such as 'viol")


def test_one_class_is_one_output(root):
    (root / "labels.csv").write_text(lines(labels(["red"])))
    data = table(root)
    assert data.describe().outputs == ("red",)
    assert "all samples of train are of the class 'red'" in notes(data)


def test_rows_without_a_label_are_refused_or_left_out(root):
    rows = labels()
    rows[1][1], rows[30][1] = "", " "
    (root / "labels.csv").write_text(lines(rows[:-2] + rows[-1:]))  # p28 has no row at all
    refused(table(root), "labels.csv row 2 (id p00): label is empty (2 in all)", "unlabelled: drop")
    data = table(root, unlabelled="drop")
    inputs, _, _ = whole(data)
    assert inputs["a"][:, 1].tolist() == [-k for k in range(1, 28)]
    assert data.notes()[0] == "labels.csv: 2 rows without a label left out"
    assert "a.csv: 3 rows without a label left out" in data.notes()
    (root / "labels.csv").write_text(lines([*rows[:1], *([*r[:1], "", *r[2:]] for r in rows[1:])]))
    refused(table(root, unlabelled="drop"), "no row with a label")
    ends = [[*r[:1], "" if r[2] == "test" else r[1], *r[2:]] for r in labels()[1:]]
    (root / "labels.csv").write_text(lines([labels()[0], *ends]))
    refused(table(root), "row 26 (id p24): label is empty (6 in all)", "unlabelled: predict")
    refused(table(root, unlabelled="drop"), "the test split of labels.csv is empty")
    asked = table(root, unlabelled="predict")
    refused(asked, "the test split", "without a label are in no split: deal the others by three")
    assert [len(by_share(root, unlabelled="predict").load(split)) for split in SPLITS] == [14, 5, 5]


def test_several_labels_in_a_cell(root):
    genres = ["Drama|Comedy", "Action", "Drama", " Comedy | Action"]
    (root / "labels.csv").write_text(lines(labels(genres, column="genres")))
    asked = {"target": "genres", "task": "multi_label"}
    data = table(root, separator="|", **asked)
    assert data.describe().outputs == ("Action", "Comedy", "Drama")
    assert whole(data)[1][:4].tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0]]
    refused(table(root, **asked), "column genres", 'say separator: "|"')
    with pytest.raises(
        ValueError, match=r"separator '\|' is for one target column of a multi_label"
    ):
        table(root, separator="|")


def test_columns_of_true_and_false_are_labels(root):
    (root / "labels.csv").write_text(lines(labels(["True", "FALSE"], column="cough")))
    _, target, _ = whole(table(root, target="cough", task="multi_label"))
    assert target[:2, 0].tolist() == [1, 0]


@pytest.mark.parametrize("first", [0, 1])
def test_a_column_of_folds_tests_each_sample_once(root, first):
    rows = [[*row, k % 5 + first] for k, row in enumerate(labels()[1:])]
    (root / "labels.csv").write_text(lines([["id", "label", "split", "fold"], *rows]))
    tested = []
    for fold in range(5):
        data = by_share(root, split="fold", fold=fold)
        parts = {split: -data.load(split).inputs["a"][:, 1].astype(int) % 5 for split in SPLITS}
        assert set(parts["test"]) == {fold}
        assert set(parts["val"]) == {(fold + 1) % 5}
        assert len(parts["train"]) == 18
        assert data.folds == 5
        tested += data.load("test").sample_id.tolist()
    assert len(set(tested)) == N
    refused(
        by_share(root, split="fold", fold=5),
        "fold 5 was asked for, but the column 'fold' has the folds 0..4",
    )


def visits(root, cut=False):
    """Ten patients of three visits, a label a patient."""
    split = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [
        [i, f"pt{k // 3}", "ill" if k // 3 % 2 else "well", split[k // 3]]
        for k, i in enumerate(IDS)
    ]
    if cut:
        rows[1][3] = "test"
    (root / "labels.csv").write_text(lines([["id", "patient", "label", "split"], *rows]))


def test_a_group_is_never_cut(root):
    visits(root)
    tested = []
    for fold in range(5):
        data = by_share(root, group="patient", fold=fold)
        parts = [set((-data.load(s).inputs["a"][:, 1]).astype(int) // 3) for s in SPLITS]
        assert [len(part) for part in parts] == [6, 2, 2]
        assert len(set.union(*parts)) == 10
        assert len(set(data.load("test").target)) == 2  # one patient of each label
        tested += parts[2]
    assert sorted(tested) == list(range(10))


def test_a_split_that_cuts_a_group_is_refused(root):
    visits(root)
    assert len(table(root, group="patient").load("train")) == 18
    visits(root, cut=True)
    refused(table(root, group="patient"), "patient pt0 has samples in train and in test (1 such")


def test_several_rows_a_sample_are_counted(root):
    rows = numbers()
    (root / "a.csv").write_text(lines(rows + rows[1:] + rows[1:2]))
    refused(table(root), "a.csv row 32: id p00 occurs a second time, 3 times in all, and 29 more")


def test_a_modality_that_is_never_there_is_refused_before_anything_runs(root):
    (root / "b.csv").write_text("id,w,x\n")
    refused(table(root), "b.csv has no row with a value, so that no sample has the modality b")
    (root / "b.csv").write_text(lines([["id", "w", "x"], *([i, "", ""] for i in IDS)]))
    refused(table(root), "b.csv has no row with a value")
    (root / "b.csv").write_text(lines([numbers()[0], numbers()[-1]]))
    assert notes(table(root)) == ["training never shows the modality b"]


def test_a_modality_whose_name_yaml_reads_as_a_truth_value_is_refused_with_the_way_out(root):
    with pytest.raises(ValueError, match=r"YAML reads on, off, yes, .* quotes, such as \"on\""):
        table(root, files={True: "a.csv", False: "b.csv"})


# --- reading once --------------------------------------------------------------------------------


def test_a_file_is_parsed_once_a_process_until_it_changes(root, monkeypatch):
    parsed = []
    read = pd.read_csv
    monkeypatch.setattr(
        pd, "read_csv", lambda path, **k: parsed.append(path.name) or read(path, **k)
    )
    for fold in range(3):
        data = by_share(root, fold=fold)
        for split in SPLITS:
            data.load(split)
    assert sorted(parsed) == ["a.csv", "labels.csv"]
    (root / "a.csv").write_text(
        lines([[*row, "y" if k == 0 else 1] for k, row in enumerate(numbers())])
    )
    assert table(root).describe().modalities[0].shape == (3,)
    assert sorted(parsed).count("a.csv") == 2
