"""Malformed input, kind by kind: one line, exit code 2, nothing half-written."""

import gzip
import hashlib
import io
import json
import lzma
import sys
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from mmbench.cli import main
from mmbench.data.masks import TITLE

IDS = [f"s{i}" for i in range(60)]
ROOM = np.random.default_rng(0)
VALUES = ROOM.normal(size=(60, 3)).astype(np.float32)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two modalities and labels, all of them good."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMBENCH_DATA", raising=False)
    pd.DataFrame(VALUES, columns=["u", "v", "w"]).assign(id=IDS).to_csv("b.csv", index=False)
    labels = pd.DataFrame({"id": IDS, "label": ["yes", "no"] * 30})
    labels.to_csv("labels.csv", index=False)
    return tmp_path


@pytest.fixture
def mmbench(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, output and errors."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["mmbench", *map(str, words)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return call


def refused(result, *parts):
    """Whether a command ended in one line on stderr that holds these parts."""
    code, _, error = result
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    for part in parts:
        assert part in error
    return True


# --- archives and arrays -----------------------------------------------------------------------

CSV = "id,u\n" + "".join(f"{one},{k}\n" for k, one in enumerate(IDS))


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npz_of(entry, content):
    """An archive whose entry x is any bytes."""
    file = io.BytesIO(npz(id=np.array(IDS)))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry, content)
    return file.getvalue()


def header(shape, dtype="<f4", rest=b"\0" * 64):
    file = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + rest


def spoiled(content, at):
    return content[:at] + bytes(b ^ 0x5A for b in content[at : at + 40]) + content[at + 40 :]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.xz", lzma.compress(CSV.encode())[:-40]),
        ("a.csv.xz", b"\xfd7zXZ\0" + b"trash" * 20),
        ("a.csv.gz", gzip.compress(CSV.encode())[:-30]),
        ("a.csv.gz", spoiled(gzip.compress(CSV.encode()), 60)),
        ("a.csv.gz", CSV.encode()),
        ("a.csv.bz2", b"BZh9" + b"\0" * 30),
        ("a.csv.zip", npz(x=VALUES)),
        ("a.csv", npz(x=VALUES)),
        ("a.csv", b""),
        ("a.csv", b"\0" * 100),
        ("a.parquet", b"PAR1" + b"\0" * 50 + b"PAR1"),
        ("a.parquet", b""),
    ],
)
def test_a_broken_table_or_archive_is_one_line(here, mmbench, name, content):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (here / name).write_bytes(content)
    said = mmbench(
        "data", "describe", "table", f"files.a={name}", "files.b=b.csv", "labels=labels.csv",
        "--data-root", ".",
    )  # fmt: skip
    assert refused(said, "a.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz_of("x.npy", header((10**13,))), "claims the shape"),
        (npz_of("x.npy", header((60, -3))), "claims the shape"),
        (npz_of("x.npy", header((60, 2**40))), "claims the shape"),
        (npz_of("x.npy", header((60, 3), "|O")), "Python objects"),
        (npz_of("x.npy", b"no array"), "npz"),
        (npz_of("x.npy", b"\x93NUMPY\x09\x00" + b"\0" * 50), "version"),
        (npz_of("x", b"text"), "npz"),
        (header((10**13,)), "npz"),
        (npz(id=np.array(IDS), x=VALUES)[:-200], "npz"),
        (spoiled(npz(id=np.array(IDS), x=VALUES), 400), "npz"),
        (b"", "npz"),
        (npz(id=np.array("s0"), x=VALUES), "one text or whole number"),
        (npz(id=np.array(IDS), x=np.float32(3)), "single value"),
        (npz(id=np.array(IDS), x=VALUES, length=np.int64(3)), "single value"),
        (npz(id=np.array([b"\xff\xfe"] * 60), x=VALUES), "UTF-8"),
        (npz(id=np.zeros(60, [("a", "<i4")]), x=VALUES), "id has"),
        (npz(id=np.array(IDS), x=np.zeros(60, [("a", "<i4")])), "x holds"),
        (npz(id=np.array(IDS), x=VALUES[:, :, None, None]), "axes"),
    ],
)
def test_a_broken_npz_is_one_line_before_any_room_is_made(here, mmbench, content, message):
    (here / "a.npz").write_bytes(content)
    said = mmbench(
        "data", "describe", "table", "files.a=a.npz", "files.b=b.csv", "labels=labels.csv",
        "--data-root", ".",
    )  # fmt: skip
    assert refused(said, "a.npz", message)


