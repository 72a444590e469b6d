"""A Slurm cluster of two nodes on this machine, from what is installed of Slurm."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

NODES = ("n1", "n2")
CPUS = 8  # that each node claims to have
NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")

CONF = """
ClusterName=mmbench
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/%n/slurmd.pid
SlurmdSpoolDir={home}/%n/spool
StateSaveLocation={home}/state
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/%n/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=5
MinJobAge=10
{nodes}
PartitionName=gpu Nodes=n1,n2 Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=n1,n2 PriorityTier=10 MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs of Slurm that are not installed here."""
    return [name for name in NEEDED if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"  # where a user need not look for daemons


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        taken = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


class Cluster:
    """Two nodes `n1` and `n2`, partitions `gpu` and `urgent`, of which the second pre-empts."""

    def __init__(self, home: Path) -> None:
        self.home = home
        control, *daemons = _ports(1 + len(NODES))
        for node in NODES:
            (home / node / "spool").mkdir(parents=True)
        (home / "state").mkdir()
        # a new name of each node, so that both can be on this machine
        nodes = "\n".join(
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
            "RealMemory=1000 State=UNKNOWN"
            for node, port in zip(NODES, daemons, strict=True)
        )
        user = os.environ.get("USER") or subprocess.check_output(["id", "-un"], text=True).strip()
        (home / "slurm.conf").write_text(
            CONF.format(host=socket.gethostname(), user=user, port=control, home=home, nodes=nodes)
        )
        self.environment = {"SLURM_CONF": str(home / "slurm.conf"), "PATH": _path()}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        environment = os.environ | self.environment
        commands = [["slurmctld", "-D", "-i"], *(["slurmd", "-D", "-N", node] for node in NODES)]
        for command in commands:
            with (self.home / f"{command[0]}-{command[-1].strip('-')}.out").open("wb") as output:
                self.daemons.append(
                    subprocess.Popen(command, env=environment, stdout=output, stderr=output)
                )
        self.wait_until(
            lambda: self("sinfo", "-h", "-N", "-p", "gpu", "-o", "%T").split() == ["idle"] * 2,
            "two idle nodes",
        )

    def stop(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self("scancel", "--me", "--signal=KILL", "--full")
            self("scancel", "--me")
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def __call__(self, *command: str, stdin: str | None = None) -> str:
        """Ask the cluster; returns what it prints, also of a daemon that is not up yet."""
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    def wait_until(self, is_so, what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"no {what} after {seconds} s:\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        tails = [
            f"== {file}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-15:])
            for file in sorted(self.home.rglob("*"))
            if file.suffix in (".log", ".out")
        ]
        return "\n".join([self("squeue"), self("sinfo"), *tails])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The cluster, while tests run; skipped where Slurm is not installed."""
    if gone := missing():
        pytest.skip(f"Slurm is not installed here ({', '.join(gone)}): apt-get install slurm-wlm")
    home = Path(tmp_path_factory.mktemp("slurm"))
    made = Cluster(home)
    try:
        made.start()
        yield made
    finally:
        made.stop()
