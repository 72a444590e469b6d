"""Malformed input, kind by kind: one line, exit code 2, nothing half-written."""

import gzip
import hashlib
import io
import json
import lzma
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sweeps import NO_DATA, suite
from waiting import wait_until

from mmbench import Sweep, registry, store
from mmbench.bench.compare import read_board
from mmbench.bench.latex import latex
from mmbench.bench.leaderboard import render
from mmbench.bench.record import finish
from mmbench.bench.run.run import run
from mmbench.cli import errors, main
from mmbench.cli.run import _every
from mmbench.cli.show import print_table
from mmbench.data import parsed
from mmbench.data.cache import cached
from mmbench.data.masks import TITLE
from mmbench.registry import METHODS

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


# --- names ---------------------------------------------------------------------------------------

NASTY = [
    "[/b]", "[bold red]x", "a|b|c", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "+1+1",
    "-2+3", "@SUM(A1)", "\\end{table}%$#_&", "**x** `y`", "![x](http://x)", "../../x", "$x$",
    "&lt;b&gt;", "'\"><img src=x>",
]  # fmt: skip


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A leaderboard with a row for each nasty name of a method, data set and condition."""
    small = suite(methods=["majority"], limit=40)
    sweep = Sweep(small.model_dump(), results=tmp_path_factory.mktemp("nasty"))
    outcome = run(sweep.specs[0], sweep.runs_folder, NO_DATA)
    assert outcome.state == "done", outcome.why
    made, _ = sweep.boards(paired=False)
    row = made[(made["metric"] == "accuracy") & (made["condition"] == "complete")]
    rows = [row.assign(method=name, data=name, condition=name) for name in NASTY]
    return pd.concat(rows, ignore_index=True)


def test_names_in_a_csv_are_no_formulas_and_are_read_back_as_they_are(board, tmp_path):
    (tmp_path / "leaderboard.csv").write_text(render(board, "csv", metric="accuracy"))
    cells = pd.read_csv(tmp_path / "leaderboard.csv", dtype=str, keep_default_na=False)
    for column in ("method", "data", "condition"):
        assert not cells[column].str.contains(r"^[=+\-@\t\r]", regex=True).any()
    back = read_board(tmp_path)
    assert list(back["method"]) == NASTY
    assert np.allclose(back["mean"], board["mean"])


def test_names_in_markdown_end_no_cell_and_open_no_tag(board):
    text = render(board, "md", metric="accuracy", title="<b>|")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 3 * len(NASTY)  # header, rule and one row each
    for line in tables:
        assert len(re.findall(r"(?<!\\)\|", line)) == 3, line
    assert "<" not in text
    assert "](" not in text


def test_names_in_html_are_text(board):
    page = render(board, "html", metric="accuracy", title="<b>|")
    assert "<script>" not in page
    assert "<img" not in page
    assert page.count("<table>") == page.count("</table>") == len(NASTY)
    for name in NASTY:
        assert escape(name).split("**")[0] in page


def test_names_in_latex_close_no_environment(board):
    text = latex(board, metric="accuracy")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(NASTY)
    assert r"\textbackslash{}end\{table\}\%\$\#\_\&" in text


@pytest.mark.parametrize("name", NASTY)
def test_names_in_a_terminal_s_tables_are_printed_as_they_are(name, capsys):
    print_table([name, "n"], [[name, "1"]])
    assert capsys.readouterr().out.count(name) == 2


@pytest.mark.parametrize(
    "name", ["a\u202eb", "a\u2066b", "a\x1b[31mb", "a\x07b", "a\u200fb", "a\x00b", "a\x9bb"]
)
@pytest.mark.parametrize("place", ["label", "scenario", "key"])
def test_a_letter_that_is_not_seen_is_refused_and_spelt_out(here, mmbench, name, place):
    words = suite().model_dump(exclude={"limit", "keep_weights"})
    if place == "label":
        words["methods"][0]["label"] = name
    elif place == "scenario":
        words["scenarios"][0]["name"] = name
    else:
        words["trainer"][name] = 3
    (here / "s.yaml").write_text(yaml.safe_dump(words))
    said = mmbench("run", "s.yaml")
    assert refused(said)
    assert said[2].strip().isprintable()
    assert not (here / "results").exists()


# --- folders of results --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of results with one finished run."""
    root = tmp_path_factory.mktemp("finished")
    sweep = Sweep(suite(methods=["majority"], limit=40).model_dump(), results=root)
    sweep.todo()
    run(sweep.specs[0], sweep.runs_folder, NO_DATA)
    return sweep.folder


