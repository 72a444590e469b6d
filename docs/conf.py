"""Documentation: the READMEs where they lie, and the API from its docstrings."""

import re
import shutil
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

from mmbench.bench.compare import read_board
from mmbench.bench.report import write_plots
from mmbench.bench.spec import suites
from mmbench.config import load_config
from mmbench.registry import DATASETS, METHODS

HERE = Path(__file__).parent
GENERATED = HERE / "generated"  # not kept: written anew by every build
RESULTS = HERE.parent / "results"

project = "mmbench"
author = "the mmbench contributors"
version = release = version_of("mmbench")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",  # Google style
    "sphinx.ext.viewcode",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_static_path, html_css_files = ["_static"], ["mmbench.css"]
html_theme = "pydata_sphinx_theme"
html_title = f"mmbench {release}"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_show_sourcelink = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# links of the READMEs into the repository, such as to a folder, are no pages of this site
suppress_warnings = ["myst.xref_missing", "myst.header"]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autosummary_generate = True
napoleon_use_rtype = False
default_role = "code"  # single backticks, as the docstrings have them


def page(name: str, title: str, about: str, modules: list[str]) -> None:
    """Write a page that lists modules, each with a page of its own."""
    lines = [f"# {title}", "", about, "", "```{eval-rst}", ".. autosummary::"]
    lines += ["   :toctree: api", "   :template: module.rst", ""]
    lines += [f"   {module}" for module in modules]
    (GENERATED / f"{name}.md").write_text("\n".join([*lines, "```", ""]), encoding="utf-8")


def gallery() -> None:
    """Write a page that shows a plot of each published suite, and for each a page with its table.

    Plots are drawn from the published numbers, all in one style.
    """
    built_in = suites()
    lines = ["# Gallery", "", "Published suites, each with its tables and plots.", ""]
    names = sorted(folder.parent.name for folder in RESULTS.glob("*/leaderboard.csv"))
    lines += ["```{toctree}", ":hidden:", "", *(f"published/{name}" for name in names), "```", ""]
    for name in names:
        table = RESULTS / name / "leaderboard.md"
        about = ""
        if name in built_in:
            about = str(load_config(built_in[name], kind="suite").get("about", ""))
        metric = re.search(r"^Metric: (\w+)", table.read_text(encoding="utf-8"), re.MULTILINE)
        assert metric, table
        folder = GENERATED / "published" / name
        drawn = write_plots(read_board(RESULTS / name), folder, metric=metric[1])
        figures = [f"![{plot.stem.replace('_', ' ')}]({name}/{plot.name})" for plot in drawn]
        own = [f"```{{include}} ../../../results/{name}/leaderboard.md", ":relative-images:", "```"]
        (folder.parent / f"{name}.md").write_text(
            "\n".join([*own, "", "## Plots", "", *figures, ""]), encoding="utf-8"
        )
        lines += [f"## [{name}](published/{name}.md)", "", about, ""]
        lines += [
            f"![{plot.stem.replace('_', ' ')}](published/{name}/{plot.name})" for plot in drawn[:1]
        ]
        lines.append("")
    (GENERATED / "gallery.md").write_text("\n".join(lines), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Show what docstrings hold: those of modules as they were written, in columns."""

    def as_written(_: Sphinx, what: str, *rest: object) -> None:
        lines = rest[-1]
        assert isinstance(lines, list)
        if what == "module" and lines:
            lines[:] = ["::", "", *(f"   {line}" for line in lines)]
        else:  # |x - y| is a size here, and a substitution in reStructuredText
            lines[:] = [re.sub(r"(`[^`]*`)|\|", lambda m: m[1] or r"\|", line) for line in lines]

    def without_bounds(*event: object) -> tuple[str, object] | None:
        """A number in a signature, whose bounds the docstring says in words."""
        signature, returns = event[-2:]
        if not isinstance(signature, str):
            return None
        return re.sub(r"Annotated\[(\w+), FieldInfo\(.*?\]\)\]", r"\1", signature), returns

    app.connect("autodoc-process-docstring", as_written)
    app.connect("autodoc-process-signature", without_bounds)


shutil.rmtree(GENERATED, ignore_errors=True)  # a page of what was taken out has nothing to show
GENERATED.mkdir()
page(
    "methods",
    "Methods",
    "One file a paper: idea, notation, differences from the paper, the class.",
    [f"mmbench.methods.{name}" for name in METHODS.names() if "/" not in name],
)
page(
    "datasets",
    "Data sets",
    "One file a data set: format, origin of the split, licence, known leaks.",
    [f"datamodules.{name}" for name in DATASETS.names() if "/" not in name],
)
page(
    "library",
    "Library",
    "What the command line stands on, and what a plugin builds on.",
    [
        "mmbench.sweep",
        "mmbench.trained",
        "mmbench.method",
        "mmbench.datamodule",
        "mmbench.picture_set",
        "mmbench.data.task",
        "mmbench.data.batch",
        "mmbench.data.samples",
        "mmbench.data.scenario",
        "mmbench.diagnostics",
        "mmbench.layers.encoders",
        "mmbench.metrics.metric",
        "mmbench.bench.result",
        "mmbench.bench.statistics",
        "mmbench.store",
    ],
)
gallery()
