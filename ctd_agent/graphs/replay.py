"""Answers from logs: a model that was asked something before is not asked again."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ctd_agent.agents.engines import ChatModel, EngineError, Model
from ctd_agent.errors import redacted
from ctd_agent.graphs.logged import read_log
from ctd_agent.schema import Exchange, Reply, Usage


class Memory:
    """Models' earlier answers, by model, prompt and options. `replayed` and `asked` count the prompts."""

    def __init__(self) -> None:
        self.replayed = 0
        self.asked = 0
        self._replies: dict[bytes, Reply] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, logs: Iterable[Path]) -> "Memory":
        """Return the answers in transitions logs. Raises UserError for a log with a broken line."""
        memory = cls()
        for log in logs:
            for steps in read_log(log).steps.values():
                for step in steps:
                    if step.exchange and step.model:
                        memory._learn(step.model, step.exchange)
        return memory

    def reply(self, model: str, prompt: list[dict[str, Any]], options: dict[str, Any]) -> Reply | None:
        """Return the model's answer to this very prompt with these options, None where it was not asked."""
        with self._lock:
            known = self._replies.get(_key(model, prompt, options))
            self.replayed += known is not None
            self.asked += known is None
        return known

    def add(self, model: str, prompt: list[dict[str, Any]], options: dict[str, Any], reply: Reply) -> None:
        """Remember an answer."""
        with self._lock:
            self._replies[_key(model, prompt, options)] = reply

    def _learn(self, model: str, exchange: Exchange) -> None:
        for prompt, reply in zip(exchange.prompts, exchange.replies, strict=False):
            self.add(model, prompt, exchange.options, reply)


@dataclass(frozen=True)
class ReplayedModel(ChatModel):
    """A chat model that repeats its earlier answers from memory, usage and all, and remembers new ones.

    Equal prompts get equal answers, also at a temperature above zero: a document's runs differ only by what was
    changed on purpose.
    """

    memory: Memory = field(default_factory=Memory)

    @classmethod
    def over(cls, model: Model, memory: Memory) -> Model:
        """Return the model with a memory. An encoder needs none."""
        if not isinstance(model, ChatModel):
            return model
        return cls(**{known.name: getattr(model, known.name) for known in fields(ChatModel)}, memory=memory)

    def ask(self, exchange: Exchange, within: Callable[[Usage], bool] = lambda _: True) -> Exchange:
        """Send those of the exchange's prompts that are new, one by one, else as ChatModel does."""
        exchange = self.parted(exchange)
        spec, options = redacted(self.spec), exchange.options
        for prompt in exchange.prompts:
            if not within(exchange.usage):
                break
            reply = self.memory.reply(spec, prompt, options)
            if reply is None:
                try:
                    reply = super().ask(Exchange(messages=prompt, options=options)).replies[0]
                except EngineError as error:
                    raise EngineError(str(error), exchange) from error
                self.memory.add(spec, prompt, options, reply)
            exchange = exchange.model_copy(update={"replies": [*exchange.replies, reply]})
        return exchange


def _key(model: str, prompt: list[dict[str, Any]], options: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps([model, prompt, options], sort_keys=True).encode()).digest()