@pytest.fixture
def results(finished, tmp_path):
    """A copy of it that a test may spoil."""
    shutil.copytree(finished, tmp_path / "r")
    return tmp_path / "r"


def end_of(results):
    [end] = results.glob("runs/**/done")
    return end


def edited(file, change):
    words = json.loads(file.read_text())
    change(words)
    file.write_text(json.dumps(words))


@pytest.mark.parametrize("place", ["file", "dangling", "loop"])
def test_what_lies_in_the_place_of_a_run_is_named_and_replaced(results, mmbench, place):
    folder = end_of(results).parent
    shutil.rmtree(folder)
    if place == "file":
        folder.write_text("mine")
    else:
        folder.symlink_to("/nonexistent" if place == "dangling" else folder)
    code, out, error = mmbench("status", results)
    assert (code, error) == (0, "")
    assert "a file or a link is in its place" in out
    assert refused(mmbench("leaderboard", results), "1 broken", "in its place")
    assert run(Sweep(results).specs[0], results / "runs", NO_DATA).state == "done"
    assert [item.name for item in folder.parent.iterdir()] == [folder.name]
    assert mmbench("leaderboard", results)[0] == 0


@pytest.mark.parametrize("command", ["leaderboard", "report"])
def test_a_folder_whose_only_run_is_broken_says_so(results, mmbench, command):
    (end_of(results).parent / "env.json").unlink()
    said = mmbench(command, results)
    assert refused(said, "no finished run", "1 broken", "majority", "env.json is missing")


@pytest.mark.parametrize("place", ["cache", "runs/.shared", "runs/.stages/0123456789abcdef"])
@pytest.mark.parametrize("fault", ["zeros", "cut", "gone", "mark"])
def test_status_verify_reads_what_runs_share(results, mmbench, monkeypatch, place, fault):
    monkeypatch.setenv("MMBENCH_CACHE", str(results / "cache"))
    folder = cached(
        {"x": 1}, lambda part, held: np.save(part / "x.npy", VALUES), home=results / place
    )
    assert mmbench("status", results, "--verify")[0] == 0
    file = folder / "x.npy"
    if fault == "zeros":
        file.write_bytes(bytes(file.stat().st_size))
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif fault == "gone":
        file.unlink()
    else:
        (folder / "files.json").write_text("{")
    assert mmbench("status", results)[0] == 0
    code, out, _ = mmbench("status", results, "--verify")
    assert code == 1
    [line] = [line for line in out.splitlines() if "damaged" in line]
    assert str(folder) in line
    assert ("files.json" if fault == "mark" else "x.npy") in line


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("suite.json", DEEP),
        ("suite.json", "{}"),
        ("suite.json", "null"),
        ("suite.json", '{"name": "../../x"}'),
        ("suite.json", "\0"),
        ("content.json", DEEP),
        ("content.json", "[]"),
        ("content.json", '{"a": 3}'),
        ("content.json", '{"a": {}}'),
        ("content.json", "{"),
    ],
)
@pytest.mark.parametrize("command", ["status", "leaderboard"])
def test_a_folder_whose_own_files_are_damaged_is_one_line(results, mmbench, name, content, command):
    (results / name).write_text(content)
    before = sorted(results.rglob("*"))
    assert refused(mmbench(command, results, "--data-root", "."), name)
    assert sorted(results.rglob("*")) == before


@pytest.mark.parametrize(
    "files",
    [
        DEEP,
        "null",
        '{"files": null}',
        '{"files": {"spec.json": null}}',
        '{"files": {"../../outside": {"bytes": 3, "sha256": "x"}}}',
        '{"files": {"/etc/hostname": {"bytes": 3, "sha256": "x"}}}',
        '{"files": {"' + "a" * 5000 + '": {"bytes": 3, "sha256": "x"}}}',
        '{"files": {"a\\u0000b": {"bytes": 3, "sha256": "x"}}}',
        '{"files": {"spec.json/x": {"bytes": 3, "sha256": "x"}}}',
    ],
)
def test_a_run_whose_end_mark_is_damaged_is_broken_and_not_a_traceback(results, mmbench, files):
    end_of(results).write_text(files)
    code, out, error = mmbench("status", results, "--verify")
    assert code in (0, 1), error
    assert "broken" in out
    assert error.count("\n") <= 1


