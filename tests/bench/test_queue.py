"""What a worker takes next: order, chunks, time, and what others are at."""

import json
import math
import os
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeps import specs

from mmbench.bench.executors.order import CHUNK_S, budget_s, in_order, joins
from mmbench.bench.executors.queue import Queue, read_again, repeated, write_again
from mmbench.bench.executors.workers import announced, live
from mmbench.bench.record import Outcome, finish, record_failure
from mmbench.store import attempt, claim, publish

SPECS = specs(
    seeds=4,
    data=[
        {"name": "mfeat", "args": {"modalities": ["fou", "kar"]}, "label": "a"},
        {"name": "mfeat", "args": {"modalities": ["fou", "pix"]}, "label": "b"},
    ],
    methods=["majority", "zero_fill", "mean_fusion"],
)
DONE = Outcome("done", wall_s=1.0, work_s=0.9)


def end(spec, runs, mark="done", **note):
    """Publish a run that ended so."""
    with attempt(runs / spec.folder) as folder:
        finish(folder, mark, note)
        assert publish(folder, runs / spec.folder)


def lengths(table):
    return lambda spec: table.get((spec.data_label, spec.method_label))


def drain(queue, slots=1):
    """What a queue hands out to one worker that ends each run at once."""
    taken = []
    with queue.opened(slots):
        while ticket := queue.take(0, idle=True):
            taken.append(ticket)
            end(ticket.spec, queue.runs)
            queue.ended(ticket, DONE)
    return taken


@given(st.lists(st.floats(0.01, 1e4) | st.none(), min_size=6, max_size=6))
def test_longest_first_and_equals_in_order_of_the_plan_on_the_same_data(seconds):
    kinds = [(d, m) for d in "ab" for m in ("majority", "zero_fill", "mean_fusion")]
    of = lengths(dict(zip(kinds, seconds, strict=True)))
    ordered = in_order(SPECS, of, near=("b", 0))
    assert sorted(s.key for s in ordered) == sorted(s.key for s in SPECS)
    for first, second in pairwise(ordered):
        long, short = of(first), of(second)
        if long is None:
            continue
        assert short is not None, "an unknown one may be long and comes before"
        assert max(short, 1.0) < 2 * max(long, 1.0)
        if math.floor(math.log2(max(short, 1.0))) == math.floor(math.log2(max(long, 1.0))):
            places = [(s.data_label != "b", SPECS.index(s)) for s in (first, second)]
            assert places[0] < places[1]


def test_short_runs_are_taken_together_up_to_half_a_minute_or_half_a_fair_share():
    def of(spec):
        return 2.0

    many = SPECS * 100
    assert budget_s(many, of, slots=3, slots_in_all=3) == 3 * CHUNK_S
    assert budget_s(SPECS, of, slots=1, slots_in_all=4) == 2.0 * len(SPECS) / 8
    chunk = []
    for spec in SPECS:
        if not joins(chunk, spec, of, 9.0):
            break
        chunk.append(spec)
    assert chunk == SPECS[:4]
    assert not joins(SPECS[:1], SPECS[-1], of, 9.0)  # other data
    assert joins([], SPECS[0], of, 0.0)  # one is always taken
    assert not joins(SPECS[:1], SPECS[1], lambda spec: None, 9.0)


def test_a_queue_hands_out_every_run_once_and_leaves_what_has_ended(tmp_path):
    end(SPECS[3], tmp_path)
    end(SPECS[4], tmp_path, "failed.json", why="diverged: NaN")
    taken = drain(Queue(SPECS, tmp_path))
    left = [s.key for s in SPECS if s not in SPECS[3:5]]
    assert sorted(t.spec.key for t in taken) == sorted(left)
    assert taken[0].spec is SPECS[0]
    assert not any(t.overwrite or t.patient or t.alone for t in taken)


