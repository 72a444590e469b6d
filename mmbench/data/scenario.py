"""What is missing in training, in validation and in each test condition."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Literal

from mmbench.config import JSON, load_config
from mmbench.data.missingness import mechanisms
from mmbench.data.missingness.composed import Composed, simplest, within_of
from mmbench.data.missingness.fixed import Natural, Pattern
from mmbench.data.missingness.protocol import Missingness, every_pattern, pattern_name
from mmbench.data.missingness.table import FromTable
from mmbench.paths import folder
from mmbench.registry import suggest

Regime = Literal["withheld", "full_access"]
REGIMES: tuple[Regime, ...] = ("withheld", "full_access")


@dataclass(frozen=True)
class EveryPattern:
    """All 2^M - 1 sets of modalities as test conditions; not a mechanism of a training split.

    The complete set comes first, then smaller ones in order of the columns.
    """

    def expand(self, names: tuple[str, ...]) -> dict[str, Missingness]:
        """Condition name -> pattern; the one with everything is called `complete`."""
        patterns = [row for row in every_pattern(len(names)) if row.any()]
        patterns.sort(key=lambda row: (-row.sum(), [not is_present for is_present in row]))
        mechanisms: dict[str, Missingness] = {}
        for row in patterns:
            label = "complete" if row.all() else pattern_name(row, names)
            present = tuple(name for name, is_present in zip(names, row, strict=True) if is_present)
            mechanisms[label] = Pattern(present)
        return mechanisms


@dataclass(frozen=True)
class Scenario:
    """Missingness of all splits; one training serves every test condition.

    Args:
        name: Names its folder and its rows.
        train: What training samples lack.
        val: What validation samples lack.
        test: Conditions that the one trained model is tested under, at least one.
        mask_seed: Decides what is withheld, whatever the seed of training; in 0..2^32 - 1.
        regime: What training may see: `withheld` (what is missing does not exist) or
            `full_access` (the method is also given what the masks hide).
    """

    name: str
    train: Missingness
    val: Missingness
    test: tuple[Missingness | EveryPattern, ...]
    mask_seed: int = 0
    regime: Regime = "withheld"

    @classmethod
    def parse(cls, spec: Mapping[str, JSON]) -> "Scenario":
        """Read the YAML form.

        Args:
            spec: Keys as the arguments of this class, plus `about`, one line for lists. `val`
                is by default what `train` is. A mechanism is a mapping with `mechanism` and the
                keys of its class; in `test` a list as a value is a grid of conditions, and there
                may be a list of such mappings.

        Raises:
            ValueError: If a key is unknown or missing or a value is none; one line that names
                the scenario and the key.
        """
        name = spec.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"a scenario needs a name, found the keys {', '.join(spec)}")
        where = f"scenario {name!r}"
        known = ("about", *(field.name for field in fields(cls)))
        if unknown := [str(key) for key in spec if key not in known]:
            raise ValueError(
                f"{where}: unknown key {unknown[0]!r}{suggest(unknown[0], known)}; "
                f"known are {', '.join(known)}"
            )
        if absent := [key for key in ("train", "test") if key not in spec]:
            raise ValueError(f"{where}: the key {absent[0]!r} is missing")
        mask_seed, regime = spec.get("mask_seed", 0), spec.get("regime", "withheld")
        if isinstance(mask_seed, bool) or not isinstance(mask_seed, int):
            raise ValueError(f"{where}: mask_seed must be an integer, found {mask_seed!r}")
        if not 0 <= mask_seed < 2**32:
            raise ValueError(f"{where}: mask_seed must be in 0..2^32 - 1, found {mask_seed}")
        if regime not in REGIMES:
            raise ValueError(
                f"{where}: regime must be one of {', '.join(REGIMES)}, found {regime!r}"
            )
        test = spec["test"]
        entries = list(test) if _is_list(test) else [test]
        if not entries:
            raise ValueError(f"{where}: test is empty; give at least one condition")
        return cls(
            name=name,
            train=_one(spec["train"], f"{where}: train"),
            val=_one(spec.get("val", spec["train"]), f"{where}: val"),
            test=tuple(one for entry in entries for one in _grid(entry, f"{where}: test")),
            mask_seed=mask_seed,
            regime=regime,
        )

    def conditions(self, names: tuple[str, ...]) -> dict[str, Missingness]:
        """Condition name -> missingness, in the order of `test`, `every_pattern` written out.

        Conditions that hide nothing are all called `complete` and are kept once.

        Args:
            names: Modalities of the data set.

        Raises:
            ValueError: If two different conditions would have one name.
        """
        result: dict[str, Missingness] = {}
        for entry in self.test:
            expanded = (
                entry.expand(names) if isinstance(entry, EveryPattern) else {entry.label: entry}
            )
            for label, missingness in expanded.items():
                past = simplest(result.setdefault(label, missingness))
                if past != simplest(missingness) and label != "complete":
                    raise ValueError(
                        f"scenario {self.name!r}: two test conditions are called {label!r}"
                    )
        return result

    def classes(self) -> tuple[type, ...]:
        """Classes of all mechanisms that it names, by whose sources its masks are known."""
        classes: dict[type, None] = {}
        waiting: list[Any] = [self.train, self.val, *self.test]
        while waiting:
            one = waiting.pop(0)
            classes[type(one)] = None
            if isinstance(one, Natural) and one.simulated is not None:
                waiting.append(one.simulated)
            if isinstance(one, Composed):
                waiting += [one.loss, *one.within]
        return tuple(classes)

    def check(self, names: tuple[str, ...]) -> None:
        """Refuse modalities that do not exist and rates that cannot be reached.

        Raises:
            ValueError: One line that names the scenario and the split.
        """
        for where, missingness in (
            ("train", self.train),
            ("val", self.val),
            *((f"test {label}", condition) for label, condition in self.conditions(names).items()),
        ):
            try:
                missingness.check(names)
                if self.regime == "full_access" and where == "train" and within_of(missingness):
                    raise ValueError(
                        "full_access shows training whole modalities; what is hidden inside them "
                        "has no such regime, take withheld"
                    )
            except ValueError as error:
                raise ValueError(f"scenario {self.name!r}: {where}: {error}") from None


def _is_list(value: JSON) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _one(spec: JSON, where: str) -> Missingness:
    """Read the mechanism of a split that is not tested on."""
    grid = _grid(spec, where)
    if len(grid) != 1:
        raise ValueError(f"{where}: takes one value, found a list; only test is a grid")
    if isinstance(grid[0], EveryPattern):
        raise ValueError(f"{where}: every_pattern is a list of test conditions; name one mechanism")
    return grid[0]


def _grid(spec: JSON, where: str) -> list[Missingness | EveryPattern]:
    """Read a mechanism; lists as values are multiplied out, the last key fastest."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("mechanism"), str):
        raise ValueError(
            f"{where}: must be a mapping such as {{mechanism: mcar, missing_rate: 0.3}}, "
            f"found {spec!r}"
        )
    parts = _parts(spec["mechanism"], where)
    keys = {str(key): value for key, value in spec.items() if key != "mechanism"}
    if parts == ["every_pattern"]:
        _require_keys("every_pattern", keys, {}, where)
        return [EveryPattern()]
    classes = {word: mechanisms.get(word) for word in parts if word != "natural"}
    known: dict[str, Any] = {}
    for word, cls in classes.items():
        for parameter in fields(cls):
            if parameter.name in known:
                raise ValueError(f"{where}: two mechanisms have the key {parameter.name!r}")
            known[parameter.name] = (word, parameter)
    _require_keys(" + ".join(parts), keys, {n: one for n, (_, one) in known.items()}, where)
    choices = []
    for key, value in keys.items():
        word, parameter = known[key]
        if parameter.type not in READERS:
            raise ValueError(f"{where}: {key} of {word} is of a type that no YAML gives")
        read = READERS[parameter.type]
        is_grid = _is_list(value) and read is not _words and len(value) > 0
        choices.append([(word, key, read, one) for one in (value if is_grid else [value])])
    members: list[Missingness | EveryPattern] = []
    for chosen in product(*choices):
        try:
            made = {
                word: cls(**{key: read(one, key) for w, key, read, one in chosen if w == word})
                for word, cls in classes.items()
            }
            members.append(_composed(parts, made))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return members


