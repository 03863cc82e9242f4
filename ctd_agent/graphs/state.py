"""The labelling graph's state, and the functions of it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, TypedDict

from ctd_agent.agents.prompts import Message
from ctd_agent.agents.shortlister import Asked
from ctd_agent.graphs.transitions import Transition
from ctd_agent.schema import (
    MODEL,
    Candidate,
    Document,
    Failure,
    Finding,
    LabeledDocument,
    Phase,
    Selection,
    ShortlistEntry,
    Usage,
)
from ctd_agent.tools.label_index import Hit

# Reciprocal rank fusion over a candidate's findings, Cormack et al. 2009.
RRF_K = 60


def merge(known: Mapping[str, Candidate], found: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Merge candidates by label id: all findings are kept, the scores add up."""
    merged = dict(known)
    for key, new in found.items():
        old = merged.get(key)
        merged[key] = (
            new
            if old is None
            else Candidate(label=old.label, score=old.score + new.score, found_by=old.found_by + new.found_by)
        )
    return merged


def shortlist(candidates: Mapping[str, Candidate], size: int) -> list[Candidate]:
    """Return the candidates that phase 2 sees, best fused score first. Ties go to the one found first.

    The best `size` of what the sources found are always among them: the shortlist never falls below plain
    retrieval. The best of what only the model's searches found, half as many at most, come on top: in one common
    order a single search's find would always be cut.
    """
    best = sorted(candidates.values(), key=lambda candidate: -candidate.score)
    retrieved = sorted((c for c in best if _retrieval_score(c)), key=lambda c: -_retrieval_score(c))[:size]
    more = [c for c in best if not _retrieval_score(c)][: size // 2]
    return sorted([*retrieved, *more], key=lambda candidate: -candidate.score)


def _retrieval_score(candidate: Candidate) -> float:
    """Return the part of a candidate's fused score that does without a model."""
    return sum(1 / (RRF_K + finding.rank) for finding in candidate.found_by if finding.source != MODEL)


def found_by(source: str, query: str, hits: Sequence[Hit]) -> dict[str, Candidate]:
    """Return the hits of a search as candidates, by label id."""
    return {
        hit.label.id: Candidate(
            label=hit.label,
            score=1 / (RRF_K + rank),
            found_by=[Finding(source=source, query=query, rank=rank, score=hit.score)],
        )
        for rank, hit in enumerate(hits, start=1)
    }


class LabelingInput(TypedDict):
    """The graph's input: a Document, or a dict of its fields."""

    document: Document | dict[str, Any]


class LabelingOutput(TypedDict):
    """The graph's output: the result, and every transition that led to it."""

    result: LabeledDocument
    transitions: list[Transition]


class LabelingState(TypedDict, total=False):
    """The nodes' shared state of one document.

    `text` is the part of the document that is read. `messages` is phase 1's conversation so far. `asked` are the
    searches of the model's last turn, `done` its wish for no other, `turn` counts its turns.
    """

    document: Document
    text: str
    truncated_from: int | None
    started: float
    messages: list[Message]
    asked: list[Asked]
    done: bool
    turn: int
    candidates: dict[str, Candidate]
    selection: Selection | None
    failure: Failure | None
    transitions: list[Transition]
    result: LabeledDocument


def begin(document: Document, limit: int) -> LabelingState:
    """Return the state that a document begins with. It has no reducer, so nothing of an earlier document can stay.

    Of the text, without the blanks around it, the first `limit` bytes of UTF-8 are read.
    """
    whole = document.text.strip().encode(errors="replace")  # "?" for lone surrogates, which no file can hold
    return {
        "document": document,
        "text": whole[:limit].decode(errors="ignore"),
        "truncated_from": len(document.text) if len(whole) > limit else None,
        "started": perf_counter(),
        "messages": [],
        "asked": [],
        "done": False,
        "turn": 0,
        "candidates": {},
        "selection": None,
        "failure": None,
        "transitions": [],
    }


def spent(state: LabelingState) -> Usage:
    """Return the document's cost so far."""
    return sum((transition.usage for transition in state["transitions"]), Usage())


def asked_before(state: LabelingState) -> set[str]:
    """Return the keys of the model's searches that have run."""
    searches = [search for transition in state["transitions"] for search in transition.searches]
    return {search.key for search in searches if search.source == MODEL}


def result(state: LabelingState, run: str, size: int) -> LabeledDocument:
    """Return the document's result in a run. `size` bounds the shortlist it reports."""
    usage: dict[Phase, Usage] = defaultdict(Usage)
    for transition in state["transitions"]:
        usage[transition.phase] += transition.usage
    candidates = shortlist(state["candidates"], size)
    return LabeledDocument(
        id=state["document"].id,
        labels=state["selection"].labels if state["selection"] else [],
        shortlist=[ShortlistEntry(id=c.label.id, score=c.score, found_by=c.found_by) for c in candidates],
        usage=dict(usage),
        truncated_from=state["truncated_from"],
        failure=state["failure"],
        run=run,
        digest=state["document"].digest,
    )
