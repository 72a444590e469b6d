"""What to cite of a method or a data set, as BibTeX and as a sentence."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmbench import __version__
from mmbench.bench.latex import escape
from mmbench.cards.about import paragraphs
from mmbench.datamodule import DataModule
from mmbench.method import Method

ADDRESS = re.compile(r"https?://[^\s,;)]+")
YEAR = re.compile(r"\b(?:19|20)\d\d\b")


@dataclass(frozen=True)
class Citation:
    """One work, or what is there in its place.

    Args:
        key: Name of the method or data set; of a BibTeX entry with `:` for what keys cannot hold.
        title: Of the work; empty where a data set says it all in `note`.
        authors: Family names as the source gives them, "others" for "et al."; empty if unknown.
        venue: Where it was published.
        year: When; None if unknown.
        url: Where to read it.
        note: The citation as a data set words it, or why there is nothing to cite.
        exists: Whether there is a work at all.
    """

    key: str
    title: str = ""
    authors: tuple[str, ...] = ()
    venue: str = ""
    year: str = ""
    url: str = ""
    note: str = ""
    exists: bool = True

    def text(self) -> str:
        """The same in one line."""
        if not self.title:
            return self.note
        who = " and ".join(self.authors).replace(" and others", " et al.")
        where = " ".join(part for part in (self.venue, self.year) if part)
        title = f'"{self.title}"' if self.exists else self.title
        return ", ".join(part for part in (who, title, where, self.url) if part)

    def bibtex(self) -> str:
        """An entry, or a comment where there is nothing to cite."""
        if not self.exists:
            return f"% {self.key}: {' '.join(self.text().split())}\n"
        plain = {
            "key": escape(self.key) if not self.authors else "",  # what it is sorted by
            "author": " and ".join(map(_braced, self.authors)),
            "title": f"{{{escape(self.title)}}}" if self.title else "",
            "howpublished": escape(self.venue),
            "year": self.year,
            "note": escape(self.note),
            "url": self.url,
        }
        lines = [f"  {name} = {{{value}}}," for name, value in plain.items() if value]
        return "\n".join(
            [f"@misc{{{re.sub(r'[^A-Za-z0-9_.:-]+', ':', self.key)},", *lines, "}", ""]
        )


def mmbench() -> Citation:
    """This program."""
    return Citation(
        "mmbench",
        title="mmbench: a benchmark suite for multimodal learning with missing modalities",
        authors=("The mmbench contributors",),
        venue=f"version {__version__}",
    )


def of_method(name: str, cls: type[Method]) -> Citation:
    """What a method's `paper` and the line `Paper:` of its file say."""
    paper = cls.paper
    who = re.match(r"([^\"]+?), \"", paragraphs(cls).get("Paper", ""))
    return Citation(
        name,
        title=paper.title,
        authors=() if who is None else _authors(who[1]),
        venue=paper.venue,
        year="" if paper.year is None else str(paper.year),
        url=paper.url,
        exists=bool(paper.venue or paper.year or paper.url),
    )


def of_data(name: str, cls: type[DataModule]) -> Citation:
    """What a data set's `source` says."""
    source = cls.source
    year, url = YEAR.search(source.citation), ADDRESS.search(source.url)
    return Citation(
        name,
        year="" if year is None else year[0],
        url="" if url is None else url[0],
        note=source.citation,
        exists=bool(source.url) or year is not None,
    )


def bibliography(citations: Sequence[Citation]) -> str:
    """BibTeX entries, each work once; what is no work as comments at the end."""
    once = dict.fromkeys(citations)
    return "".join(
        [one.bibtex() for one in once if one.exists]
        + [one.bibtex() for one in once if not one.exists]
    )


def _authors(text: str) -> tuple[str, ...]:
    """`Wang et al.` as ("Wang", "others")."""
    names = re.split(r",? and |, ", re.sub(r"\s+et al\.?$", "", text))
    return tuple(names) + (("others",) if text.rstrip(".").endswith("et al") else ())


def _braced(name: str) -> str:
    """A name of several words that is one: BibTeX would take the last as the family."""
    plain = escape(name)
    return f"{{{plain}}}" if " " in plain and name.startswith("The ") else plain
