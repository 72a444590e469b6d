"""What the docstrings of a method or a data set say, taken apart."""

import inspect
import re
import sys

LABEL = re.compile(r"^([A-Z][\w -]*?)(?: `\w+`)?(?:,[^:\n]*)?:\s", re.MULTILINE)
SECTIONS = re.compile(r"^(?:Args|Attributes|Raises|Returns|Example|Yields):\n", re.MULTILINE)


def module_doc(cls: type) -> str:
    """Docstring of the file that a class stands in."""
    return inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")


def class_doc(cls: type) -> str:
    """Docstring of a class without its sections on arguments and errors."""
    return SECTIONS.split(inspect.cleandoc(cls.__doc__ or ""))[0].strip()


def summary(cls: type) -> str:
    """First line of a class."""
    return class_doc(cls).partition("\n")[0]


def paragraphs(cls: type) -> dict[str, str]:
    """Label -> what follows it: `Split` of a data set, `Idea` or `Paper` of a method.

    Labels stand at the start of a line, begin with a capital and end with a colon. Of a label that
    occurs more than once all texts are joined.
    """
    texts: dict[str, str] = {}
    for text in (module_doc(cls), class_doc(cls)):
        marks = list(LABEL.finditer(text))
        bounds = [mark.start() for mark in marks] + [len(text)]
        for mark, end in zip(marks, bounds[1:], strict=True):
            name = mark[1]
            # what is said of the label itself (`Split given`, `Sanity, accuracy of ...`) stays
            said = text[mark.start() : end].removeprefix(f"{name}:").strip()
            texts[name] = f"{texts[name]}\n\n{said}" if name in texts else said
    return texts


def arguments(cls: type) -> dict[str, str]:
    """Argument -> what the docstring of a class says of it, on one line."""
    parts = re.split(r"^Args:\n", inspect.cleandoc(cls.__doc__ or ""), flags=re.MULTILINE)
    if len(parts) < 2:
        return {}
    body = re.split(r"^\S", parts[1], maxsplit=1, flags=re.MULTILINE)[0]
    texts = re.findall(r"^ {4}(\*{0,2}\w+): (.*(?:\n {5,}.*)*)", body, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in texts}