@pytest.mark.parametrize(
    "change",
    [
        lambda words: words.update(schema=99),
        lambda words: words.update(schema=1, code="0.0.1"),
        lambda words: words.pop("schema"),
        lambda words: words.pop("conditions"),
        lambda words: words.update(schema=None),
    ],
)
@pytest.mark.parametrize("command", ["leaderboard", "report"])
def test_a_record_of_another_version_is_one_line_that_names_it(results, mmbench, change, command):
    end = end_of(results)
    edited(end.parent / "metrics.json", change)
    end.unlink()
    finish(end.parent, "done")
    assert refused(mmbench(command, results), "metrics.json")


def test_a_claim_of_a_clock_that_was_set_back_holds_nothing_for_ever(tmp_path):
    target = tmp_path / "a" / "b"
    target.parent.mkdir()
    with store.claim(target) as mine:
        assert mine
        file = next(target.parent.glob(".b.claim*"))
        text = file.read_text()
    file.write_text(text.replace(socket.gethostname(), "another-host"))
    now = time.time()
    for ahead, held in ((0, True), (86_400, False), (-86_400, False), (10**9, False)):
        os.utime(file, (now + ahead, now + ahead))
        assert store.is_claimed(target) is held


# --- plugins -------------------------------------------------------------------------------------

PLUGINS = {
    "exits": "raise SystemExit(0)",
    "exits_hard": "import sys; sys.exit('bye')",
    "base": "raise BaseException('odd\\n\\x1b[31mred')",
    "generator": "raise GeneratorExit",
    "syntax": "def (",
    "name": "undefined_name",
    "deep": "def f(): f()\nf()",
    "nothing": "x = 3",
    "is_no_class": "Mine = 3",
}


@pytest.fixture
def plugins(here, monkeypatch):
    """Installs distributions whose methods cannot be imported; nothing outside is touched."""

    def install(**files):
        for name, text in files.items():
            (here / f"{name}_plugin.py").write_text(text)
            info = here / f"{name}_plugin-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: {name}-plugin\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(
                f"[mmbench.methods]\n{name} = {name}_plugin:Mine\n"
            )
        monkeypatch.syspath_prepend(here)
        METHODS.__dict__.pop("_plugins", None)

    yield install
    METHODS.__dict__.pop("_plugins", None)


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_that_fails_is_listed_and_named_by_what_imports_it(plugins, mmbench, name):
    plugins(**{name: PLUGINS[name]})
    code, out, _ = mmbench("list", "methods")
    assert code == 0
    assert f"{name}_plugin:Mine, from {name}-plugin 1.0" in out
    full = f"{name}-plugin/{name}"
    for words in (("check", full), ("run", "quickstart", f"methods=[{full}]", "data=[mfeat]")):
        said = mmbench(*words)
        assert refused(said, name)
        assert said[2].strip().isprintable()
    assert not Path("results").joinpath("quickstart", "runs").exists()


@pytest.mark.parametrize("name", ["zero_fill", "majority"])
def test_a_plugin_with_the_name_of_a_built_in_method_is_listed_beside_it(plugins, mmbench, name):
    plugins(**{name: ""})
    code, out, _ = mmbench("list", "methods")
    assert code == 0
    assert f"\n{name} " in out
    assert f"\n{name}-plugin/{name} " in out


SLOW = (
    "import time; time.sleep({s})",
    "import time\nend = time.monotonic() + {s}\nwhile time.monotonic() < end: pass",
    "import threading; threading.Event().wait({s})",
    "import subprocess; subprocess.run(['sleep', '{s}'])",
    "import os, select; select.select([os.pipe()[0]], [], [], {s})",
)


