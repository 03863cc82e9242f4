"""A LangChain chat model with what the two phases must know of it, and an exchange with it."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, convert_to_messages
from langchain_core.runnables import Runnable

from ctd_agent.agents.engines.retry import Patience, causes
from ctd_agent.agents.engines.student import read_student
from ctd_agent.agents.manner import Manner
from ctd_agent.endpoint import key_advice
from ctd_agent.errors import CtdError
from ctd_agent.schema import Exchange, Reply, Usage


class EngineError(CtdError):
    """The engine did not answer. `exchange` holds the prompts sent and the replies before the failure."""

    def __init__(self, message: str, exchange: Exchange) -> None:
        super().__init__(message)
        self.exchange = exchange


WORD_JOINER = "\u2060"  # it has no width, and parts a token from what it would be
Thinking = Callable[[int], dict[str, Any]]  # thinking tokens to the options by which an engine is told them


@dataclass(frozen=True)
class ChatModel:
    """A LangChain chat model, with what the two phases must know of its strength.

    `manner` is how it is asked. `searches`: its searches are worth their turns, else it gets no turn by default.
    `selects` is its way of selecting, by name. `slots` is the number of documents it carries at once. `constrained`:
    it decodes under a JSON schema in OpenAI's form. `thinking` is None where it cannot be told how much to think.
    `patience` holds what is known of the engine's failures. `control` are its tokenizer's special tokens: in a prompt
    they are parted, so that it reads them as text.
    """

    spec: str
    chat: BaseChatModel
    manner: Manner = field(default_factory=Manner)
    searches: bool = True
    selects: str = "listwise"
    slots: int = 8
    constrained: bool = True
    thinking: Thinking | None = None
    patience: Patience = field(default_factory=Patience)
    control: frozenset[str] = frozenset()

    def ask(self, exchange: Exchange, within: Callable[[Usage], bool] = lambda _: True) -> Exchange:
        """Send the exchange's prompts one by one and return it as sent, with the replies.

        `within` decides before each call, from the cost of the exchange so far, whether to go on.
        Raises EngineError when the engine fails on any prompt.
        """
        exchange = self.parted(exchange)
        bound = self._bound(exchange.options)
        for prompt in exchange.prompts:
            if not within(exchange.usage):
                break
            started = perf_counter()
            try:
                message = self.patience.call(partial(bound.invoke, convert_to_messages(prompt)))
                reply = _reply(message, perf_counter() - started)
            except Exception as error:  # every engine and client has its own
                raise EngineError(f"{self.spec}: {reason(error)}{key_advice(error)}", exchange) from error
            exchange = exchange.model_copy(update={"replies": [*exchange.replies, reply]})
        return exchange

    def parted(self, exchange: Exchange) -> Exchange:
        """Return the exchange with every special token of the model's tokenizer parted behind its first character."""
        if not self.control:
            return exchange
        tokens = re.compile("|".join(map(re.escape, sorted(self.control, key=len, reverse=True))))

        def part(text: str) -> str:
            return tokens.sub(lambda found: f"{found.group()[0]}{WORD_JOINER}{found.group()[1:]}", text)

        def parted(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{**message, "content": part(message["content"])} for message in messages]

        return exchange.model_copy(
            update={
                "messages": parted(exchange.messages),
                "questions": [*map(part, exchange.questions)],
                "baseline": parted(exchange.baseline),
                "baseline_questions": [*map(part, exchange.baseline_questions)],
            }
        )

    def _bound(self, options: dict[str, Any]) -> Runnable[Any, AIMessage]:
        options = dict(options)
        tools = options.pop("tools", None)
        thinking = options.pop("thinking", None)
        if thinking is not None and self.thinking:
            options |= self.thinking(thinking)
        if not self.constrained:  # the prompt asks for JSON in words, too
            options.pop("response_format", None)
        # Each provider's client has its own form of a tool, and knows how to make it.
        return (self.chat.bind_tools(tools) if tools else self.chat).bind(**options)


def as_taught(model: ChatModel, folder: Path) -> ChatModel:
    """Return the model, asked as it was trained to be if the folder of its weights has a student's card."""
    student = read_student(folder)
    if student is None or student.kind != "language-model":
        return model
    searches = student.target in ("both", "shortlist")
    return replace(model, manner=student.manner, searches=searches, selects="listwise")


def _reply(message: Any, seconds: float) -> Reply:
    if not isinstance(message, AIMessage):
        raise TypeError(f"the chat model answered with a {type(message).__name__}, not a message")
    usage: dict[str, Any] = dict(message.usage_metadata or {})
    first = ((message.response_metadata.get("logprobs") or {}).get("content") or [{}])[0]
    # Likeliest first; two tokens may look the same, and JSON has no infinity.
    likeliest = {t["token"]: t["logprob"] for t in reversed(first.get("top_logprobs") or [])}
    # The arguments of an invalid one are no JSON: a string.
    made: list[Mapping[str, Any]] = [*message.tool_calls, *message.invalid_tool_calls]
    reasoning, content = _apart(message)
    calls = [{"name": call["name"] or "", "args": call["args"], "id": call["id"]} for call in made]
    return Reply(
        content=_encodable(content),
        reasoning=_encodable(reasoning),
        tool_calls=json.loads(_encodable(json.dumps(calls, ensure_ascii=False))),
        logprobs={_encodable(token): value for token, value in likeliest.items() if math.isfinite(value)},
        usage=Usage(
            calls=1,
            prompt_tokens=usage.get("input_tokens", 0),
            cached_tokens=(usage.get("input_token_details") or {}).get("cache_read") or 0,
            completion_tokens=usage.get("output_tokens", 0),
            seconds=seconds,
        ),
    )


def _apart(message: AIMessage) -> tuple[str, str]:
    """Return the reasoning and the answer. An engine without a reasoning parser puts both into the answer."""
    reasoning = str(message.additional_kwargs.get("reasoning_content") or "")
    thought, mark, answer = message.text.partition("</think>")
    if reasoning or not mark:
        return reasoning, message.text
    return thought.strip().removeprefix("<think>").strip(), answer.lstrip()


def _encodable(text: str) -> str:
    # JSON of a model's making may hold lone surrogates, which no file can.
    return text.encode("utf-8", "replace").decode()


def reason(error: Exception) -> str:
    """Return an error on one line, with what is at its root: `Connection error.` alone helps nobody."""
    *_, root = causes(error)
    words = f"{type(error).__name__}: {error}" + (f" ({root})" if root is not error else "")
    return _encodable(" ".join(words.split())[:500])
