"""The store: whatever happens to whoever writes, what lies on disk is whole."""

import contextlib
import json
import math
import os
import random
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import SoftFileLease
from waiting import wait_until

from mmbench import store
from mmbench.data.cache import cached, digest
from mmbench.store import (
    Claim,
    attempt,
    checksums,
    claim,
    clean,
    damage,
    identity,
    leftovers,
    publish,
    restore,
    write_arrays,
    write_json,
    write_text,
)


def made(target, text, *, instead_of=None):
    """Publish a folder with one file; returns whether it was."""
    with attempt(target) as part:
        (part / "a").write_text(text)
        return publish(part, target, instead_of=instead_of)


# --- files ------------------------------------------------------------------------------------


def test_json_is_strict_and_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"a": [1, math.nan, {"b": -math.inf}], "c": (True, None)})
    assert json.loads(file.read_text()) == {"a": [1, None, {"b": None}], "c": [True, None]}
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text())["c"] == [True, None]
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208 - hidden files, too


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "a", "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "before"
    write_arrays(tmp_path / "b.npz", {"x": np.arange(3)})
    with np.load(tmp_path / "b.npz", allow_pickle=False) as kept:
        assert kept["x"].tolist() == [0, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b.npz"]


# --- folders ----------------------------------------------------------------------------------


def test_who_comes_second_throws_its_own_away(tmp_path):
    target = tmp_path / "run"
    with attempt(target) as part:
        (part / "a").write_text("slow")
        assert made(target, "quick")
        assert not publish(part, target)
    assert (target / "a").read_text() == "quick"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_only_the_folder_that_was_looked_at_is_replaced(tmp_path):
    target = tmp_path / "run"
    made(target, "failed")
    failed = identity(target)
    assert made(target, "repaired", instead_of=failed)
    assert not made(target, "late", instead_of=failed)
    assert (target / "a").read_text() == "repaired"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_went_away_in_the_meantime_is_published_anew(tmp_path):
    target = tmp_path / "run"
    made(target, "failed")
    failed = identity(target)
    store.shutil.rmtree(target)
    assert made(target, "new", instead_of=failed)


def test_an_attempt_that_raises_leaves_nothing_unless_others_may_go_on_with_it(tmp_path):
    target = tmp_path / "run"
    with pytest.raises(OSError, match="full"), attempt(target) as part:
        raise OSError("full")
    assert not list(tmp_path.iterdir())

    def fill():
        with attempt(target, go_on=True) as part:
            (part / "piece").touch()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill()
    assert len(leftovers(target)) == 1
    with attempt(target, go_on=True) as part:
        assert (part / "piece").exists()
    assert not list(tmp_path.iterdir())


def test_what_was_moved_aside_is_not_gone_on_with(tmp_path):
    target = tmp_path / "run"
    child = os.fork()
    if child == 0:
        old = store.private(target, store.OLD)
        old.mkdir()
        (old / "damaged").touch()
        os._exit(0)
    os.waitpid(child, 0)
    with attempt(target, go_on=True) as part:
        assert not list(part.iterdir())
    assert not list(tmp_path.iterdir())


def test_an_attempt_of_a_process_that_lives_or_of_another_machine_is_not_touched(tmp_path):
    target = tmp_path / "run"
    strange = tmp_path / f".run.{'0' * 12}.1.abcdefgh"
    strange.mkdir()
    with attempt(target) as mine:
        assert leftovers(target) == []
        with attempt(target):
            pass
        assert mine.is_dir()
    assert strange.is_dir()


def killed_before_it_publishes(target):
    """Replace a published folder in a process that dies after it moved the old one aside."""
    child = os.fork()
    if child == 0:
        rename = store._rename

        def die(old, new):
            moved = rename(old, new)
            if store.OLD in new.name:
                os.kill(os.getpid(), signal.SIGKILL)
            return moved

        store._rename = die
        made(target, "new", instead_of=identity(target))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_was_moved_aside_comes_back_if_its_successor_never_appears(tmp_path):
    target = tmp_path / "run"
    made(target, "old")
    before = identity(target)
    killed_before_it_publishes(target)
    assert not target.exists()
    restore(target)
    assert (target / "a").read_text() == "old"
    assert identity(target) == before
    restore(target)  # once is enough
    assert made(target, "new", instead_of=before)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_was_moved_aside_comes_back_if_publishing_raises(tmp_path, monkeypatch):
    target = tmp_path / "run"
    made(target, "old")
    rename = store._rename

    def fail(old, new):
        if new == target and not target.exists() and store.OLD not in old.name:
            raise KeyboardInterrupt
        return rename(old, new)

    monkeypatch.setattr(store, "_rename", fail)
    with pytest.raises(KeyboardInterrupt):
        made(target, "new", instead_of=identity(target))
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def strange(target, mark="", *, age_s=0.0):
    """An attempt of a machine that is not this one, with a file of that age in it."""
    part = target.with_name(f".{target.name}.{'0' * 12}.1{mark}.{'a' * 8}")
    part.mkdir()
    (part / "a").write_text("strange")
    then = time.time() - age_s
    os.utime(part / "a", (then, then))
    os.utime(part, (then - 7 * 86400, then - 7 * 86400))
    return part


def test_attempts_of_other_machines_are_removed_after_a_day_unless_somebody_is_at_it(tmp_path):
    day = store.ABANDONED_S
    at_work, dead = (strange(tmp_path / n, age_s=a) for n, a in (("a", day / 2), ("b", 2 * day)))
    claimed = strange(tmp_path / "c", age_s=2 * day)
    with claim(tmp_path / "c"):
        clean(tmp_path)
        assert (at_work.is_dir(), dead.is_dir(), claimed.is_dir()) == (True, False, True)
    clean(tmp_path)
    assert sorted(tmp_path.iterdir()) == [at_work]


def test_what_another_machine_moved_aside_comes_back_after_a_day(tmp_path):
    strange(tmp_path / "run", store.OLD, age_s=2 * store.ABANDONED_S)
    clean(tmp_path)
    assert (tmp_path / "run" / "a").read_text() == "strange"
    strange(tmp_path / "run", store.OLD, age_s=2 * store.ABANDONED_S)
    made(tmp_path / "run", "published", instead_of=identity(tmp_path / "run"))
    clean(tmp_path)
    assert (tmp_path / "run" / "a").read_text() == "published"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


# --- checksums --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (lambda f: f.unlink(), "x is missing"),
        (lambda f: f.write_text("ab"), "x has 2 bytes instead of 3"),
        (lambda f: f.write_text("abd"), "x holds other bytes than were written"),
    ],
)
def test_damage_is_named(tmp_path, fault, why):
    (tmp_path / "x").write_text("abc")
    write_json(tmp_path / "end", {"files": checksums(tmp_path)})
    assert damage(tmp_path, "end", read_up_to=None) == ""
    fault(tmp_path / "x")
    assert damage(tmp_path, "end", read_up_to=None) == why
    assert (damage(tmp_path, "end", read_up_to=2) == "") is why.endswith("written")
    for content in ("{", "[]", '{"files": 3}', '{"files": {"x": 3}}', '{"files": {"x": {}}}'):
        (tmp_path / "end").write_text(content)
        assert damage(tmp_path, "end") == "end is damaged"


