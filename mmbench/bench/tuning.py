"""The same number of tried settings for every method: which come next, and which were best.

A search belongs to one method on one fold of one data set. Its trials are ordinary runs with the
suite's first seed under one scenario, judged by their score on the validation split alone. The
first has the constructor's defaults; a Sobol sequence spreads the next ones over the ranges that
the method declares in `search`; then Optuna's tree-structured Parzen estimator draws, a few
at a time, by what the others have scored. What is drawn depends on nothing but the
default run's key and the scores so far: any worker draws the same, and a larger number of trials
goes on from a smaller one.

How long trials train is no setting that is drawn: `tune.lengths` says it of each place, the same
for every method, so that all are given the same total of epochs.

Source: Bergstra, Bardenet, Bengio and Kégl, "Algorithms for Hyper-Parameter Optimization",
NeurIPS 2011, for the estimator.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import qmc

from mmbench.bench.record import Run
from mmbench.bench.result import read_result
from mmbench.bench.spec import RunSpec, Suite
from mmbench.config import JSON
from mmbench.metrics.metric import higher_is_better
from mmbench.search import Choice, Draw, Real, from_json, to_json
from mmbench.store import write_json

FILE = "search.json"  # beside the suite
SPREAD = 8  # first trials, the defaults among them, which look at no score: a power of two
TOGETHER = 4  # later ones that are drawn at a time, so that workers need not wait for one another
REDRAWS = 16  # of settings that were tried, until a space counts as exhausted; a power of two
SHOWN = 6  # settings at an edge that a sentence names

Space = Callable[[RunSpec], tuple[Mapping[str, Draw], Mapping[str, JSON]]]
Place = tuple[str, int, str]  # data, fold, method
State = Literal["open", "done", "failed"]


@dataclass(frozen=True)
class Trial:
    """One setting that is tried.

    Args:
        args: What was drawn; nothing for the defaults.
        drawn_by: `default`, `sobol` or `tpe`.
        state: `open` until its run has ended; `failed` if that has no score.
        score: On the validation split; None unless done.
        length: How many times as long as the suite says it is trained; see `Tune`.
    """

    args: dict[str, JSON]
    drawn_by: Literal["default", "sobol", "tpe"]
    state: State = "open"
    score: float | None = None
    length: float = 1.0


@dataclass
class Search:
    """All trials of one method on one fold of one data set.

    Args:
        space: What may be drawn; empty for a method that no score of training could choose for.
        defaults: What the constructor has for each of it.
        trials: In the order in which they were drawn.
        exhausted: Whether nothing new is left to draw, or the method does not apply.
    """

    space: dict[str, Draw]
    defaults: dict[str, JSON] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    exhausted: bool = False

    def settings(self, trial: Trial) -> dict[str, JSON]:
        """All settings of a trial that are searched."""
        return {**self.defaults, **trial.args}

    def ended(self, trials: int) -> bool:
        """Whether so many trials, or all that there are, have ended."""
        whole = self.exhausted or len(self.trials) >= trials
        return whole and all(trial.state != "open" for trial in self.trials[:trials])

    def best(self, trials: int, metric: str) -> Trial | None:
        """The best of the first trials, the earliest of equals; None if none has a score."""
        sign = 1.0 if higher_is_better(metric) else -1.0
        done = [trial for trial in self.trials[:trials] if trial.score is not None]
        return max(done, key=lambda trial: sign * float(trial.score or 0.0), default=None)


class Searches:
    """The searches of a suite, kept in a file so that they go on, and as a record.

    Args:
        suite: Without `tune` there are none.
        folder: Of the suite's results.

    Raises:
        ValueError: If the file is damaged, or there is no scenario of the name.
    """

    def __init__(self, suite: Suite, folder: Path) -> None:
        self.suite = suite
        self.path = folder / FILE
        self.defaults: dict[Place, RunSpec] = {}
        self.of: dict[str, Search] = {} if suite.tune is None else _read(self.path)

    def plan(self, specs: Sequence[RunSpec]) -> list[RunSpec]:
        """Runs of the suite with the best settings, or those of the suite while a search goes on.

        Args:
            specs: Runs with the settings of the suite.
        """
        if self.suite.tune is None:
            return list(specs)
        name = self.suite.tune.scenario or specs[0].scenario_name
        self.defaults = {
            _place(spec): spec
            for spec in specs
            if spec.seed == self.suite.seeds[0] and spec.scenario_name == name
        }
        if not self.defaults:
            known = ", ".join(dict.fromkeys(spec.scenario_name for spec in specs))
            raise ValueError(f"tune.scenario: {name!r} is no scenario of the suite; it has {known}")
        return list({spec.folder: spec for spec in map(self._tuned, specs)}.values())

    @property
    def trials(self) -> list[RunSpec]:
        """The runs of all trials that are known so far."""
        return [
            self._run_of(default, trial)
            for default in self.defaults.values()
            if self._name(default) in self.of
            for trial in self.of[self._name(default)].trials[: self._number]
        ]

    @property
    def open(self) -> list[RunSpec]:
        """The runs of trials that have not ended."""
        return [
            self._run_of(default, trial)
            for default in self.defaults.values()
            if self._name(default) in self.of
            for trial in self.of[self._name(default)].trials[: self._number]
            if trial.state == "open"
        ]

    @property
    def left_of(self) -> dict[tuple[str, str], list[float]]:
        """(data, method) -> lengths of the trials that have not ended, drawn or not.

        Until a search began, that is how many there are at most.
        """
        left: dict[tuple[str, str], list[float]] = {}
        for default in self.defaults.values():
            search = self.of.get(self._name(default))
            if search is None or not search.ended(self._number):
                trials = [] if search is None else search.trials[: self._number]
                closed = {place for place, each in enumerate(trials) if each.state != "open"}
                left.setdefault((default.data_label, default.method_label), []).extend(
                    self._length(place) for place in range(self._number) if place not in closed
                )
        return left

    def goes_on(self, spec: RunSpec) -> bool:
        """Whether the settings of a run are still searched."""
        default = self.defaults.get(_place(spec))
        if default is None:
            return False
        search = self.of.get(self._name(default))
        return search is None or not search.ended(self._number)

    def will_try(self, spec: RunSpec) -> bool:
        """Whether a run of the suite is going to be one of the trials, which are counted apart."""
        return self.goes_on(spec) and spec.key == self.defaults[_place(spec)].key

    def begin(self, space: Space, *, anew: bool = False) -> None:
        """Begin what has not begun.

        Args:
            space: Says what may be drawn of the method of a run, and what its constructor has.
            anew: Whether the searches of this suite are forgotten first.
        """
        if anew:
            self._forget()
        for default in self.defaults.values():
            if self._name(default) not in self.of:
                drawn, constructor = space(default)
                self.of[self._name(default)] = Search(
                    dict(drawn), dict(constructor), exhausted=not drawn
                )

    def _forget(self) -> None:
        for default in self.defaults.values():
            self.of.pop(self._name(default), None)
        write_json(self.path, self._record())

    def advance(self, find: Callable[[RunSpec], Run]) -> None:
        """Take note of trials that have ended, and draw the next ones, as far as it goes.

        Args:
            find: Looks a run up.
        """
        changed = False
        for default in self.defaults.values():
            search, before = self.of[self._name(default)], None
            while search.trials != before:
                before = search.trials
                search.trials = self._looked_up(default, search, find)
                self._draw(default, search)
                changed |= search.trials != before
        if changed:
            self.write()

    def beaten(self, find: Callable[[RunSpec], Run]) -> list[RunSpec]:
        """The runs of trials that have ended and are not the best, so that they never will be.

        Args:
            find: Looks a run up.
        """
        metric, runs = self.suite.select.metric, []
        for default in self.defaults.values():
            if self._name(default) in self.of:
                known = replace(self.of[self._name(default)])
                known.trials = self._looked_up(default, known, find)
                best = known.best(self._number, metric)
                ended = [each for each in known.trials[: self._number] if each.state != "open"]
                runs += [self._run_of(default, each) for each in ended if each is not best]
        return runs

    def write(self) -> None:
        """Leave the searches for those who come later; what others added meanwhile stays."""
        for key, other in _read(self.path).items():
            mine = self.of.get(key)
            if mine is None or len(other.trials) > len(mine.trials):
                self.of[key] = other
        write_json(self.path, self._record())

    def _record(self) -> dict[str, JSON]:
        return {
            key: {
                "space": to_json(search.space),
                "defaults": search.defaults,
                "trials": [asdict(trial) for trial in search.trials],
                "exhausted": search.exhausted,
            }
            for key, search in self.of.items()
        }

    def table(self, find: Callable[[RunSpec], Run]) -> pd.DataFrame:
        """One row for each search that has ended.

        Args:
            find: Looks a run up.

        Returns:
            `data`, `fold`, `method`, `trials`, `failed` ones of them, the `default` and the `best`
            score on validation, what the search `brought` there (>= 0 in the better direction; NaN
            where the defaults failed) and `brought_on_test` (mean over the conditions, which chose
            nothing), the best `settings`, and those `at_edge` of their range.
        """
        metric = self.suite.select.metric
        sign = 1.0 if higher_is_better(metric) else -1.0
        rows = []
        for (data, fold, method), default in self.defaults.items():
            search = self.of.get(self._name(default))
            if search is None or not search.space or not search.ended(self._number):
                continue
            tried, best = search.trials[: self._number], search.best(self._number, metric)
            on_test = [
                np.nan if each is None else _on_test(find(self._run_of(default, each)), metric)
                for each in (tried[0], best)
            ]
            first = np.nan if tried[0].score is None else tried[0].score
            score = np.nan if best is None or best.score is None else best.score
            drawn = {} if best is None else search.settings(best)
            edges = {name: search.space[name].edge(value) for name, value in drawn.items()}
            if best is not None and len(set(self._lengths)) > 1:
                drawn["length"] = f"{best.length:g}"
                edges["length"] = "high" if best.length == max(self._lengths) else ""
            rows.append(
                {
                    "data": data,
                    "fold": fold,
                    "method": method,
                    "trials": len(tried),
                    "failed": sum(trial.state == "failed" for trial in tried),
                    "default": first,
                    "best": score,
                    "brought": sign * (score - first),
                    "brought_on_test": sign * (on_test[1] - on_test[0]),
                    "settings": ", ".join(f"{name}={value}" for name, value in drawn.items()),
                    "at_edge": ", ".join(
                        f"{name}={drawn[name]} ({edge})" for name, edge in edges.items() if edge
                    ),
                }
            )
        return pd.DataFrame(rows)

    def sentences(self, table: pd.DataFrame) -> list[str]:
        """What `table` says, for people."""
        if table.empty:
            return []
        metric = self.suite.select.metric
        said = [
            f"Settings are the best of {self._number} that were tried for each method, by {metric} "
            f"on validation. That brought {table['brought'].median():.3f} there and "
            f"{table['brought_on_test'].median():+.3f} on test in the median over "
            f"{len(table)} searches; most for " + ", ".join(_most(table)) + "."
        ]
        if len(edges := table[table["at_edge"] != ""]):
            said.append(
                f"{len(edges)} of {len(table)} best settings lie at the edge of a range, beyond "
                "which a better one may be: "
                + "; ".join(f"{r.method} on {r.data} {r.at_edge}" for r in _first(edges))
                + (f"; and {len(edges) - SHOWN} more" if len(edges) > SHOWN else "")
                + "."
            )
        if failed := int(table["failed"].sum()):
            said.append(f"{failed} trials failed and count as tried.")
        return said

    @property
    def _number(self) -> int:
        return 0 if self.suite.tune is None else self.suite.tune.trials

    @property
    def _lengths(self) -> list[float]:
        """Of all trials of a search."""
        return [self._length(place) for place in range(self._number)]

    def _name(self, default: RunSpec) -> str:
        """Key of a search in the record: trials of other lengths are another search."""
        if set(self._lengths) <= {1.0}:
            return default.key
        lengths = [] if self.suite.tune is None else self.suite.tune.lengths
        return "-".join([default.key, *(f"{length:g}" for length in lengths)])

    def _length(self, place: int) -> float:
        return 1.0 if self.suite.tune is None else self.suite.tune.length(place)

    def _tuned(self, spec: RunSpec) -> RunSpec:
        default = self.defaults.get(_place(spec))
        search = None if default is None else self.of.get(self._name(default))
        if search is None or not search.ended(self._number):
            return spec
        best = search.best(self._number, self.suite.select.metric)
        tried = len(search.trials[: self._number])
        tuned = spec if best is None else self._run_of(spec, best)
        return replace(tuned, tuned=tried)

    def _run_of(self, default: RunSpec, trial: Trial) -> RunSpec:
        args = {**default.method_args, **trial.args}
        return replace(default, method_args=args, length=trial.length)

    def _looked_up(
        self, default: RunSpec, search: Search, find: Callable[[RunSpec], Run]
    ) -> list[Trial]:
        """The trials of a search, each as its run ended or as it was."""
        return [
            self._ended(default, search, each, find) if each.state == "open" else each
            for each in search.trials
        ]

    def _ended(
        self, default: RunSpec, search: Search, trial: Trial, find: Callable[[RunSpec], Run]
    ) -> Trial:
        run = find(self._run_of(default, trial))
        if run.state == "done":
            score = read_result(run.folder).selected.score
            return replace(trial, state="failed" if score is None else "done", score=score)
        if run.state == "skipped":
            search.exhausted = True
        return replace(trial, state="failed") if run.state in ("failed", "skipped") else trial

    def _draw(self, default: RunSpec, search: Search) -> None:
        """Add the trials that need not wait for each other's scores."""
        metric = self.suite.select.metric
        while not search.exhausted and len(search.trials) < self._number:
            judged = search.trials[: _judged(len(search.trials))]
            if any(trial.state == "open" for trial in judged):
                return
            length = self._length(len(search.trials))
            known = [search.settings(each) for each in search.trials if each.length == length]
            for again in range(REDRAWS):
                drawn = replace(_drawn(search, metric, int(default.key, 16), again), length=length)
                if search.settings(drawn) not in known:
                    search.trials.append(drawn)
                    break
            else:
                search.exhausted = True


