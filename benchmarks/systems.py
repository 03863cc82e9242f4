"""Systems to compare the two-phase graph with: they label a document another way, on the same index and model.

Every system is a function from a Document to a LabeledDocument, so its run is scored like a run of the graph.
`shortlist` has every label that was found, best first, and `labels` the model's choice. No answer is trusted: a
malformed one is the document's Failure, a label that is not there is dropped.

`retrieve-then-rank` is the program of Infer-Retrieve-Rank (D'Oosterlinck et al. 2024, arXiv 2401.12178): the
model predicts terms from the document, each is searched, a label's score is the best of its searches', and the
model picks 10 of the first, which come before the rest. It runs zero-shot: its few-shot examples and its prior
over labels are made from training data. Ours differs also in this: no chain of thought before an
answer, 20 options instead of 50, 10 labels at most instead of 10, the index's hybrid search instead of a dense
one, and a document's first 8,000 bytes instead of a first chunk of it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json

from ctd_agent.agents.engines import ChatModel, EngineError
from ctd_agent.agents.prompts import DEFAULT_TASK, SYSTEM, Message, defused, described, quoted
from ctd_agent.agents.sampling import GREEDY
from ctd_agent.agents.selecting.listwise import ANSWER_TOKENS, unfenced
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.state import begin, found_by, merge
from ctd_agent.schema import (
    MODEL,
    QUERY,
    Candidate,
    ChosenLabel,
    Document,
    Exchange,
    Failure,
    Label,
    LabeledDocument,
    Phase,
    ShortlistEntry,
    Usage,
)
from ctd_agent.tools.label_index import Hit, LabelIndex, Mode

System = Callable[[Document], LabeledDocument]

OWN = "labels"  # the source of what the search for the document finds
RETRIEVAL: tuple[Mode, ...] = ("bm25", "dense", "hybrid")
HITS = 100  # labels a search, as in the graph's own for the document
CHOSEN = 10  # labels that an answer names at most
OPTIONS = 20  # labels that the model is shown
SHOWN = 10  # hits of the document's own search that open a conversation
SEARCHES = 5  # the model's bound in a turn
NEW = 2  # labels that a search of a conversation adds to what is shown
TOKENS = 120  # a small model's answer: ten names


def retrieval(index: LabelIndex) -> dict[str, System]:
    """Return the systems without a model, by name: a search for the document. They choose nothing."""
    return {mode: partial(_run, partial(_retrieve, index, mode)) for mode in RETRIEVAL}


def baselines(model: ChatModel, index: LabelIndex, *, task: str = DEFAULT_TASK, turns: int = 1) -> dict[str, System]:
    """Return the systems with a model, by name.

    `no-tool` names labels freely, and each is mapped to the nearest in the index; `retrieve-then-rank` is
    described above, and `monolithic` searches, for `turns` turns at most, and chooses in one conversation.
    """
    programs: dict[str, Callable[..., None]] = {
        "no-tool": _name_freely,
        "retrieve-then-rank": _retrieve_then_rank,
        "monolithic": partial(_converse, turns=turns),
    }
    return {name: partial(_run, partial(program, model, index, task)) for name, program in programs.items()}


class _FailedError(Exception):
    def __init__(self, phase: Phase, kind: Literal["empty_document", "invalid_output", "engine"], message: str) -> None:
        super().__init__(message)
        self.failure = Failure(phase=phase, kind=kind, message=message)


@dataclass
class _Work:
    """One document under way: the text that is read, the labels found and chosen, and the cost."""

    text: str
    candidates: dict[str, Candidate] = field(default_factory=dict)
    chosen: list[Label] = field(default_factory=list)
    usage: dict[Phase, Usage] = field(default_factory=lambda: defaultdict(Usage))


def _run(program: Callable[[_Work], None], document: Document) -> LabeledDocument:
    """Return a program's result for a document, of which it reads as much as the graph does."""
    state = begin(document, Budget().document)
    work, failure = _Work(state["text"]), None
    try:
        if not work.text:
            raise _FailedError("search", "empty_document", "the document has no text")
        program(work)
    except _FailedError as error:
        failure = error.failure
    return LabeledDocument(
        id=document.id,
        labels=[
            ChosenLabel(id=label.id, name=label.name, rank=rank, score=1 / rank)
            for rank, label in enumerate({label.id: label for label in work.chosen}.values(), start=1)
        ],
        shortlist=[ShortlistEntry(id=c.label.id, score=c.score, found_by=c.found_by) for c in _best(work.candidates)],
        usage=dict(work.usage),
        truncated_from=state["truncated_from"],
        failure=failure,
    )


def _retrieve(index: LabelIndex, mode: Mode, work: _Work) -> None:
    work.candidates = found_by(OWN, "", _search(work, index, work.text, HITS, mode))


def _name_freely(model: ChatModel, index: LabelIndex, task: str, work: _Work) -> None:
    for name in _ask(work, "select", model, _naming(work.text, task)):
        hits = _search(work, index, name, 1)
        work.candidates = merge(work.candidates, found_by(MODEL, name, hits))
        work.chosen += [hit.label for hit in hits]


def _retrieve_then_rank(model: ChatModel, index: LabelIndex, task: str, work: _Work) -> None:
    for term in _ask(work, "shortlist", model, _naming(work.text, task)):
        for key, new in found_by(MODEL, term, _search(work, index, term, HITS)).items():
            old = work.candidates.get(key, Candidate(new.label, 0.0, []))
            score = max(old.score, new.found_by[0].score)
            work.candidates[key] = Candidate(new.label, score, old.found_by + new.found_by)
    if options := _titles([candidate.label for candidate in _best(work.candidates)[:OPTIONS]]):
        _choose(work, model, _opening(work.text, task, f"The labels:\n{_lines(options)}\n\n{_CHOOSE}"), options)