def _parts(mechanism: str, where: str) -> list[str]:
    """The words of `natural + mcar + segments`, each known and in its place.

    Raises:
        ValueError: If one is unknown, twice there or not where it can be.
    """
    parts = [word.strip() for word in mechanism.split("+")]
    known = mechanisms.names()
    for word in parts:
        if word not in known:
            raise ValueError(
                f"{where}: no mechanism named {word!r}{suggest(word, known)}; there are "
                f"{', '.join(known)}"
            )
    losses = [w for w in parts if w not in mechanisms.UNNAMED and not _is_within(w)]
    alone = "every_pattern" in parts and len(parts) > 1
    if alone or len(losses) > 1 or len(set(parts)) < len(parts) or "natural" in parts[1:]:
        raise ValueError(
            f"{where}: mechanism {mechanism!r} is none; natural comes first, at most one mechanism "
            "hides whole modalities, and any number hide parts of them, as in natural + mcar + "
            "segments"
        )
    return parts


def _is_within(word: str) -> bool:
    return hasattr(mechanisms.get(word), "gap")


def _composed(parts: Sequence[str], made: Mapping[str, Any]) -> Missingness:
    """One mechanism from its parts."""
    losses = [made[word] for word in parts if word in made and not _is_within(word)]
    within = tuple(made[word] for word in parts if word in made and _is_within(word))
    loss: Missingness = losses[0] if losses else Natural()
    if losses and parts[0] == "natural":
        loss = Natural(loss)
    return Composed(loss, within) if within else loss


