"""A run's documents on the report's page: the fate of every right label, and the work of each step.

The page holds a document's details as one line of JSON, which is read when the document is opened.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ctd_agent.graphs.transitions import Run
from ctd_agent.measure.trace import Fate, Trace
from ctd_agent.schema import FoundLabel

SHOWN = 10  # hits of a search that are shown; of what comes after, only the right labels
TITLE = 120  # characters of a document's first line in the list

BEFORE_RETRIEVAL: tuple[Fate, ...] = ("never retrieved",)
BEFORE_SHORTLIST: tuple[Fate, ...] = (*BEFORE_RETRIEVAL, "retrieved and cut", "not on the shortlist")
LOST: tuple[Fate, ...] = (*BEFORE_SHORTLIST, "shortlisted and not chosen")
WRONG = "wrongly chosen"
CLASSES = (*LOST, WRONG, "all right", "failed", "empty")


class Stage(NamedTuple):
    """One stage of the funnel: labels a document on average, and the share of right labels still there."""

    name: str
    labels: float
    right: float | None


@dataclass
class Names:
    """The labels that the page speaks of, each with a number: an id stands there once, however often it was found."""

    known: Mapping[str, str]
    numbers: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def number(self, key: str, name: str | None = None) -> int:
        """Return a label's number. `name` is what it is called where the catalogue does not say."""
        number = self.numbers.setdefault(key, len(self.names))
        if number == len(self.names):
            self.names.append(self.known.get(key, name or key))
        elif name and key not in self.known:
            self.names[number] = name  # its id alone was known so far
        return number

    def table(self) -> list[tuple[str, str]]:
        """Return every label's id and name, in the order of their numbers."""
        return list(zip(self.numbers, self.names, strict=True))


def classes(trace: Trace) -> list[str]:
    """Return the classes that a document is filtered by."""
    if trace.result and trace.result.failure:
        return ["failed"]
    found: set[str] = {fate for fate in trace.fates().values() if fate != "chosen"}
    found |= {WRONG} if trace.wrong() else set()
    found |= {"all right"} if trace.right and not found else set()
    found |= set() if trace.result and trace.result.labels else {"empty"}
    return [name for name in CLASSES if name in found]


@dataclass
class Totals:
    """What a run's documents add up to."""

    documents: int = 0
    logged: int = 0
    retrieved: int = 0
    shortlisted: int = 0
    chosen: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    run: Run | None = None  # the one that began last

    @classmethod
    def of(cls, traces: Iterable[Trace]) -> "Totals":
        """Add up documents."""
        total = cls()
        for trace in traces:
            total.documents += 1
            total.logged += bool(trace.steps)
            total.retrieved += sum(len(step.added) for step in trace.steps)
            total.shortlisted += len(trace.result.shortlist) if trace.result else 0
            total.chosen += len(trace.result.labels) if trace.result else 0
            total.fates.update(trace.fates().values())
            if trace.run and (total.run is None or trace.run.started > total.run.started):
                total.run = trace.run
        return total


def funnel(total: Totals, catalogue: int | None) -> list[Stage]:
    """Return the funnel of a run, from `catalogue` labels (where known) to the chosen ones.

    The stage of retrieval is left out where a document has no steps. Shares are of all right labels together.
    """
    right = total.fates.total()

    def stage(name: str, size: int, lost: Sequence[Fate]) -> Stage:
        share = 1 - sum(total.fates[fate] for fate in lost) / right if right else None
        return Stage(name, size / total.documents, share)

    stages = [Stage("catalogue", catalogue, 1.0 if right else None)] if catalogue else []
    if total.logged == total.documents:
        stages.append(stage("retrieved", total.retrieved, BEFORE_RETRIEVAL))
    stages.append(stage("shortlist", total.shortlisted, BEFORE_SHORTLIST))
    stages.append(stage("chosen", total.chosen, LOST))
    return stages


def title(trace: Trace) -> str:
    """Return the first line of the text that was read, cut, "" without a log."""
    return trace.text.partition("\n")[0][:TITLE]


def details(trace: Trace, names: Names) -> dict[str, Any]:
    """Return all that the page shows of a document, as JSON has it. Labels are their numbers in `names`."""
    result, gold, scores = trace.result, trace.gold, trace.scores
    if result is None:
        raise ValueError("a document without a result has no page")
    return {
        "text": trace.text,
        "logged": bool(trace.steps),
        "truncated": result.truncated_from,
        "failure": result.failure and result.failure.model_dump(),
        "usage": {phase: usage.model_dump() for phase, usage in result.usage.items()},
        "searches": [
            {
                "turn": search.turn,
                "source": search.source,
                "query": search.query,
                "total": len(search.found),
                "found": _found(search.found, trace, names),
            }
            for search in trace.searches
        ],
        "thoughts": [{"phase": phase, "text": text} for phase, text in trace.reasoning],
        "chosen": [(names.number(label.id, label.name), label.score, label.reason) for label in result.labels],
        "shortlist": [
            (
                names.number(entry.id),
                entry.score,
                scores.get(entry.id),
                [(finding.source, finding.query, finding.rank) for finding in entry.found_by],
            )
            for entry in result.shortlist
        ],
        "gold": None if gold is None else [(names.number(key), fate) for key, fate in trace.fates().items()],
        "filtered": [names.number(key) for key in sorted(gold.filtered if gold else ())],
    }


def _found(found: Sequence[FoundLabel], trace: Trace, names: Names) -> list[tuple[int, int]]:
    shown = (label for label in found if label.rank <= SHOWN or label.id in trace.right)
    return [(names.number(label.id, label.name), label.rank) for label in shown]
