"""Lessons to training examples: conversations for a language model, texts and labels for an encoder.

A conversation ends with the one turn to be learned. All before it is, word for word, what the graph sends.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ctd_agent.agents.manner import Manner
from ctd_agent.agents.prompts import (
    Message,
    distinct_names,
    listwise_prompt,
    on_one_line,
    search_prompt,
    standard_prompt,
)
from ctd_agent.agents.shortlister import SEARCHES_A_TURN, result_message, turn_message
from ctd_agent.distill.corpus.lessons import Lesson, reasoning, worth_choosing, worth_making
from ctd_agent.measure.trace import Trace
from ctd_agent.schema import MODEL, Gold, Record, SearchResult
from ctd_agent.tools.embedding import minilm_tokenizer
from ctd_agent.tools.label_search import SEARCH_LABELS, found_text

DONE = "Nothing is missing."  # the last turn of a student that makes tool calls


@dataclass(frozen=True)
class Conversation:
    """A document's conversation with a student, of which the last message is to be learned."""

    document: str
    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)


class Pair(Record):
    """A candidate of a document as the selector reads it. `target` is 1 where it is to be chosen, else 0.

    `rank` is the candidate's on the shortlist, from 1.
    """

    label: str
    text: str
    rank: int
    target: int


class Nearness(Record):
    """Labels by id: those that a document is to be near to, and hard negatives."""

    near: list[str]
    far: list[str]


class Judgement(Record):
    """An encoder's training example of one document, by corpus, null where the gate let nothing through."""

    id: str
    text: str
    shortlist: Nearness | None = None
    select: list[Pair] | None = None
    standard: Nearness | None = None


@cache
def _tokenizer() -> Any:
    tokenizer = minilm_tokenizer()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokens(conversation: Conversation) -> int:
    """Return a conversation's length in tokens of a neutral tokenizer. A student's own differs a little."""
    text = json.dumps([*conversation.messages, *conversation.tools], ensure_ascii=False)
    return len(_tokenizer().encode(text, add_special_tokens=False).ids)


def conversations(lesson: Lesson, corpus: str, manner: Manner, credit: bool) -> Iterator[Conversation]:
    """Yield a lesson's conversations for a language model: one for each turn that it is to learn.

    `corpus` is `shortlist`, `select` or `standard`. `manner` is how the student is asked, `credit` that of the gates.
    """
    trace: Trace | None = getattr(lesson, corpus)
    if trace is None or trace.run is None:
        return
    task, right = trace.run.task, lesson.right.labels
    if corpus == "shortlist":
        if trace.run.budget.turns and trace.run.budget.searches:  # else the teacher was not asked for searches
            for messages in _searching(trace, task, worth_making(trace, right, credit)[:SEARCHES_A_TURN], manner):
                yield Conversation(lesson.document, messages, [SEARCH_LABELS] if manner.native_tools else [])
    elif corpus == "select":
        yield Conversation(lesson.document, _choosing(trace, task, worth_choosing(trace, right, credit), manner))
    else:
        yield Conversation(lesson.document, _whole(trace, task, manner))


def judgement(lesson: Lesson, credit: bool) -> Judgement:
    """Return a lesson's training example for encoders.

    A shortlister brings the document near to the right labels that a search surfaced, and away from the rest of
    the shortlist. Without `credit` it brings it near to the whole shortlist. A selector learns the teacher's choice,
    but, with `credit`, nothing from candidates about which the teacher was wrong.
    """
    shortlist, select, standard = lesson.shortlist, lesson.select, lesson.standard
    return Judgement(
        id=lesson.document,
        text=lesson.text,
        shortlist=shortlist and _nearness(shortlist, _surfaced(shortlist, lesson.right, credit), lesson.right),
        select=select and list(_pairs(select, lesson.right, credit)),
        standard=standard and _nearness(standard, standard.chosen, lesson.right),
    )


def _searching(trace: Trace, task: str, searches: Sequence[SearchResult], manner: Manner) -> Iterator[list[Message]]:
    """Yield phase 1's turns: the searches worth making and, where they are tool calls, the end after them."""
    shown = found_text([candidate.text for candidate in trace.steps[0].shown or ()])
    opening = search_prompt(trace.text, task, shown, SEARCHES_A_TURN, native=manner.native_tools)
    if not manner.native_tools:
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
    return {"id": _call_id(number), "name": "search_labels", "args": {"query": search.query, "limit": search.limit}}


def _call_id(number: int) -> str:
    return f"call{number:05}"  # nine letters and digits, as Mistral's chat templates demand


def _choosing(trace: Trace, task: str, worth: Sequence[str], manner: Manner) -> list[Message]:
    # In the order that the graph shows: it says how well each was found, and a student that learned from another
    # order has learned not to heed it.
    shown = trace.shown or {}
    found = {hit.id: hit.name for search in trace.searches for hit in search.found}
    names = dict(zip(shown, distinct_names([found[key] for key in shown]), strict=True))
    chosen = {label.id: label for label in trace.selection.labels} if trace.selection else {}
    labels: list[dict[str, Any]] = [
        {"label": names[key], "score": round(chosen[key].score, 2)}
        | ({"reason": chosen[key].reason} if manner.reasons else {})
        for key in worth
    ]
    answer = ({"reasoning": reasoning(trace)} if manner.reasons else {}) | {"labels": labels}
    texts = list(map(on_one_line, shown.values()))  # an encoder is shown texts of several lines
    prompt = listwise_prompt(trace.text, task, texts, reasons=manner.reasons, names=True)
    return [*prompt, turn_message(json.dumps(answer, ensure_ascii=False))]


def _whole(trace: Trace, task: str, manner: Manner) -> list[Message]:
    """Return a run's whole output as one answer: every search, the reasoning, and the chosen labels by name."""
    answer = {
        "searches": [search.query for search in trace.searches if search.source == MODEL],
        **({"reasoning": reasoning(trace)} if manner.reasons else {}),
        "labels": [label.name for label in trace.selection.labels] if trace.selection else [],
    }
    prompt = standard_prompt(trace.text, task, manner.reasons)
    return [*prompt, turn_message(json.dumps(answer, ensure_ascii=False))]


def _surfaced(trace: Trace, right: Gold, credit: bool) -> list[str]:
    return [label for label in trace.retrieved if label in right.labels] if credit else trace.shortlist


def _nearness(trace: Trace, near: Sequence[str], right: Gold) -> Nearness:
    far = [key for key in trace.shortlist if key not in near and key not in right.filtered]
    return Nearness(near=list(near), far=far)


def _pairs(trace: Trace, right: Gold, credit: bool) -> Iterator[Pair]:
    for rank, (key, text) in enumerate((trace.shown or {}).items(), start=1):
        chosen = key in trace.chosen
        if key not in right.filtered and (not credit or chosen == (key in right.labels)):
            yield Pair(label=key, text=text, rank=rank, target=int(chosen))
