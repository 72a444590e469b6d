"""A suite with its runs: what the command line does, as a library."""

import os
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from mmbench.bench import deletion
from mmbench.bench.content import Contents, Ingredients
from mmbench.bench.deletion import Deletable
from mmbench.bench.executors.engine import Order, Placement, engine
from mmbench.bench.executors.local import Event, default_workers
from mmbench.bench.executors.queue import Queue, read_again, repeated, write_again
from mmbench.bench.executors.workers import FOLDER, Peer, live
from mmbench.bench.home import FILE, PART, board_folder, hold
from mmbench.bench.leaderboard import leaderboard, robustness, write
from mmbench.bench.record import SHARED, SMALL, STAGES, Run, count, find_run, read_records
from mmbench.bench.result import read_result
from mmbench.bench.score_cache import ScoreCache
from mmbench.bench.spec import DataEntry, RunSpec, load_suite
from mmbench.config import JSON
from mmbench.data.digest import digest
from mmbench.registry import DATASETS, METHODS, suggest
from mmbench.store import MARK, clean, damage

FINISHED = ("done", "skipped")


class Sweep:
    """A suite, its planned runs and where their results lie.

    Making one reads the suite alone. Workers are processes of their own: a script that calls
    `run` does so under `if __name__ == "__main__":`.

    Example:
        >>> sweep = mmbench.Sweep("quickstart", "seeds=2")
        >>> sweep.run()
        >>> sweep.leaderboard()

    Args:
        suite: A built-in suite, a YAML file, a folder of results that holds its suite, or a
            suite as a mapping.
        *overrides: Changes to it, such as `seeds=5` or `methods=[shaspec,zero_fill]`.
        results: Folder of all results.
        data_root: Folder of the user's data.

    Raises:
        ValueError: If the suite does not exist or is wrong; one line that says where.
    """

    def __init__(
        self,
        suite: str | Path | Mapping[str, JSON] = "quickstart",
        *overrides: str,
        results: str | Path = "results",
        data_root: str | Path = "data",
    ) -> None:
        self.data_root = Path(data_root)
        self.where = "SUITE" if isinstance(suite, Mapping) else str(suite)  # in messages
        held = _held(suite)
        self.suite = load_suite(suite if held is None else held, overrides)
        for method in self.suite.methods:
            METHODS.require(method.name)
        for data in self.suite.data:
            DATASETS.require(data.name)
        # a smoke test must not stand beside real results
        suffix = "" if self.suite.limit is None else f"-limit{self.suite.limit}"
        self.folder = Path(results) / f"{self.suite.name}{suffix}" if held is None else held.parent
        limited = [word for word in overrides if word.startswith("limit=")]
        self._changed = len(overrides) > (len(limited) if held is None else 0)
        if self.folder.name.startswith(PART) and (self.folder.parent / FILE).is_file():
            self.folder, self._changed = self.folder.parent, True
        self.runs_folder = self.folder / "runs"
        self.contents = Contents(self.folder, self.data_root, _examine, _names)
        self.specs: list[RunSpec] = self.contents.plan(self.suite)

    @property
    def board_folder(self) -> Path:
        """Where its tables are written: words that drop runs do not replace those of the suite."""
        if not self._changed:
            return self.folder
        return board_folder(self.folder, self.specs, self.contents.plan)

    def check(self) -> None:
        """Find what would be wrong with a run, and look at the data as they are now.

        Raises:
            ValueError: If a method's or data set's argument is wrong, a file is not there, or
                scenario, encoders or metric do not fit the data.
        """
        from mmbench.bench.run.build import check_arguments, require_fold

        self.contents.look(self.suite)
        self.specs = self.contents.plan(self.suite)
        seen: set[tuple[str | int, ...]] = set()
        for spec in self.specs:
            first = (spec.data_label, spec.scenario_name, spec.method_label)
            if first not in seen:
                check_arguments(spec, self.data_root)
            elif (spec.data_label, spec.fold) not in seen:
                require_fold(spec, self.data_root)
            seen |= {first, (spec.data_label, spec.fold)}

    def plan(self) -> pd.DataFrame:
        """Count trainings and finished ones for each data set, scenario and method; runs nothing.

        Raises:
            ValueError: As `check`: what `run` refuses is refused here.
        """
        self.check()
        rows = [
            {
                "data": run.spec.data_label,
                "scenario": run.spec.scenario_name,
                "method": run.spec.method_label,
                "runs": 1,
                "finished": int(run.state in FINISHED),
            }
            for run in self.runs()
        ]
        by = ["data", "scenario", "method"]
        return pd.DataFrame(rows).groupby(by, sort=False, as_index=False).sum()

    def runs(self, *, read_up_to: int | None = 0) -> list[Run]:
        """Every planned run and what is found of it now; `read_up_to` as for `record.find`."""
        return [find_run(spec, self.runs_folder, read_up_to=read_up_to) for spec in self.specs]

    def todo(self, *, overwrite: bool = False) -> list[Run]:
        """Check the suite, leave it in its folder, and list what is left to run.

        Raises:
            ValueError: As `check`, or if the folder cannot be written.
        """
        self.check()
        _require_writable(self.folder)
        self.contents.write()
        hold(self.board_folder, self.suite)
        for folder in {(self.runs_folder / spec.folder).parent for spec in self.specs}:
            clean(folder)  # what machines left that died long ago
        finished = ("skipped",) if overwrite else FINISHED
        found = self.runs(read_up_to=SMALL)
        return [run for run in found if overwrite or run.state not in finished]

    def execute(
        self, todo: Sequence[Run], workers: int | None = None, per_gpu: int | None = 1
    ) -> Generator[Event, None, None]:
        """Carry out runs and report each beginning and end; closing it ends the workers.

        Args:
            todo: From `todo`.
            workers: Runs at a time, >= 1; by default one a GPU, else one a core.
            per_gpu: Runs that share a GPU; None = as many as find room in its memory.
        """
        queue = Queue([run.spec for run in todo], self.runs_folder, again=repeated(todo))
        count = min(workers or default_workers(per_gpu), max(1, len(todo)))
        return self._execute(queue, count, per_gpu)

    def work(
        self,
        workers: int | None = None,
        minutes: float | None = None,
        per_gpu: int | None = 1,
    ) -> Generator[Event, None, None]:
        """Take runs that nobody is at, one after the other, until none is left; as `execute`.

        Any number of workers, on any machines that see the folder, share the runs so. What has
        failed is left alone, unless `mmbench run` asked for it again.

        Args:
            workers: Runs at a time, >= 1; by default one a GPU, else one a core.
            minutes: After which no more are taken; None = never.
            per_gpu: As for `execute`.
        """
        again = read_again(self.board_folder)
        queue = Queue(self.specs, self.runs_folder, again=again, minutes=minutes)
        return self._execute(queue, workers or default_workers(per_gpu), per_gpu)

    def _execute(
        self, queue: Queue, workers: int, per_gpu: int | None
    ) -> Generator[Event, None, None]:
        from mmbench.bench.executors.local import execute

        return execute(queue, self.data_root, workers=workers, per_gpu=per_gpu)

    def place(self, executor: str, args: Mapping[str, str], runs: int) -> Placement:
        """Say how an engine would place workers for the suite; nothing happens yet.

        Args:
            executor: `slurm`, `ray` or a plugin's.
            args: The engine's own arguments.
            runs: How many runs are left.

        Raises:
            ValueError: If there is no such engine, or its arguments are wrong.
        """
        folder, data_root = self.board_folder.resolve(), self.data_root.resolve()
        worker = (sys.executable, "-m", "mmbench", "work", str(folder))
        order = Order(
            name=self.job_name,
            command=(*worker, "--data-root", str(data_root)),
            folder=folder,
            data_root=data_root,
            logs=self.runs_folder.resolve() / FOLDER,
            runs=runs,
        )
        return engine(executor)(order, args)

    @property
    def job_name(self) -> str:
        """What a cluster calls its workers: another where other results are meant."""
        suite = re.sub(r"[^A-Za-z0-9.-]", "_", self.suite.name)
        return f"mmbench-{suite}-{digest({'folder': str(self.board_folder.resolve())})[:6]}"

    def follow(
        self, todo: Sequence[Run], placement: Placement
    ) -> tuple[str, Generator[Event, None, None]]:
        """Start workers elsewhere, unless they are there, and report what they have done.

        Args:
            todo: From `todo`.
            placement: From `place`.

        Returns:
            One line that says where the workers are, and the events, until all is done or none of
            the workers is left.

        Raises:
            ValueError: If the cluster refuses them.
        """
        from mmbench.bench.executors.watch import watch

        if present := placement.alive():
            again = read_again(self.board_folder)  # what those who are at it go by
            where = f"{present} workers are at it or wait"
        else:
            again = repeated(todo)
            write_again(self.board_folder, again)
            where = placement.start()
        queue = Queue([run.spec for run in todo], self.runs_folder, again=again)
        return where, watch(queue, placement.alive)

    def workers(self) -> list[Peer]:
        """Workers that live, on whatever machine, as their heartbeats say."""
        return live(self.runs_folder)

    def run(self, workers: int | None = None, *, overwrite: bool = False) -> pd.DataFrame:
        """Train and evaluate what is not finished, and write the tables.

        Args:
            workers: Runs at a time, >= 1; by default one a GPU, else one a core.
            overwrite: Whether finished ones are repeated.

        Returns:
            What `status` says afterwards.

        Raises:
            ValueError: As `todo`.
        """
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, found {workers}")
        if todo := self.todo(overwrite=overwrite):
            for _ in self.execute(todo, workers):
                pass
        board, robust = self.boards()
        if not board.empty:
            self.write(board, robust)
        return self.status()

    def status(self, *, verify: bool = False) -> pd.DataFrame:
        """One row a planned run; reads files only.

        Args:
            verify: Whether every file is read back and compared with its checksum.

        Returns:
            `data`, `scenario`, `method`, `fold`, `seed`, all of them in `title`; `state` and `why`
            as in `record.Run`; `seconds` of training and evaluation of finished ones, else NaN;
            `folder`.
        """
        rows = []
        for run in self.runs(read_up_to=None if verify else 0):
            cost = read_result(run.folder).cost if run.state == "done" else None
            rows.append(
                {
                    "data": run.spec.data_label,
                    "scenario": run.spec.scenario_name,
                    "method": run.spec.method_label,
                    "fold": run.spec.fold,
                    "seed": run.spec.seed,
                    "title": run.spec.title,
                    "state": run.state,
                    "why": run.why,
                    "seconds": float("nan") if cost is None else cost.seconds,
                    "folder": run.folder,
                }
            )
        return pd.DataFrame(rows)

    def damaged(self) -> dict[Path, str]:
        """What runs share that does not hold what was written, and why: it is made again when used.

        That is finished stages, those in common and those of runs in flight, and the user's cache.
        """
        from mmbench.data.cache import cache_folder  # imports torch

        made = [
            *(self.runs_folder / SHARED).glob("[!.]*"),
            *(self.runs_folder / STAGES).glob("[!.]*/[!.]*"),
            *cache_folder().glob("[!.]*"),
        ]
        folders = sorted(folder for folder in made if folder.is_dir())
        found = {folder: damage(folder, MARK, read_up_to=None) for folder in folders}
        return {folder: why for folder, why in found.items() if why}

    def deletable(self, *, failed: bool = False, stale: bool = False) -> list[Deletable]:
        """What `delete` may delete: runs in the suite's folder that nobody is at.

        Args:
            failed: Failed and damaged runs of the plan.
            stale: Runs that neither this plan nor the suite that the folder holds asks for, and
                those that other sources made than today's. Without either, all runs.
        """
        found: dict[Path, Deletable] = {}
        if failed:
            found |= {each.folder: each for each in deletion.failed_runs(self.runs())}
        if stale:
            planned, held = self.specs, self.folder / FILE
            if held.is_file():
                planned = [*planned, *self.contents.plan(load_suite(str(held)))]
            found |= {e.folder: e for e in deletion.stale_runs(self.runs_folder, planned)}
        if failed or stale:
            return list(found.values())
        return deletion.all_runs(self.runs_folder)

    def delete(self, chosen: Sequence[Deletable]) -> None:
        """Delete what `deletable` listed."""
        deletion.delete(chosen)

    def records(self) -> pd.DataFrame:
        """One row for each finished run, test condition and metric; see `read_records`."""
        return read_records(self.runs())

    def leaderboard(self, metric: str | None = None) -> pd.DataFrame:
        """One row for each (data, scenario, condition, method, variant, metric).

        Args:
            metric: What methods are compared by (p values, intervals over samples); by default
                the suite's selection metric. Rows are of all metrics.

        Raises:
            ValueError: If no run is finished, or there is no such metric.
        """
        board, _ = self.boards(metric)
        self.require_rows(board, metric)
        return board

    def robustness(self, metric: str | None = None) -> pd.DataFrame:
        """What missing modalities cost each method; arguments and errors as of `leaderboard`."""
        board, robust = self.boards(metric)
        self.require_rows(board, metric)
        return robust

    def report(self, metric: str | None = None) -> Path:
        """Write one self-contained page with tables and plots.

        Returns:
            Its path.

        Raises:
            ValueError: As `leaderboard`, or if the libraries of the extra `report` are not there.
        """
        board, robust = self.boards(metric)
        self.require_rows(board, metric)
        return self.write_page(self.runs(), board, robust, metric)

    def boards(
        self,
        metric: str | None = None,
        *,
        runs: Sequence[Run] | None = None,
        paired: bool = True,
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Leaderboard and robustness in one reading; empty if no run is finished.

        Args:
            metric: As for `leaderboard`.
            runs: From `runs`; by default as they are now.
            paired: Whether methods are compared; it reads the predictions of runs that are new.
        """
        runs = self.runs() if runs is None else runs
        records = read_records(runs)
        score_cache = ScoreCache(self.runs_folder if os.access(self.runs_folder, os.W_OK) else None)
        compare = (metric or self.suite.select.metric) if paired else None
        board = leaderboard(runs, compare=compare, records=records, score_cache=score_cache)
        robust = robustness(runs, compare=compare, records=records, score_cache=score_cache)
        score_cache.write()
        return board, robust

    def require_rows(self, board: pd.DataFrame, metric: str | None = None) -> None:
        """Refuse a suite without a finished run, and a metric that it does not have.

        Raises:
            ValueError: In these cases.
        """
        metric = metric or self.suite.select.metric
        if board.empty:
            runs = self.runs()
            bad = [run for run in runs if run.state in ("broken", "failed")]
            found = ", ".join(f"{n} {state}" for state, n in count(runs).items())
            why = f" ({found}; {bad[0].spec.title}: {bad[0].why})" if bad else ""
            raise ValueError(
                f"no finished run of this suite lies in {self.folder}{why}; start it with "
                f"`mmbench run {self.where}` (or give the same KEY=VALUE words as then)"
            )
        known = sorted(set(board["metric"]))
        if metric not in known:
            raise ValueError(
                f"no metric {metric!r}{suggest(metric, known)}; known: {', '.join(known)}"
            )

    def write(self, board: pd.DataFrame, robust: pd.DataFrame, metric: str | None = None) -> Path:
        """Write both tables; returns the path of `leaderboard.csv`."""
        self.board_folder.mkdir(parents=True, exist_ok=True)
        shown = metric or self.suite.select.metric
        return write(board, self.board_folder, metric=shown, title=self.suite.name, robust=robust)

    def write_page(
        self,
        runs: Sequence[Run],
        board: pd.DataFrame,
        robust: pd.DataFrame,
        metric: str | None = None,
        *,
        watched: bool = False,
    ) -> Path:
        """Write `report.html` of these runs and tables; `watched` as for `write_report`."""
        from mmbench.bench.report import write_report

        self.board_folder.mkdir(parents=True, exist_ok=True)
        shown = metric or self.suite.select.metric
        return write_report(
            self.suite.name, runs, board, self.board_folder, metric=shown, robust=robust,
            watched=watched,
        )  # fmt: skip


def _held(suite: str | Path | Mapping[str, JSON]) -> Path | None:
    """The suite of a folder of results, which may be moved or a colleague's; None = no folder."""
    if isinstance(suite, Mapping):
        return None
    file = Path(suite) / FILE
    try:
        return file if file.is_file() else None
    except OSError as error:  # of a name that no file system takes
        raise ValueError(f"{str(suite)[:40]}... is no suite: {error.strerror}") from None


def _examine(entry: DataEntry, root: Path) -> Ingredients:
    from mmbench.bench.run.build import examine  # imports torch

    return examine(entry, root)


def _names(entry: DataEntry, root: Path) -> Sequence[str]:
    from mmbench.bench.run.build import modalities_of  # imports torch

    return modalities_of(entry, root)


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"the results folder {folder} is not writable ({error.strerror}); "
            "choose another with --results"
        ) from error
