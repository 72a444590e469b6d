"""All rules tried with one method or data set, and the report that people read."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Literal

from mmbench.checks.data import DATA_CHECKS, Subject
from mmbench.checks.elsewhere import address
from mmbench.checks.methods import METHOD_CHECKS
from mmbench.checks.rule import Finding, Rule, try_rule
from mmbench.checks.tasks import TASKS, sample_tasks, title
from mmbench.data.task import Task
from mmbench.method import Method

WIDTH = 100


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all rules.

    Args:
        name: What was examined.
        kind: Which kind of thing it is.
        findings: One a rule, in the order in which they were tried.
    """

    name: str
    kind: Literal["method", "data set"]
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> int:
        """How many rules are broken, warnings left out."""
        return sum(finding.outcome == "broken" for finding in self.findings)

    def text(self) -> str:
        """A line for each rule that is kept, a paragraph for each that is not, and a count.

        What one mistake does to many rules is told once.
        """
        lines = []
        first: dict[str, str] = {}  # what happened -> the rule that met it first
        for finding in self.findings:
            lines.append(f"{finding.outcome:<8} {finding.rule}")
            if finding.outcome == "passed":
                continue
            lines += _paragraph("rule", finding.statement)
            if (earlier := first.setdefault(finding.happened, finding.rule)) != finding.rule:
                lines += _paragraph("found", f"the same as {earlier}: mend that first")
                continue
            lines += _paragraph("tried", finding.tried)
            lines += _paragraph("found", finding.happened)
            lines += _paragraph("mend", finding.mend)
        warned = sum(finding.outcome == "warning" for finding in self.findings)
        passed = len(self.findings) - self.broken - warned
        end = f", {warned} to look at" if warned else ""
        lines += ["", f"{self.name}: {passed} of {len(self.findings)} rules kept, "]
        lines[-1] += f"{self.broken} broken{end}"
        return "\n".join(lines)

    def to_json(self) -> str:
        """As a JSON object."""
        return json.dumps(asdict(self) | {"broken": self.broken}, indent=2)


def _paragraph(label: str, text: str) -> list[str]:
    """Text behind a label, on as many lines as it needs."""
    indent = f"{'':<9}{label:<6} "
    clean = "".join(x if x.isprintable() else ascii(x)[1:-1] for x in " ".join(text.split()))
    return wrap(
        clean,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )


def check_method(name: str, cls: type[Method], task: Task | None = None) -> Report:
    """Put a method through every rule; goes on after one that is broken.

    Args:
        name: What it is called.
        cls: The method.
        task: The one to make samples of; None = all that it applies to.

    Raises:
        ValueError: If it applies to no task here, or not to that one.
    """
    if task is not None and (reason := cls.reason_not(task)):
        raise ValueError(f"{name} cannot be checked on this task: it {reason}")
    tasks = sample_tasks(cls) if task is None else [task]
    if not tasks:
        raise ValueError(f"{name} cannot be checked: it {cls.reason_not(TASKS[0])}")
    home = address(cls)[1]
    findings = []
    for rule in METHOD_CHECKS.values():
        subjects = [(title(one), (cls, one)) for one in tasks_of(rule, tasks)]
        if rule.scope == "once":
            subjects = [("", (cls, tasks[0]))]
        findings.append(try_rule(rule, subjects, home=home))
    return Report(name, "method", tuple(findings))


def check_data(name: str, subject: Subject) -> Report:
    """Put a data set through every rule; goes on after one that is broken.

    Args:
        name: What it is called.
        subject: The data set.
    """
    home = address(type(subject.data))[1]
    rules = DATA_CHECKS.values()
    findings = [try_rule(rule, [("", (subject,))], home=home) for rule in rules]
    return Report(name, "data set", tuple(findings))


def tasks_of(rule: Rule, tasks: Sequence[Task]) -> list[Task]:
    """Those of some tasks that a rule is tried with."""
    if rule.scope == "task":
        return list(tasks)
    first = {task.kind: task for task in reversed(tasks)}
    return list(first.values()) if rule.scope == "task kind" else [tasks[0]]