def test_what_the_user_wants_again_is_handed_out_until_it_was_replaced(tmp_path):
    end(SPECS[0], tmp_path)
    end(SPECS[1], tmp_path, "failed.json", why="diverged: NaN")
    found = Queue(SPECS[:3], tmp_path)
    todo = [found.openness(spec)[1] for spec in SPECS[:3]]
    write_again(tmp_path, repeated(todo))
    again = read_again(tmp_path)
    assert set(again) == {SPECS[0].key, SPECS[1].key}
    queue = Queue(SPECS[:3], tmp_path, again=again)
    with queue.opened(1):
        tickets = [queue.take(0, idle=True) for _ in range(3)]
        assert [t.overwrite for t in tickets] == [True, False, False]
        assert queue.take(0, idle=True) is None
    for spec in SPECS[:2]:
        (tmp_path / spec.folder).rename(tmp_path / f"old-{spec.key}")
        end(spec, tmp_path, "failed.json", why="diverged: NaN")
    assert [t.spec.key for t in drain(Queue(SPECS[:3], tmp_path, again=again))] == [SPECS[2].key]


def test_a_damaged_list_of_what_is_wanted_again_is_one_line(tmp_path):
    (tmp_path / "again.json").write_text('{"key": 3}')
    with pytest.raises(ValueError, match=r"again.json is damaged"):
        read_again(tmp_path)


def test_a_kill_is_tried_once_more_and_is_a_failure_then(tmp_path):
    spec = SPECS[0]
    record_failure(spec, tmp_path, "killed: by signal 9 (SIGKILL)")
    queue = Queue([spec], tmp_path)
    with queue.opened(1):
        ticket = queue.take(0, idle=False)
        assert ticket is not None
        assert not ticket.alone
        record_failure(spec, tmp_path, "killed: by signal 9 (SIGKILL)")
        assert not queue.ended(ticket, Outcome("failed", "killed"))
        assert queue.take(0, idle=True) is None
    assert Queue([spec], tmp_path).openness(spec)[0] == "finished"


@pytest.mark.parametrize(
    "why", ["out of memory: 3 GiB", "killed: by signal 9 (SIGKILL); memory ran out"]
)
def test_a_run_that_ran_out_of_memory_waits_until_it_is_alone(tmp_path, why):
    record_failure(SPECS[0], tmp_path, why)
    queue = Queue(SPECS[:2], tmp_path)
    with queue.opened(2):
        other = queue.take(0, idle=True)
        assert other is not None
        assert other.spec is SPECS[1]
        assert queue.take(1, idle=False) is None
        end(SPECS[1], tmp_path)
        queue.ended(other, DONE)
        ticket = queue.take(0, idle=True)
        assert ticket is not None
        assert (ticket.spec, ticket.alone) == (SPECS[0], True)


def test_what_cannot_be_recorded_is_not_tried_for_ever(tmp_path):
    """A full disk: each try fails, and none leaves more than what lay there before."""
    record_failure(SPECS[0], tmp_path, "killed: by signal 9 (SIGKILL)")
    queue = Queue(SPECS[:1], tmp_path)
    tries = 0
    with queue.opened(1):
        while ticket := queue.take(0, idle=True):
            queue.ended(ticket, Outcome("failed", "disk: full"))
            tries += 1
    assert tries == 3


def test_what_others_are_at_is_asked_for_last_and_patiently(tmp_path):
    with claim(tmp_path / SPECS[0].folder):
        taken = []
        queue = Queue(SPECS[:3], tmp_path)
        with queue.opened(1):
            while ticket := queue.take(0, idle=True):
                taken.append((ticket.spec, ticket.patient))
                if not ticket.patient:
                    end(ticket.spec, tmp_path)
                queue.ended(ticket, Outcome("elsewhere") if ticket.patient else DONE)
    assert taken == [(SPECS[1], False), (SPECS[2], False), (SPECS[0], True)]


def test_a_run_that_looks_free_and_is_not_is_waited_for_at_the_end_and_not_given_up(tmp_path):
    """As behind a claim that was cut short: nobody is at it, and no lease takes it over at once."""
    queue = Queue(SPECS[:3], tmp_path)
    taken = []
    with queue.opened(1):
        while ticket := queue.take(0, idle=True):
            taken.append((ticket.spec, ticket.patient))
            odd = ticket.spec == SPECS[0] and not ticket.patient
            if not odd:
                end(ticket.spec, tmp_path)
            queue.ended(ticket, Outcome("elsewhere") if odd else DONE)
    assert taken == [(SPECS[0], False), (SPECS[1], False), (SPECS[2], False), (SPECS[0], True)]


