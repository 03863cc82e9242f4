"""The place of a label index, a folder or a Qdrant server: what the index asks of either."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, Self

from qdrant_edge import SparseVector

from ctd_agent.errors import CtdError


class Point(NamedTuple):
    """A label as the engine stores it. `label` is its JSON, which keeps what the engine's numbers would not."""

    id: str
    dense: list[float]
    bm25: SparseVector
    label: str


class Side(NamedTuple):
    """One side of a query: the name of the vector it searches, its own vector, its weight in the fusion.

    `digits` are the decimals of a score that count: the engine adds up in an order of its own, and rounds differently
    from one build of an index to the next.
    """

    name: str
    vector: list[float] | SparseVector
    weight: float
    digits: int


Ranked = tuple[int, float]  # a point that was found: its id as a number, and its score. Hundreds a search


class Store(Protocol):
    """The operations that the embedded engine and a server share.

    A store is written in four steps: `create` or `revise`, `aim`, the writes, `finish`. From the second
    to the last its place says what the writes are to lead to, so that `resume` can go on after a cut.
    """

    @classmethod
    def create(cls, where: str, size: int) -> Self:
        """Return an empty store for vectors of one size, to be written."""

    @classmethod
    def revise(cls, where: str) -> Self:
        """Return a store with the points of the finished one, to be written."""

    @classmethod
    def resume(cls, where: str) -> tuple[Self, str] | None:
        """Return a store whose writing was cut, as far as it was saved, and the manifest it was aimed at."""

    @classmethod
    def open(cls, where: str) -> tuple[Self, str]:
        """Return the finished store and its manifest."""

    def aim(self, manifest: str) -> None:
        """Record what the writes that follow lead to."""

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points. A point whose id is there is replaced."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points."""

    def save(self) -> None:
        """Make the writes so far durable."""

    def leave(self) -> None:
        """Make the writes so far durable and write no more: `resume` goes on from here."""

    def finish(self) -> None:
        """Make all writes durable, then the manifest valid: the store opens from now on."""

    def count(self) -> int:
        """Return the number of points."""

    def stored(self) -> Iterator[str]:
        """Yield the label of every point, in no order."""

    def nearest(self, sides: Sequence[Side], limit: int) -> list[list[Ranked]]:
        """Return each side's best points, best first. Points of one score are in no order."""

    def read(self, ids: Sequence[int]) -> dict[int, str]:
        """Return the labels of points, by id."""


@contextmanager
def one_line(message: str) -> Iterator[None]:
    """Raise what Qdrant raises, which is of no one type, as a CtdError of one line."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the engine's is no Exception
        raise CtdError(f"{message} ({' '.join(str(error).split())})") from error