@pytest.mark.parametrize("hangs", SLOW)
def test_an_import_that_hangs_is_ended(plugins, mmbench, monkeypatch, hangs):
    plugins(hangs=f"{hangs.format(s=60)}\nMine = 3")
    monkeypatch.setattr(registry, "MOST_S", 0.3)
    began = time.monotonic()
    name = "hangs-plugin/hangs"
    said = mmbench("plan", "quickstart", f"methods=[{name}]", "data=[mfeat]")
    assert refused(said, f"method '{name}' does not import: TimeoutError: it took more than 0 s")
    assert time.monotonic() - began < 59  # not as long as it hangs
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("slow", SLOW)
def test_a_slow_import_is_said(plugins, mmbench, monkeypatch, caplog, slow):
    monkeypatch.delitem(sys.modules, "slow_plugin", raising=False)
    plugins(slow=f"{slow.format(s=0.3)}\nMine = 3")
    monkeypatch.setattr(registry, "SLOW_S", 0.05)
    assert refused(mmbench("check", "slow-plugin/slow"), "slow")
    assert "method 'slow-plugin/slow' is still being imported (module slow_plugin)" in caplog.text


@pytest.mark.parametrize(
    ("lines", "clash"),
    [
        ("mine = one:A\nmine = two:B", True),
        ("mine = one:A\nmine = one:B", True),
        ("mine = one:A\nother = one:A\nmine = one", True),
        ("mine = one:A\nmine = one:A", False),  # the same, said twice
        ("mine = one:A\nMine = one:B", False),
        ("mine = one:A\nmine-2 = one:A", False),
    ],
)
def test_two_plugins_of_one_name_are_refused_by_name_and_two_names_are_two(
    here, mmbench, monkeypatch, lines, clash
):
    info = here / "clashing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: clashing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mmbench.methods]\n{lines}\n")
    monkeypatch.syspath_prepend(here)
    METHODS.__dict__.pop("_plugins", None)
    try:
        said = mmbench("list", "methods")
        if clash:
            assert refused(said, "two methods are named 'clashing/mine': ", "one:A")
        else:
            assert said[0] == 0
            names = {line.partition(" ")[0] for line in lines.splitlines()}
            assert all(f"\nclashing/{name} " in said[1] for name in names)
    finally:
        METHODS.__dict__.pop("_plugins", None)


BROKEN = """
from mmbench.methods.majority import Majority
class Mine(Majority):
    def {name}(self, *args, **kwargs):
        {what}
"""


@pytest.mark.parametrize(
    "what",
    ["raise SystemExit(0)", "raise BaseException('x')", "{}['k']", "int('x')", "raise EOFError"],
)
def test_a_plugin_that_breaks_within_a_check_fails_it_by_name(plugins, mmbench, what):
    plugins(broken=BROKEN.format(name="forward", what=what))
    code, out, error = mmbench("check", "broken-plugin/broken")
    assert code == 1, error
    assert "\nbroken   outputs_have_the_right_shape\n" in out
    assert "\n         mend   " in out
    assert "passed   evaluation_is_ours" in out
    assert "Traceback" not in out + error


# --- whose mistake it is -------------------------------------------------------------------------


def meant():
    raise ValueError("write it like that")


def by_a_library():
    np.zeros(3).reshape(2, 2)


@pytest.mark.parametrize(
    ("act", "code", "parts"),
    [
        (meant, 2, ["error: write it like that\n"]),
        (lambda: int("x"), 1, ["ValueError: invalid literal", "test_bad_input.py:", "report it"]),
        (by_a_library, 1, ["ValueError: cannot reshape", "test_bad_input.py:", "report it"]),
        (lambda: json.loads("{"), 1, ["JSONDecodeError", "report it"]),
        (lambda: {}["k"], 1, ["KeyError: 'k'", "test_bad_input.py:", "report it"]),
        (lambda: next(iter(())), 1, ["StopIteration", "report it"]),
        (lambda: open("/no/such"), 1, ["No such file or directory: /no/such"]),  # noqa: PTH123, SIM115
        (lambda: pd.read_csv(io.StringIO("")), 1, ["EmptyDataError", "report it"]),
    ],
)
def test_a_mistake_of_ours_names_its_place_and_one_of_the_user_does_not(act, code, parts, capsys):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        act()
    with pytest.raises(SystemExit) as stop:
        errors.end(caught.value)
    assert stop.value.code == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for part in parts:
        assert part in said


