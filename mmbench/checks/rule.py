"""A rule, what came of trying it, and the report of all that were tried."""

import inspect
import linecache
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["passed", "broken", "warning"]
Scope = Literal["task", "task kind", "once"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that must hold, and how to find out.

    Args:
        examine: Raises AssertionError with one line that says what was broken; its name is that
            of the rule, and the first line of its docstring says what must hold.
        tried: What `examine` does.
        mend: What to change where it is broken.
        warns: Whether a method that breaks it may be used all the same.
        scope: How often it is tried: with every task, with one of each kind, or once.
    """

    examine: Callable[..., None]
    tried: str
    mend: str
    warns: bool = False
    scope: Scope = "task"

    def __call__(self, *subject: Any) -> None:
        """Try it; whatever it raises breaks it."""
        self.examine(*subject)

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.examine.__name__

    @property
    def statement(self) -> str:
        """What must hold."""
        return (inspect.getdoc(self.examine) or "").partition("\n")[0]


class Rules(dict[str, Rule]):
    """Rules by name, in the order in which they are tried."""

    def rule(
        self, *, tried: str, mend: str, warns: bool = False, scope: Scope = "task"
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Take a function up as a rule; see `Rule`."""

        def register(examine: Callable[..., None]) -> Callable[..., None]:
            self[examine.__name__] = Rule(examine, tried, mend, warns, scope)
            return examine

        return register


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one rule.

    Args:
        rule: Its name.
        statement: What must hold.
        outcome: `warning` where a rule is broken that only warns.
        tried: What was tried, and with what.
        happened: What was found instead, one line; empty if it passed.
        mend: What to change; empty if it passed.
    """

    rule: str
    statement: str
    outcome: Outcome
    tried: str
    happened: str = ""
    mend: str = ""


def try_rule(
    rule: Rule, subjects: Iterable[tuple[str, Sequence[Any]]], *, home: str = ""
) -> Finding:
    """Try a rule with each subject until one breaks it; nothing that it raises gets out.

    Args:
        rule: Which one.
        subjects: What is passed to it, each with a name for people.
        home: File of what is examined, to say where it raised.
    """
    names = []
    for name, subject in subjects:
        names.append(name)
        try:
            rule(*subject)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what a plugin raises, an exit included, is its own failure
            tried = f"{rule.tried}; with {name}" if name else rule.tried
            outcome: Outcome = "warning" if rule.warns else "broken"
            happened, mend = what_happened(error, home), rule.mend
            if not isinstance(error, AssertionError):  # it did not come so far as to be judged
                mend = f"mend what raises; where nothing but this trial makes it raise, {mend}"
            return Finding(rule.name, rule.statement, outcome, tried, happened, mend)
    every = ", ".join(name for name in names if name)
    return Finding(
        rule.name, rule.statement, "passed", f"{rule.tried}; with {every}" if every else rule.tried
    )


def what_happened(error: BaseException, home: str = "") -> str:
    """One line about what a rule raised, with the place in the file `home` if it came by there."""
    said = " ".join(str(error).split())
    if isinstance(error, AssertionError):
        return said
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == home
    ]
    where = ""
    if frames:
        line = linecache.getline(home, frames[-1].lineno or 0).strip()
        where = f" (line {frames[-1].lineno} of {home}: {line})"
    return f"{type(error).__name__}: {said}".removesuffix(": ")[:500] + where