def test_two_workers_take_different_runs_and_the_idle_one_takes_from_the_others_end(tmp_path):
    """The first has taken a chunk; the second takes the rest, then from the end of that chunk."""
    planned = SPECS[:12]
    one, two = Queue(planned, tmp_path), Queue(planned, tmp_path)
    for queue in (one, two):
        for spec in planned:
            queue.durations.add(spec, 0.125)
    with one.opened(1), two.opened(1):
        assert len(live(tmp_path)) == 2
        first = one.take(0, idle=True)
        [chunk] = [peer.chunk for peer in live(tmp_path) if peer.chunk]
        assert first is not None
        # half of a fair share of the whole
        assert list(chunk) == [spec.key for spec in planned[:3]]
        taken = []
        with claim(tmp_path / first.spec.folder):
            while (ticket := two.take(0, idle=True)) and not ticket.patient:
                taken.append(ticket.spec.key)
                end(ticket.spec, tmp_path)
                two.ended(ticket, DONE)
    assert taken == [spec.key for spec in [*planned[3:], planned[2], planned[1]]]
    assert first.spec is planned[0]
    assert not live(tmp_path)


def test_no_run_begins_that_is_expected_to_end_too_late(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mmbench.bench.executors.queue.time.monotonic", lambda: now[0])
    short, long, longer = SPECS[0], SPECS[1], SPECS[2]
    queue = Queue([short, long, longer], tmp_path, minutes=10.0)
    for spec, seconds in ((short, 10.0), (long, 200.0), (longer, 5000.0)):
        queue.durations.add(spec, seconds)
    with queue.opened(1):
        # longer than all the time there is: it goes on from checkpoints, in worker after worker
        assert queue.take(0, idle=True).spec is longer
        now[0] += 401
        assert queue.take(0, idle=True).spec is short
        now[0] += 195
        assert queue.take(0, idle=True) is None
    late = Queue([longer], tmp_path, minutes=10.0)
    late.durations.add(longer, 5000.0)
    with late.opened(1):
        now[0] += 301
        assert late.take(0, idle=True) is None


def test_lengths_are_read_from_records_of_the_method_on_the_data(tmp_path):
    from mmbench.bench.result import write_result
    from results import condition, result

    queue = Queue(SPECS, tmp_path)
    for spec, seconds in zip(SPECS[0:9:3], (1.0, 2.0, 9.0), strict=True):  # three of majority
        (tmp_path / spec.folder).mkdir(parents=True)
        costs = {"train_s": seconds, "eval_s": 0.5}
        write_result(
            tmp_path / spec.folder,
            result("single_label", {"complete": condition()}, cost=costs),
        )
    queue.durations.look(SPECS)
    assert queue.durations.of(SPECS[9]) == 2.5
    assert queue.durations.of(SPECS[1]) is None
    assert queue.durations.of(SPECS[12]) is None  # on other data


def test_a_dead_worker_is_no_worker(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from mmbench.bench.executors.workers import announced\n"
        "with announced(Path(sys.argv[1]), 4) as me:\n"
        "    me.take(['a', 'b'])\n    print('up', flush=True)\n    os.kill(os.getpid(), 9)\n"
    )
    with announced(tmp_path, 2) as me:
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
        assert done.stdout == b"up\n"
        assert len(list((tmp_path / ".workers").glob("*.json"))) == 2
        assert me.others() == []
        assert [(peer.process, peer.slots) for peer in live(tmp_path)] == [(os.getpid(), 2)]
    assert not list((tmp_path / ".workers").glob("*.json"))


def test_a_note_of_a_worker_that_is_damaged_is_passed_over(tmp_path):
    with announced(tmp_path, 2) as me:
        for text in ("", "[]", "{}", '{"host": 1, "chunk": 3}', json.dumps({"chunk": []})):
            (tmp_path / ".workers" / "x-1-a.json").write_text(text)
            assert me.others() == []
