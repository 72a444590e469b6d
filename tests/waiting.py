"""Waiting for what another process does, however slow the machine is."""

import time

from filelock import SoftFileLease


def wait_until(is_so, seconds=300.0):
    """Look again and again until something is so.

    Args:
        is_so: What is asked.
        seconds: After which the test has failed; long, since a loaded machine may stand still.
    """
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        time.sleep(0.01)


def leases_of(monkeypatch):
    """A list in which every lease is noted that the store takes in this process from now on."""
    leases = []

    def noted(*args, **kwargs):
        leases.append(SoftFileLease(*args, **kwargs))
        return leases[-1]

    monkeypatch.setattr("mmbench.store.SoftFileLease", noted)
    return leases


def wait_until_lost(leases):
    """Until a heartbeat has said to this process that somebody took its claim over."""
    wait_until(lambda: any(lease.compromise is not None for lease in leases))
