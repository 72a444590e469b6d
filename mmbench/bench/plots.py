"""Plots of a report as inline SVG: text stays text, and colours follow the page.

Imports matplotlib, so only `report.py` imports this file, when a report is asked for. A method
has one colour, marker and dash in all plots of a page.
"""

import hashlib
import io
import math
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from jaxtyping import Float, Num, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Array = np.ndarray[Any, np.dtype[np.float64]]
Picture = UInt8[np.ndarray, "_ _ ..."]  # rows, columns, colours if any; sizes may differ
# Okabe and Ito, "Color Universal Design", 2008: without its yellow (too pale on white) and black
# (the page's own text colour). The page names each --m0 to --m5 and may brighten it at night.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
NIGHT = ("#4aa3dc", "#f07c2b", "#26c495", "#dd92bb", "#f2b13c", "#8fd0f5")  # of report.css
INK, RULE = "#010203", "#040506"  # stand for the page's text and line colours until written
MARKERS = "os^DvPX*<>hp"
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
DASH = "\N{EN DASH}"
WIDTH = 374.0  # pt; a phone shows it about one to one
SIZE = 10.5  # of letters, pt
RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mmbench",  # the same page from the same numbers
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.family": "DejaVu Sans",
    "font.size": SIZE,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "axes.axisbelow": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One method over missing rates.

    Args:
        name: As in tables.
        style: Position of the method in the suite; decides colour, marker and dash.
        rates: Nominal missing rates, rising.
        mean: Scores; NaN is a gap in the line.
        low: Lower ends of the interval over seeds; NaN where there is none.
        high: Upper ends.
        note: Follows the name, such as `2/3` where trainings are missing.
        spread: Drawn to either side of the mean as a thin bar; NaN where there is none.
    """

    name: str
    style: int
    rates: Float[Array, " condition"]
    mean: Float[Array, " condition"]
    low: Float[Array, " condition"]
    high: Float[Array, " condition"]
    note: str = ""
    spread: Float[Array, " condition"] | None = None


@dataclass(frozen=True)
class Dot:
    """One method in a plot of score over cost; `style` and `note` as in `Line`."""

    name: str
    style: int
    cost: float
    score: float
    note: str = ""


@matplotlib.rc_context(RC)
def curves(
    lines: Sequence[Line],
    ceiling: tuple[Float[Array, " condition"], Float[Array, " condition"]] | None,
    *,
    metric: str,
    higher: bool,
    alt: str,
    across: str = "missing rate",
    steps: bool = False,
) -> str:
    """Score over nominal missing rate, or whatever else `across` says.

    The axis leaves out methods that are far worse than all others (chance, as a rule) and says
    so in their labels; bands are cut at its ends.

    Args:
        lines: One a method.
        ceiling: Rates and best possible scores, or None where unknown.
        metric: Label of the axis.
        higher: Whether more is better.
        alt: What the plot says, in words.
        across: Label of the axis of rates.
        steps: Whether a score holds until the next rate.
    """
    figure, ax = _figure(height=max(230.0, 58 + 13.5 * (len(lines) + 1)), right=126.0)
    low, high = limits(
        [line.mean for line in lines] + ([] if ceiling is None else [ceiling[1]]), higher
    )
    drawn: dict[str, Any] = {"drawstyle": "steps-post"} if steps else {}
    filled: dict[str, Any] = {"step": "post"} if steps else {}
    faint = min(0.09, 0.8 / len(lines))  # many bands on top of each other hide the lines
    ends = []
    for line, name in zip(lines, _noted(lines), strict=True):
        colour = _colour(line.style)
        if np.isfinite(line.low).any():
            ax.fill_between(
                line.rates, line.low, line.high, color=colour, alpha=faint, linewidth=0, **filled
            )
        if line.spread is not None:
            for x, y, far in zip(line.rates, line.mean, line.spread, strict=True):
                ax.plot([x, x], [y - far, y + far], color=colour, linewidth=0.8, alpha=0.6)
        every = max(1, len(line.rates) // 8)  # or the marks of many points are one thick line
        ax.plot(
            line.rates, line.mean, color=colour, **_mark(line.style), linewidth=1.6,
            markevery=every, **drawn,
        )  # fmt: skip
        known = np.flatnonzero(np.isfinite(line.mean))
        if len(known):
            ends.append((float(line.mean[known[-1]]), name, line.style))
    if ceiling is not None:
        ax.plot(*ceiling, color=INK, linewidth=1.4, dashes=(7, 3), zorder=1.5)
        known = np.flatnonzero(np.isfinite(ceiling[1]))
        ends += [(float(ceiling[1][known[-1]]), "best possible", -1)] if len(known) else []
    ax.set_ylim(low, high)
    rates = np.unique(np.concatenate([line.rates for line in lines]))
    pad = 0.03 * (rates[-1] - rates[0]) or 0.5  # of a single rate
    ax.set_xlim(rates[0] - pad, rates[-1] + pad)
    if len(rates) <= 8:
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.set_xlabel(across)
    ax.set_title(metric, loc="left", fontsize=SIZE, pad=7)
    _label_ends(ax, ends)
    return _svg(figure, alt)


@matplotlib.rc_context(RC)
def pareto(dots: Sequence[Dot], *, cost: str, metric: str, higher: bool, alt: str) -> str:
    """Score over cost on a logarithmic axis, with the undominated methods joined.

    Methods that cost less than a thousandth of the dearest stand at the left end of the axis.

    Args:
        dots: One a method; no NaN.
        cost: Label of the horizontal axis.
        metric: Label of the vertical one.
        higher: Whether a larger score is better.
        alt: What the plot says, in words.
    """
    figure, ax = _figure(height=max(230.0, 58 + 13.5 * len(dots)), right=126.0)
    low, high = limits([np.array([dot.score]) for dot in dots], higher)
    dearest = max((dot.cost for dot in dots), default=1.0) or 1.0
    usual = [dot.cost for dot in dots if dot.cost >= dearest / 1000]
    left = min(usual, default=dearest) / 1.8
    ax.set_xscale("log")
    ax.set_xlim(left, dearest * 1.5)
    ax.minorticks_off()
    ticks = _round_amounts(left, dearest * 1.5)
    ax.set_xticks(ticks, [_amount(tick) for tick in ticks])
    front, best = [], -math.inf
    for dot in sorted(dots, key=lambda d: (d.cost, -d.score if higher else d.score)):
        value = dot.score if higher else -dot.score
        if value > best:
            front.append(dot)
            best = value
    ax.plot(
        [max(d.cost, left) for d in front], [d.score for d in front],
        color=INK, linewidth=1, alpha=0.55, drawstyle="steps-post", zorder=1,
    )  # fmt: skip
    for dot in dots:
        mark = _mark(dot.style) | {"linestyle": "none", "markersize": 7.0}
        x = max(dot.cost, left)
        inside = low <= dot.score <= high
        ax.plot([x], [dot.score], color=_colour(dot.style), clip_on=not inside, **mark)
    ax.set_ylim(low, high)
    ax.set_xlabel(cost)
    ax.set_title(metric, loc="left", fontsize=SIZE, pad=7)
    names = zip(dots, _noted(dots), strict=True)
    _label_ends(ax, [(dot.score, name, dot.style) for dot, name in names])
    return _svg(figure, alt)


@matplotlib.rc_context(RC)
def heat(
    values: Num[np.ndarray, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    alt: str,
    across: str = "",
    reverse: bool = False,
) -> str:
    """Table of colours, with numbers where they fit; a hole is an empty cell with a dash.

    Args:
        values: NaN is a hole.
        rows: Labels, from top.
        columns: Labels, from the left.
        alt: What the plot says, in words.
        across: What the columns are.
        reverse: Whether small values get the strong colour.
    """
    values = np.asarray(values, np.float64)
    n, m = values.shape
    names = _apart(rows)
    left = min(150.0, 14 + 6.4 * max(map(len, names), default=0))
    wide = max(WIDTH, left + 34 + 14.0 * m) if m > 20 else WIDTH
    cell = (wide - left - 10) / max(m, 1)
    tall = 17.0 if n <= 40 else 9.0
    labels = _apart(columns, 40)
    longest = max((len(label) for label in labels), default=0)
    slanted = longest * 5.8 + 4 > cell  # or they touch
    size = min(SIZE, max(6.0, cell * 0.8)) if slanted else SIZE
    broad = max((len(label) + sum(c in "mwMW+" for c in label) / 2 for label in labels), default=0)
    bottom = (12 + 0.63 * size * broad if slanted else 20.0) + (14 if across else 0)
    height = tall * n + bottom + 10
    figure = Figure(figsize=(wide / 72, height / 72), dpi=72)
    ax = figure.add_axes((left / wide, bottom / height, cell * m / wide, tall * n / height))
    known = values[np.isfinite(values)]
    lowest, highest = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    highest = highest if highest > lowest else lowest + 1
    colours = matplotlib.colormaps["cividis_r" if reverse else "cividis"]
    shade = (values - lowest) / (highest - lowest)
    pixels = colours(np.nan_to_num(shade))
    pixels[~np.isfinite(values)] = 0  # transparent
    ax.imshow(pixels, aspect="auto", interpolation="none")
    if cell >= 26 and n <= 40:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                # black has the better contrast on all but the darkest third of the colours
                dark = _luminance(pixels[i, j]) < 0.18
                text = _number(float(value), highest - lowest)
                ink = "#fffffe" if dark else "#000001"
            else:
                text, ink = DASH, INK
            ax.text(j, i, text, color=ink, ha="center", va="center", fontsize=min(8.5, cell / 3.2))
    ax.set_yticks(range(n), names)
    ax.set_xticks(
        range(m),
        labels,
        rotation=90 if slanted else 0,
        fontsize=size,
    )
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if across:
        ax.set_xlabel(across)
    return _svg(figure, alt)


@matplotlib.rc_context(RC)
def bars(values: Num[np.ndarray, " row"], rows: Sequence[str], *, alt: str, across: str) -> str:
    """One bar a row, from zero.

    Args:
        values: Finite.
        rows: Labels, from top.
        alt: What the plot says, in words.
        across: What the bars measure.
    """
    names = _apart(rows, 14)
    longest = max(map(len, names), default=0)
    figure, ax = _figure(
        height=52 + 16.0 * len(values), right=20.0, left=18 + 6.0 * longest, top=8.0
    )
    ax.barh(range(len(values)), np.asarray(values, np.float64), color=PALETTE[0], height=0.7)
    ax.set_yticks(range(len(values)), names)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel(across)
    return _svg(figure, alt)


@matplotlib.rc_context(RC)
def critical_difference(
    means: Mapping[str, tuple[float, int]],
    critical: float,
    *,
    alt: str,
) -> str:
    """Mean ranks, best on top; a bar on the right joins methods that do not differ.

    Source: Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7,
    2006, section 3.2.4, with a row for each method so that names stay readable.

    Args:
        means: Method -> mean rank (1 = best) and its style.
        critical: Mean ranks further apart than this differ.
        alt: What the plot says, in words.
    """
    ordered = sorted(means.items(), key=lambda item: item[1][0])
    ranks = np.array([rank for _, (rank, _) in ordered])
    groups = _cliques(ranks, critical)
    n = len(ordered)
    figure, ax = _figure(height=78 + 17.0 * n, left=132.0, right=20 + 9.0 * len(groups), top=34.0)
    for row, (_, (rank, style)) in enumerate(ordered):
        ax.plot([1, rank], [row, row], color=RULE, linewidth=0.8, zorder=1)
        mark = _mark(style) | {"linestyle": "none", "markersize": 7.0}
        ax.plot([rank], [row], color=_colour(style), **mark)
    for column, (first, last) in enumerate(groups):
        x = 1 + (12 + 9 * column) / (WIDTH - 152 - 9 * len(groups))
        ax.plot(
            [x, x], [first - 0.3, last + 0.3], color=INK, linewidth=3,
            transform=ax.get_yaxis_transform(), clip_on=False, solid_capstyle="butt",
        )  # fmt: skip
    ax.set_ylim(n - 0.5, -0.7)
    ax.set_xlim(0.8, max(n, ranks.max()) + 0.2)
    ax.set_yticks(range(n), _apart([name for name, _ in ordered]))
    ax.grid(axis="y", visible=False)
    ax.set_xticks(range(1, n + 1) if n <= 12 else range(1, n + 1, max(1, n // 8)))
    ax.set_xlabel("mean rank (1 = best)")
    top = -1.15
    end = 1 + critical
    right = min(end, n + 0.2)
    ax.plot([1, right], [top, top], color=INK, linewidth=1.2, clip_on=False)
    for x in (1, right) if right == end else (1,):
        ax.plot([x, x], [top - 0.15, top + 0.15], color=INK, linewidth=1.2, clip_on=False)
    ax.text(1, top - 0.35, f"critical difference {critical:.2f}", fontsize=9, va="bottom")
    return _svg(figure, alt)


@matplotlib.rc_context(RC)
def pairs(
    truth: Float[np.ndarray, "sample 2"],
    estimate: Float[np.ndarray, "sample 2"],
    *,
    alt: str,
) -> str:
    """Points and what was made in their place, each joined to its own by a thin line.

    Args:
        truth: Where they are in the plane.
        estimate: Where those made for them are.
        alt: What the plot says, in words.
    """
    figure, ax = _figure(height=300.0, right=14.0, left=14.0, bottom=14.0, top=30.0)
    ax.plot(
        np.stack([truth[:, 0], estimate[:, 0]]), np.stack([truth[:, 1], estimate[:, 1]]),
        color=RULE, linewidth=0.5, zorder=1,
    )  # fmt: skip
    plain: dict[str, Any] = {"linestyle": "none", "markersize": 4.5}
    ax.plot(*truth.T, marker="o", markerfacecolor="none", color=PALETTE[0], label="true", **plain)
    ax.plot(
        *estimate.T, marker="s", markeredgewidth=0, color=PALETTE[1], label="recovered", **plain
    )
    ax.axis("off")
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderpad=0,
        handletextpad=0.2,
    )  # fmt: skip
    return _svg(figure, alt)


@matplotlib.rc_context(RC)
def gallery(
    queries: Sequence[Picture],
    neighbours: Sequence[Sequence[Picture]],
    *,
    labels: Sequence[str],
    alt: str,
) -> str:
    """A row for each query: its picture, then the pictures that were retrieved for it.

    Args:
        queries: Pictures with values 0 to 255.
        neighbours: For each query those retrieved, first the closest.
        labels: A name for each query.
        alt: What the plot says, in words.
    """
    columns = 1 + max((len(row) for row in neighbours), default=0)
    gap, top = 6.0, 20.0
    size = min(88.0, (WIDTH - 12 - gap * columns) / columns)
    height = top + len(queries) * (size + gap + 14)
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    for i, (query, row) in enumerate(zip(queries, neighbours, strict=True)):
        y = height - top - (i + 1) * (size + gap + 14) + gap
        figure.text(4 / WIDTH, (y + size + 3) / height, _short(labels[i], 56), fontsize=8.5)
        for j, picture in enumerate([query, *row]):
            x = 4 + j * (size + gap) + (gap if j else 0)
            ax = figure.add_axes((x / WIDTH, y / height, size / WIDTH, size / height))
            ax.axis("off")
            ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="none")
    figure.text(4 / WIDTH, 1 - 12 / height, "query", fontsize=9)
    figure.text((10 + size + gap) / WIDTH, 1 - 12 / height, "retrieved", fontsize=9)
    return _svg(figure, alt)


def standalone(svg: str) -> str:
    """Make a plot a file of its own: with the colours of the page, by day and by night."""
    root = ElementTree.fromstring(svg)
    _, _, width, height = root.attrib["viewBox"].split()
    for name in ("style", "class"):
        root.attrib.pop(name, None)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("width", width)
    root.set("height", height)
    style = ElementTree.Element("style")
    day = "".join(f"--m{i}:{colour};" for i, colour in enumerate(PALETTE))
    night = "".join(f"--m{i}:{colour};" for i, colour in enumerate(NIGHT))
    style.text = (
        f"svg{{{day}--rule:#b9bec7;color:#1b1e23;font-family:sans-serif}}"
        f"@media (prefers-color-scheme:dark){{svg{{{night}--rule:#4a505c;color:#e8eaed}}}}"
    )
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


@matplotlib.rc_context(RC)
def swatch(style: int) -> str:
    """A small sample of a method's line and marker, to stand beside its name."""
    figure = Figure(figsize=(26 / 72, 12 / 72), dpi=72)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    ax.set_xlim(0, 26)
    ax.set_ylim(0, 12)
    ax.plot([1, 13, 25], [6, 6, 6], color=_colour(style), markevery=[1], **_mark(style))
    return _svg(figure, None)


