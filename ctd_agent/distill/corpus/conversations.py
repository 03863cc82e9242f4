"""Lessons to training examples: for a student that writes, conversations; for an encoder, texts and labels.

A conversation ends with the one turn to be learned; all before it is, word for word, what the graph sends.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.utils.function_calling import convert_to_openai_tool

from ctd_agent.agents.prompts import Message, listwise_prompt, names_of, search_prompt, standard_prompt
from ctd_agent.agents.shortlister import SEARCHES_A_TURN, result_message, turn_message
from ctd_agent.distill.supervision import Episode, Lesson, worth_choosing, worth_making
from ctd_agent.graphs.labeling import SHOWN
from ctd_agent.schema import Candidate, Gold, Label, Record, SearchResult
from ctd_agent.tools.label_search import Searchable, found_text, search_labels_tool

DONE = "Nothing is missing."  # the last turn of a student that makes tool calls

# Its definition needs no index, its calls would.
TOOLS = [convert_to_openai_tool(search_labels_tool(cast(Searchable, None)))]


class Form(Record):
    """How the students of a corpus are asked, and answer.

    `native`: searches are tool calls, else JSON; `reasons`: the choice comes after its reasons; `candidates` are those
    of the document's own search on a shortlist, at most; `credit` is that of the gates.
    """

    native: bool
    reasons: bool
    candidates: int
    credit: bool


@dataclass(frozen=True)
class Example:
    """One conversation of which the last message is to be learned."""

    document: str
    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)


class Pair(Record):
    """A document and a candidate, as the selector reads it; `target` is 1 where it is to be chosen, else 0.

    `rank` is the candidate's on the shortlist, from 1.
    """

    label: str
    text: str
    rank: int
    target: int


class Nearness(Record):
    """Labels, by id, that a document is to be near to, and such as look as if they were."""

    near: list[str]
    far: list[str]


class Judgement(Record):
    """What an encoder learns from one document, by corpus; null where the gate let nothing through."""

    id: str
    text: str
    shortlist: Nearness | None = None
    select: list[Pair] | None = None
    standard: Nearness | None = None


def conversations(lesson: Lesson, corpus: str, form: Form) -> Iterator[Example]:
    """Yield what a lesson teaches a student that writes: one example a turn of its own.

    `corpus` is `shortlist`, `select` or `standard`.
    """
    episode: Episode | None = getattr(lesson, corpus)
    if episode is None:
        return
    if corpus == "shortlist":
        for messages in _searching(episode, lesson.right.labels, form):
            yield Example(lesson.document, messages, TOOLS if form.native else [])
    else:
        messages = _choosing(episode, lesson.right.labels, form) if corpus == "select" else _whole(episode, form)
        yield Example(lesson.document, messages)


def judgement(lesson: Lesson, form: Form) -> Judgement:
    """Return what a lesson teaches encoders.

    A shortlister brings the document near to the right labels that a search surfaced, and away from the rest of
    the shortlist; without credit, near to all that is on it. A selector learns the teacher's choice,
    but, with credit, nothing from candidates about which the teacher was wrong.
    """
    shortlist, select, standard = lesson.shortlist, lesson.select, lesson.standard
    return Judgement(
        id=lesson.document,
        text=lesson.text,
        shortlist=shortlist and _nearness(shortlist, _surfaced(shortlist, lesson.right, form.credit), lesson.right),
        select=select and list(_pairs(select, lesson.right, form.credit)),
        standard=standard and _nearness(standard, standard.chosen, lesson.right),
    )


def _searching(episode: Episode, right: frozenset[str], form: Form) -> Iterator[list[Message]]:
    """Yield phase 1's turns: the searches worth making and, where they are tool calls, the end after them."""
    if not (
        episode.run.budget["turns"] and episode.run.budget["searches"]
    ):  # the teacher was never asked what to search for
        return
    searches = worth_making(episode, right, form.credit)[:SEARCHES_A_TURN]
    shown = found_text([found.name for found in episode.searches[0].found[:SHOWN]])
    opening = search_prompt(episode.text, episode.run.task, shown, SEARCHES_A_TURN, native=form.native)
    if not form.native:
        answer = json.dumps({"searches": [search.query for search in searches], "done": True}, ensure_ascii=False)
        yield [*opening, turn_message(answer)]
        return
    if searches:
        opening = [*opening, turn_message("", list(map(_call, range(len(searches)), searches)))]
        yield opening
        results = (result_message(_call_id(n), found_text([f.name for f in s.found])) for n, s in enumerate(searches))
        opening = [*opening, *results]
    yield [*opening, turn_message(DONE)]


def _call(number: int, search: SearchResult) -> dict[str, Any]:
    # Always both arguments: Arrow gives every row all keys that any row has.
    return {
        "id": _call_id(number),
        "name": "search_labels",
        "args": {"query": search.query, "limit": search.limit},
    }


def _call_id(number: int) -> str:
    return f"call{number:05}"  # nine letters and digits, as Mistral's chat templates demand


def _choosing(episode: Episode, right: frozenset[str], form: Form) -> list[Message]:
    # In the order that the graph shows: it says how well each was found, and a student that learned from any other
    # order has learned not to heed it.
    names = dict(zip(episode.listed, names_of(episode.shortlist), strict=True))
    chosen = {label.id: label for label in episode.choice.labels} if episode.choice else {}
    labels: list[dict[str, Any]] = [
        {"label": names[key], "score": round(chosen[key].score, 2)}
        | ({"reason": chosen[key].reason} if form.reasons else {})
        for key in worth_choosing(episode, right, form.credit)
    ]
    answer = ({"reasoning": episode.reasoning} if form.reasons else {}) | {"labels": labels}
    shown = [_as_shown(episode, candidate) for candidate in episode.shortlist]
    prompt = listwise_prompt(episode.text, episode.run.task, shown, reasons=form.reasons, names=True)
    return [*prompt, turn_message(json.dumps(answer, ensure_ascii=False))]


def _as_shown(episode: Episode, candidate: Candidate) -> Candidate:
    # A name that is its own description: the log has no more of a label than its prompt, and needs no more.
    shown = Label(id=candidate.label.id, name=episode.shown[candidate.label.id])
    return Candidate(shown, candidate.score, candidate.found_by)


def _whole(episode: Episode, form: Form) -> list[Message]:
    """Return a run's whole output as one answer: every search, the reasoning, and the chosen labels by name."""
    answer = {
        "searches": [search.query for search in episode.searches if search.turn],
        **({"reasoning": episode.reasoning} if form.reasons else {}),
        "labels": [label.name for label in episode.choice.labels] if episode.choice else [],
    }
    prompt = standard_prompt(episode.text, episode.run.task, form.reasons)
    return [*prompt, turn_message(json.dumps(answer, ensure_ascii=False))]


def _surfaced(episode: Episode, right: Gold, credit: bool) -> list[str]:
    return [label for label in episode.surfaced if label in right.labels] if credit else episode.listed


def _nearness(episode: Episode, near: Sequence[str], right: Gold) -> Nearness:
    return Nearness(
        near=list(near), far=[key for key in episode.listed if key not in near and key not in right.filtered]
    )


def _pairs(episode: Episode, right: Gold, credit: bool) -> Iterator[Pair]:
    for rank, key in enumerate(episode.listed, start=1):
        chosen = key in episode.chosen
        if key not in right.filtered and (not credit or chosen == (key in right.labels)):
            yield Pair(label=key, text=episode.shown[key], rank=rank, target=int(chosen))
