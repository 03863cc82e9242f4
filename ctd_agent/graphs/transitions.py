"""The transitions log: one JSON line a graph step, append-only. Distillation reads nothing else.

A run's header line holds the fields that all its steps share. A document's steps are appended together when its last
is done. A document that was run again has steps under more than one run, or twice under one: the last whole set
counts, and a set is whole when its last step goes to `finish`.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import uuid4

from filelock import lock_descriptor
from pydantic import Field, RootModel

from ctd_agent.agents.sampling import Sampling
from ctd_agent.errors import CtdError, UserError
from ctd_agent.graphs.budget import Budget
from ctd_agent.records import append_lines, cut_torn_line, read_records
from ctd_agent.schema import Exchange, Failure, Phase, Record, Redacted, SearchResult, Selection, ShownCandidate, Usage

Node = Literal["read", "shortlist", "search", "select"]
Goto = Literal["shortlist", "search", "select", "finish"]


class Run(Record):
    """The header of a run: the settings that all its steps share. Runs are comparable where these agree."""

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
    budget: Budget
    sampling: dict[Phase, Sampling] = {}

    def differs(self, other: "Run") -> list[str]:
        """Return the fields, identity and time apart, in which another run's header differs."""
        mine, its = (run.model_dump(exclude={"run", "started", "version"}) for run in (self, other))
        return [field for field in mine if mine[field] != its[field]]


class Transition(Record):
    """One step of the graph for one document. `goto` is the node that came next.

    `exchange` holds a model's prompts and answers, null for a search. `searches` are those that ran, `added` the
    candidates that were new, by label id, in the order found. `text`, on the first step, is the part of the document
    that was read. `shown` holds candidates in the order and words that a model is shown: on the first step for the
    shortlister, on the select step the whole shortlist. It is null in logs of version 0.1, which did not keep it.
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
    shown: list[ShownCandidate] | None = None
    selection: Selection | None = None
    usage: Usage = Usage()
    failure: Failure | None = None


def new_run(**fields: Any) -> Run:
    """Return the header of a run that starts now. `fields` are Run's own."""
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
        """Append a document's steps. They survive the death of this process. Raises CtdError where they cannot be."""
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
        """Refuse another run's log, and any file that is no log. Of all its runs the first stands for the others."""
        for before in islice(_records(self._path), 1):
            if isinstance(before, Run) and (different := before.differs(self.run)):
                raise UserError(
                    f"{self._path}: the run that is logged here differs from this one in {', '.join(different)}; "
                    f"choose another output or log file, or delete this one"
                )


class Log(NamedTuple):
    """A log as it was read: the headers of its runs, oldest first, and every document's last whole set of steps."""

    runs: list[Run]
    steps: dict[str, list[Transition]]


def log_of(results: Path) -> Path:
    """Return where the log of a file of results lies.

    >>> log_of(Path("out.jsonl")).name
    'out.jsonl.transitions.jsonl'
    """
    return results.with_name(f"{results.name}.transitions.jsonl")


def read_log(path: Path) -> Log:
    """Return a log's runs and steps. Raises UserError for a broken line, naming file and line."""
    log = Log([], {})
    begun: dict[tuple[str, str], list[Transition]] = {}
    for record in _records(path):
        if isinstance(record, Run):
            log.runs.append(record)
            continue
        key = record.run, record.document
        steps = [*begun.pop(key, []), record] if record.step else [record]
        if record.step != len(steps) - 1:  # its beginning is not here
            continue
        begun[key] = steps
        if record.goto == "finish":
            log.steps[record.document] = begun.pop(key)
    return log


class _Line(RootModel[Annotated[Run | Transition, Field(discriminator="record")]]):
    """Either kind of line."""


def _records(path: Path) -> Iterator[Run | Transition]:
    return (line.root for line in read_records(path, _Line))