def _cliques(ranks: Float[Array, " method"], critical: float) -> list[tuple[int, int]]:
    """First and last row of each largest group within the critical difference; ranks rise."""
    groups: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.flatnonzero(ranks - ranks[first] <= critical + 1e-12)[-1])
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def limits(values: Sequence[Array], higher: bool) -> tuple[float, float]:
    """Axis from worst to best, without those that are far worse than all others.

    Args:
        values: Of each line; NaN does not count.
        higher: Whether more is better.
    """
    ordered = sorted(
        (v[np.isfinite(v)] * (1 if higher else -1) for v in values if np.isfinite(v).any()),
        key=lambda v: float(v.max()),
    )
    # chance and the like, below a gap that would squeeze all others into one line
    for skip in (1, 2):
        if len(ordered) < skip + 2:
            break
        rest = np.concatenate(ordered[skip:])
        if ordered[skip - 1].max() < rest.min() - 0.6 * (rest.max() - rest.min()) - 1e-9:
            return _padded(rest, higher)
    return _padded(np.concatenate(ordered) if ordered else np.array([0.0, 1.0]), higher)


def _padded(values: Array, higher: bool) -> tuple[float, float]:
    values = values if higher else -values
    low, high = float(values.min()), float(values.max())
    pad = 0.07 * (high - low) or 0.05 * abs(high) or 0.5
    return low - pad, high + pad


