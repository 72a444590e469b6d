"""What several commands print: tables, patterns, counts."""

from collections.abc import Iterable, Mapping, Sequence

SHOWN_PATTERNS = 12


def visible(text: str) -> str:
    """Any text on one line; letters that a terminal obeys, or that turn a line round, spelt out."""
    one = " ".join(text.split())
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in one)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
    """Print a table; the first `left` columns are words, the others numbers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for i, column in enumerate(header):
        table.add_column(escape(visible(column)), justify="left" if i < left else "right")
    for row in rows:
        table.add_row(*(escape(visible(cell)) for cell in row))
    Console().print(table)


def print_patterns(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Counts of patterns, a column each; rare ones are put together."""
    total: dict[str, int] = {}
    for column in counts.values():
        for pattern, n in column.items():
            total[pattern] = total.get(pattern, 0) + n
    ordered = sorted(total, key=lambda pattern: -total[pattern])
    first, rest = ordered[:SHOWN_PATTERNS], ordered[SHOWN_PATTERNS:]
    rows = [(p, *(str(column.get(p, 0)) for column in counts.values())) for p in first]
    if rest:
        sums = (str(sum(column.get(p, 0) for p in rest)) for column in counts.values())
        rows.append((f"{counted(len(rest), 'other')}", *sums))
    print_table(("pattern", *counts), rows)


def counted(n: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