@pytest.mark.parametrize("error", [EOFError, KeyError("k"), RuntimeError("\x1b[2Jx"), MemoryError])
def test_an_error_of_a_command_is_one_line_and_with_debug_a_traceback(
    mmbench, monkeypatch, error, capsys
):
    def broken(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(Sweep, "__init__", broken)
    code, _, said = mmbench("status", "quickstart")
    assert code == 1
    assert "report it" in said
    assert "mmbench --debug status quickstart" in said
    assert said.count("\n") == 1
    assert said.strip().isprintable()


# --- the environment -----------------------------------------------------------------------------


def bare(*words, files=None, **environment):
    """The command in a process of its own, with nothing but this environment."""
    done = subprocess.run(
        [sys.executable, "-m", "mmbench", *map(str, words)],
        capture_output=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"} | environment,
        preexec_fn=files and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))),
    )
    return done.returncode, done.stdout, done.stderr


TABLE = ("table", "files.b=b.csv", "labels=labels.csv", "--data-root", ".")
TINY = ("quickstart", "methods=[majority]", "data=[mfeat]", "seeds=1", "limit=40", "--workers", "1")


def test_a_run_needs_no_git_no_home_and_no_unicode(here, tmp_path):
    code, out, error = bare(
        "run", *TINY, PATH="/nowhere", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0", MMBENCH_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert code == 0, error
    assert (out + error).isascii()
    assert b"started majority" in out
    assert b"+-" in out or b"mean" in out
    assert b"Traceback" not in error


@pytest.mark.parametrize("cache", ["/proc/x", "/sys/x", "/dev/null/x", "labels.csv", "a" * 300])
def test_a_cache_that_cannot_be_written_costs_time_alone(here, mmbench, monkeypatch, caplog, cache):
    monkeypatch.setenv("MMBENCH_CACHE", cache)
    monkeypatch.setattr(parsed, "SMALL_BYTES", 0)
    before = sorted(here.rglob("*"))
    code, out, error = mmbench("data", "describe", *TABLE)
    assert code == 0, error
    assert "42" in out  # samples of the training split
    assert "cannot be kept for other processes" in caplog.text
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        ["plan", *TINY[:-2]],
        ["list", "methods"],
        ["data", "describe", "mfeat"],
        ["status", "quickstart"],
        ["masks", "export", "mfeat", "natural", "--out", "m.csv"],
    ],
)
def test_whoever_has_no_home_needs_none_for_what_is_small(here, mmbench, monkeypatch, words):
    monkeypatch.delenv("MMBENCH_CACHE")
    homeless(monkeypatch)
    code, _, error = mmbench(*words)
    assert code == 0, error


def test_whoever_has_no_home_is_told_what_to_set(here, mmbench, monkeypatch):
    monkeypatch.delenv("MMBENCH_CACHE")
    homeless(monkeypatch)
    monkeypatch.setattr(parsed, "SMALL_BYTES", 0)
    assert refused(mmbench("data", "describe", *TABLE), "there is no home folder; set MMBENCH_CACH")


def homeless(monkeypatch):
    """As a user of a container, whom its list of users does not know."""

    def unknown(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["list", "methods"], 0),
        (["plan", "--help"], 0),
        (["data", "describe", "table", "files.b=b.csv", "labels=labels.csv"], 0),
        (["status", "qüickstart"], 2),
        (["list", "méthodes"], 2),
        (["status", "--verifié"], 2),
    ],
)
def test_signs_that_a_terminal_lacks_are_spelt_out(here, monkeypatch, words, code):
    monkeypatch.setenv("MMBENCH_DATA", str(here))
    labels = pd.DataFrame({"id": IDS, "label": ["süß", "漢字"] * 30})
    labels.to_csv("labels.csv", index=False)
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "argv", ["mmbench", *words])
    with pytest.raises(SystemExit) as end:
        main()
    for stream in streams:
        stream.flush()
    said = b"".join(stream.buffer.getvalue() for stream in streams)
    assert (end.value.code or 0) == code, said
    assert said.isascii()
    assert b"Traceback" not in said


