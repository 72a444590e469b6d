"""A sweep under hundreds of faults ends with the same bytes as one that nothing disturbed.

A hundred short runs, again and again interrupted: processes killed and stopped, parents too,
Ctrl-C twice, a full disk, errors on write, damaged files, claims left behind, jumping clocks, locks
that do nothing. After a last, undisturbed command every run is done, and predictions and
leaderboard (but for columns of time and memory) are byte for byte those of an undisturbed sweep.
Prints counts; exit code 1 if anything differs.

    python benchmarks/faults.py [NUMBER OF FAULTS, 200]
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml

from mmbench.store import PRIVATE, claim

RUNS = 100
MIB = 2**20
AT_REST = 6  # files that are damaged while no run begins or ends
DONE = "*/runs/[!.]*/*/*/[!.]*/done"
MOVE_S = 60.0  # to wait for a run to begin or to end, before the next fault
TIMES = ("train_s", "infer_ms_per_sample", "infer_ms_std", "peak_mib", "energy_j")
SUITE = {
    "name": "faults",
    "data": [{"name": "mfeat", "args": {"modalities": ["fou", "kar"]}}],
    "methods": [{"name": "zero_fill", "args": {"dim": 8}}, "mean_fusion"],
    "scenarios": [
        {
            "name": "mcar30",
            "train": {"mechanism": "mcar", "missing_rate": 0.3},
            "test": {"mechanism": "mcar", "missing_rate": [0.0, 0.3]},
        }
    ],
    "seeds": RUNS // 2,
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "checkpoint_minutes": 0},
    "select": {"metric": "accuracy"},
}
LIMIT = 128


class Disturbed:
    """A sweep, its processes, and what goes wrong with them."""

    def __init__(self, home: Path, suite: Path) -> None:
        self.suite = suite
        self.switches = home / "disturbed"
        self.results = home / "disturbed-results"
        self.switches.mkdir()
        self.results.mkdir()
        self.rng = random.Random(0)
        self.counts: Counter[str] = Counter()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.stopped: list[tuple[float, int]] = []
        self.seen: set[str] = set()  # folders of runs and of attempts
        tmpfs = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.results)]
        self.mounted = subprocess.run(tmpfs, capture_output=True, check=False).returncode == 0
        self.log = (home / "log.txt").open("wb")

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self.log.close()
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.results)], check=False)

    @property
    def faults(self) -> int:
        return sum(self.all_counts().values())

    def all_counts(self) -> Counter[str]:
        """Faults from outside and those that processes met inside."""
        inside = self.switches / "counts"
        lines = inside.read_text().splitlines() if inside.is_file() else []
        return self.counts + Counter(lines)

    def command(self, *words: str) -> list[str]:
        where = ["--results", str(self.results), "--limit", str(LIMIT), "--workers", "1"]
        return [sys.executable, "-m", "mmbench", *words, str(self.suite), *where]

    def start(self) -> None:
        """Keep a sweep and a second worker going."""
        here = Path(__file__).parent
        path = [str(here / "faults"), str(here.parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "FAULTS": str(self.switches),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }
        self.processes = [process for process in self.processes if process.poll() is None]
        words = ("run",) if not self.processes else ("work",)
        while len(self.processes) < 2:
            self.processes.append(
                subprocess.Popen(
                    self.command(*words), env=environment, stdout=self.log, stderr=self.log
                )
            )
            words = ("work",)

    def inject(self, moved: bool) -> None:
        """One fault; while nothing moves and no process would meet it, some damaged files."""
        for until, process in [one for one in self.stopped if one[0] < time.monotonic()]:
            self.stopped.remove((until, process))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        kinds: dict[Callable[[], str], int] = {
            self.kill_a_worker: 6,
            self.stop_a_worker: 4,
            self.kill_a_parent: 1,
            self.stop_a_parent: 1,
            self.interrupt_twice: 1,
            self.fill_the_disk: 1,
            self.fail_writes: 2,
            self.damage_a_file: 6,
            self.leave_a_claim: 3,
            self.jump: 2,
            self.undo_locks: 1,
        }
        acts = self.rng.choices(list(kinds), weights=list(kinds.values()))
        if not moved:
            time.sleep(1.0)  # so that somebody notices in between
            acts = [self.damage_a_file] * AT_REST
        for act in acts:
            if done := act():
                self.counts[done] += 1

    def children(self, process: int) -> list[int]:
        """All processes below one, the youngest last."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process)],
            capture_output=True,
            text=True,
            check=False,
        )
        below = [int(word) for word in listed.stdout.split()]
        return [each for one in below for each in (one, *self.children(one))]

    def await_a_move(self) -> bool:
        """Wait until a run begins or ends; returns whether one did."""
        deadline = time.monotonic() + MOVE_S
        while time.monotonic() < deadline:
            now = {path.name for path in self.results.glob("*/runs/[!.]*/*/*/*") if path.is_dir()}
            if now != self.seen:
                self.seen = now
                return True
            ended = all(process.poll() is not None for process in self.processes)
            if ended or len(list(self.results.glob(DONE))) == RUNS:
                break
            time.sleep(0.05)
        return False

    def worker(self) -> int | None:
        below = self.children(self.rng.choice(self.processes).pid)
        return self.rng.choice(below) if below else None

    def kill_a_worker(self) -> str:
        if (process := self.worker()) is None:
            return ""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return "SIGKILL of a worker process"

    def stop_a_worker(self) -> str:
        if (process := self.worker()) is None:
            return ""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
        self.stopped.append((time.monotonic() + self.rng.choice([0.5, 2.0, 30.0]), process))
        return "SIGSTOP of a worker process"

    def kill_a_parent(self) -> str:
        self.rng.choice(self.processes).send_signal(signal.SIGKILL)
        return "SIGKILL of a parent"

    def stop_a_parent(self) -> str:
        process = self.rng.choice(self.processes).pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
        self.stopped.append((time.monotonic() + self.rng.choice([0.5, 4.0]), process))
        return "SIGSTOP of a parent"

    def interrupt_twice(self) -> str:
        process = self.rng.choice(self.processes)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(self.rng.choice([0.0, 0.1]))
        return "Ctrl-C twice"

    def fill_the_disk(self) -> str:
        if not self.mounted:
            return ""
        filler = self.results / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(MIB))
        time.sleep(self.rng.choice([0.3, 1.5]))
        filler.unlink(missing_ok=True)
        return "a full disk"

    def fail_writes(self) -> str:
        self.switch("eio")
        return ""  # each that fails leaves a line

    def undo_locks(self) -> str:
        return "locks that do nothing, for a while" if self.switch("no-locks") else ""

    def switch(self, name: str) -> bool:
        """Turn a switch; returns whether it is on."""
        switch = self.switches / name
        if switch.exists():
            switch.unlink()
            return False
        switch.touch()
        return True

    def damage_a_file(self) -> str:
        files = [
            file
            for file in self.results.glob("*/runs/**/*")
            # what a run is still writing is whole by its own word alone
            if file.is_file() and not any(map(PRIVATE.fullmatch, file.parts))
        ]
        if not files:
            return ""
        file = self.rng.choice(files)
        with contextlib.suppress(OSError):
            os.truncate(file, self.rng.choice([0, file.stat().st_size // 2]))
        return "a file cut short or emptied"

    def leave_a_claim(self) -> str:
        folders = [file.parent for file in self.results.glob("*/runs/[!.]*/*/*/*/spec.json")]
        if not folders:
            return ""
        if os.fork() == 0:
            with contextlib.suppress(OSError), claim(self.rng.choice(folders)):
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)
        os.wait()
        return "a claim left behind"

    def jump(self) -> str:
        (self.switches / "clock").write_text(str(self.rng.choice([-2, 0, 0.01, 2]) * 86400))
        return "a clock that jumps"

    def calm(self) -> None:
        """No more faults; what is stopped goes on, what runs is ended."""
        for _, process in self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(60)
        for switch in ("eio", "no-locks", "clock"):
            (self.switches / switch).unlink(missing_ok=True)


def contents(results: Path) -> tuple[dict[str, bytes], pd.DataFrame, int]:
    """Bytes of predictions, the leaderboard but for times and memory, number of runs done."""
    runs = next(results.glob("*/runs"))
    files = sorted(runs.glob("[!.]*/*/*/[!.]*/predictions/*.npz"))
    predictions = {str(file.relative_to(runs)): file.read_bytes() for file in files}
    board = pd.read_csv(runs.parent / "leaderboard.csv").drop(columns=list(TIMES))
    return predictions, board, len(list(runs.glob("[!.]*/*/*/[!.]*/done")))


def main(faults: int) -> int:
    home = Path(tempfile.mkdtemp(prefix="faults-"))
    suite = home / "faults.yaml"
    suite.write_text(yaml.safe_dump(SUITE))
    calm = ["--results", str(home / "calm"), "--limit", str(LIMIT), "--workers", "2"]
    command = [sys.executable, "-m", "mmbench", "run", str(suite)]
    began = time.monotonic()
    subprocess.run([*command, *calm], check=True, stdout=subprocess.DEVNULL)
    print(f"undisturbed: {RUNS} runs in {time.monotonic() - began:.0f} s", flush=True)

    disturbed = Disturbed(home, suite)
    commands = 0
    began = time.monotonic()
    try:
        while disturbed.faults < faults:
            before = len([one for one in disturbed.processes if one.poll() is None])
            disturbed.start()
            commands += 2 - before
            time.sleep(disturbed.rng.uniform(0.1, 0.8))
            disturbed.inject(disturbed.await_a_move())
            spent = time.monotonic() - began
            print(f"{disturbed.faults} faults in {spent:.0f} s", end="\r", file=sys.stderr)
        disturbed.calm()
        where = ["--results", str(disturbed.results), "--limit", str(LIMIT), "--workers", "2"]
        last = subprocess.run([*command, *where], check=False, stdout=disturbed.log)
        print(f"disturbed: {commands} commands in {time.monotonic() - began:.0f} s, and a last one")
        for kind, count in sorted(disturbed.all_counts().items()):
            print(f"  {count:5d}  {kind}")
        if not disturbed.mounted:
            print("         no full disk: a small file system cannot be mounted here")
        print(f"  {disturbed.faults:5d}  faults")
        want, got = contents(home / "calm"), contents(disturbed.results)
        differ = [name for name in want[0] if got[0].get(name) != want[0][name]]
        more = sorted(set(got[0]) - set(want[0]))
        print(f"last command: exit code {last.returncode}; {got[2]} of {RUNS} runs are done")
        print(f"predictions: {len(want[0])} files, {len(differ)} differ, {len(more)} too many")
        columns = [name for name in want[1] if not want[1][name].equals(got[1].get(name))]
        print(f"leaderboard: {'differs in ' + ', '.join(columns) if columns else 'the same'}")
        wrong = last.returncode or got[2] != RUNS or differ or more or columns
        if wrong:  # what lies on the small file system is gone with it
            shutil.copytree(disturbed.results, home / "left", symlinks=True)
    finally:
        disturbed.close()
    if wrong:
        print(f"what the processes said and left: {home}")
        return 1
    shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
