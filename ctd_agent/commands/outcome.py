"""The end of a labelling command: its files named, its failures counted, its exit code."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from ctd_agent.graphs.batch import Output
    from ctd_agent.graphs.job import Job
    from ctd_agent.schema import Document, LabeledDocument


def label_into(job: "Job", documents: "Sequence[Document]", output: Path, log: Path) -> "Counter[str]":
    """Label the documents that have no result in a file yet. Return how many have failed, by kind.

    Raises UserError where the file or the log cannot be used, or is that of a run that differs.
    """
    from ctd_agent.console import note, report, tell_failed
    from ctd_agent.graphs.batch import Output
    from ctd_agent.graphs.transitions import TransitionLog

    if log.resolve() == output.resolve():
        raise UserError(f"{log}: cannot be both the results and the log; give --log another file")
    with Output(output, job.retry_failed) as out:
        logged = TransitionLog(log, job.force)
        todo = out.left(documents, logged, job.force)
        if out.changed:
            note(f"{output}: {out.changed} documents have changed since, and are labelled again")
        done = len(documents) - len(todo)
        if done and not todo:
            logged.check(job.settled)
        if done:
            note(f"{output}: {done} of {len(documents)} documents are done, {'going on' if todo else 'nothing to do'}")
        failed = out.failed
        if todo:
            results = job.open().label(todo, logged)
            with _places(out, log):
                failed = report(results, out.write, len(documents), done, failed)
        else:
            tell_failed(failed, len(documents))
        if job.ordered:
            out.sort(documents)
        name_retries(failed)
        return failed


def label_each(
    job: "Job", documents: "Sequence[Document]", write: "Callable[[LabeledDocument], None]", log: Path
) -> "Counter[str]":
    """Label documents and write each result as it comes. Return how many have failed, by kind."""
    from ctd_agent.console import report
    from ctd_agent.graphs.transitions import TransitionLog

    results = job.open().label(documents, TransitionLog(log, job.force))
    with _places(None, log):
        return report(results, write, len(documents))


def tell_untraced(job: "Job") -> None:
    """Say that LangSmith's variables in the environment are not heeded, where they are set."""
    from langsmith.utils import tracing_is_enabled

    from ctd_agent.console import note

    if not job.trace and tracing_is_enabled():
        note("LangSmith's tracing is set in the environment and left off; --trace sends it all documents")


def end(failed: "Counter[str]") -> None:
    """Exit with 1 where documents have failed."""
    if failed:
        raise typer.Exit(1)


def name_retries(failed: "Counter[str]") -> None:
    """Name the ways to retry the documents that have failed."""
    from ctd_agent.console import note
    from ctd_agent.graphs.batch import RETRIED

    if any(failed[kind] for kind in RETRIED):
        note("the same command tries again those that failed by no fault of their own")
    if failed.keys() - {*RETRIED}:
        note("the same command with --retry-failed tries all again that failed")


@contextmanager
def _places(out: "Output | None", log: Path) -> Iterator[None]:
    """Name the run's files at its end, however it ends."""
    from ctd_agent.console import note

    try:
        yield
    except KeyboardInterrupt:
        if out:
            note("the same command goes on from here")
        raise
    finally:
        if out:
            note(f"results: {out.path}")
        note(f"transitions log: {log}")