@pytest.mark.parametrize("columns", ["0", "1", "-5", "abc", "9" * 30])
def test_a_terminal_of_no_width_is_told_what_is_wrong_all_the_same(mmbench, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert refused(mmbench("status", "nonsense"), "no suite named 'nonsense'")
    code, _, error = mmbench("plan", "--nonsense")
    assert code == 2
    assert "nonsense" in "".join(error.split())
    code, out, error = mmbench("list", "methods")
    assert code == 0, error
    assert "majority" in "".join(out.split())


@pytest.mark.parametrize(
    "words",
    [
        ["masks", "export", "mfeat", "natural", "--out", "m.csv"],
        ["new", "method", "mine"],
        ["new", "data", "mine"],
        ["data", "init", "."],
        ["archive", "r"],
        ["leaderboard", "r"],
        ["report", "r"],
    ],
)
def test_a_full_disk_is_one_line_and_nothing_is_half_written(
    here, finished, mmbench, monkeypatch, words
):
    shutil.copytree(finished, "r")
    before = {file: file.stat().st_size for file in here.rglob("*")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        code, _, error = mmbench(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1, error
    assert "File too large" in error
    assert error.count("\n") == 1
    assert {file: file.stat().st_size for file in here.rglob("*")} == before


def test_a_full_disk_is_one_line_and_leaves_no_part(here):
    code, out, error = bare("run", *TINY, files=200, PATH=os.environ["PATH"], HOME=str(here))
    assert code in (1, 2)
    assert b"Traceback" not in error
    assert b"File too large" in out + error
    assert not list((here / "results").rglob("*.part*"))


@pytest.mark.parametrize("words", [["list", "methods"], ["status", "quickstart"], ["--help"]])
def test_an_output_that_is_closed_is_no_traceback(here, words):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "mmbench", *words], stdout=write, stderr=subprocess.PIPE,
        env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    os.close(write)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_whoever_has_closed_the_output_gets_the_files_all_the_same(results, mmbench, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert mmbench("leaderboard", results)[0] == 0
    sys.stdout.close()
    assert (results / "leaderboard.csv").stat().st_size


@pytest.mark.parametrize("threads", ["abc", "4,2", "0", "-1", "1.5"])
def test_a_number_of_threads_that_libraries_would_fail_on_is_one_line(
    here, mmbench, monkeypatch, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert refused(mmbench("plan", "quickstart"), f"OMP_NUM_THREADS is '{threads}'")


def test_a_shell_completes_commands(here):
    code, out, _ = bare(
        _MMBENCH_COMPLETE="complete_bash", COMP_WORDS="mmbench lead", COMP_CWORD="1",
        PATH=os.environ["PATH"],
    )  # fmt: skip
    assert code == 0
    assert out.split() == [b"leaderboard"]


def test_a_heartbeat_beats_while_workers_are_waited_for():
    beats = []
    with _every(0.01, lambda: beats.append(1)):
        wait_until(lambda: len(beats) > 2)
    heard = len(beats)
    time.sleep(0.05)
    assert heard == len(beats)


@pytest.mark.parametrize("folder", ["/proc/x", "/sys/x", "/dev/null/x", "labels.csv/x", "a" * 300])
def test_a_place_that_cannot_be_written_is_one_line_before_any_run(here, mmbench, folder):
    before = sorted(here.rglob("*"))
    said = mmbench("run", *TINY, "--results", folder)
    assert refused(said, folder)
    said = mmbench("masks", "export", "mfeat", "natural", "--out", f"{folder}/m.csv")
    assert refused(said, folder)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ["\x1b[31mred", "[/b]", "a\u202eb", "=1+1", "<b>", "a\x07|b"])
def test_a_class_of_any_name_is_described_on_lines_that_a_terminal_does_not_obey(
    here, mmbench, name
):
    pd.DataFrame({"id": IDS, "label": [name, "no"] * 30}).to_csv("labels.csv", index=False)
    code, out, error = mmbench(
        "data", "describe", "table", "files.b=b.csv", "labels=labels.csv", "--data-root", "."
    )
    assert code == 0, error
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize(
    "change",
    [
        lambda words: words.pop("cost"),
        lambda words: words.pop("task"),
        lambda words: words.update(cost=None),
        lambda words: words.update(conditions=[1]),
        lambda words: next(iter(words["conditions"].values())).pop("scores"),
        lambda words: next(iter(words["conditions"].values())).update(realised=3),
        lambda words: words["cost"].pop("train_s"),
    ],
)
@pytest.mark.parametrize("command", ["leaderboard", "status"])
def test_a_record_that_lacks_a_key_is_one_line_that_names_it(results, mmbench, change, command):
    end = end_of(results)
    edited(end.parent / "metrics.json", change)
    end.unlink()
    finish(end.parent, "done")
    assert refused(mmbench(command, results), "metrics.json")
