"""Listwise selection: the model sees the whole shortlist, may reason, and chooses under a JSON schema."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctd_agent.agents.engines import ChatModel
from ctd_agent.agents.prompts import VERSIONS, distinct_names, listwise_prompt
from ctd_agent.agents.sampling import Sampling
from ctd_agent.agents.selecting.selector import Selector, UnusableSelectionError, Within, choose
from ctd_agent.schema import Candidate, Exchange, Selection

ANSWER_TOKENS = 4_096  # of an answer, its reasoning included


class _Choice(BaseModel):
    model_config = ConfigDict(extra="ignore")

    score: float = Field(default=1.0, allow_inf_nan=False)
    reason: str = ""


class _Numbered(_Choice):
    number: int


class _Named(_Choice):
    label: str


class _Numbers(BaseModel):
    labels: list[_Numbered]


class _Names(BaseModel):
    labels: list[_Named]


class Listwise(Selector):
    """The model chooses from the numbered shortlist: by number, or, as students do, by name.

    Students that were trained to give numbers learned nothing of them (docs/distillation.md).
    """

    reasons = True
    model: ChatModel

    def __init__(self, model: ChatModel, task: str, sampling: Sampling) -> None:
        super().__init__(model, task, sampling)
        form = "naming" if model.manner.names else "listwise"
        self.prompt = VERSIONS[form if model.manner.reasons else f"{form}-direct"]

    def ask(self, text: str, shortlist: Sequence[Candidate], shown: Sequence[str], within: Within) -> Exchange:
        """Ask once about the whole shortlist."""
        manner = self.model.manner
        names = _names(shortlist) if manner.names else None
        schema = {"name": "selection", "schema": _schema(len(shortlist), manner.reasons, names), "strict": True}
        answer = {"type": "json_schema", "json_schema": schema}
        options = self._sampling.options(ANSWER_TOKENS) | {"response_format": answer}
        messages = listwise_prompt(text, self._task, shown, reasons=manner.reasons, names=manner.names)
        return self.model.ask(Exchange(messages=messages, options=options), within)

    def read(self, exchange: Exchange, shortlist: Sequence[Candidate]) -> Selection:
        """Keep each chosen label once, best first, and drop labels that are not on the shortlist."""
        content = exchange.replies[-1].content
        try:
            choices = list(self._choices(unfenced(content), shortlist))
        except ValidationError as error:
            raise UnusableSelectionError(f"no selection in the model's answer: {content[:80]!r}") from error
        valid: dict[int, _Choice] = {}
        for number, choice in choices:
            if 1 <= number <= len(shortlist):
                valid.setdefault(number, choice)
        if choices and not valid:
            raise UnusableSelectionError(f"every chosen label is off the shortlist of {len(shortlist)}")
        labels = [
            choose(shortlist[number - 1], rank, min(1.0, max(0.0, choice.score)), choice.reason)
            for rank, (number, choice) in enumerate(valid.items(), start=1)
        ]
        return Selection(labels=labels, scores={label.id: label.score for label in labels})

    def _choices(self, answer: str, shortlist: Sequence[Candidate]) -> Iterator[tuple[int, _Choice]]:
        """Yield each choice with its number on the shortlist, 0 for a name that is not there."""
        if self.model.manner.names:
            numbers = {name: number for number, name in enumerate(_names(shortlist), start=1)}
            for named in _Names.model_validate_json(answer).labels:
                yield numbers.get(named.label, 0), named
        else:
            for numbered in _Numbers.model_validate_json(answer).labels:
                yield numbered.number, numbered


def _names(shortlist: Sequence[Candidate]) -> list[str]:
    return distinct_names([candidate.label.name for candidate in shortlist])


def _schema(size: int, reasons: bool, names: list[str] | None) -> dict[str, Any]:
    which: dict[str, Any] = {"number": {"type": "integer", "enum": list(range(1, size + 1))}}
    if names is not None:
        which = {"label": {"type": "string", "enum": names}}
    choice = _object(which | {"score": {"type": "number"}} | ({"reason": {"type": "string"}} if reasons else {}))
    # No more than there is to choose from: a small model repeats itself until its tokens are spent.
    labels = {"labels": {"type": "array", "items": choice, "maxItems": size}}
    return _object({"reasoning": {"type": "string"}} | labels if reasons else labels)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def unfenced(content: str) -> str:
    """Return the JSON of an answer that may stand in a code block."""
    return content.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
