"""From a suite to its runs: pure and ordered."""

from collections.abc import Callable, Sequence
from itertools import product

from mmbench.bench.spec import DataEntry, RunSpec, Suite, labels
from mmbench.data.scenario import load_scenario


def _nothing(entry: DataEntry) -> str:
    return ""


def _unknown(entry: DataEntry) -> None:
    return None


def plan(
    suite: Suite,
    content: Callable[[DataEntry], str] = _nothing,
    modalities: Callable[[DataEntry], Sequence[str] | None] = _unknown,
) -> list[RunSpec]:
    """List the trainings of a suite.

    One training serves all test conditions of its scenario. Runs on the same data stand
    together, so that a warm worker loads a data set once; seeds are the slowest loop within a
    data set, so that an interrupted sweep holds whole tables of few seeds.

    Args:
        suite: The question.
        content: Says what the files and the code of a data set hold; see `DataModule.content`.
        modalities: Says the names of a data set's modalities, for entries of every modality; None
            = not known, they stay as they are.

    Returns:
        Runs without duplicates, in the same order every time.
    """
    data = [
        (entry, label, held, fold)
        for entry, label in zip(suite.data, labels(suite.data), strict=True)
        for held in [content(entry)]
        for fold in entry.folds or suite.folds
    ]
    methods = {}
    for entry, label in zip(suite.data, labels(suite.data), strict=True):
        names = modalities(entry)
        each = [one for method in suite.methods for one in method.for_each(names)]
        methods[label] = list(zip(each, labels(each), strict=True))
    scenarios = [load_scenario(scenario) for scenario in suite.scenarios]
    _require_different([str(scenario["name"]) for scenario in scenarios])
    runs = {}
    planned = (
        (*each, m, m_label)
        for each in product(data, suite.seeds, scenarios)
        for m, m_label in methods[each[0][1]]
    )
    for (d, d_label, held, fold), seed, scenario, m, m_label in planned:
        spec = RunSpec(
            method=m.name,
            data=d.name,
            content=held,
            scenario=scenario,
            fold=fold,
            seed=seed,
            method_args=m.args,
            data_args=d.args,
            encoders=suite.encoders,
            trainer_args=suite.trainer.model_dump(exclude_none=True),
            select=suite.select.model_dump(),
            limit=suite.limit,
            keep_weights=suite.keep_weights,
            method_label=m_label,
            data_label=d_label,
        )
        runs[spec.folder] = spec
    return list(runs.values())


def _require_different(names: Sequence[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise ValueError(f"two scenarios of the suite are named {name!r}; rename one")
