"""How many runs share a GPU, which is made up here."""

import pytest
from sweeps import specs

from mmbench.bench.executors.queue import Queue
from mmbench.bench.executors.sharing import CONTEXT_MIB, MOST, Sharing, per_gpu

SMALL, LARGE, OTHER = specs(methods=["majority", "zero_fill", "mean_fusion"])


def test_a_fixed_number_of_slots_is_dealt_out_over_the_gpus():
    sharing = Sharing(["7", "3"], 3)
    assert sharing.slots == 6
    assert [sharing.gpu(slot) for slot in range(6)] == ["7", "3"] * 3
    assert sharing.fits(LARGE, 4, {0: LARGE, 2: LARGE}, lambda spec: None)
    assert sharing.beside(4, {0: LARGE, 1: SMALL, 2: OTHER}) == [LARGE, OTHER]


def test_without_gpus_everything_fits_and_there_are_no_slots_of_gpus():
    sharing = Sharing([], None)
    assert sharing.slots == 0
    assert sharing.gpu(5) is None
    assert sharing.fits(LARGE, 1, {0: LARGE}, lambda spec: None)


def test_by_memory_a_tenth_stays_free_and_what_is_unknown_is_alone():
    need = {SMALL.key: 1000.0, LARGE.key: 5000.0}
    total = (1000.0 + 5000.0 + 2 * CONTEXT_MIB) / 0.9

    def peak(spec):
        return need.get(spec.key)

    for memory, fits in ((total + 1, True), (total - 1, False)):
        sharing = Sharing(["0", "1"], None, lambda gpu, memory=memory: memory)
        assert sharing.slots == 2 * MOST
        assert sharing.fits(SMALL, 2, {0: LARGE}, peak) is fits
        assert sharing.fits(SMALL, 3, {0: LARGE}, peak)  # on the other GPU
        assert not sharing.fits(OTHER, 2, {0: SMALL}, peak)  # nobody knows what it needs
        assert not sharing.fits(SMALL, 2, {0: OTHER}, peak)
        assert sharing.fits(OTHER, 0, {}, peak)
    unknown = Sharing(["0"], None, lambda gpu: None)
    assert not unknown.fits(SMALL, 1, {0: SMALL}, peak)


def test_a_run_that_does_not_fit_stays_for_a_slot_where_it_does(tmp_path):
    queue = Queue([LARGE, SMALL], tmp_path)
    with queue.opened(2):
        first = queue.take(0, idle=True)
        assert first is not None
        assert queue.take(1, idle=False, fits=lambda spec: False) is None
        second = queue.take(1, idle=False, fits=lambda spec: spec is SMALL)
        assert second is not None
        assert {first.spec.key, second.spec.key} == {LARGE.key, SMALL.key}


@pytest.mark.parametrize(("text", "count"), [("auto", None), ("1", 1), ("64", 64)])
def test_per_gpu_is_auto_or_a_number(text, count):
    assert per_gpu(text) == count


@pytest.mark.parametrize("text", ["0", "-1", "65", "all", "1.5", ""])
def test_per_gpu_that_is_neither_is_one_line(text):
    with pytest.raises(ValueError, match="give auto, or a number from 1 to 64"):
        per_gpu(text)
