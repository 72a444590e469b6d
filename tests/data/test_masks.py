"""Presence tables as files: nothing changes unnoticed, and nothing is run when read."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmbench.data.masks import (
    PresenceTable,
    cp_imoe_legacy,
    missing_aware_prompts_legacy,
    mosare_legacy,
    redeem_file_legacy,
    redeem_legacy,
)
from mmbench.data.missingness.mcar import Mcar
from mmbench.data.missingness.measure import pattern_probability
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.table import FromTable
from mmbench.data.samples import Samples

TWO = ("text", "image")


def make_samples(n=6, names=("audio", "text")):
    return Samples(
        modalities=names,
        inputs={name: np.zeros((n, 2)) for name in names},
        target=np.zeros(n, np.int64),
        sample_id=np.arange(n) * 11 + 2,
        presence=np.ones((n, len(names)), bool),
    )


def drawn_table(samples, rate=0.4):
    stream = Stream(0, "test")
    presence = Mcar(rate).draw(samples, stream)
    return PresenceTable(
        samples.modalities, samples.sample_id, presence, {"mechanism": "mcar", "missing_rate": rate}
    )


# --- export and import -------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=20),
    size=st.integers(1, 4),
    seed=st.integers(0, 99),
    word=st.text(),
)
def test_what_is_saved_is_loaded(tmp_path_factory, ids, size, seed, word):
    presence = np.random.default_rng(seed).random((len(ids), size)) < 0.5
    presence[:, 0] |= ~presence.any(axis=1)
    table = PresenceTable(
        tuple("abcd"[:size]), np.array(ids, np.int64), presence, {"note": word, "rate": 0.1}
    )
    path = tmp_path_factory.mktemp("masks") / "table.csv"
    table.save(path)
    found = PresenceTable.load(path)
    assert (found.modalities, found.drawn) == (table.modalities, dict(table.drawn))
    np.testing.assert_array_equal(found.sample_id, table.sample_id)
    np.testing.assert_array_equal(found.presence, table.presence)
    assert found.checksum == table.checksum
    found.save(path.with_suffix(".again"))
    assert path.with_suffix(".again").read_bytes() == path.read_bytes()


def test_the_file_is_what_its_description_says(tmp_path):
    table = PresenceTable(TWO, np.array([17, 4]), np.array([[True, False], [True, True]]), {"b": 1})
    table.save(tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines == [
        "# mmbench presence table, version 1",
        '# drawn: {"b": 1}',
        f"# sha256: {table.checksum}",
        "sample_id,text,image",
        "17,1,0",
        "4,1,1",
    ]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(place=st.integers(0, 10**6), byte=st.integers(32, 126))
def test_no_changed_byte_goes_unnoticed(tmp_path_factory, place, byte):
    path = tmp_path_factory.mktemp("masks") / "table.csv"
    drawn_table(make_samples()).save(path)
    content = bytearray(path.read_bytes())
    place %= len(content)
    assume(content[place] != byte)
    content[place] = byte
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"changed|is no presence table"):
        PresenceTable.load(path)


def test_a_lost_line_is_noticed(tmp_path):
    path = tmp_path / "table.csv"
    drawn_table(make_samples()).save(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"has been changed: its checksum is .* export it again"):
        PresenceTable.load(path)


@pytest.mark.parametrize("content", [b"", b"sample_id,audio\n1,1\n", b"\xff\xfe\x00"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other.csv (is no|cannot be read as a) presence table"):
        PresenceTable.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as a presence table"):
        PresenceTable.load(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("ids", "presence", "message"),
    [
        ([1, 1], [[1], [1]], "sample id 1 occurs 2 times"),
        ([1, 2], [[1], [0]], "sample 2 shows no modality at all"),
        ([1, 2], [[1, 1], [1, 1]], "2 sample ids and 1 modalities"),
    ],
)
def test_tables_that_mean_nothing_are_refused(ids, presence, message):
    with pytest.raises(ValueError, match=message):
        PresenceTable(("a",), np.array(ids), np.array(presence, bool))


# --- driving a run -----------------------------------------------------------------------


def test_a_table_shows_what_the_mechanism_drew_in_any_order_of_rows_and_columns(tmp_path):
    samples = make_samples(40)
    table = drawn_table(samples)
    path = tmp_path / "drawn.csv"
    table.save(path)
    mechanism = FromTable(str(path), table.checksum)
    mechanism.check(("audio", "text"))
    assert mechanism.label == "table_drawn"
    rows = np.random.default_rng(0).permutation(40)[:25]
    swapped = make_samples(40, ("text", "audio")).take(rows)
    found = mechanism.draw(swapped, Stream(9, "train"))
    np.testing.assert_array_equal(found, table.presence[rows][:, ::-1])
    law = pattern_probability(mechanism, swapped)
    assert law.max(axis=1).tolist() == [1.0] * 25


def test_a_sample_that_is_not_in_the_table_is_named():
    table = drawn_table(make_samples(4))
    with pytest.raises(
        ValueError, match="sample 46 is not in the presence table, nor are 1 others"
    ):
        table.over(make_samples(6))


def test_other_modalities_are_named():
    table = drawn_table(make_samples(4))
    with pytest.raises(
        ValueError, match="has the modalities audio, text, the data have audio, vid"
    ):
        table.over(make_samples(4, ("audio", "video")))


def test_showing_what_nature_left_out_is_refused():
    samples = make_samples(4)
    table = PresenceTable(samples.modalities, samples.sample_id, samples.presence.copy())
    samples.presence[2, 1] = False
    with pytest.raises(ValueError, match="shows text of sample 24, which lacks it by nature"):
        table.over(samples)


def test_another_table_than_the_scenario_names_is_refused(tmp_path):
    drawn_table(make_samples()).save(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="is not the table that the scenario names"):
        FromTable(str(tmp_path / "t.csv"), "0" * 64).draw(make_samples(), Stream(0, "test"))


def test_a_table_of_other_modalities_is_refused_before_any_training(tmp_path):
    drawn_table(make_samples()).save(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="no modality named 'audio'; there are text, video"):
        FromTable(str(tmp_path / "t.csv")).check(("text", "video"))


# --- authors' own tables -----------------------------------------------------------------


def test_saved_tensors_of_missing_aware_prompts_are_read(tmp_path):
    path = tmp_path / "hatememes_train_missing_both_07.pt"
    torch.save(torch.tensor([0.0, 1.0, 2.0, 1.0]), path)
    table = missing_aware_prompts_legacy(path, np.arange(4))
    assert table.modalities == TWO
    assert table.presence.tolist() == [[True, True], [False, True], [True, False], [False, True]]


class Harmful:
    def __reduce__(self):
        return (open, (HARM, "w"))


HARM = ""


@pytest.mark.parametrize("name", ["table.pt", "table.pkl"])
def test_files_that_would_run_a_program_are_refused_and_run_nothing(tmp_path, monkeypatch, name):
    harm = tmp_path / "harm"
    monkeypatch.setitem(globals(), "HARM", str(harm))
    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save(Harmful(), path)
        message = "cannot be read as a saved tensor"
    else:
        path.write_bytes(pickle.dumps(Harmful()))
        message = r"pandas.read_pickle\('table.pkl'\).to_csv\('table.csv', index=False\)"
    harm.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=message):
        missing_aware_prompts_legacy(path, np.arange(4))
    with pytest.raises(ValueError, match=r"pandas.read_pickle|cannot be read as CSV"):
        redeem_file_legacy(path, np.arange(4), 0.7, "text")
    assert not harm.exists()


def test_codes_and_sizes_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "t.pt"
    torch.save(torch.tensor([0.0, 3.0]), path)
    with pytest.raises(ValueError, match=r"holds the code 3; known are \[0, 1, 2\]"):
        missing_aware_prompts_legacy(path, np.arange(2))
    with pytest.raises(ValueError, match=r"has the shape \(2,\), but there are 5 samples"):
        missing_aware_prompts_legacy(path, np.arange(5))
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds dict, no tensor"):
        missing_aware_prompts_legacy(path, np.arange(2))


def test_the_same_codes_of_redeem_mean_other_things_for_text_image_and_both(tmp_path):
    path = tmp_path / "missing_table.csv"
    path.write_text("item_id,missing_mask_7\na,0\nb,1\nc,0\n")
    ids = np.arange(3)
    text = redeem_file_legacy(path, ids, 0.7, "text").presence
    image = redeem_file_legacy(path, ids, 0.75, "image").presence  # 0.75 shares 0.70's column
    assert text.tolist() == [[False, True], [True, True], [False, True]]
    assert image.tolist() == [[True, False], [True, True], [True, False]]
    path.write_text("item_id,missing_mask_7\na,0\nb,1\nc,2\n")
    both = redeem_file_legacy(path, ids, 0.7, "both").presence
    assert both.tolist() == [[False, True], [True, False], [True, True]]
    with pytest.raises(ValueError, match="no column missing_mask_3; found item_id, missing_mask_7"):
        redeem_file_legacy(path, ids, 0.3, "text")


def test_redeem_is_redone_from_numpys_global_generator():
    n, eta = 500, 0.7
    np.random.seed(2024)  # noqa: NPY002 - what the authors call
    rows = np.random.choice(n, int(n * eta), replace=False)  # noqa: NPY002
    expected = np.ones((n, 2), bool)
    expected[rows, 1] = False
    found = redeem_legacy(np.arange(n), eta, "image")
    np.testing.assert_array_equal(found.presence, expected)
    both = redeem_legacy(np.arange(n), eta, "both").presence
    assert (~both).sum(axis=0).tolist() == [175, 175]
    assert both.any(axis=1).all()


@pytest.mark.parametrize("missing", ["primary", "secondary", "alternate"])
def test_cp_imoe_is_redone_batch_by_batch(missing):
    n, batch, rate = 23, 8, 0.6
    expected = []
    for start in range(0, n, batch):
        size = min(batch, n - start)
        for place in range(size):
            row = [True, True]
            if place < int(size * rate):
                row[{"primary": 0, "secondary": 1, "alternate": place % 2}[missing]] = False
            expected.append(row)
    found = cp_imoe_legacy(np.arange(n), ("fundus", "oct"), rate, batch, missing)
    assert found.presence.tolist() == expected


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_draw_of_mosare_is_the_one_that_its_code_describes(rate, seed):
    """Against the steps written out one sample at a time, with the same generator."""
    n, names = 41, ("slide", "genes", "report")
    rng = np.random.RandomState(seed)
    have = [[0 if i < int(n * rate) else 1 for i in range(n)] for _ in names]
    for m, row in enumerate(have):
        order = np.array(row, dtype=bool)
        rng.shuffle(order)
        have[m] = order.astype(int).tolist()
    given_back = 0
    for i in range(n):
        if sum(row[i] for row in have) == 0:
            have[rng.randint(0, 3)][i] = 1
            given_back += 1
    counts = [sum(row[i] for row in have) for i in range(n)]
    for i in range(n):
        if given_back and counts[i] > 1:
            have[rng.randint(0, 3)][i] = 0
            given_back -= 1
    without = [i for i in range(n) if have[0][i] == have[1][i] == 0]
    for place, i in enumerate(without):
        have[0 if place < len(without) // 2 else 1][i] = 1
    found = mosare_legacy(np.arange(n), names, rate, seed)
    assert found.presence.T.astype(int).tolist() == have
    assert (found.presence[:, 0] | found.presence[:, 1]).all()  # never the report alone
    assert (~found.presence).mean() < rate


def test_a_legacy_table_drives_a_run_like_any_other(tmp_path):
    samples = make_samples(30, ("image", "text"))
    table = redeem_legacy(samples.sample_id, 0.5, "text")
    table.save(tmp_path / "legacy.csv")
    presence = FromTable(str(tmp_path / "legacy.csv")).draw(samples, Stream(0, "train"))
    assert (~presence).sum(axis=0).tolist() == [0, 15]