def joined(here: Mapping[str, JSON], other: Mapping[str, JSON]) -> dict[str, JSON]:
    """Records of searches of two folders as one: of each search the longer."""
    both = dict(here)
    for key, said in other.items():
        if key not in both or len(said["trials"]) > len(both[key]["trials"]):
            both[key] = said
    return both


def _judged(place: int) -> int:
    """How many of the first trials have to be scored before one is drawn at this place."""
    return 0 if place < SPREAD else place - (place - SPREAD) % TOGETHER


def _drawn(search: Search, metric: str, seed: int, again: int) -> Trial:
    """The next trial of a search; another for each `again`."""
    place = len(search.trials)
    if not place:
        return Trial({}, "default")
    if place < SPREAD:
        sobol = qmc.Sobol(len(search.space), rng=np.random.default_rng(seed))
        # a fixed stride would stay in one part of the range
        point = sobol.random(SPREAD * REDRAWS)[SPREAD * again + (place + again) % SPREAD]
        shares = zip(search.space.items(), point.tolist(), strict=True)
        return Trial({name: draw.at(share) for (name, draw), share in shares}, "sobol")
    return Trial(_by_score(search, metric, [seed, place, again]), "tpe")


def _by_score(search: Search, metric: str, seed: Sequence[int]) -> dict[str, JSON]:
    """What the estimator draws, given what trials have scored."""
    optuna = _optuna()
    distributions = {name: _distribution(optuna, draw) for name, draw in search.space.items()}
    (number,) = np.random.SeedSequence(seed).generate_state(1).tolist()
    study = optuna.create_study(
        direction="maximize" if higher_is_better(metric) else "minimize",
        sampler=optuna.samplers.TPESampler(seed=number, n_startup_trials=1),
    )
    for trial in search.trials[: _judged(len(search.trials))]:
        settings = search.settings(trial)
        if all(draw.holds(settings[name]) for name, draw in search.space.items()):
            state = optuna.trial.TrialState.FAIL if trial.score is None else None
            study.add_trial(
                optuna.trial.create_trial(
                    state=state or optuna.trial.TrialState.COMPLETE,
                    value=trial.score,
                    params=settings,
                    distributions=distributions,
                )
            )
    drawn = study.ask(distributions).params
    return {name: draw.rounded(drawn[name]) for name, draw in search.space.items()}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ValueError(
            f"--tune of more than {SPREAD} trials needs optuna; install mmbench with the extra "
            "`tune`"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would print every study
    return optuna


def _distribution(optuna: Any, draw: Draw) -> Any:
    if isinstance(draw, Choice):
        return optuna.distributions.CategoricalDistribution(draw.values)
    name = "FloatDistribution" if isinstance(draw, Real) else "IntDistribution"
    return getattr(optuna.distributions, name)(draw.low, draw.high, log=draw.log)


def _most(table: pd.DataFrame) -> list[str]:
    mean = table.groupby("method")["brought_on_test"].mean().dropna()
    return [f"{method} ({value:+.3f} on test)" for method, value in mean.nlargest(3).items()]


def _first(rows: pd.DataFrame) -> list[Any]:
    return list(rows.head(SHOWN).itertuples())


def _on_test(run: Run, metric: str) -> float:
    """Mean score over the test conditions; NaN where the run is not here or one is undefined."""
    if run.state != "done":
        return np.nan
    scores = [one.scores.get(metric) for one in read_result(run.folder).conditions.values()]
    return float(np.mean([np.nan if x is None else x for x in scores]))


def _place(spec: RunSpec) -> Place:
    return spec.data_label, spec.fold, spec.method_label


def _read(path: Path) -> dict[str, Search]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: Search(
                space=from_json(said["space"]),
                defaults=said["defaults"],
                trials=[Trial(**trial) for trial in said["trials"]],
                exhausted=said["exhausted"],
            )
            for key, said in record.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}); remove it, and the same trials are "
            "drawn again from the runs that are there"
        ) from error
