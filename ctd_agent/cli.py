"""The ctd-agent command. Errors become exit codes here and nowhere else."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import typer

from ctd_agent.commands.characterize import characterize
from ctd_agent.commands.convert import dataset
from ctd_agent.commands.distill import app as distill
from ctd_agent.commands.evaluate import evaluate
from ctd_agent.commands.index import index, search
from ctd_agent.commands.label import label
from ctd_agent.commands.models import models
from ctd_agent.commands.report import report
from ctd_agent.errors import CtdError, UserError
from ctd_agent.process import heed_signals, mend_streams

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would take the [@URL] of a model spec for markup
    help="Label documents from large catalogues: a model shortlists, then a model chooses.",
)

app.command(epilog="Example: ctd-agent label documents.jsonl --labels catalogue.csv -o labelled.jsonl")(label)
app.command(epilog="Example: ctd-agent index catalogue.csv --out ./my-index")(index)
app.command(epilog='Example: ctd-agent search ./my-index "central bank raises rates"')(search)
app.command("eval", epilog="Example: ctd-agent eval labelled.jsonl --gold gold.jsonl")(evaluate)
app.command(epilog="Example: ctd-agent characterize dev.jsonl --labels catalogue.csv --out ./study")(characterize)
app.command(epilog="Example: ctd-agent report labelled.jsonl --gold gold.jsonl --out report.html")(report)
app.command(epilog="Example: ctd-agent dataset ./LF-AmazonTitles-131K --out ./amazon")(dataset)
app.add_typer(distill, name="distill")
app.command(epilog="Example: ctd-agent models --pull")(models)

INTERRUPTED = 130


def main() -> None:
    """Run the command line and end the process. After SIGTERM the exit code is 143."""
    mend_streams()
    came = heed_signals()
    if code := run():
        os._exit(128 + came[0] if came else code)  # at once: documents still under way are given up


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return the exit code.

    0: done. 1: a document has failed, or something of ours or an engine. 2: the user's fault. 130: interrupted.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # JSON is UTF-8; a terminal shows what it can
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="replace")
    try:
        code = _command(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _fail(f"error: {error}", 2)
    except BrokenPipeError:  # `ctd-agent ... | head`
        return 1
    except (CtdError, OSError) as error:
        return _fail(f"error: {error}", 1)
    return _fail("interrupted", code) if code == INTERRUPTED else code


def _command(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    for argument in arguments:
        if any("\ud800" <= char <= "\udfff" for char in argument):
            raise UserError(f"{argument!r}: not UTF-8")  # Python keeps a stray byte as half a surrogate pair
    try:
        app(arguments)
    except SystemExit as end:  # how typer ends, Ctrl-C included
        return end.code if isinstance(end.code, int) else 0
    return 0


def _fail(message: str, code: int) -> int:
    from ctd_agent.console import note

    note(message)
    return code
