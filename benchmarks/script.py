"""Common to the benchmarks: a command line, runs that go on where they were cut, tables in markdown."""

import json
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ctd_agent.console import note, progress
from ctd_agent.errors import UserError
from ctd_agent.graphs.batch import Output
from ctd_agent.graphs.budget import Budget
from ctd_agent.measure.metrics import bootstrap
from ctd_agent.records import read_records
from ctd_agent.schema import Document, LabeledDocument, Usage


def command_line(description: str | None) -> ArgumentParser:
    """Return a script's parser. Its description, the module's docstring, is printed as written."""
    return ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)


def run(main: Callable[[], None]) -> None:
    """Run a script. A user's error ends it with a message and exit code 2."""
    try:
        main()
    except UserError as error:
        note(f"error: {error}")
        raise SystemExit(2) from error


def in_own_process(*arguments: str) -> Any:
    """Run this script again with more arguments in a fresh process. Return the JSON that it prints last."""
    command = [sys.executable, *sys.argv, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this very script
    return json.loads(done.stdout.splitlines()[-1])


def label_left(
    path: Path, documents: Sequence[Document], label: Callable[[list[Document]], Iterable[LabeledDocument]]
) -> list[LabeledDocument]:
    """Label the documents without a result in a file, and return all its results. `label` is not called for none."""
    with Output(path) as output:
        if todo := output.left(documents):
            before = len(documents) - len(todo)
            with progress(str(path), len(documents), before) as show:
                for done, result in enumerate(label(todo), start=before + 1):
                    output.write(result)
                    show(done)
    return list(read_records(path, LabeledDocument))


def as_read(document: Document) -> str:
    """Return the part of a document that the graph reads by default."""
    return document.text.encode()[: Budget().document].decode(errors="ignore")


def spent(results: Iterable[LabeledDocument]) -> Usage:
    """Return the cost of results, all phases together."""
    return sum((phase for result in results for phase in result.usage.values()), Usage())


def worked_on(usage: Usage) -> int:
    """Return the tokens that an engine worked on: prompts without the cached part, and answers."""
    return usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens


def interval(values: Sequence[float], sign: str = "") -> str:
    """Return a table's cell: the mean with its 95% bootstrap interval. `sign` is "+" for a difference."""
    return f"{bootstrap(values):{sign}.3f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "l") -> Iterator[str]:
    """Yield the lines of a markdown table. `align` has "l" or "r" for each of the first columns, the rest are "r"."""
    sides = ["---" if side == "l" else "--:" for side in align.ljust(len(header), "r")]
    for row in chain([header, sides], rows):
        yield f"| {' | '.join(row)} |"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "l") -> None:
    """Print a markdown table, every row as it comes."""
    for line in table(header, rows, align):
        print(line, flush=True)
