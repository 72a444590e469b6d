"""Small files that stand for a lot of memory are refused before they take any."""

import bz2
import gzip
import importlib.util
import io
import lzma
import multiprocessing
import re
import resource
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import io as io_of_matlab

from mmbench.cli import main
from mmbench.data.files import read_matlab
from mmbench.data.unpacking import (
    LEAST_MIB,
    SETTING,
    TooLargeError,
    require_parquet,
    require_stream,
)

MIB = 2**20
IDS = [f"p{k}" for k in range(40)]
needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="parquet is read by pyarrow"
)
OPEN = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}


def packed_table(path, mib):
    """A CSV file with a good header, then one row that goes on for so many MiB."""
    with OPEN[path.suffix[1:]](path, "wb") as file:
        file.write(b"id,x\np0,")
        for _ in range(mib):
            file.write(b"0" * MIB)


def packed_array(path, mib):
    """An npz file whose x is honest and all zero."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        head = io.BytesIO()
        shape = (40, mib * MIB // 160)
        np.lib.format.write_array_header_2_0(
            head, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        with archive.open("x.npy", "w") as entry:
            entry.write(head.getvalue())
            for _ in range(mib):
                entry.write(bytes(MIB))
        ids = io.BytesIO()
        np.save(ids, np.array(IDS))
        archive.writestr("id.npy", ids.getvalue())


def packed_column(path, mib):
    """A parquet file of one number, repeated."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = mib * MIB // 8
    with parquet.ParquetWriter(path, pa.schema([("id", pa.int8()), ("x", pa.float64())])) as file:
        part = pa.table({"id": np.zeros(rows // 8, np.int8), "x": np.zeros(rows // 8)})
        for _ in range(8):
            file.write_table(part, row_group_size=rows)


def packed_text(path, mib):
    """A parquet file of one long text, repeated."""
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(mib, np.int32)), ["x" * MIB])
    table = pa.table({"id": pa.array([str(k) for k in range(mib)]), "note": text})
    parquet.write_table(table, path)


BOMBS = {
    "bomb.csv.gz": packed_table,
    "bomb.csv.xz": packed_table,
    "bomb.csv.bz2": packed_table,
    "bomb.npz": packed_array,
    "bomb.parquet": packed_column,
    "text.parquet": packed_text,
}
NAMES = [
    pytest.param(name, marks=[needs_pyarrow] if name.endswith("parquet") else []) for name in BOMBS
]


@pytest.fixture
def describe(tmp_path, monkeypatch, capsys):
    """`mmbench data describe table` with one file as modality a; exit code, output and errors."""
    split = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    labels = pd.DataFrame({"id": IDS, "label": ["a", "b"] * 20, "split": split})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))

    def call(file, kind="vector"):
        words = [f"files.a={file}", f"kinds.a={kind}", "labels=labels.csv", "split=split"]
        root = ["--data-root", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["mmbench", "data", "describe", "table", *words, *root])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return call


@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_is_one_line_that_says_how_to_allow_it(tmp_path, monkeypatch, describe, name):
    monkeypatch.setenv(SETTING, "8")
    BOMBS[name](tmp_path / name, 24)
    code, _, error = describe(name, "tokens" if name == "text.parquet" else "vector")
    assert code == 2, error
    assert error.count("\n") == 1, error
    assert re.match(
        rf"error: \S+{name} is [\d,]+ bytes and unpacks to [\d,]+ or more, above 8 MiB", error
    )
    assert f"set the environment variable {SETTING}" in error
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", NAMES)
def test_memory_stays_flat(tmp_path, name):
    """0.3 MB or so that stand for 300 MB, more than is allowed by default."""
    path = tmp_path / name
    BOMBS[name](path, LEAST_MIB + 44)
    assert path.stat().st_size < 2 * MIB

    def child():
        from mmbench.data.files import read_npz

        check = {".npz": read_npz, ".parquet": require_parquet}.get(path.suffix, require_stream)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(TooLargeError):
            check(path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 48 * 1024, f"{grown // 1024} MiB more"

    if path.suffix == ".parquet":
        from pyarrow import parquet  # noqa: F401  # its own memory is no part of what is measured
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_the_limit_can_be_raised_and_must_be_a_number(tmp_path, monkeypatch, describe):
    packed_array(tmp_path / "bomb.npz", 9)
    monkeypatch.setenv(SETTING, "8")
    assert describe("bomb.npz")[0] == 2
    monkeypatch.setenv(SETTING, "10")
    code, out, error = describe("bomb.npz")
    assert code == 0, error
    assert str(9 * MIB // 160) in out
    monkeypatch.setenv(SETTING, "lots")
    code, _, error = describe("bomb.npz")
    assert code == 2
    assert f"{SETTING} must be a whole number of MiB, at least 1, found 'lots'" in error


def test_a_file_that_hardly_shrinks_may_be_of_any_size(tmp_path, monkeypatch, describe):
    monkeypatch.setenv(SETTING, "1")
    x = np.random.default_rng(0).normal(size=(40, 9000)).round(3)
    frame = pd.DataFrame(x)
    frame.insert(0, "id", IDS)
    for ending in OPEN:
        frame.to_csv(tmp_path / f"a.csv.{ending}", index=False)
        require_stream(tmp_path / f"a.csv.{ending}")
    code, out, error = describe("a.csv.gz")
    assert code == 0, error
    assert "9000" in out


@pytest.mark.parametrize("packed", [True, False])
def test_variables_of_a_matlab_file_are_counted(tmp_path, monkeypatch, packed):
    path = tmp_path / "a.mat"
    monkeypatch.setenv(SETTING, "8")
    io_of_matlab.savemat(path, {"a": np.ones(3), "x": np.zeros(3 * MIB)}, do_compression=packed)
    if not packed:  # is as large as it says
        assert read_matlab(path, "x")[0].size == 3 * MIB
        return
    with pytest.raises(TooLargeError, match=r"a.mat is [\d,]+ bytes and unpacks to"):
        read_matlab(path, "x")
    monkeypatch.setenv(SETTING, "25")
    assert read_matlab(path, "a")[0].tolist() == [[1, 1, 1]]


def test_nothing_is_unpacked_into_files():
    """So that no name in an archive, absolute or with `..`, can lead anywhere."""
    import datamodules
    import mmbench

    for package in (mmbench, datamodules):
        for file in Path(package.__file__).parent.rglob("*.py"):
            found = re.search(r"\.extractall\(|archive\.extract\(|unpack_archive", file.read_text())
            assert found is None, f"{file}: {found}"


def test_a_name_that_leads_out_of_an_archive_is_only_a_name(tmp_path, describe):
    values = io.BytesIO()
    np.save(values, np.zeros((40, 3), np.float32))
    ids = io.BytesIO()
    np.save(ids, np.array(IDS))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("id.npy", ids.getvalue())
        archive.writestr("x.npy", values.getvalue())
        archive.writestr("../../outside.npy", values.getvalue())
        archive.writestr("/outside.npy", values.getvalue())
    before = sorted(tmp_path.parent.iterdir())
    code, _, error = describe("a.npz")
    assert code == 0, error
    assert sorted(tmp_path.parent.iterdir()) == before
    assert not Path("/outside.npy").exists()
