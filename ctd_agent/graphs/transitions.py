"""The transitions log: one JSON line a graph step, append-only. Distillation reads nothing else.

A run's header line holds the fields that all its steps share. A document's steps are appended together when its last
is done. A document that was run again has steps under more than one run, or twice under one: the last whole set
counts, and a set is whole when its last step goes to `finish`.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from filelock import lock_descriptor
from pydantic_core import from_json

from ctd_agent.agents.sampling import Sampling
from ctd_agent.errors import CtdError, UserError
from ctd_agent.graphs.budget import Budget
from ctd_agent.records import append_lines, cut_torn_line, opened, read_lines, validated
from ctd_agent.schema import Exchange, Failure, Phase, Record, Redacted, SearchResult, Selection, ShownCandidate, Usage

Node = Literal["read", "shortlist", "search", "select"]
Goto = Literal["shortlist", "search", "select", "finish"]
SHORT = 60  # characters of a setting, as runs that differ are told


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

    def differs(self, other: "Run") -> str:
        """Return the fields, identity and time apart, in which another run's header differs, with both values."""
        mine, its = (run.model_dump(mode="json", exclude={"run", "started", "version"}) for run in (self, other))
        changed = [field for field in mine if mine[field] != its[field]]
        return ", ".join(f"{field} ({_short(mine[field])}, now {_short(its[field])})" for field in changed)


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
    """An append-only log, which other threads and processes may append to at the same time.

    The file is open, and locked, only while it is written.
    """

    def __init__(self, path: Path, force: bool = False) -> None:
        """Read which runs the log at `path` holds. With `force` another run may begin there that differs from them.

        Raises UserError where the file has a line that is no log's.
        """
        self.path = path
        self.runs = [*_checked(path)] if path.exists() else []
        self._force = force
        self._lock = threading.Lock()
        self._failed: CtdError | None = None  # the process may end at once: nothing is begun that it would tear

    def begin(self, run: Run) -> "TransitionLog":
        """Begin a run: write its header at the end of the log.

        Raises UserError where the file cannot be written, or holds a run that this one cannot be mixed with.
        """
        self.check(lambda _: run)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._append(run)
        except OSError as error:
            raise UserError(f"{self.path}: cannot write the transitions log here: {error.strerror}") from error
        return self

    def check(self, now: Callable[[Run], Run]) -> None:
        """Compare the runs of the log with a run `now`, which may take from each what it does not say itself.

        Raises UserError where one differs.
        """
        for before in () if self._force else self.runs:
            if different := before.differs(now(before)):
                raise UserError(
                    f"{self.path}: the run that is logged here differs from this one in {different}; "
                    f"choose another output or log file, or delete this one (`label --force` goes on all the same)"
                )

    def write(self, transitions: Sequence[Transition]) -> None:
        """Append a document's steps. They survive the death of this process. Raises CtdError where they cannot be."""
        with self._lock:
            if self._failed:
                raise self._failed
            try:
                self._append(*transitions)
            except OSError as error:
                self._failed = CtdError(f"{self.path}: the transitions log cannot be written: {error.strerror}")
                raise self._failed from error

    def _append(self, *records: Run | Transition) -> None:
        with opened(self.path) as file:
            lock_descriptor(file.fileno(), poll_interval=0.005)  # until the file is closed
            cut_torn_line(self.path, Run, Transition)  # another process may have died within a line
            append_lines(file, *records)


def log_of(results: Path) -> Path:
    """Return where the log of a file of results lies.

    >>> log_of(Path("out.jsonl")).name
    'out.jsonl.transitions.jsonl'
    """
    return results.with_name(f"{results.name}.transitions.jsonl")


def _checked(path: Path) -> Iterator[Run]:
    """Yield the headers of a log. Raises UserError for the first line that is no record of a log."""
    for number, line in enumerate(read_lines(path), start=1):
        try:
            found = from_json(line.data)
        except ValueError:
            found = None
        kind = found.get("record") if isinstance(found, dict) else None
        if kind == "run" or number == 1:
            yield validated(f"{line.place}: not a Run", Run.model_validate, found)
        elif kind != "transition" or not {"run", "document", "step", "goto"} <= found.keys():
            raise UserError(f"{line.place}: not a step of a run; take the line out, or give another log")
    cut_torn_line(path, Run, Transition, cut=False)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else f"{text[:SHORT]}…"
