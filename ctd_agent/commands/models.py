"""`ctd-agent models`: what a model spec can be, and the weights of `local`."""

import json
import sys
from typing import Annotated

import typer

from ctd_agent.commands.options import Json


def models(
    pull: Annotated[bool, typer.Option("--pull", help="Fetch the weights of `local` now.")] = False,
    as_json: Json = False,
) -> None:
    """Say which models there are, what `local` is, and how to get it."""
    from ctd_agent.agents.models import SPECS
    from ctd_agent.agents.weights import fetch, status
    from ctd_agent.console import models_table, show_table

    if pull:
        fetch()
    local = status()
    if sys.stdout.isatty() and not as_json:
        show_table(models_table(SPECS, local))
    else:
        sys.stdout.write(json.dumps({"local": local._asdict(), "specs": SPECS}, default=str) + "\n")
