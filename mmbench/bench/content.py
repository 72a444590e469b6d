"""What the data of a suite were when they were read, so that a key can name it.

`results/<suite>/content.json` remembers, for each data set and its arguments, the hashes that
`DataModule.ingredients` gave and a stamp of each file. Where stamps and code are as remembered,
nothing is read again, and a table can be made where the data are not.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmbench.bench.plan import plan
from mmbench.bench.spec import DataEntry, RunSpec, Suite
from mmbench.data.digest import digest
from mmbench.data.files import locate, stamp
from mmbench.sources import hash_of
from mmbench.store import write_json

FILE = "content.json"
Ingredients = Mapping[str, Mapping[str, str]]
Examine = Callable[[DataEntry, Path], Ingredients]
Names = Callable[[DataEntry, Path], Sequence[str]]


class Contents:
    """Content of the data sets of one suite's results.

    Args:
        folder: Of the suite's results.
        root: Folder of the user's data.
        examine: Gives the ingredients of a data set, by reading its files; slow, and it imports
            what data sets are made of.
        names: Gives the names of its modalities, for suites that have methods for each of them.
    """

    def __init__(self, folder: Path, root: Path, examine: Examine, names: Names) -> None:
        self.path = folder / FILE
        self.root = root
        self.examine = examine
        self.names = names
        self._known: dict[str, Any] = {}
        if self.path.is_file():
            try:
                self._known = json.loads(self.path.read_text(encoding="utf-8"))
                for known in self._known.values():
                    digest(known["made_of"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(
                    f"{self.path} is damaged ({type(error).__name__}); remove it, it is made again "
                    "where the data are"
                ) from error

    def plan(self, suite: Suite) -> list[RunSpec]:
        """The runs of a suite on the data as they are known."""
        return plan(suite, self.of, self.modalities)

    def modalities(self, entry: DataEntry) -> Sequence[str] | None:
        """Names of a data set's modalities when it was last looked at; None = never asked for."""
        names: Sequence[str] | None = self._known.get(_key(entry), {}).get("modalities")
        return names

    def of(self, entry: DataEntry) -> str:
        """Content of a data set as it is now, or as it was remembered where it is not here.

        Empty where there is neither, since then there are no runs either.

        Raises:
            ValueError: If it is here, is another than it was, and cannot be read.
        """
        known = self._known.get(_key(entry))
        if known is None:
            return ""
        if self._is_here(known) and self._changed(known):
            return digest(self.examine(entry, self.root))
        return digest(known["made_of"])

    def look(self, suite: Suite) -> None:
        """Examine what is unknown or has changed, and remember it.

        Raises:
            ValueError: If a file of the user's is not there.
        """
        for entry in suite.data:
            known = self._known.get(_key(entry))
            if known is None or not self._is_here(known) or self._changed(known):
                made_of = self.examine(entry, self.root)
                self._known[_key(entry)] = {
                    "data": entry.name,
                    "args": entry.args,
                    "made_of": made_of,
                    "stamps": {name: stamp(locate(self.root, name)) for name in made_of["files"]},
                }
            if any(method.of_every_modality for method in suite.methods):
                known = self._known[_key(entry)]
                known.setdefault("modalities", list(self.names(entry, self.root)))

    def write(self) -> None:
        """Leave what is known for those who come later."""
        write_json(self.path, self._known)

    def _is_here(self, known: Mapping[str, Any]) -> bool:
        """Whether all files of a data set are found, and all that reads them is installed."""
        made_of = known["made_of"]
        try:
            for name in known["stamps"]:
                locate(self.root, name)
            for name in made_of["distributions"]:
                version(name)
        except (ValueError, PackageNotFoundError):
            return False
        return all(hash_of(module) is not None for module in made_of["code"])

    def _changed(self, known: Mapping[str, Any]) -> bool:
        made_of = known["made_of"]
        return bool(
            any(stamp(locate(self.root, n)) != s for n, s in known["stamps"].items())
            or any(hash_of(module) != h for module, h in made_of["code"].items())
            or any(version(name) != v for name, v in made_of["distributions"].items())
        )


def _key(entry: DataEntry) -> str:
    return digest({"data": entry.name, "args": entry.args})
