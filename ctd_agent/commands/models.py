"""`ctd-agent models`: the forms of a model spec, and the weights of `local`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ctd_agent.commands.options import Json

if TYPE_CHECKING:
    from ctd_agent.agents.engines.weights import Status


def models(
    pull: Annotated[bool, typer.Option("--pull", help="Fetch the weights of `local` now.")] = False,
    as_json: Json = False,
) -> None:
    """List the models there are. Say what `local` is, and how to get it."""
    from ctd_agent.agents.engines import ENGINES
    from ctd_agent.agents.engines.weights import fetch, status
    from ctd_agent.console import say_json

    if pull:
        fetch()
    local = status()
    specs = {engine.form: engine.help for engine in ENGINES}
    if sys.stdout.isatty() and not as_json:
        _show(specs, local)
    else:
        say_json(json.dumps({"local": local._asdict(), "specs": specs}, default=str))


def _show(specs: dict[str, str], local: "Status") -> None:
    from rich.table import Table

    from ctd_agent.console import plain, show_table

    table = Table("model", "what it is", title="Models", title_justify="left", caption_justify="left")
    for spec, meaning in specs.items():
        table.add_row(plain(spec), plain(meaning))
    where = f"in {local.path}" if local.present else "not fetched yet: `ctd-agent models --pull`, or at first use"
    table.caption = plain(f"local: {local.path.stem}, {local.size / 1e9:.2f} GB, {local.licence}; {where}")
    show_table(table)
