"""The command `mmbench`: which commands there are, and what an error looks like."""

import sys
from typing import Annotated, NoReturn

import typer

from mmbench.cli.board import compare, leaderboard
from mmbench.cli.data import check_data, describe_data, list_data
from mmbench.cli.delete import delete
from mmbench.cli.listing import check, list_things
from mmbench.cli.masks import export_masks, import_masks, verify_masks
from mmbench.cli.report import report
from mmbench.cli.run import plan, run
from mmbench.cli.show import visible
from mmbench.cli.status import status

app = typer.Typer(
    name="mmbench",
    help=(
        "Benchmark suite for multimodal learning with missing modalities.\n\n"
        "Start with `mmbench run`: it trains the built-in quickstart suite and prints a "
        "leaderboard. The same command again continues where it stopped."
    ),
    no_args_is_help=True,
    add_completion=False,
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
app.command()(plan)
app.command()(status)
app.command()(leaderboard)
app.command()(compare)
app.command()(report)
app.command()(delete)
app.command("list")(list_things)
app.command()(check)
app.add_typer(data_app, name="data")
app.add_typer(masks_app, name="masks")
data_app.command("list")(list_data)
data_app.command("check")(check_data)
data_app.command("describe")(describe_data)
masks_app.command("export")(export_masks)
masks_app.command("verify")(verify_masks)
masks_app.command("import")(import_masks)


def _show_version(asked: bool) -> bool:
    if asked:
        import mmbench

        typer.echo(f"mmbench {mmbench.__version__}")
        raise typer.Exit
    return asked


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
    """Options of all commands; `start` looks for --debug, since errors end what has read it."""


def start() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    debug = sys.argv[1:2] == ["--debug"]
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except ValueError as error:
        if debug:
            raise
        _fail(str(error), code=2)
    except OSError as error:
        if debug:
            raise
        _fail(
            f"{error.strerror}: {error.filename or 'disk'}; finished runs are kept, and the same "
            "command continues once that is mended",
            code=1,
        )


def _fail(message: str, *, code: int) -> NoReturn:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print("[bold red]error:[/] ", end="")
    sys.stderr.write(f"{visible(message)}\n")
    raise SystemExit(code)