# --- claims -----------------------------------------------------------------------------------


def test_a_claim_keeps_others_away_and_is_taken_over_from_who_falls_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LEASE_S", 1.5)
    monkeypatch.setattr(store, "HEARTBEAT_S", 0.05)
    target = tmp_path / "run"
    child = os.fork()
    if child == 0:
        with claim(target):
            (tmp_path / "held").touch()
            signal.pause()
    wait_until((tmp_path / "held").exists)
    try:
        with claim(target) as held:
            assert not held.ours
        deadline = time.monotonic() + 2.5
        with claim(target, until=lambda: time.monotonic() > deadline) as held:
            assert not held.ours  # it lives: no takeover after the time of a lease
        os.kill(child, signal.SIGSTOP)
        with claim(target, until=lambda: False) as held:
            assert held.ours
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def claim_of_other_terms(file):
    lease = SoftFileLease(file, lease_duration=1000.0, heartbeat_interval=300.0)
    lease.acquire(timeout=0)
    content = file.read_bytes()
    lease.release()
    return content.replace(socket.gethostname().encode(), b"another-host")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        claim_of_other_terms,
        b"\xff\xfe\0",
        b"[" * 100_000,
        b'{"hostname": 3}',
        b"-1\nx\n",
        b"null",
    ],
)
def test_a_claim_that_says_nothing_or_has_other_terms_holds_for_a_while_and_not_for_ever(
    tmp_path, monkeypatch, content
):
    monkeypatch.setattr(store, "LEASE_S", 300.0)
    monkeypatch.setattr(store, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(store, "LOOK_S", 0.02)
    monkeypatch.setattr("filelock._soft.MALFORMED_LOCK_AGE_THRESHOLD", 300.0)
    target = tmp_path / "run"
    file = tmp_path / ".run.claim"
    file.write_bytes(content if isinstance(content, bytes) else content(file))
    assert store.is_claimed(target)
    with claim(target) as held:
        assert not held.ours
    monkeypatch.setattr(store, "LEASE_S", 0.2)
    monkeypatch.setattr("filelock._soft.MALFORMED_LOCK_AGE_THRESHOLD", 0.1)
    deadline = time.monotonic() + 300
    with claim(target, until=lambda: time.monotonic() > deadline) as held:
        assert held.ours
    assert not file.exists()


def test_where_claims_cannot_be_written_work_goes_on(tmp_path, monkeypatch):
    class Refusing:
        def __init__(self, *_, **__):
            pass

        def acquire(self, timeout):
            raise PermissionError("no such thing here")

    monkeypatch.setattr(store, "SoftFileLease", Refusing)
    with claim(tmp_path / "run") as held:
        assert held.ours


# --- the whole protocol, without claims and with deaths ---------------------------------------


@contextlib.contextmanager
def no_claim(target, *, until=None):
    """A file system on which claims do nothing: everybody believes to be alone."""
    yield Claim(ours=True)


CONTENT = "".join(f"{i:07d}\n" for i in range(4000))


def build(folder, held):
    for name in "abc":
        with (folder / f"{name}.part").open("w") as file:
            for start in range(0, len(CONTENT), 4096):
                file.write(CONTENT[start : start + 4096])
        (folder / f"{name}.part").rename(folder / name)


def worker(home: Path, seed: int):
    """Ask for the cache entry and replace a published folder, again and again."""
    chosen = random.Random(seed)
    try:
        while not (home / "stop").exists():
            number = chosen.randrange(4)
            folder = cached({"entry": number}, build, home=home / "cache")
            with contextlib.suppress(FileNotFoundError):  # the test took the entry away just now
                assert {(folder / name).read_text() for name in "abc"} == {CONTENT}
            target = home / "runs" / str(number)
            before = identity(target)
            with attempt(target) as part:
                for name in "abc":
                    (part / name).write_text(CONTENT)
                write_json(part / "done", {"files": checksums(part)})
                publish(part, target, instead_of=before if chosen.random() < 0.5 else None)
    except BaseException as error:
        (home / f"error-{os.getpid()}").write_text(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


def whole(folder):
    files = json.loads((folder / "done").read_text())["files"]
    return set(files) == set("abc") and damage(folder, "done", read_up_to=None) == ""


@pytest.mark.slow
def test_processes_that_die_at_any_moment_leave_nothing_partial_without_any_lock(
    tmp_path, monkeypatch
):
    """Four at the same entries, killed or stopped 200 times; every look finds whole folders."""
    monkeypatch.setattr("mmbench.data.cache.claim", no_claim)
    monkeypatch.setattr(store, "_flush", lambda path: None)  # no power is lost here
    chosen = random.Random(0)
    children: list[int] = []
    kills = looks = 0

    def fork():
        child = os.fork()
        if child == 0:
            worker(tmp_path, chosen.randrange(10**9) + kills)
        children.append(child)

    for _ in range(4):
        fork()
    try:
        while kills < 200:
            time.sleep(chosen.uniform(0.0, 0.02))
            victim = chosen.choice(children)
            if chosen.random() < 0.3:
                os.kill(victim, signal.SIGSTOP)
                time.sleep(chosen.uniform(0.0, 0.02))
                os.kill(victim, signal.SIGCONT)
            else:
                os.kill(victim, signal.SIGKILL)
                os.waitpid(victim, 0)
                children.remove(victim)
                fork()
            kills += 1
            if kills in (50, 100, 150):  # entries are built anew under the workers' feet
                for entry in (tmp_path / "cache").glob("[0-9a-f]*"):
                    with contextlib.suppress(OSError):
                        entry.rename(tmp_path / f"taken-{kills}-{entry.name}")
            for number in range(4):
                target = tmp_path / "runs" / str(number)
                with contextlib.suppress(FileNotFoundError):  # moved aside at this moment
                    seen = identity(target)
                    # moved away, or away and back, while we read: look once more
                    assert whole(target) or identity(target) != seen or whole(target)
                    looks += 1
    finally:
        (tmp_path / "stop").touch()
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not list(tmp_path.glob("error-*")), [p.read_text() for p in tmp_path.glob("error-*")]
    assert codes == [0] * 4
    assert looks > 100
    for number in range(4):
        folder = tmp_path / "cache" / digest({"entry": number})
        assert {(folder / name).read_text() for name in "abc"} == {CONTENT}
        assert whole(tmp_path / "runs" / str(number))


def test_a_claim_of_a_version_whose_leases_last_another_time_is_somebody_elses(tmp_path):
    lease = SoftFileLease(tmp_path / ".target.claim", lease_duration=7.0)
    with lease, claim(tmp_path / "target") as held:
        assert not held.ours
    with claim(tmp_path / "target") as held:
        assert held.ours