# --- presence tables -----------------------------------------------------------------------------


def signed(drawn, names, rows):
    """A presence table with a good checksum whatever is in it."""
    head = f"{TITLE}\n# drawn: {drawn}\n"
    body = f"sample_id,{names}\n{rows}"
    return f"{head}# sha256: {hashlib.sha256((head + body).encode()).hexdigest()}\n{body}"


@pytest.mark.parametrize(
    "content",
    [
        signed("{}", "a,b", f"{'1' * 30},1,1\n"),
        signed("{}", "a,b", f"{'9' * 5000},1,1\n"),
        signed("{}", "a,b", "1,null,1\n"),
        signed("{}", "a,b", "1,,1\n"),
        signed("{}", "a,b", "1,1\n1,2,1,1\n"),
        signed("{}", "a,b", "1,1,1"),
        signed("{}", "a,b", "1,1,2\n"),
        signed("{}", "a,b", "1,1,1\n1,1,1\n"),
        signed("{}", "a,b", "1,0,0\n"),
        signed("{}", "a,a", "1,1,1\n"),
        signed("{}", "a,", "1,1,1\n"),
        signed("[" * 100_000, "a,b", "1,1,1\n"),
        signed('{"a":' * 100_000, "a,b", "1,1,1\n"),
        signed("null", "a,b", "1,1,1\n"),
        signed("[1]", "a,b", "1,1,1\n"),
        signed('{"a": NaN}', "a,b", "1,1,1\n"),
        signed('{"a": ' + "9" * 5000 + "}", "a,b", "1,1,1\n"),
        "\0" * 100,
        "",
    ],
)
def test_a_broken_presence_table_is_one_line(here, mmbench, content):
    (here / "m.csv").write_text(content)
    assert refused(mmbench("masks", "verify", "m.csv"), "m.csv")


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "name", "content"),
    [
        ("missing_aware_prompts", "m.pt", saved(torch.zeros(60).to_sparse())),
        ("missing_aware_prompts", "m.pt", saved(torch.zeros(60, dtype=torch.complex64))),
        ("missing_aware_prompts", "m.pt", saved(torch.zeros(1).expand(10**12))),
        ("missing_aware_prompts", "m.pt", saved(torch.tensor(3))),
        ("missing_aware_prompts", "m.pt", saved(torch.zeros(60, device="meta"))),
        ("missing_aware_prompts", "m.pt", saved(torch.full((60,), float("nan")))),
        ("missing_aware_prompts", "m.pt", saved(torch.full((60,), 7, dtype=torch.bfloat16))),
        ("missing_aware_prompts", "m.pt", saved([1, 2])),
        ("missing_aware_prompts", "m.pt", saved(torch.zeros(60))[:-300]),
        ("missing_aware_prompts", "m.pt", b""),
        ("missing_aware_prompts", "none.pt", None),
        ("own", "m.csv", b"id,text,image\n" + b"1" * 30 + b",1,1\n"),
        ("own", "m.csv", b"id,text,image\n0,null,1\n"),
        ("own", "m.csv", b"id,text,image\n0,1\n"),
        ("own", "m.csv", b"\xff\xfe\0"),
        ("own", "none.csv", None),
        ("redeem", "m.csv", b"a,b\n1,2,3\n"),
        ("redeem", "m.csv", b"missing_mask_7\nnull\n"),
        ("redeem", "m.csv", b"missing_mask_7\n" + b"9" * 400 + b"\n"),
        ("redeem", "none.csv", None),
    ],
)
def test_a_broken_table_of_others_is_one_line_and_writes_nothing(
    here, mmbench, form, name, content
):
    pd.DataFrame({"id": range(60), "said": ["good film", "bad film"] * 30}).to_csv(
        "text.csv", index=False
    )
    np.savez("image.npz", id=np.arange(60), x=np.zeros((60, 3, 4, 4), np.uint8))
    pd.DataFrame({"id": range(60), "label": ["yes", "no"] * 30}).to_csv("labels.csv", index=False)
    if content is not None:
        (here / name).write_bytes(content)
    more = ["--incomplete-rate", "0.7", "--missing", "both"] if form == "redeem" else []
    said = mmbench(
        "masks", "import", name, "--format", form, "--split", "test", *more, "--data", "table",
        "files.text=text.csv", "files.image=image.npz", "labels=labels.csv",
        "kinds={text: tokens, image: image}", "--data-root", ".", "--out", "out.csv",
    )  # fmt: skip
    assert refused(said, name)
    assert not (here / "out.csv").exists()