def _figure(
    *, height: float, right: float, left: float = 44.0, top: float = 26.0, bottom: float = 40.0
) -> tuple[Figure, Axes]:
    """An axes inside fixed margins, in points."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    ax = figure.add_axes(
        (
            left / WIDTH,
            bottom / height,
            (WIDTH - left - right) / WIDTH,
            (height - top - bottom) / height,
        )
    )
    ax.grid(visible=True)
    ax.tick_params(length=0)
    return figure, ax


def _label_ends(ax: Axes, ends: Sequence[tuple[float, str, int]]) -> None:
    """Name the lines at the right of the axes, pushed apart where they would overlap."""
    low, high = ax.get_ylim()
    height = ax.get_position().height * float(ax.figure.bbox.height)  # pt, since dpi is 72
    ordered = sorted(ends, key=lambda end: end[0])
    wanted = np.array([(np.clip(y, low, high) - low) / (high - low) for y, _, _ in ordered])
    places = _spread(wanted * height, 13.0, height + 8)
    width = ax.get_position().width * float(ax.figure.bbox.width)
    for (y, name, style), want, place in zip(ordered, wanted, places, strict=True):
        off = " ↓" if y < low else " ↑" if y > high else ""
        x = [1.0, 1 + 7 / width, 1 + 10 / width]
        ax.plot(
            [*x, 1 + 13 / width], [want, place / height, place / height, place / height],
            color=_colour(style), transform=ax.transAxes, clip_on=False, linewidth=0.8, alpha=0.8,
        )  # fmt: skip
        if style >= 0:
            mark = _mark(style) | {"linestyle": "none", "markersize": 5.0}
            ax.plot(
                [1 + 13 / width], [place / height],
                color=_colour(style), transform=ax.transAxes, clip_on=False, **mark,
            )  # fmt: skip
        ax.text(
            1 + 19 / width, place / height, name + off,
            transform=ax.transAxes, va="center_baseline", fontsize=9.5,
        )  # fmt: skip


def _spread(wanted: Float[Array, " label"], gap: float, top: float) -> Float[Array, " label"]:
    """Move rising places apart to at least `gap`, as little as possible, below `top`."""
    # the smallest squared move is an isotonic regression of the places less their gaps
    steps = gap * np.arange(len(wanted))
    blocks: list[tuple[float, int]] = []
    for value in wanted - steps:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, n), (a, m) = blocks.pop(), blocks.pop()
            blocks.append(((a * m + b * n) / (m + n), m + n))
    flat = np.array([value for value, n in blocks for _ in range(n)])
    highest = top - gap * max(len(wanted) - 1, 0)
    return np.asarray(np.clip(flat, min(-8.0, highest), highest) + steps)


def _colour(style: int) -> str:
    """The page's text colour where there is no method, and after each round of the palette."""
    place = style % (len(PALETTE) + 1)
    return INK if style < 0 or place == len(PALETTE) else PALETTE[place]


