"""A model spec to a LangChain chat model; starts a local engine when the spec names one.

Every engine is an OpenAI-compatible endpoint behind one client. Nothing else in ctd-agent knows
an engine by name.
"""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, convert_to_messages

from ctd_agent.errors import CtdError, UserError
from ctd_agent.schema import Exchange, Reply, Usage

CONTEXT = 8_192  # tokens a conversation may hold in the local engine
TIMEOUT = 600.0  # seconds for one call: a long prompt on a slow processor, not a hung engine
TOP_LOGPROBS = 20  # what OpenAI's API admits at most

SPECS = {
    "local": "Qwen2.5-Coder-1.5B-Instruct Q4_K_M on llama.cpp, in this process; needs nothing else",
    "gguf:FILE": "llama.cpp in this process on a .gguf file, or on OWNER/REPO/FILE.gguf from the Hugging Face Hub",
    "openai:MODEL[@URL]": "an OpenAI-compatible endpoint; its key is in OPENAI_API_KEY",
    "vllm:MODEL@URL": "a vLLM server that runs already",
    "PROVIDER:MODEL": "whatever LangChain's init_chat_model accepts, with the extra `langchain`",
}


class EngineError(CtdError):
    """The engine did not answer; `exchange` holds what it was sent, and what it had answered before."""

    def __init__(self, message: str, exchange: Exchange) -> None:
        super().__init__(message)
        self.exchange = exchange


@dataclass(frozen=True)
class ChatModel:
    """A LangChain chat model, with what the two phases must know of its strength.

    `native_tools`: it makes tool calls of its own; else a search turn is constrained by schema.
    `listwise`: it can reason over a whole shortlist; else it is asked about one candidate at a time.
    `slots`: the documents it carries at once.
    """

    spec: str
    chat: BaseChatModel
    native_tools: bool = True
    listwise: bool = True
    slots: int = 8

    def ask(self, exchange: Exchange, within: Callable[[Usage], bool] = lambda _: True) -> Exchange:
        """Send the exchange's prompts one by one; return it with the replies.

        `within` is asked before each call, with what the exchange has cost so far, whether to go on.
        Raises EngineError when the engine fails on any prompt.
        """
        bound = self.chat.bind(**exchange.options) if exchange.options else self.chat
        for prompt in exchange.prompts:
            if not within(exchange.usage):
                break
            started = perf_counter()
            try:
                message = bound.invoke(convert_to_messages(prompt))
                reply = _reply(message, perf_counter() - started)
            except Exception as error:  # every engine and client has its own
                raise EngineError(f"{self.spec}: {type(error).__name__}: {error}", exchange) from error
            exchange = exchange.model_copy(update={"replies": [*exchange.replies, reply]})
        return exchange


def load_model(spec: str) -> ChatModel:
    """Return the chat model a spec names: `local`, `gguf:FILE`, `openai:MODEL[@URL]`, `vllm:MODEL@URL`.

    Anything else is given to LangChain's `init_chat_model`. Raises UserError for a spec that
    names nothing, CtdError for an engine that does not start.
    """
    engine, _, name = spec.partition(":")
    if spec == "local":
        from ctd_agent.agents.weights import fetch

        return _llama(spec, fetch())
    if engine == "gguf" and name:
        return _llama(spec, _gguf(name))
    if engine in ("openai", "vllm") and name:
        model, _, url = name.partition("@")
        if engine == "vllm" and not url:
            raise UserError(
                f"{spec}: start it with `vllm serve {model}`, then name it vllm:{model}@http://HOST:PORT/v1"
            )
        return ChatModel(spec, _openai(model, url or None))
    return ChatModel(spec, _other(spec))


def _openai(model: str, url: str | None) -> BaseChatModel:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    key = os.environ.get("OPENAI_API_KEY")
    if key is None and url is None:
        raise UserError(f"openai:{model}: set OPENAI_API_KEY, or name an endpoint: openai:{model}@http://HOST:PORT/v1")
    return ChatOpenAI(model=model, base_url=url, api_key=SecretStr(key or "none"), timeout=TIMEOUT, max_retries=2)


def _other(spec: str) -> BaseChatModel:
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise UserError(
            f"{spec}: not one of local, gguf:FILE, openai:MODEL[@URL], vllm:MODEL@URL; "
            f"for LangChain's own model names, pip install 'ctd-agent[langchain]'"
        ) from error
    try:
        model = init_chat_model(spec)
    except (ValueError, ImportError) as error:
        raise UserError(f"{spec}: {error}") from error
    assert isinstance(model, BaseChatModel)  # noqa: S101 - a fixed model was asked for
    return model


def _gguf(name: str) -> Path:
    path = Path(name)
    if path.suffix != ".gguf":
        raise UserError(f"gguf:{name}: name a .gguf file, or OWNER/REPO/FILE.gguf on the Hugging Face Hub")
    if path.is_file():
        return path
    if len(path.parts) != 3 or path.is_absolute():
        raise UserError(f"gguf:{name}: no such file")
    from ctd_agent.agents.weights import hub_file

    return hub_file(name)


def _llama(spec: str, weights: Path) -> ChatModel:
    url = _llama_server(weights.resolve())
    return ChatModel(spec, _openai(weights.stem, f"{url}/v1"), native_tools=False, listwise=False, slots=1)


_starting = threading.Lock()


def _llama_server(weights: Path) -> str:
    with _starting:  # the cache alone would let two threads load the same weights twice
        return _start_llama(weights)[1]


@cache
def _start_llama(weights: Path) -> tuple[Any, str]:
    """Start llama.cpp's server in this process, on a free loopback port, once per weights file."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.n_ctx = CONTEXT
    params.n_parallel = 1  # one slot: the next prompt finds this document's prefix in its cache
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    try:
        server = xllamacpp.Server(params)
    except Exception as error:
        raise CtdError(f"{weights}: llama.cpp cannot load it ({error})") from error
    return server, server.listening_address


def _reply(message: Any, seconds: float) -> Reply:
    if not isinstance(message, AIMessage):
        raise TypeError(f"the chat model answered with a {type(message).__name__}, not a message")
    usage: dict[str, Any] = dict(message.usage_metadata or {})
    first = ((message.response_metadata.get("logprobs") or {}).get("content") or [{}])[0]
    calls = [{"name": c["name"], "args": c["args"], "id": c["id"]} for c in message.tool_calls]
    return Reply(
        content=_encodable(message.text),
        reasoning=_encodable(str(message.additional_kwargs.get("reasoning_content") or "")),
        tool_calls=json.loads(_encodable(json.dumps(calls, ensure_ascii=False))),
        logprobs={top["token"]: top["logprob"] for top in first.get("top_logprobs") or []},
        usage=Usage(
            calls=1,
            prompt_tokens=usage.get("input_tokens", 0),
            cached_tokens=(usage.get("input_token_details") or {}).get("cache_read") or 0,
            completion_tokens=usage.get("output_tokens", 0),
            seconds=seconds,
        ),
    )


def _encodable(text: str) -> str:
    # JSON of a model's making may hold lone surrogates, which no file can.
    return text.encode("utf-8", "replace").decode()
