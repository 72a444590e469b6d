"""Mappings that people write: YAML files and `key=value` words, read with care in one place.

What comes out is what JSON can say, and small: text as keys, finite numbers, few levels. A key of
a run is a hash of it, and a record shows it to whoever reads the results.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

JSON = Any  # what json.dumps takes: None, bool, int, float, str, lists and string-keyed dicts
# letters that turn round what follows, so that a name reads as another, or that a terminal obeys
UNSEEN = re.compile(
    "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|(?![\t\n\r])[\x00-\x1f\x7f-\x9f]"
)
LEVELS = 32  # of nesting; a suite has about eight
VALUES = 1_000_000  # aliases written out: a few lines of them may stand for billions
LARGEST = 2**63 - 1  # what an array holds as an integer


def load_config(
    source: Path | Mapping[str, JSON], overrides: Sequence[str] = (), *, kind: str
) -> dict[str, JSON]:
    """Read a mapping and change it by words such as `a.b=1` and `c=[x,y]`.

    `${key}` is a reference within it; what asks for anything else, the environment above all, is
    refused, since a record would show it to others.

    Args:
        source: A YAML file, or the mapping itself.
        overrides: Words that change it.
        kind: What it is, for messages: "suite".

    Raises:
        ValueError: If it cannot be read, is no mapping, or holds what JSON or a record cannot
            hold; one line.
    """
    where = str(source) if isinstance(source, Path) else f"the {kind}"
    for word in overrides:
        if not re.match(r"^[\w.]+=", word):
            raise ValueError(f"{word!r} is no override; write key=value, such as seeds=5")
    said = f"{where} with {' '.join(overrides)}" if overrides else where
    try:
        written = _read(source, where)
        if not OmegaConf.is_dict(written):
            raise ValueError(f"{where} is no {kind}: it must be a mapping of keys to values")
        for word in overrides:
            path, _, value = word.partition("=")
            _require_small(value, word)
            if path.count(".") >= LEVELS:
                raise ValueError(f"{word[:40]}... is nested deeper than {LEVELS} levels")
        plain = OmegaConf.to_container(written)
        _require_plain(plain, where, kind)
        merged = written
        for word in overrides:
            merged = _changed(merged, word, where)
        plain = OmegaConf.to_container(merged)
        _require_plain(plain, said, kind)
        settings = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark and isinstance(source, Path) else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{said} is no YAML{line}: {problem}") from error
    except (OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{said} cannot be read: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise ValueError(f"{said} refers to itself, or is nested too deeply") from None
    _require_plain(settings, said, kind)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def _read(source: Path | Mapping[str, JSON], where: str) -> Any:
    if not isinstance(source, Path):
        return OmegaConf.create(dict(source))
    text = source.read_text(encoding="utf-8")
    _require_small(text, where)
    return OmegaConf.load(io.StringIO(text))


def _changed(written: Any, word: str, where: str) -> Any:
    try:
        return OmegaConf.merge(written, OmegaConf.from_dotlist([word]))
    except TypeError:  # of omegaconf: a list and a mapping
        raise ValueError(
            f"{_short(word)} would put a mapping in the place of a list of {where}, or the "
            "reverse; write the whole list, such as methods=[zero_fill,shaspec]"
        ) from None


def _require_small(text: str, where: str) -> None:
    """Refuse what would not fit into memory, before anything is built of it."""
    depth = count = 0
    begun: list[tuple[str | None, int]] = []  # anchor of each open collection, and what came before
    size: dict[str, int] = {}  # anchor -> values in it
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            begun.append((event.anchor, count))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            anchor, before = begun.pop()
            if anchor is not None:
                size[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            count += size.get(str(event.anchor), 0)
        count += 1
        if depth > LEVELS:
            raise ValueError(f"{_short(where)} is nested deeper than {LEVELS} levels")
        if count > VALUES:
            raise ValueError(f"{_short(where)} holds more than {VALUES} values")
        digits = isinstance(event, yaml.ScalarEvent) and event.value.lstrip("+-").replace("_", "")
        if digits and len(digits) > 1000 and digits.isdigit():  # more than Python converts
            raise ValueError(f"{_short(where)} holds a number of {len(digits)} digits")


def _require_plain(value: JSON, where: str, kind: str, path: str = "", depth: int = 0) -> None:
    """Refuse what JSON or a record cannot hold."""
    here = f"{_short(where)}: {path}" if path else _short(where)
    if depth > LEVELS:
        raise ValueError(f"{here[:100]} is nested deeper than {LEVELS} levels")
    if isinstance(value, Mapping):
        for key, one in value.items():
            below = f"{path}.{key}" if path else str(key)
            if not isinstance(key, str) and (kind, path, key) != ("suite", "select", True):
                why = "; YAML reads on, off, yes and no as true and false" * isinstance(key, bool)
                raise ValueError(f"{here} has the key {key!r}, which is no text; quote it{why}")
            _require_visible(str(key), here)
            _require_plain(one, where, kind, below, depth + 1)
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            _require_plain(one, where, kind, f"{path}.{i}", depth + 1)
    elif isinstance(value, str):
        _require_no_resolver(value, here)
        _require_visible(value, here)
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{here} is a number beyond {LARGEST}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{here} is {value}, no finite number")
    elif not isinstance(value, bool | int | float | None):
        raise ValueError(f"{here} is of the type {type(value).__name__}, which JSON does not have")


def _require_visible(text: str, here: str) -> None:
    """Refuse letters that turn a line round, and those that a terminal obeys."""
    if sign := UNSEEN.search(text):
        raise ValueError(
            f"{here} holds {text[:60]!a}, in which {sign[0]!a} is no letter that is seen; take it "
            "out"
        )


def _require_no_resolver(text: str, here: str) -> None:
    """Refuse `${oc.env:HOME}` and its like, however it is put together."""
    rest, before = text, ""
    while rest != before:
        rest, before = re.sub(r"\$\{[\w.\[\]\s]*\}", "", rest), rest  # references to other keys
    if "${" in rest:
        raise ValueError(
            f"{here} holds {_short(text)}, which would write a value of your environment into the "
            "records; write the value itself"
        )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) < 80 else f"{text[:30]}...{text[-40:]}"  # a path ends in its file