def _mark(style: int) -> dict[str, Any]:
    return {
        "marker": MARKERS[style % len(MARKERS)],
        "linestyle": DASHES[style // (len(PALETTE) + 1) % len(DASHES)],
        "markersize": 4.5,
        "markeredgewidth": 0,
    }


def _short(text: str, most: int = 21) -> str:
    """One line of bounded length: what is too long loses its middle, as names differ at their end.

    Characters that XML cannot hold become blanks.
    """
    clean = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in text)
    head = most // 2
    return clean if len(clean) <= most else f"{clean[:head]}…{clean[head + 1 - most :]}"


def _apart(names: Sequence[str], most: int = 21) -> list[str]:
    """Short forms of names that stay apart: where two would look alike, what they share goes."""
    short = [_short(name, most) for name in names]
    for form in {one for one in short if short.count(one) > 1}:
        alike = [i for i, one in enumerate(short) if one == form]
        group = [names[i] for i in alike]
        letters = enumerate(zip(*group, strict=False))
        same = next((i for i, each in letters if len(set(each)) > 1), min(map(len, group)))
        for i in alike:
            if len(names[i]) > most:
                short[i] = _short(f"{names[i][:6]}…{names[i][same : same + most - 7]}", most)
    return short


def _luminance(rgba: Array) -> float:
    """Relative luminance in [0, 1], as in the Web Content Accessibility Guidelines 2."""
    linear = np.where(rgba <= 0.04045, rgba / 12.92, ((rgba + 0.055) / 1.055) ** 2.4)
    return float(linear[:3] @ np.array([0.2126, 0.7152, 0.0722]))


