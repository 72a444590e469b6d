"""Workers on a real Ray cluster on this machine: a head and two nodes with made-up GPUs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from sleeper import sleepers
from sweeps import suite

import mmbench

pytestmark = pytest.mark.slow
SRC = str(Path(mmbench.__file__).parents[1])
TESTS = str(Path(__file__).parents[1])
MB = 2**20

# in a process of its own: what Ray leaves open would be warnings here
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20},
)
nodes = [
    cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=80 * 2**20) for _ in range(2)
]
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "marks").mkdir()
    words = suite().model_dump(exclude={"limit", "keep_weights"})
    methods = sleepers(tmp_path / "marks", 32, 1.0)
    (tmp_path / "many.yaml").write_text(
        yaml.safe_dump(words | {"name": "many", "methods": methods})
    )
    path = [SRC, TESTS, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def cluster(here):
    """A cluster; a line to its process removes a node."""
    pytest.importorskip("ray", reason="Ray is not installed here: pip install 'mmbench[ray]'")
    with (here / "cluster.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, (here / "cluster.log").read_text()
        yield process, address
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def finished(here):
    return len(list(here.glob("results/many/runs/mfeat/*/*/[!.]*/done")))


def test_a_node_that_goes_away_in_mid_sweep_costs_no_run(here, cluster):
    process, address = cluster
    args = f"address={address},num_gpus=1,num_cpus=1"
    command = [sys.executable, "-m", "mmbench", "run", "many.yaml", "--executor", "ray"]
    with (here / "out.txt").open("w") as out:
        run = subprocess.Popen([*command, "--executor-args", args], stdout=out, stderr=out)
    deadline = time.monotonic() + 240
    while finished(here) < 6:
        assert time.monotonic() < deadline, (here / "out.txt").read_text()
        assert run.poll() is None, (here / "out.txt").read_text()
        time.sleep(0.2)
    process.stdin.write("remove\n")
    process.stdin.flush()
    assert process.stdout.readline() == "removed\n"
    assert run.wait(400) == 0, (here / "out.txt").read_text()
    runs = mmbench.Sweep("many.yaml").runs(read_up_to=None)
    assert [item.state for item in runs] == ["done"] * 32
    begun = [len(file.read_text().splitlines()) for file in here.glob("marks/*.txt")]
    assert len(begun) == 32
    assert sum(begun) <= 34  # two slots of the node that went away
    assert "(4 actors;" in (here / "out.txt").read_text()


def test_a_cluster_that_is_not_there_is_one_line(here):
    pytest.importorskip("ray", reason="Ray is not installed here: pip install 'mmbench[ray]'")
    command = [sys.executable, "-m", "mmbench", "run", "many.yaml", "--executor", "ray"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: no Ray cluster at 'auto': " in done.stderr
    assert done.stderr.count("\n") == 1
