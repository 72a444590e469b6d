"""The command `mmbench`: which commands there are, and what an error looks like."""

import codecs
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmbench.cli.archive import archive, merge
from mmbench.cli.board import compare, leaderboard
from mmbench.cli.card import card
from mmbench.cli.check import check
from mmbench.cli.data import check_data, describe_data, init_data, list_data, write_twin
from mmbench.cli.delete import delete
from mmbench.cli.errors import end
from mmbench.cli.listing import list_things
from mmbench.cli.masks import export_masks, import_masks, verify_masks
from mmbench.cli.new import new
from mmbench.cli.report import report
from mmbench.cli.run import plan, run
from mmbench.cli.status import status
from mmbench.cli.verify import verify
from mmbench.cli.work import work

# signs of our tables where the terminal has none of them
PLAIN = {"±": "+-", "↑": "^", "†": "+", "·": "-", "…": "...", "—": "-", "≥": ">=", "≤": "<="}
NARROWEST = 20  # columns of a terminal that is believed


class _Group(TyperGroup):
    """Keeps typer from saying "Aborted." of a file that ended early."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EOFError as error:
            what = RuntimeError(f"EOFError: {error}".removesuffix(": "))
            raise what.with_traceback(error.__traceback__) from error


app = typer.Typer(
    cls=_Group,
    name="mmbench",
    help=(
        "Benchmark suite for multimodal learning with missing modalities.\n\n"
        "Start with `mmbench run`: it trains the built-in quickstart suite and prints a "
        "leaderboard. The same command again continues where it stopped."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Data sets: what there is, whether your files are whole, what is in them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
masks_app = typer.Typer(
    help="Presence tables: write down what a run withholds, check such a file, or take over a "
    "table of yours or of a paper's released code.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

app.command()(run)
app.command()(work)
app.command()(plan)
app.command()(status)
app.command()(leaderboard)
app.command()(compare)
app.command()(report)
app.command()(archive)
app.command()(merge)
app.command()(verify)
app.command()(delete)
app.command("list")(list_things)
app.command()(card)
app.command()(check)
app.command()(new)
app.add_typer(data_app, name="data")
app.add_typer(masks_app, name="masks")
data_app.command("list")(list_data)
data_app.command("check")(check_data)
data_app.command("describe")(describe_data)
data_app.command("init")(init_data)
data_app.command("twin")(write_twin)
masks_app.command("export")(export_masks)
masks_app.command("verify")(verify_masks)
masks_app.command("import")(import_masks)


def _show_version(value: bool) -> bool:
    if value:
        import mmbench

        typer.echo(f"mmbench {mmbench.__version__}")
        raise typer.Exit
    return value


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Say which version this is.", is_eager=True, callback=_show_version
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error.")
    ] = False,
) -> None:
    """Options of all commands; `start` looks for --debug, since errors end what has read it.

    Raises:
        ValueError: If a library that is imported later would fail on an environment variable.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads and not (threads.isdecimal() and int(threads[:9]) > 0):
        raise ValueError(
            f"the environment variable OMP_NUM_THREADS is {threads!r}, no whole number above 0; "
            "set it to one, or unset it (runs have trainer.threads)"
        )


def start() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    debug = sys.argv[1:2] == ["--debug"]
    width = os.environ.get("COLUMNS", "")
    if width.isdecimal() and not (len(width) < 6 and int(width) >= NARROWEST):
        del os.environ["COLUMNS"]  # in no room, or in endless room, nothing would be printed
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # or the next file that is opened would get its number
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a sign that the terminal lacks is spelt out
            stream.reconfigure(errors="mmbench.plain")
    try:
        app(prog_name="mmbench")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if debug:
            raise
        end(error)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign, "?") for sign in signs), error.end


codecs.register_error("mmbench.plain", _plain)
