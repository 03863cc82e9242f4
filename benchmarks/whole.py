"""A student of the whole output at once, asked what it was taught: the comparison that the graph has no place for.

Its searches go on the shortlist as a model's do in the graph; a label that it names is the one that is called so, or
else the first that a search for the name finds.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctd_agent.agents.models import ChatModel
from ctd_agent.agents.prompts import standard_prompt
from ctd_agent.agents.sampling import GREEDY
from ctd_agent.agents.shortlister import SEARCHES_A_TURN
from ctd_agent.graphs.labeling import DOCUMENT_HITS
from ctd_agent.graphs.state import found_by, merge, shortlist
from ctd_agent.schema import ChosenLabel, Document, Exchange, Failure, Label, LabeledDocument, ShortlistEntry
from ctd_agent.tools.label_index import LabelIndex
from ctd_agent.tools.label_search import LIMIT

ANSWER_TOKENS = 800


class _Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # A small model that repeats itself is cut, as in the graph.
    searches: list[Annotated[str, Field(min_length=1, max_length=60)]] = Field(max_length=SEARCHES_A_TURN)
    labels: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field(max_length=15)


class Whole:
    """Labels documents by one answer each."""

    def __init__(self, model: ChatModel, labels: Sequence[Label], index: LabelIndex, task: str, size: int) -> None:
        """Take the model that answers; `size` is the document's own share of the shortlist."""
        self._model = model
        self._by_name = {_key(label.name): label for label in reversed(labels)}
        self._index = index
        self._task = task
        self._size = size

    def label(self, document: Document) -> LabeledDocument:
        """Ask once, and look up what is named; without a usable answer what the document's own search found is left."""
        text = document.text.strip()
        answer = {"name": "whole", "schema": _Whole.model_json_schema(), "strict": True}
        options: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": answer}}
        messages = standard_prompt(text, self._task, reasons=False)
        exchange = self._model.ask(Exchange(messages=messages, options=GREEDY.options(ANSWER_TOKENS) | options))
        found, failure = found_by(0, "", self._index.search(text, DOCUMENT_HITS)), None
        try:
            said = _Whole.model_validate_json(exchange.replies[-1].content)
        except ValidationError as error:
            said = _Whole(searches=[], labels=[])
            failure = Failure(phase="select", kind="invalid_output", message=str(error))
        for query in dict.fromkeys(said.searches):
            found = merge(found, found_by(1, query, self._index.search(query, LIMIT)))
        named = {label.id: label for name in said.labels if (label := self._named(name))}
        return LabeledDocument(
            id=document.id,
            labels=[
                ChosenLabel(id=key, name=one.name, rank=at, score=1) for at, (key, one) in enumerate(named.items(), 1)
            ],
            shortlist=[ShortlistEntry(c.label.id, c.score, c.found_by) for c in shortlist(found, self._size)],
            usage={"select": exchange.usage},
            failure=failure,
        )

    def _named(self, name: str) -> Label | None:
        if known := self._by_name.get(_key(name)):
            return known
        return next((hit.label for hit in self._index.search(name, 1)), None)


def _key(name: str) -> str:
    return " ".join(name.casefold().split())