def _round_amounts(low: float, high: float) -> list[float]:
    """At most five round numbers for a logarithmic axis; two at least where there is room."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [d * 10.0**e for e in decades for d in digits if low <= d * 10.0**e <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: -(-len(ticks) // 5) or 1]


def _amount(value: float) -> str:
    """`0.5`, `20`, `5k`, `2M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _noted(of: Sequence[Line] | Sequence[Dot]) -> list[str]:
    """Short names, each with its note behind it."""
    notes = [f" {one.note}" if one.note else "" for one in of]
    names = _apart([one.name for one in of], 19 - max(map(len, notes), default=0))
    return [name + note for name, note in zip(names, notes, strict=True)]


def _number(value: float, span: float) -> str:
    if abs(value) < span / 1e6:
        return "0.00"  # what rounding left of it
    if abs(value) >= 1000 or abs(value) < 0.001:
        return f"{value:.0e}"
    if abs(value) >= 10 and span >= 1:
        return f"{value:.0f}"
    return f"{value:z.2f}"  # no "-0.00"


_TOKENS = {INK: "currentColor", RULE: "var(--rule)"} | {
    colour: f"var(--m{i})" for i, colour in enumerate(PALETTE)
}


def _svg(figure: Figure, alt: str | None) -> str:
    """Write a figure so that it may stand in a page beside others.

    Names of the page's colours take the place of fixed ones; ids get a prefix of their own;
    metadata, namespaces and fonts go, since nothing may point outside the page.
    """
    stream = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # the reader's browser has the letter, whatever matplotlib's own font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue().decode()
    prefix = f"p{hashlib.sha256(f'{alt}{text}'.encode()).hexdigest()[:8]}-"
    root = ElementTree.fromstring(text)
    links = "{http://www.w3.org/1999/xlink}href"
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    for parent in list(root.iter()):
        for child in list(parent):
            tag = child.tag.rpartition("}")[2]
            if tag in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if links in element.attrib:
            element.set("href", element.attrib.pop(links))
        for name, value in list(element.attrib.items()):
            element.set(name, _attribute(name, value, prefix))
        if element.get("id", "").removeprefix(prefix) not in used:
            element.attrib.pop("id", None)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    if alt is None:
        root.set("aria-hidden", "true")
    else:
        root.set("role", "img")
        root.set("aria-label", alt)
    root.set("style", f"--w:{figure.bbox.width:.0f}")
    if figure.bbox.width > WIDTH + 1:
        root.set("class", "wide")  # scrolls sideways rather than shrinks
    written = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
    return re.sub(r">\s+<", "><", written)


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name in ("href", "clip-path") and "#" in value and not value.startswith("data:"):
        return value.replace("#", f"#{prefix}", 1)
    if name == "style":
        value = re.sub(r"font: ([\d.]+)px[^;]*", r"font-size: \1px", value)
        for colour, token in _TOKENS.items():
            value = value.replace(colour, token)
        return value.replace("; ", ";").replace(": ", ":")
    if name in ("d", "transform", "x", "y", "width", "height"):
        return re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", value).strip()
    return value