def _require_keys(
    what: str, keys: Mapping[str, JSON], known: Mapping[str, Any], where: str
) -> None:
    if unknown := [key for key in keys if key not in known]:
        raise ValueError(
            f"{where}: unknown key {unknown[0]!r}{suggest(unknown[0], tuple(known))}; "
            f"{what} takes {', '.join(known) or 'no keys'}"
        )
    needed = [name for name, parameter in known.items() if parameter.default is MISSING]
    if absent := [name for name in needed if name not in keys]:
        raise ValueError(f"{where}: the key {absent[0]!r} of {what} is missing")


def _number(value: JSON, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} must be a number, found {value!r}")
    return float(value)


def _truth(value: JSON, key: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, found {value!r}")
    return value


def _rate(value: JSON, key: str) -> float | dict[str, float]:
    if isinstance(value, Mapping):
        return {str(name): _number(one, f"{key}.{name}") for name, one in value.items()}
    return _number(value, key)


def _integer(value: JSON, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} must be a whole number, found {value!r}")
    return value


def _word(value: JSON, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a word, found {value!r}")
    return value


def _words(value: JSON, key: str) -> tuple[str, ...]:
    if not _is_list(value):
        raise ValueError(f"{key} must be a list such as [audio, text], found {value!r}")
    return tuple(_word(one, key) for one in value)


# how the value of a key is read, by the type of the mechanism's field
READERS: dict[Any, Callable[[JSON, str], Any]] = {
    float: _number,
    int: _integer,
    bool: _truth,
    float | Mapping[str, float]: _rate,
    str: _word,
    tuple[str, ...]: _words,
}


def scenarios() -> dict[str, Path]:
    """Scenarios by name: built-in ones, then those of plugins as `package/name`.

    The entry point `name = "module"` of the group `mmbench.scenarios` is `name.yaml` in the folder
    of the module.
    """
    known = {file.stem: file for file in sorted(folder("configs").glob("scenario/*.yaml"))}
    for point in sorted(entry_points(group="mmbench.scenarios"), key=lambda one: one.name):
        spec = find_spec(point.module)
        package = point.dist.name if point.dist else point.module
        for home in (spec.submodule_search_locations or ()) if spec else ():
            known[f"{package}/{point.name}"] = Path(home) / f"{point.name}.yaml"
    return known


def load_scenario(scenario: str | Path | Mapping[str, JSON]) -> dict[str, JSON]:
    """Write a scenario out: read it by name if it is one, and check it.

    `about` is left out, and a presence table is pinned by its checksum, so that equal words mean
    equal masks.

    Args:
        scenario: Name of a built-in scenario, path of a YAML file, or a scenario.

    Returns:
        What `Scenario.parse` takes.

    Raises:
        ValueError: If there is no such scenario, or a key or value is wrong.
    """
    spec = _read(scenario) if isinstance(scenario, str | Path) else dict(scenario)
    Scenario.parse(spec)
    spec.pop("about", None)
    for split in ("train", "val"):
        if split in spec:
            (spec[split],) = _pinned(spec[split])
    test = spec["test"] if _is_list(spec["test"]) else [spec["test"]]
    spec["test"] = [one for entry in test for one in _pinned(entry)]
    return spec


def _read(where: str | Path) -> dict[str, JSON]:
    """A scenario by name, or from a YAML file whose name is its name unless it says one."""
    known = scenarios()
    path = known.get(str(where), Path(where))
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise ValueError(
            f"no scenario named {where!r}{suggest(str(where), list(known))}; built in are "
            f"{', '.join(known)}; or write one out"
        )
    name = str(where) if str(where) in known else path.stem
    return {"name": name} | load_config(path, kind="scenario")


def _pinned(entry: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    """Add the checksum of a presence table that has none, one entry a table."""
    if "path" not in entry or "checksum" in entry:
        return [dict(entry)]
    paths = entry["path"] if _is_list(entry["path"]) else [entry["path"]]
    return [{**entry, "path": path, "checksum": FromTable(path).load().checksum} for path in paths]
