"""A suite with its runs: what the command line does, as a library."""

import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from importlib.metadata import version
from math import nan
from pathlib import Path
from statistics import mean

import pandas as pd

from mmbench.bench import archive, deletion
from mmbench.bench.compare import read_board
from mmbench.bench.content import FILE as CONTENT
from mmbench.bench.content import Contents, Ingredients
from mmbench.bench.deletion import Deletable
from mmbench.bench.executors.engine import Order, Placement, engine
from mmbench.bench.executors.local import Event, default_workers, devices_of, require_devices
from mmbench.bench.executors.queue import Queue, read_again, repeated, write_again
from mmbench.bench.executors.workers import FOLDER, Peer, live
from mmbench.bench.home import FILE, PART, board_folder, hold, resolved
from mmbench.bench.leaderboard import leaderboard, robustness, write
from mmbench.bench.record import (
    SHARED,
    SMALL,
    STAGES,
    Run,
    count,
    find_run,
    read_records,
    seconds_of,
)
from mmbench.bench.result import read_result
from mmbench.bench.score_cache import ScoreCache
from mmbench.bench.spec import DataEntry, RunSpec, load_suite, suites
from mmbench.bench.statistics import Spread
from mmbench.bench.tuning import FILE as SEARCH
from mmbench.bench.tuning import Searches
from mmbench.bench.verdict import FILE as COMPARISONS
from mmbench.bench.verdict import Verdict, spread, validated_elsewhere, verdict
from mmbench.config import JSON
from mmbench.data.digest import digest
from mmbench.registry import DATASETS, METHODS, suggest
from mmbench.store import MARK, clean, damage, private

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
        self.searches = Searches(self.suite, self.folder)
        self._read: tuple[Sequence[Run], pd.DataFrame] | None = None
        self.taken_up = 0  # runs of an archive from which this sweep went on
        self._inapplicable: set[tuple[str, str]] = set()  # (data, method), as `check` finds
        self._plan()

    def archived(self) -> int:
        """How many runs the archive in the suite's folder holds, if no run lies there yet.

        Raises:
            ValueError: If it is damaged.
        """
        file = self.folder / archive.FILE
        if self.runs_folder.exists() or not file.is_file():
            return 0
        return int(archive.read_manifest(file)["runs"])

    def _take_up(self) -> bool:
        """Go on from that archive; `taken_up` says how many runs it held.

        Raises:
            ValueError: If it is damaged, or pyarrow is not installed.
        """
        taken = archive.take_up(self.folder)
        if taken:
            self.taken_up = taken
            self.contents = Contents(self.folder, self.data_root, _examine, _names)
            self.searches = Searches(self.suite, self.folder)
            self._plan()
        return taken > 0

    def _plan(self) -> None:
        self._untuned = self.contents.plan(self.suite)  # with the settings of the suite
        self.specs: list[RunSpec] = self.searches.plan(self._untuned)

    @property
    def known(self) -> list[RunSpec]:
        """Every run that can be told by now, those of a search included."""
        settled = [spec for spec in self.specs if not self.searches.goes_on(spec)]
        return list({spec.folder: spec for spec in [*self.searches.trials, *settled]}.values())

    @property
    def board_folder(self) -> Path:
        """Where its tables are written: words that drop runs do not replace those of the suite."""
        if not self._changed:
            return self.folder
        return board_folder(self.folder, self._untuned, self.contents.plan, self.suite.tune)

    def check(self) -> None:
        """Find what would be wrong with a run, and look at the data as they are now.

        Raises:
            ValueError: If a method's or data set's argument is wrong, a file is not there, or
                scenario, encoders or metric do not fit the data.
        """
        from mmbench.bench.run.build import build_data, check_arguments, require_fold

        self.look()
        seen: set[tuple[str | int, ...]] = set()
        for spec in self.specs:
            first = (spec.data_label, spec.scenario_name, spec.method_label)
            if first not in seen:
                if check_arguments(spec, self.data_root) is not None:
                    self._inapplicable.add((spec.data_label, spec.method_label))
                if first[:2] not in seen:
                    build_data(spec, self.data_root).require_reach()
            elif (spec.data_label, spec.fold) not in seen:
                require_fold(spec, self.data_root)
            seen |= {first, first[:2], (spec.data_label, spec.fold)}

    def look(self) -> None:
        """Look at the data as they are now.

        Raises:
            ValueError: If a file is not there, or cannot be read.
        """
        self.contents.look(self.suite)
        self._plan()

    def plan(self) -> pd.DataFrame:
        """Count trainings and finished ones for each data set, scenario and method; runs nothing.

        Raises:
            ValueError: As `check`: what `run` refuses is refused here.
        """
        self.check()
        self._begin_search(advance=False)
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

    def expected(self) -> pd.DataFrame:
        """How long what is left takes, by what is known of each method on each data set.

        That is the mean of its finished runs, else what the published table says; see `unmeasured`.

        Returns:
            A row for each data set and method: `data`, `method`, `runs` left, trials that are not
            drawn yet included, and `seconds` of one of them, NaN where nothing is known. What does
            not apply, as `plan` finds, is left out.
        """
        lengths = self.searches.left_of
        for spec in self.specs:
            # the best trial is a run of the suite
            if not self._ended(spec) and not self.searches.will_try(spec):
                lengths.setdefault((spec.data_label, spec.method_label), []).append(spec.length)
        known = self._published_seconds() | self._measured_seconds()
        lines = [
            {"data": d, "method": m, "runs": len(of), "seconds": known.get((d, m), nan) * mean(of)}
            for (d, m), of in lengths.items()
            if (d, m) not in self._inapplicable
        ]
        return pd.DataFrame(lines, columns=["data", "method", "runs", "seconds"])

    def _measured_seconds(self) -> dict[tuple[str, str], float]:
        """(data, method) -> mean seconds of a finished run of the length that the suite says."""
        spent: dict[tuple[str, str], list[float]] = {}
        for spec in self.known:
            run = find_run(spec, self.runs_folder, predictions=False)
            if run.state in FINISHED:
                seconds = seconds_of(run) / spec.length if run.state == "done" else 0.0
                spent.setdefault((spec.data_label, spec.method_label), []).append(seconds)
        return {pair: mean(of) for pair, of in spent.items()}

    def _published_seconds(self) -> dict[tuple[str, str], float]:
        """The same of a table: fitting, and prediction under each of its conditions."""
        table = self.board_folder / "leaderboard.csv"
        if not table.is_file():
            return {}
        rows = read_board(table)
        rows = rows[(rows["metric"] == self.suite.select.metric) & rows["train_s"].notna()]
        predicted = rows["infer_ms_per_sample"] * rows["effective_n"] / 1000
        by = [rows["data"], rows["method"], rows["scenario"]]
        each = rows["train_s"].groupby(by).mean() + predicted.groupby(by).sum()
        rows = each.groupby(level=[0, 1]).mean().reset_index()
        return {(str(d), str(m)): float(s) for d, m, s in rows.itertuples(index=False, name=None)}

    def _ended(self, spec: RunSpec) -> bool:
        return self._find(spec).state in FINISHED

    def unmeasured(self) -> list[Run]:
        """One run of each method on each data set of which none has ended, for `execute`.

        They belong to the suite, the first trial of a search, so that nothing of them is lost.

        Raises:
            ValueError: As `todo`.
        """
        todo = self.todo()
        seen = self._inapplicable | set(self._measured_seconds())
        chosen = []
        for run in todo:
            pair = (run.spec.data_label, run.spec.method_label)
            if pair not in seen and run.spec.length == 1:
                chosen.append(run)
                seen.add(pair)
        return chosen

    def spread(self) -> tuple[Spread, str]:
        """Typical variances of a comparison of two methods, from tables that are there.

        Returns:
            The variances, and of which tables: the suite's own, else all in the folder of results.

        Raises:
            ValueError: If there is none with two methods of two trainings.
        """
        metric = self.suite.select.metric
        tables_of_suite = [self.board_folder / COMPARISONS, self.folder / COMPARISONS]
        for files in (tables_of_suite, sorted(self.folder.parent.glob(f"*/{COMPARISONS}"))):
            tables = [pd.read_csv(file) for file in files if file.is_file()]
            rows = pd.concat(tables).drop_duplicates() if tables else pd.DataFrame()
            result = spread(rows[rows["metric"] == metric]) if len(rows) else None
            if result is not None:
                names = ", ".join(dict.fromkeys(f.parent.name for f in files if f.is_file()))
                return result, names
        raise ValueError(
            f"no table in {self.folder.parent} says how much {metric} varies: there is no "
            f"{COMPARISONS} of two methods with two seeds; run a small suite first, such as "
            "methods=[late_logistic,zero_fill,shaspec] seeds=3"
        )

    def runs(self, *, read_up_to: int | None = 0) -> list[Run]:
        """Every planned run and what is found of it now; `read_up_to` as for `record.find`."""
        return [self._find(spec, read_up_to) for spec in self.specs]

    def _find(self, spec: RunSpec, read_up_to: int | None = 0) -> Run:
        if self.searches.goes_on(spec):
            return Run(spec, self.runs_folder / spec.folder, "waiting", "its settings are searched")
        return find_run(spec, self.runs_folder, read_up_to=read_up_to)

    def rounds(self, *, overwrite: bool = False) -> Generator[list[Run], None, None]:
        """List what is left to run, and again what a search draws once all of that has ended.

        Raises:
            ValueError: As `todo`.
        """
        tried: set[str] = set()
        todo = self.todo(overwrite=overwrite)
        while todo:
            tried |= {run.spec.key for run in todo}
            yield todo
            if self.suite.tune is None:
                return
            # what has failed is not tried again, and what is repeated is not read before
            self._advance(tried if overwrite else None)
            left = self._left(overwrite=overwrite)
            todo = [run for run in left if run.spec.key not in tried]

    def _advance(self, only: Set[str] | None) -> None:
        """Let searches go on by what has ended; `only` these keys count, all if None."""

        def find(spec: RunSpec) -> Run:
            if only is None or spec.key in only:
                return self._tried(spec)
            return Run(spec, self.runs_folder / spec.folder, "waiting")

        self.searches.advance(find)
        self._plan()

    def todo(self, *, overwrite: bool = False) -> list[Run]:
        """Check the suite, leave it in its folder, and list what is left to run.

        While settings are searched, that is what can be run now: see `rounds`.

        Raises:
            ValueError: As `check`, or if the folder cannot be written.
        """
        self.check()
        _require_writable(self.folder)
        if self._take_up():
            self.check()
        self.contents.write()
        hold(self.board_folder, self.suite)
        for folder in {(self.runs_folder / spec.folder).parent for spec in self.specs}:
            clean(folder)  # what machines left that died long ago
        self._begin_search(anew=overwrite)
        return self._left(overwrite=overwrite)

    def _begin_search(self, *, anew: bool = False, advance: bool = True) -> None:
        """Begin what has not begun, and go on with the rest; `anew` forgets what is known."""
        if self.suite.tune is None:
            return
        from mmbench.bench.run.build import search_space

        self.searches.begin(lambda spec: search_space(spec, self.data_root), anew=anew)
        if advance:
            self._advance(set() if anew else None)
        else:
            self._plan()

    def _tried(self, spec: RunSpec) -> Run:
        return find_run(spec, self.runs_folder, predictions=False)

    @property
    def _able(self) -> list[RunSpec]:
        """What can be run now: trials first, since others wait for them."""
        specs = [spec for spec in self.specs if not self.searches.goes_on(spec)]
        return list({spec.folder: spec for spec in [*self.searches.open, *specs]}.values())

    def _left(self, *, overwrite: bool) -> list[Run]:
        runs = [find_run(spec, self.runs_folder, read_up_to=SMALL) for spec in self._able]
        return [run for run in runs if overwrite or run.state not in FINISHED]

    def execute(
        self, todo: Sequence[Run], workers: int | None = None, per_gpu: int | None = 1
    ) -> Generator[Event, None, None]:
        """Carry out runs and report each beginning and end; closing it ends the workers.

        Args:
            todo: From `todo`.
            workers: Runs at a time, >= 1; by default one a GPU, else one a core.
            per_gpu: Runs that share a GPU; None = as many as find room in its memory.
        """
        self.require_devices()
        queue = Queue([run.spec for run in todo], self.runs_folder, again=repeated(todo))
        count = min(workers or self.default_workers(per_gpu), max(1, len(todo)))
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
        self.require_devices()
        self._take_up()
        again = read_again(self.board_folder)
        began, before = time.monotonic(), None
        while before != [spec.key for spec in self._able]:
            left = None if minutes is None else minutes - (time.monotonic() - began) / 60
            if left is not None and left <= 0:
                return
            before = [spec.key for spec in self._able]
            queue = Queue(self._able, self.runs_folder, again=again, minutes=left)
            yield from self._execute(queue, workers or self.default_workers(per_gpu), per_gpu)
            self._begin_search()

    def require_devices(self) -> None:
        """Refuse runs that ask for more devices than this machine has.

        Raises:
            ValueError: If one does.
        """
        require_devices(self.specs)

    def default_workers(self, per_gpu: int | None = 1) -> int:
        """Runs at a time on this machine, where nobody says how many."""
        return default_workers(per_gpu, devices_of(self.specs))

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
            devices=devices_of(self.specs),
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

        present = placement.alive()
        placed = placement.placed() if present is None else ""
        if present or placed:
            again = read_again(self.board_folder)  # what those who are at it go by
            where = placed or f"{present} workers are at it or wait"
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
        self.require_devices()
        for todo in self.rounds(overwrite=overwrite):
            for _ in self.execute(todo, workers):
                pass
        runs = self.runs()
        board, robust = self.boards(runs=runs)
        if not board.empty:
            self.write(board, robust, verdict=self.verdict(runs=runs))
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
        reasons = {folder: damage(folder, MARK, read_up_to=None) for folder in folders}
        return {folder: why for folder, why in reasons.items() if why}

    def deletable(self, *, failed: bool = False, stale: bool = False) -> list[Deletable]:
        """What `delete` may delete: runs in the suite's folder that nobody is at.

        Args:
            failed: Failed and damaged runs of the plan.
            stale: Runs that neither this plan nor the suite that the folder holds asks for, and
                those that other sources made than today's. Without either, all runs.
        """
        deletables: dict[Path, Deletable] = {}
        if failed:
            deletables |= {each.folder: each for each in deletion.failed_runs(self.runs())}
        if stale:
            planned, held = [*self.specs, *self.searches.trials], self.folder / FILE
            if held.is_file():
                planned = [*planned, *self.contents.plan(load_suite(str(held)))]
            deletables |= {e.folder: e for e in deletion.stale_runs(self.runs_folder, planned)}
        if failed or stale:
            return list(deletables.values())
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
        runs = self.runs()
        board, robust = self.boards(metric, runs=runs)
        self.require_rows(board, metric)
        said = self.verdict(metric, runs=runs)
        return self.write_page(runs, board, robust, metric, verdict=said)

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
        records = self._records_of(runs)
        score_cache = self._score_cache()
        compare = (metric or self.suite.select.metric) if paired else None
        board = leaderboard(runs, compare=compare, records=records, score_cache=score_cache)
        robust = robustness(runs, compare=compare, records=records, score_cache=score_cache)
        score_cache.write()
        return board, robust

    def verdict(self, metric: str | None = None, *, runs: Sequence[Run] | None = None) -> Verdict:
        """What the table says, in sentences: first what tuning did, then who beats whom.

        Args:
            metric: As for `leaderboard`.
            runs: As for `boards`.
        """
        runs = self.runs() if runs is None else runs
        score_cache = self._score_cache()
        metric = metric or self.suite.select.metric
        records = self._records_of(runs)
        result = verdict(runs, records, metric, score_cache)
        score_cache.write()
        more = [*validated_elsewhere(records, metric), *self._tuning_sentences()]
        return replace(result, sentences=[*result.sentences, *more])

    def archive(self, file: Path | None = None) -> tuple[Path, int]:
        """Write all runs that have ended, and what tables need of them, into one small file.

        Args:
            file: To write; by default `archive.zip` in the folder of its tables.

        Returns:
            The file, and how many runs it holds.

        Raises:
            ValueError: If no run has ended, or pyarrow is not installed.
        """
        file = file or self.board_folder / archive.FILE
        known = [self.folder / name for name in (CONTENT, SEARCH)]
        beside = {each.name: json.loads(each.read_bytes()) for each in known if each.is_file()}
        beaten = [self._tried(spec) for spec in self.searches.beaten(self._tried)]
        lost = {run.spec.folder for run in beaten}
        rest = [spec for spec in self.searches.trials if spec.folder not in lost]
        trials = [find_run(spec, self.runs_folder) for spec in rest]
        held = archive.write_archive(
            self.runs(), trials, beaten, {FILE: resolved(self.suite), **beside}, file,
            code=version("mmbench"),
        )  # fmt: skip
        return file, held

    @contextlib.contextmanager
    def against(self, file: str | Path) -> Iterator[list[Run]]:
        """The suite's runs and, beside them, those of an archive on the same data and masks.

        Args:
            file: From `archive`. Its runs lie in a temporary folder while the body runs; rows of
                the suite's own methods are left out.

        Raises:
            ValueError: If it is damaged, or made under other settings.
        """
        with tempfile.TemporaryDirectory() as folder:
            # in a private folder, files are not flushed one by one
            scratch = private(Path(folder) / "archive")
            archived = archive.unpack(Path(file), scratch, scratch=True)
            yield [*self.runs(), *archive.comparable(self.specs, archived)]

    def tuning(self) -> pd.DataFrame:
        """One row for each search of settings that has ended: see `Searches.table`."""
        return self.searches.table(self._tried)

    def _tuning_sentences(self) -> list[str]:
        return self.searches.sentences(self.tuning())

    def _records_of(self, runs: Sequence[Run]) -> pd.DataFrame:
        """Records of runs, read once for all tables of the same look."""
        if self._read is None or self._read[0] is not runs:
            self._read = (runs, read_records(runs))
        return self._read[1]

    def _score_cache(self) -> ScoreCache:
        return ScoreCache(self.runs_folder if os.access(self.runs_folder, os.W_OK) else None)

    def require_rows(self, board: pd.DataFrame, metric: str | None = None) -> None:
        """Refuse a suite without a finished run, and a metric that it does not have.

        Raises:
            ValueError: In these cases.
        """
        metric = metric or self.suite.select.metric
        if board.empty:
            runs = self.runs()
            bad = [run for run in runs if run.state in ("broken", "failed")]
            states = ", ".join(f"{n} {state}" for state, n in count(runs).items())
            why = f" ({states}; {bad[0].spec.title}: {bad[0].why})" if bad else ""
            raise ValueError(
                f"no finished run of this suite lies in {self.folder}{why}; start it with "
                f"`mmbench run {self.where}` (or give the same KEY=VALUE words as then)"
            )
        known = sorted(set(board["metric"]))
        if metric not in known:
            raise ValueError(
                f"no metric {metric!r}{suggest(metric, known)}; known: {', '.join(known)}"
            )

    def write(
        self,
        board: pd.DataFrame,
        robust: pd.DataFrame,
        metric: str | None = None,
        *,
        verdict: Verdict | None = None,
        folder: Path | None = None,
    ) -> Path:
        """Write both tables, and what they say if given; returns the path of `leaderboard.csv`."""
        folder = folder or self.board_folder
        folder.mkdir(parents=True, exist_ok=True)
        return write(
            board, folder, metric=metric or self.suite.select.metric,
            title=self.suite.name, robust=robust, verdict=verdict, tuning=self.tuning(),
        )  # fmt: skip

    def write_page(
        self,
        runs: Sequence[Run],
        board: pd.DataFrame,
        robust: pd.DataFrame,
        metric: str | None = None,
        *,
        watched: bool = False,
        verdict: Verdict | None = None,
    ) -> Path:
        """Write `report.html` of these runs and tables; the rest as for `write_report`."""
        from mmbench.bench.report import write_report

        self.board_folder.mkdir(parents=True, exist_ok=True)
        chosen = metric or self.suite.select.metric
        return write_report(
            self.suite.name, runs, board, self.board_folder, metric=chosen, robust=robust,
            watched=watched, verdict=verdict, tuning=self.tuning(), costs=self.suite.costs,
        )  # fmt: skip


def _held(suite: str | Path | Mapping[str, JSON]) -> Path | None:
    """The suite of a folder of results, which may be moved or a colleague's; None = no folder.

    The name of a built-in suite is that suite, whatever lies here: `./quickstart` is a folder.
    """
    if isinstance(suite, Mapping) or (isinstance(suite, str) and suite in suites()):
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
