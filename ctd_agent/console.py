"""Output for people: progress and notes on stderr, tables on stdout."""

import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ctd_agent.errors import redacted
from ctd_agent.schema import Failure, LabeledDocument, Usage

QUIET = 10.0  # seconds between progress lines where stderr is no terminal

# What commands a terminal or turns the text around it: control characters, overrides of direction.
_COMMANDS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"


class Show(Protocol):
    """Shows progress."""

    def __call__(self, done: int, print_above: Callable[[], None] | None = None) -> None:
        """Show how many are done. `print_above` prints something first, with no bar in its way."""


def plain(text: str) -> Text:
    """Return a text that is shown as it is: no markup, and no control character reaches the terminal."""
    return Text(re.sub(f"[{_COMMANDS}]", "�", text))


def inline(text: str) -> str:
    r"""Return a text on one line, with line breaks and control characters escaped.

    >>> print(inline("a\nb"))
    a\nb
    """
    return re.sub(f"[\n\t{_COMMANDS}]", lambda found: ascii(found.group())[1:-1], text)


def say_json(line: str) -> None:
    """Write a line of JSON on stdout. It is the same value, with every control character escaped."""
    sys.stdout.write(re.sub(f"[{_COMMANDS}]", lambda found: f"\\u{ord(found.group()):04x}", line) + "\n")


def note(message: str) -> None:
    """Say something on stderr, on one line, as plain text without secrets."""
    Console(stderr=True, soft_wrap=True).print(plain(redacted(message).replace("\n", "\\n")))


def say(message: str) -> None:
    """Say something on stdout, as plain text."""
    Console(soft_wrap=True).print(plain(message))


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Show]:
    """Show progress on stderr: a bar on a terminal, else a line every few seconds and one at the end."""
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
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)

        def show(done: int, print_above: Callable[[], None] | None = None) -> None:
            bar.update(task, completed=done)
            if print_above:
                bar.stop()  # and erase it: stdout may be the same terminal
                print_above()
                bar.start()

        yield show


def _lines(what: str, total: int) -> Show:
    last = monotonic()

    def show(done: int, print_above: Callable[[], None] | None = None) -> None:
        nonlocal last
        if print_above:
            print_above()
        if done == total or monotonic() - last > QUIET:
            last = monotonic()
            note(f"{what}: {done}/{total}")

    return show


def report(
    results: Iterable[LabeledDocument],
    write: Callable[[LabeledDocument], None],
    total: int,
    done: int = 0,
    failed: Mapping[str, int] = {},
) -> Counter[str]:
    """Write every result as it comes, show progress, and sum up. Return how many failed, by the failure's kind.

    `done` and `failed` are those of earlier runs. The first failure of each kind is told: the others are likely to be
    alike, and are in the results. A run that is cut short is summed up too.
    """
    all_failed, told, usage = Counter(failed), set[str](), Usage()
    now, started = done, monotonic()
    try:
        with progress("labelling", total, done) as show:
            for result in results:
                with _uninterrupted():  # what is written is counted
                    show(now + 1, partial(write, result))
                    now += 1
                    usage = sum(result.usage.values(), usage)
                    all_failed.update([result.failure.kind] if result.failure else [])
                if result.failure is not None and result.failure.kind not in told:
                    told.add(result.failure.kind)
                    note(f"{inline(result.id)}: {failure_text(result.failure)}")
    finally:
        note(f"{now} of {total} documents are done" + _cost(now - done, usage, monotonic() - started))
        tell_failed(all_failed, now)
    return all_failed


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until the block is done."""
    asked: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: asked.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, heed in before.items():
            signal.signal(number, heed)
    if asked:
        signal.raise_signal(asked[0])


def _cost(documents: int, usage: Usage, seconds: float) -> str:
    if not documents:
        return ""
    each = seconds / documents
    spent = f"; {documents} now, in {seconds:,.1f} s ({each:,.2f} s each), with {usage.calls:,} model calls"
    if not usage.prompt_tokens:
        return spent
    tokens = (usage.prompt_tokens + usage.completion_tokens) / documents
    cached = usage.cached_tokens / usage.prompt_tokens
    return f"{spent}, {tokens:,.0f} tokens each; the engine's cache spared {cached:.0%} of the prompts"


def tell_failed(failed: Mapping[str, int], done: int) -> None:
    """Say how many documents have failed, by the failure's kind, if any have."""
    if failed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(failed).most_common())
        note(f"{sum(failed.values())} of {done} documents failed: {kinds}")


def print_json(result: LabeledDocument) -> None:
    """Print a result as one JSON line."""
    say_json(result.model_dump_json())
    sys.stdout.flush()


def print_table(result: LabeledDocument) -> None:
    """Print a result as a table."""
    show_table(result_table(result))
    sys.stdout.flush()


def show_table(table: Table) -> None:
    """Print a table on stdout."""
    Console().print(table)


def result_table(result: LabeledDocument) -> Table:
    """Return a labelled document as a table: a row a label, what went wrong below it."""
    table = Table(
        "#",
        "label",
        "id",
        "score",
        "reason",
        title=plain(inline(result.id)),
        title_justify="left",
        caption_justify="left",
    )
    for chosen in result.labels:
        row = (str(chosen.rank), chosen.name, chosen.id, f"{chosen.score:.2f}", chosen.reason)
        table.add_row(*map(plain, row))
    remarks = []
    if result.truncated_from is not None:
        remarks.append(f"Only the beginning of {result.truncated_from:,} characters was read.")
    if result.failure is not None:
        remarks.append(failure_text(result.failure))
    elif not result.labels:
        remarks.append("No label applies.")
    table.caption = plain("\n".join(remarks)) if remarks else None
    return table


def failure_text(failure: Failure) -> str:
    """Return a failure in words, on one line."""
    return f"{failure.phase} failed ({failure.kind}): {' '.join(failure.message.split())[:300]}"
