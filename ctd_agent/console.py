"""What people see: progress and notes on stderr, tables on stdout."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ctd_agent.agents.weights import Status
from ctd_agent.schema import Failure, LabeledDocument
from ctd_agent.tools.label_index import Hit

QUIET = 10.0  # seconds between progress lines where stderr is no terminal


def note(message: str) -> None:
    """Say something on stderr, as plain text."""
    Console(stderr=True, soft_wrap=True).print(Text(message))


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr: a bar on a terminal, else a line every few seconds and one at the end.

    Yields the function to call with the number done so far.
    """
    if not sys.stderr.isatty():
        yield _lines(what, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda now: bar.update(task, completed=now)


def _lines(what: str, total: int) -> Callable[[int], None]:
    last = monotonic()

    def show(done: int) -> None:
        nonlocal last
        if done == total or monotonic() - last > QUIET:
            last = monotonic()
            note(f"{what}: {done}/{total}")

    return show


def show_table(table: Table) -> None:
    """Print a table on stdout."""
    Console().print(table)


def result_table(result: LabeledDocument) -> Table:
    """Return a labelled document as a table: a row a label, what went wrong below it."""
    table = Table(
        "#", "label", "id", "score", "reason", title=Text(result.id), title_justify="left", caption_justify="left"
    )
    for chosen in result.labels:
        row = (str(chosen.rank), chosen.name, chosen.id, f"{chosen.score:.2f}", chosen.reason)
        table.add_row(*map(Text, row))
    remarks = []
    if result.truncated_from is not None:
        remarks.append(f"Only the beginning of {result.truncated_from:,} characters was read.")
    if result.failure is not None:
        remarks.append(failure_text(result.failure))
    elif not result.labels:
        remarks.append("No label applies.")
    table.caption = Text("\n".join(remarks)) if remarks else None
    return table


def failure_text(failure: Failure) -> str:
    """Return a failure in words, on one line."""
    return f"{failure.phase} failed ({failure.kind}): {' '.join(failure.message.split())[:300]}"


def models_table(specs: Mapping[str, str], local: Status) -> Table:
    """Return what a model spec can be, and whether the weights of `local` are here."""
    table = Table("model", "what it is", title="Models", title_justify="left", caption_justify="left")
    for spec, meaning in specs.items():
        table.add_row(Text(spec), Text(meaning))
    where = f"in {local.path}" if local.present else "not fetched yet: `ctd-agent models --pull`, or at first use"
    table.caption = Text(f"local: {local.path.stem}, {local.size / 1e9:.2f} GB, {local.licence}; {where}")
    return table


def hits_table(hits: Sequence[Hit]) -> Table:
    """Return search hits as a table."""
    table = Table("#", "id", "name", "score", "description")
    for rank, hit in enumerate(hits, start=1):
        description = " ".join(hit.label.description.split())[:80]
        table.add_row(*map(Text, (str(rank), hit.label.id, hit.label.name, f"{hit.score:.4f}", description)))
    return table
