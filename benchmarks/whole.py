"""A student of the whole output, asked for both phases' work in one answer, which the graph has no place for.

Its searches go on the shortlist as a model's do in the graph. A name in its answer stands for the label of that name,
or else for the first that a search for the name finds.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from pydantic import BaseModel, ValidationError

from ctd_agent.agents.engines import ChatModel, EngineError
from ctd_agent.agents.prompts import standard_prompt
from ctd_agent.agents.sampling import GREEDY
from ctd_agent.agents.shortlister import SEARCHES_A_TURN
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.state import begin, found_by, merge, shortlist
from ctd_agent.schema import (
    MODEL,
    ChosenLabel,
    Document,
    Exchange,
    Failure,
    Label,
    LabeledDocument,
    Search,
    ShortlistEntry,
    Usage,
)
from ctd_agent.tools.label_index import LabelIndex
from ctd_agent.tools.sources import DOCUMENT_HITS

ANSWER_TOKENS = 800


class _Answer(BaseModel):
    searches: list[str] = []
    labels: list[str] = []


class Whole:
    """Labels documents by one answer each."""

    def __init__(self, model: ChatModel, labels: Sequence[Label], index: LabelIndex, task: str, budget: Budget) -> None:
        """Take the model that answers, and the graph's own settings. The budget bounds the texts and the shortlist."""
        self._model = model
        self._by_name = {_key(label.name): label for label in reversed(labels)}
        self._index = index
        self._task = task
        self._budget = budget

    def label(self, document: Document) -> LabeledDocument:
        """Ask once, and look up the named labels. Without a usable answer only the document's own search counts."""
        text = begin(document, self._budget.document)["text"]
        exchange, answer, failure = self._ask(text)
        started = perf_counter()
        candidates = found_by("labels", "", self._index.search(text, DOCUMENT_HITS))
        for query in {_key(query): query for query in answer.searches if query.strip()}.values():
            search = Search(query=query)
            candidates = merge(candidates, found_by(MODEL, query, self._index.search(search.query, search.limit)))
        named = {label.id: label.name for name in answer.labels if (label := self._named(name))}
        chosen = [ChosenLabel(id=key, name=name, rank=at, score=1) for at, (key, name) in enumerate(named.items(), 1)]
        return LabeledDocument(
            id=document.id,
            labels=chosen,
            shortlist=[
                ShortlistEntry(c.label.id, c.score, c.found_by) for c in shortlist(candidates, self._budget.candidates)
            ],
            usage={"search": Usage(seconds=perf_counter() - started), "select": exchange.usage},
            failure=failure,
        )

    def _ask(self, text: str) -> tuple[Exchange, _Answer, Failure | None]:
        form = {"name": "whole", "schema": _schema(self._budget.candidates), "strict": True}
        options: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": form}}
        messages = standard_prompt(text, self._task, reasons=False)
        try:
            exchange = self._model.ask(Exchange(messages=messages, options=GREEDY.options(ANSWER_TOKENS) | options))
            return exchange, _Answer.model_validate_json(exchange.replies[-1].content), None
        except EngineError as error:
            return error.exchange, _Answer(), Failure(phase="select", kind="engine", message=str(error))
        except ValidationError as error:
            return exchange, _Answer(), Failure(phase="select", kind="invalid_output", message=str(error))

    def _named(self, name: str) -> Label | None:
        if known := self._by_name.get(_key(name)):
            return known
        return next((hit.label for hit in self._index.search(name, 1)), None)


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _schema(candidates: int) -> dict[str, Any]:
    """Return the answer's form, bounded as the graph's answers are: a small model that repeats itself is cut."""
    bounds = {"searches": (SEARCHES_A_TURN, 60), "labels": (candidates + candidates // 2, 100)}
    return {
        "type": "object",
        "properties": {
            name: {"type": "array", "maxItems": many, "items": {"type": "string", "minLength": 1, "maxLength": long}}
            for name, (many, long) in bounds.items()
        },
        "required": list(bounds),
        "additionalProperties": False,
    }
