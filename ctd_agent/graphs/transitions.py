"""The transitions log: one JSON line a graph step, append-only. The log is what distillation reads.

A run's header line holds what is common to all its steps. A document's steps are appended together,
when its last is done. A document that was run again has steps under more than one run, or twice
under one: the last whole set counts, and a set is whole when its last step goes to `finish`.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from filelock import lock_descriptor
from pydantic import Field, RootModel

from ctd_agent.agents.sampling import Sampling
from ctd_agent.errors import CtdError, UserError
from ctd_agent.records import append_lines, cut_torn_line, read_records
from ctd_agent.schema import Exchange, Failure, Phase, Record, Redacted, SearchResult, Selection, Usage

Node = Literal["read", "shortlist", "search", "select"]
Goto = Literal["shortlist", "search", "select", "finish"]


class Run(Record):
    """The header of a run: what every step of it shares, and what makes two runs comparable."""

    record: Literal["run"] = "run"
    run: str
    started: str
    version: str
    task: str
    shortlister: Redacted
    selector: Redacted
    prompts: dict[Phase, str]
    catalogue: str
    labels: int
    embedder: Redacted
    budget: dict[str, float]
    sampling: dict[Phase, Sampling] = {}

    def differs(self, other: "Run") -> list[str]:
        """Return the fields, identity and time apart, in which another run's header differs."""
        mine, its = (run.model_dump(exclude={"run", "started", "version"}) for run in (self, other))
        return [field for field in mine if mine[field] != its[field]]


class Transition(Record):
    """One step of the graph for one document; `goto` is the node that came next.

    `exchange` is what a model was sent and answered, null for a search; `searches` is what the
    tool found; `added` are the candidates the step brought in, by label id, in the order found.
    `text`, on the first step, is what was read of the document.
    """

    record: Literal["transition"] = "transition"
    run: str
    document: str
    step: int
    phase: Phase
    node: Node
    goto: Goto
    model: Redacted | None = None
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
    """An append-only log of one run, which other threads and processes may append to at the same time.

    The file is open, and locked, only while it is written.
    """

    def __init__(self, path: Path, run: Run) -> None:
        """Write the run's header at the end of the log at `path`.

        Raises UserError where the path cannot be written, or holds a run that this one cannot be mixed with.
        """
        self.run = run
        self._path = path
        self._lock = threading.Lock()
        self._failed: CtdError | None = None  # the process may end at once: nothing is begun that it would tear
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._check()
            self._append(run)
        except OSError as error:
            raise UserError(f"{path}: cannot write the transitions log here: {error.strerror}") from error

    def write(self, transitions: Sequence[Transition]) -> None:
        """Append a document's steps; they survive the death of this process. Raises CtdError where they cannot be."""
        with self._lock:
            if self._failed:
                raise self._failed
            try:
                self._append(*transitions)
            except OSError as error:
                self._failed = CtdError(f"{self._path}: the transitions log cannot be written: {error.strerror}")
                raise self._failed from error

    def _append(self, *records: Run | Transition) -> None:
        with self._path.open("ab", buffering=0) as file:
            lock_descriptor(file.fileno(), poll_interval=0.005)  # until the file is closed
            cut_torn_line(self._path)  # another process may have died within a line
            append_lines(file, *records)

    def _check(self) -> None:
        """Refuse another run's log, and any file that is no log; of all its runs the first stands for the others."""
        for before in islice(_records(self._path), 1):
            if isinstance(before, Run) and (different := before.differs(self.run)):
                raise UserError(
                    f"{self._path}: the run that is logged here differs from this one in {', '.join(different)}; "
                    f"choose another output or log file, or delete this one"
                )


def read_runs(path: Path) -> list[Run]:
    """Return the headers of all runs in a log, oldest first. Raises UserError for a broken line."""
    return [record for record in _records(path) if isinstance(record, Run)]


def read_transitions(path: Path) -> dict[str, list[Transition]]:
    """Return the steps of every document in a log, by document id; the last whole set of each.

    Raises UserError for a broken line, naming file and line.
    """
    whole: dict[str, list[Transition]] = {}
    begun: dict[tuple[str, str], list[Transition]] = {}
    for step in _records(path):
        if isinstance(step, Transition):
            key = step.run, step.document
            steps = [*begun.pop(key, []), step] if step.step else [step]
            if step.step != len(steps) - 1:  # its beginning is not here
                continue
            begun[key] = steps
            if step.goto == "finish":
                whole[step.document] = begun.pop(key)
    return whole


class _Line(RootModel[Annotated[Run | Transition, Field(discriminator="record")]]):
    """Either kind of line."""


def _records(path: Path) -> Iterator[Run | Transition]:
    return (line.root for line in read_records(path, _Line))
