"""The record of a characterization, which `characterize` writes and `report` reads."""

from typing import Literal

from ctd_agent.measure.metrics import Interval
from ctd_agent.schema import Record

ErrorClass = Literal["never retrieved", "retrieved and cut", "shortlisted and not chosen", "wrongly chosen"]


class CurvePoint(Record):
    """The shortlist's recall at one size of it, or after one number of searches."""

    at: int
    recall: Interval


class Variant(Record):
    """The graph with one thing changed: its metrics, and their paired difference from the whole graph."""

    name: str
    documents: int
    metrics: dict[str, Interval]
    differences: dict[str, Interval]


class Swap(Record):
    """RP@5 of every shortlister with every selector, and the gain of each phase over hybrid retrieval.

    `values[i][j]` is that of shortlister i with selector j. `shares` are Shapley values (Shapley 1953) of
    the two phases, from the first row and column to the graph's own: they add up to `gain`.
    """

    shortlisters: list[str]
    selectors: list[str]
    values: list[list[Interval]]
    gain: Interval
    shares: dict[str, Interval]


class Step(Record):
    """The candidates' focus and confusion after one step of the graph.

    `focus` is the share of the candidates' weight that lies on right labels and their neighbours: all weigh the same
    until the selector has scored them. `confusion` is how often a neighbour of a right label outranks it, of those
    pairs that the document's search found and the shortlist kept, null where there are none.
    """

    name: str
    focus: Interval
    confusion: Interval | None


class ErrorExample(Record):
    """One label that went wrong for one document."""

    document: str
    label: str
    name: str


class Errors(Record):
    """One class of the error taxonomy. `share` is of all gold labels, or, of the wrongly chosen, of all chosen."""

    name: ErrorClass
    count: int
    share: float
    examples: list[ErrorExample]


class Characterization(Record):
    """A whole characterization, as its JSON file holds it."""

    documents: int
    labels: int
    task: str
    shortlister: str
    selector: str
    embedder: str
    candidates: int
    seed: int
    recall_by_candidates: list[CurvePoint]
    recall_by_searches: list[CurvePoint]
    selection_given: list[Variant]
    ablations: list[Variant]
    swap: Swap
    steps: list[Step]
    errors: list[Errors]
    findings: list[str]
