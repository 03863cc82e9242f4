"""The transitions log: one JSON line a graph step, append-only. The log is what distillation reads.

A run's header line holds what is common to all its steps. A document that was cut off and run
again has steps under more than one run, or twice under one: the last whole set counts.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import Field, RootModel

from ctd_agent.errors import UserError
from ctd_agent.files import append_line, cut_torn_line, read_records
from ctd_agent.schema import Exchange, Failure, Phase, Record, SearchResult, Selection, Usage


class Run(Record):
    """The header of a run: what every step of it shares, and what makes two runs comparable."""

    record: Literal["run"] = "run"
    run: str
    started: str
    version: str
    task: str
    shortlister: str
    selector: str
    prompts: dict[Phase, str]
    catalogue: str
    labels: int
    embedder: str
    budget: dict[str, float]

    def differs(self, other: "Run") -> list[str]:
        """Return the fields, identity and time apart, in which another run's header differs."""
        mine, its = (run.model_dump(exclude={"run", "started", "version"}) for run in (self, other))
        return [field for field in mine if mine[field] != its[field]]


class Transition(Record):
    """One step of the graph for one document.

    `exchange` is what a model was sent and answered, null for a search; `searches` is what the
    tool found; `added` are the candidates the step brought in, by label id, in the order found.
    `text`, on the first step, is what was read of the document.
    """

    record: Literal["transition"] = "transition"
    run: str
    document: str
    step: int
    phase: Phase
    node: str
    model: str | None = None
    prompt: str | None = None
    exchange: Exchange | None = None
    searches: list[SearchResult] = []
    text: str | None = None
    added: list[str] = []
    selection: Selection | None = None
    usage: Usage = Usage()
    failure: Failure | None = None


def new_run(**fields: Any) -> Run:
    """Return the header of a run that starts now; `fields` are Run's own."""
    return Run(run=uuid4().hex[:12], started=datetime.now(UTC).isoformat(), version=version("ctd-agent"), **fields)


class TransitionLog:
    """An append-only log of one run; safe to share between threads."""

    def __init__(self, path: Path, run: Run) -> None:
        """Open the log at `path`, behind what is there, and write the run's header.

        Raises UserError where the path cannot be written, or holds a run that this one cannot be mixed with.
        """
        self.run = run
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_torn_line(path)
            self._check(path)
            self._file = path.open("ab")
        except OSError as error:
            raise UserError(f"{path}: cannot write the transitions log here: {error.strerror}") from error
        append_line(self._file, run)

    def write(self, transitions: Sequence[Transition]) -> None:
        """Append a document's steps; they are in the system's hands when this returns."""
        with self._lock:
            for transition in transitions:
                append_line(self._file, transition)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check(self, path: Path) -> None:
        before = read_runs(path)[-1:] if path.exists() else []
        different = before and before[0].differs(self.run)
        if different:
            raise UserError(
                f"{path}: the run that is logged here differs from this one in {', '.join(different)}; "
                f"choose another output or log file, or delete this one"
            )


def read_runs(path: Path) -> list[Run]:
    """Return the headers of all runs in a log, oldest first. Raises UserError for a broken line."""
    return [record for record in _records(path) if isinstance(record, Run)]


def read_transitions(path: Path) -> dict[str, list[Transition]]:
    """Return the steps of every document in a log, by document id; the last whole set of each.

    Raises UserError for a broken line, naming file and line.
    """
    documents: dict[str, list[Transition]] = {}
    for record in _records(path):
        if isinstance(record, Transition):
            if record.step == 0:
                documents[record.document] = []
            documents[record.document].append(record)
    return documents


class _Line(RootModel[Annotated[Run | Transition, Field(discriminator="record")]]):
    """Either kind of line."""


def _records(path: Path) -> Iterator[Run | Transition]:
    return (line.root for line in read_records(path, _Line))
