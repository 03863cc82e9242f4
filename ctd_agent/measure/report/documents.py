"""A run's documents as the report's page explores them: how every right label fared, and what each step did.

The page holds a document's details as one line of JSON, which is read when the document is opened.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ctd_agent.distill.fates import Fate, fate
from ctd_agent.graphs.transitions import Transition
from ctd_agent.schema import Gold, LabeledDocument

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
        """Return a label's number; `name` is what it is called where the catalogue does not say."""
        number = self.numbers.setdefault(key, len(self.names))
        if number == len(self.names):
            self.names.append(self.known.get(key, name or key))
        elif name and key not in self.known:
            self.names[number] = name  # its id alone was known so far
        return number

    def table(self) -> list[tuple[str, str]]:
        """Return every label's id and name, in the order of their numbers."""
        return list(zip(self.numbers, self.names, strict=True))


@dataclass(frozen=True)
class Case:
    """One document of a run: its result, its steps where there is a log, its right labels where there is gold."""

    result: LabeledDocument
    steps: Sequence[Transition] | None
    gold: Gold | None

    @property
    def chosen(self) -> list[str]:
        """The ids of the chosen labels, best first."""
        return [label.id for label in self.result.labels]

    @property
    def shortlist(self) -> set[str]:
        """The ids of the shortlist."""
        return {entry.id for entry in self.result.shortlist}

    @property
    def retrieved(self) -> set[str] | None:
        """The ids that any search brought; None without a log."""
        return None if self.steps is None else {key for step in self.steps for key in step.added}

    @property
    def right(self) -> frozenset[str]:
        """The ids of the right labels, without those that do not count."""
        return self.gold.labels - self.gold.filtered if self.gold else frozenset()

    def fates(self) -> dict[str, Fate]:
        """Return what became of every right label, by id."""
        chosen, shortlist, retrieved = set(self.chosen), self.shortlist, self.retrieved
        return {key: fate(key, chosen, shortlist, retrieved) for key in sorted(self.right)}

    def wrong(self) -> set[str]:
        """Return the chosen labels that are not right; those that gold takes out of every ranking are neither."""
        return set(self.chosen) - self.right - self.gold.filtered if self.gold else set()

    def classes(self) -> list[str]:
        """Return the classes that the document is filtered by."""
        if self.result.failure:
            return ["failed"]
        found: set[str] = {one for one in self.fates().values() if one != "chosen"}
        found |= {WRONG} if self.wrong() else set()
        found |= {"all right"} if self.right and not found else set()
        found |= set() if self.result.labels else {"empty"}
        return [name for name in CLASSES if name in found]


def funnel(cases: Sequence[Case], catalogue: int | None) -> list[Stage]:
    """Return the funnel of a run, from `catalogue` labels (where known) to the chosen ones.

    What was retrieved is left out where a document has no steps. Shares are of all right labels together.
    """
    fates = Counter(one for case in cases for one in case.fates().values())
    right = fates.total()

    def stage(name: str, sizes: Iterable[int], lost: Sequence[Fate]) -> Stage:
        share = 1 - sum(fates[one] for one in lost) / right if right else None
        return Stage(name, sum(sizes) / len(cases), share)

    stages = [Stage("catalogue", catalogue, 1.0 if right else None)] if catalogue else []
    if all(case.retrieved is not None for case in cases):
        stages.append(stage("retrieved", (len(case.retrieved or ()) for case in cases), BEFORE_RETRIEVAL))
    stages.append(stage("shortlist", (len(case.shortlist) for case in cases), BEFORE_SHORTLIST))
    stages.append(stage("chosen", (len(case.chosen) for case in cases), LOST))
    return stages


def title(case: Case) -> str:
    """Return the first line of what was read of a document, cut; "" without a log."""
    return _text(case).partition("\n")[0][:TITLE]


def details(case: Case, names: Names) -> dict[str, Any]:
    """Return all that the page shows of a document, as JSON has it; labels are their numbers in `names`."""
    result, gold = case.result, case.gold
    steps = case.steps or ()
    scores = {key: score for step in steps if step.selection for key, score in step.selection.scores.items()}
    return {
        "text": _text(case),
        "logged": case.steps is not None,
        "truncated": result.truncated_from,
        "failure": result.failure and result.failure.model_dump(),
        "usage": {phase: usage.model_dump() for phase, usage in result.usage.items()},
        "searches": [
            {"turn": search.turn, "query": search.query, "total": len(search.found), "found": found}
            for step in steps
            for search in step.searches
            for found in [_found(search.found, case, names)]
        ],
        "thoughts": [{"phase": step.phase, "text": text} for step in steps for text in _reasoning(step)],
        "chosen": [(names.number(label.id, label.name), label.score, label.reason) for label in result.labels],
        "shortlist": [
            (
                names.number(entry.id),
                entry.score,
                scores.get(entry.id),
                [(finding.turn, finding.query, finding.rank) for finding in entry.found_by],
            )
            for entry in result.shortlist
        ],
        "gold": None if gold is None else [(names.number(key), one) for key, one in case.fates().items()],
        "filtered": [names.number(key) for key in sorted(gold.filtered if gold else ())],
    }


def _text(case: Case) -> str:
    return next((step.text for step in case.steps or () if step.text is not None), "")


def _found(found: Sequence[Any], case: Case, names: Names) -> list[tuple[int, int]]:
    shown = (label for label in found if label.rank <= SHOWN or label.id in case.right)
    return [(names.number(label.id, label.name), label.rank) for label in shown]


def _reasoning(step: Transition) -> Iterator[str]:
    """Yield what the model wrote before its answers: its reasoning apart, and that within a listwise answer."""
    for reply in step.exchange.replies if step.exchange else ():
        if reply.reasoning.strip():
            yield reply.reasoning.strip()
        try:
            answer = json.loads(reply.content)
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict) and isinstance(within := answer.get("reasoning"), str) and within.strip():
            yield within.strip()
