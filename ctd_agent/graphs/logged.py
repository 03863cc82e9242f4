"""Transitions logs read: every document's last whole set of steps, one document at a time."""

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, overload
from weakref import finalize

from pydantic import Field, RootModel
from pydantic_core import from_json

from ctd_agent.errors import UserError
from ctd_agent.graphs.transitions import Run, Transition
from ctd_agent.records import Line, read_lines, validated
from ctd_agent.schema import Failure, Selection, Usage

RECENT = 16  # documents whose steps are held
HEAD = 512  # bytes of a line that tell what step it is, if its ids are short
ADDED = b',"added":['


class Steps(Mapping[str, list[Transition]]):
    """Every document's last whole set of steps, read from the log where it is asked for.

    Held are the places of its lines: a log may be many times as large as memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: dict[str, tuple[str, array[int]]] = {}  # by document: the run, and its lines' places
        self._others: dict[tuple[str, str], array[int]] = {}  # by run and document: those of runs before the last
        self._recent = lru_cache(RECENT)(self.__getitem__)
        self._file = path.open("rb")
        finalize(self, self._file.close)

    def __getitem__(self, document: str) -> list[Transition]:
        return self._read(self._last[document][1], Transition.model_validate_json)

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def of(self, document: str, run: str, outline: bool = False) -> list[Transition]:
        """Return a document's last whole set of steps in a run, or in any for "", [] where there is none.

        An `outline` lacks the exchanges, the text, the searches and what was shown, which are nearly all of a log.
        """
        last, places = self._last.get(document, ("", array("Q")))
        if run not in ("", last):
            places = self._others.get((run, document), array("Q"))
        return self._read(places, _outlined if outline else Transition.model_validate_json)

    def lazily(self, document: str) -> Sequence[Transition]:
        """Return a document's steps such that they are read when they are looked at, and held for a while only."""
        return _LazySteps(self._recent, document)

    def add(self, document: str, run: str, places: "array[int]") -> None:
        """Note where a whole set of steps lies."""
        before = self._last.get(document)
        if before and before[0] != run:
            self._others[before[0], document] = before[1]
        self._last[document] = run, places

    def _read(self, places: Iterable[int], parse: Callable[[bytes], Transition]) -> list[Transition]:
        steps = []
        for place in places:
            self._file.seek(place)
            line = self._file.readline()
            steps.append(validated(f"{self._path}: the line at byte {place}: not a step", parse, line))
        return steps


class _LazySteps(Sequence[Transition]):
    __slots__ = ("_document", "_read")

    def __init__(self, read: Callable[[str], list[Transition]], document: str) -> None:
        self._read, self._document = read, document

    @overload
    def __getitem__(self, place: int) -> Transition: ...

    @overload
    def __getitem__(self, place: slice) -> list[Transition]: ...

    def __getitem__(self, place: int | slice) -> Transition | list[Transition]:
        return self._read(self._document)[place]

    def __len__(self) -> int:
        return len(self._read(self._document))


class Log(NamedTuple):
    """A log: the headers of its runs, oldest first, and every document's steps."""

    runs: list[Run]
    steps: Steps


def read_log(path: Path) -> Log:
    """Return a log's runs and steps. Raises UserError for a broken line, naming file and line."""
    try:
        log = Log([], Steps(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    begun: dict[tuple[str, str], array[int]] = {}
    for line in read_lines(path):
        record = _head(line)
        if isinstance(record, Run):
            log.runs.append(record)
            continue
        run, document, step, goto = record
        places = begun.pop((run, document), array("Q")) if step else array("Q")
        if step != len(places):  # its beginning is not here
            continue
        places.append(line.start)
        if goto == "finish":
            log.steps.add(document, run, places)
        else:
            begun[run, document] = places
    return log


def _head(line: Line) -> Run | tuple[str, str, int, str]:
    """Return a line's record: a run's header, or of a step its run, document, number and goto.

    A step is parsed to where these stand, which is its beginning.
    """
    with suppress(ValueError):
        read = from_json(line.data[:HEAD], allow_partial=True)
        if isinstance(read, dict) and read.get("record") == "transition" and "goto" in read:
            return sys.intern(str(read["run"])), str(read["document"]), int(read["step"]), str(read["goto"])
    record = validated(f"{line.place}: not a line of a log", _Line.model_validate_json, line.data).root
    if isinstance(record, Run):
        return record
    return record.run, record.document, record.step, record.goto


def _outlined(line: bytes) -> Transition:
    """Return a step without its exchange, text, searches and what was shown: they are nearly all of it.

    Most of them stand before `added`, and are not parsed: within a string of JSON a quotation mark has a backslash, so
    the last `"added":` is the step's own.
    """
    with suppress(ValueError, TypeError, KeyError):
        head = from_json(line[:HEAD], allow_partial=True)
        tail = from_json(b"{" + line[line.rindex(ADDED) + 1 :])
        named = {name: head[name] for name in ("record", "run", "document", "step", "phase", "node", "goto")}
        left_out: dict[str, Any] = dict.fromkeys(("model", "prompt", "exchange", "text", "shown"))
        return Transition.model_construct(
            None,
            **named,
            **left_out,
            searches=[],
            added=[sys.intern(label) for label in tail["added"]],
            selection=tail["selection"] and Selection.model_validate(tail["selection"]),
            usage=Usage.model_validate(tail["usage"]),
            failure=tail["failure"] and Failure.model_validate(tail["failure"]),
        )
    return Transition.model_validate_json(line)


class _Line(RootModel[Annotated[Run | Transition, Field(discriminator="record")]]):
    """Either kind of line."""