def _converse(model: ChatModel, index: LabelIndex, task: str, work: _Work, turns: int) -> None:
    hits = _search(work, index, work.text, HITS)
    work.candidates = found_by(OWN, "", hits)
    shown = [hit.label for hit in hits[:SHOWN]]
    known = f"Searching the catalogue for the document itself found:\n{_lines(_titles(shown))}"
    messages = _opening(work.text, task, f"{known}\n\n{_SEARCH}")
    for turn in range(1, turns + 1):
        queries = _ask(work, "shortlist", model, messages, limit=SEARCHES)
        results = []
        for query in queries:
            hits = _search(work, index, query, HITS)
            work.candidates = merge(work.candidates, found_by(MODEL, query, hits))
            new = [hit.label for hit in hits if hit.label not in shown][:NEW]
            shown += new
            results.append(f"{defused(query)}:\n{_lines(_titles(new)) or 'nothing new'}")
        last = not queries or turn == turns
        answer = _Names(labels=[defused(query) for query in queries]).model_dump_json()
        told = "\n".join([*results, "", _CHOOSE if last else _SEARCH]).lstrip()
        messages = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": told}]
        if last:
            break
    _choose(work, model, messages, _titles(shown))


def _search(work: _Work, index: LabelIndex, query: str, limit: int, mode: Mode = "hybrid") -> Sequence[Hit]:
    started = perf_counter()
    try:
        return index.search(query, limit, mode)
    except Exception as error:  # the index's engine and its embedder each have their own
        raise _FailedError("search", "engine", f"{type(error).__name__}: {error}") from error
    finally:
        work.usage["search"] += Usage(seconds=perf_counter() - started)


def _choose(work: _Work, model: ChatModel, messages: list[Message], options: Mapping[str, Label]) -> None:
    """Have the model choose from the options, by the titles it was shown. Other names are dropped."""
    known = {_key(title): label for title, label in options.items()}
    names = _ask(work, "select", model, messages, options)
    work.chosen = [known[_key(name)] for name in names if _key(name) in known]


def _ask(
    work: _Work,
    phase: Phase,
    model: ChatModel,
    messages: list[Message],
    options: Iterable[str] | None = None,
    limit: int = CHOSEN,
) -> list[str]:
    """Return the names that the model answers with, without repetition, or its searches in phase `shortlist`.

    An answer that was cut counts as far as it goes.
    """
    sampling = GREEDY.options(ANSWER_TOKENS if model.selects == "listwise" else TOKENS)
    exchange = Exchange(messages=messages, options=sampling | {"response_format": _form(options, limit)})
    try:
        exchange = model.ask(exchange)
    except EngineError as error:
        raise _FailedError(phase, "engine", str(error)) from error
    work.usage[phase] += exchange.usage
    content = exchange.replies[-1].content
    try:
        (answer,) = _ANSWER.validate_python(from_json(unfenced(content), allow_partial=True)).values()
    except ValueError as error:
        raise _FailedError(phase, "invalid_output", f"no labels in the model's answer: {content[:80]!r}") from error
    names = [" ".join(name.split())[:QUERY] for name in answer[:limit]]
    return list({_key(name): name for name in names if any(map(str.isalnum, name))}.values())


class _Names(BaseModel):
    labels: list[str]


_ANSWER = TypeAdapter(dict[Literal["labels"], list[str]])
_FORM = '{"labels": ["...", ...]}'
_NAME = f"Name those that apply, best first, a few words each, {CHOSEN} at most. Answer in JSON: {_FORM}"
_CHOOSE = f"Choose those that apply, best first, {CHOSEN} at most, word for word. Answer in JSON: {_FORM}"
_SEARCH = (
    f"Search the catalogue for others that may apply: a few words each, {SEARCHES} searches at most, none if nothing "
    f"is missing. Answer in JSON: {_FORM}"
)


def _form(options: Iterable[str] | None, limit: int) -> dict[str, Any]:
    """Return the schema of an answer: names, of the options where there are any."""
    item = {"type": "string", "minLength": 1, "maxLength": 60} if options is None else {"enum": list(options)}
    names = {"type": "array", "items": item, "maxItems": limit}
    schema = {
        "type": "object",
        "properties": {"labels": names},
        "required": ["labels"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "labels", "schema": schema, "strict": True}}


def _opening(text: str, task: str, ask: str) -> list[Message]:
    """Return a prompt. The prompts about a document share a prefix that the engine can cache."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{quoted(text)}\n\nWe look for {task}. {ask}"},
    ]


def _naming(text: str, task: str) -> list[Message]:
    return _opening(text, task, _NAME)


def _titles(labels: Sequence[Label]) -> dict[str, Label]:
    """Return labels by the text that the model reads: the name, and the description too where a name repeats."""
    times = Counter(label.name for label in labels)
    titles: dict[str, Label] = {}
    for label in labels:
        titles.setdefault(described(label if times[label.name] > 1 else Label(id=label.id, name=label.name)), label)
    return titles


def _lines(titles: Iterable[str]) -> str:
    return "\n".join(f"- {title}" for title in titles)


def _key(name: str) -> str:
    return " ".join(name.casefold().split())


def _best(candidates: Mapping[str, Candidate]) -> list[Candidate]:
    return sorted(candidates.values(), key=lambda candidate: -candidate.score)
