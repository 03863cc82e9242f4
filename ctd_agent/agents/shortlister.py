"""Phase 1: one model turn bound to search_labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ctd_agent.agents.engines import Model
from ctd_agent.agents.prompts import VERSIONS, Message, defused, search_prompt
from ctd_agent.agents.sampling import Sampling
from ctd_agent.schema import QUERY, Exchange, Reply, Search

TURN_TOKENS = 400  # of a search turn's answer under the schema: a model that never stops is cut here
NATIVE_TURN_TOKENS = 4_096  # of one with tool calls: such a model may reason first
SEARCHES_A_TURN = 8

# The answer of a model that makes no tool calls of its own.
_SCHEMA = {
    "type": "object",
    "properties": {
        "searches": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 60},
            "maxItems": SEARCHES_A_TURN,
        },
        "done": {"type": "boolean"},
    },
    "required": ["searches", "done"],
    "additionalProperties": False,
}


class UnusableTurnError(ValueError):
    """The model's turn holds neither searches nor a wish to stop."""


@dataclass(frozen=True)
class Asked:
    """A search that a model asked for. Without a `search`, `error` says why the call is malformed."""

    search: Search | None
    call: str = ""
    error: str = ""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    searches: list[str]
    done: bool = False


class Shortlister:
    """Asks a chat model for the searches that a document needs beyond the one for itself."""

    prompt = VERSIONS["shortlist"]

    def __init__(self, model: Model, task: str, sampling: Sampling) -> None:
        self.model = model
        self._task = task
        self._sampling = sampling

    def opening(self, text: str, found: str, searches: int) -> list[Message]:
        """Return the conversation's first messages: the document and the hits of its own search.

        `searches` is how many the model has in all.
        """
        limit = min(SEARCHES_A_TURN, searches)
        return search_prompt(text, self._task, found, limit, native=self.model.manner.native_tools)

    def ask(self, messages: list[Message], tool: dict[str, Any]) -> Exchange:
        """Ask the model for its next searches. `tool` defines search_labels. Raises EngineError."""
        if self.model.manner.native_tools:
            options = self._sampling.options(NATIVE_TURN_TOKENS) | {"tools": [tool]}
        else:
            schema = {"name": "searches", "schema": _SCHEMA, "strict": True}
            answer = {"type": "json_schema", "json_schema": schema}
            options = self._sampling.options(TURN_TOKENS) | {"response_format": answer}
        return self.model.ask(Exchange(messages=messages, options=options))

    def read(self, reply: Reply) -> tuple[list[Asked], bool]:
        """Return the searches a reply asks for, and whether it wants no further turn.

        Raises UnusableTurnError where the reply is neither.
        """
        if not self.model.manner.native_tools:
            return _read_answer(reply.content)
        return [_read_call(call) for call in reply.tool_calls], not reply.tool_calls

    def reply_message(self, reply: Reply) -> Message:
        """Return the model's turn as the conversation keeps it."""
        return turn_message(reply.content, reply.tool_calls)

    def result_messages(self, asked: Sequence[Asked], results: Sequence[str]) -> list[Message]:
        """Return the messages that tell the model the results of its searches, in the order it asked for them."""
        pairs = list(zip(asked, results, strict=True))
        if self.model.manner.native_tools:
            return [result_message(call.call, result) for call, result in pairs]
        lines = [f"{call.search.query}: {result}" for call, result in pairs if call.search]
        return [{"role": "user", "content": defused("\n".join(lines))}]


def turn_message(content: str, calls: Sequence[dict[str, Any]] = ()) -> Message:
    """Return a model's turn as a conversation keeps it: text that it copied from a document is defused too."""
    message: Message = {"role": "assistant", "content": defused(content)}
    if calls:
        message["tool_calls"] = [
            {
                "id": _id(call),
                "type": "function",
                "function": {"name": defused(call["name"]), "arguments": _arguments(call)},
            }
            for call in calls
        ]
    return message


def result_message(call: str, found: str) -> Message:
    """Return the message that tells the model the result of a tool call."""
    return {"role": "tool", "tool_call_id": call, "content": defused(found)}


def _read_answer(content: str) -> tuple[list[Asked], bool]:
    try:
        answer = _Answer.model_validate_json(content)
    except ValidationError as error:
        raise UnusableTurnError(f"no searches in the model's turn: {content[:80]!r}") from error
    queries = [query.strip()[:QUERY] for query in answer.searches[:SEARCHES_A_TURN]]
    return [Asked(Search(query=query)) for query in queries if query], answer.done


def _read_call(call: dict[str, Any]) -> Asked:
    if call["name"] != "search_labels":
        return Asked(None, _id(call), f"there is no tool {call['name'][:80]!r}; call search_labels")
    try:
        return Asked(Search.model_validate(call["args"]), _id(call))
    except ValidationError as error:
        wrong = error.errors()[0]
        return Asked(None, _id(call), f"search_labels: {'.'.join(map(str, wrong['loc'])) or 'call'}: {wrong['msg']}")


def _id(call: dict[str, Any]) -> str:
    return call["id"] or ""  # some engines give none, and match answers to calls by their order


def _arguments(call: dict[str, Any]) -> str:
    # Chat templates parse them, so what is not an object is left out; the error that answers it says why.
    return defused(json.dumps(call["args"] if isinstance(call["args"], dict) else {}, ensure_ascii=False))
