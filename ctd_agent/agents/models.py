"""A model spec to a LangChain chat model; starts a local engine when the spec names one.

Every engine is an OpenAI-compatible endpoint behind one client. Nothing else in ctd-agent knows
an engine by name.
"""

import json
import math
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, convert_to_messages
from langchain_core.runnables import Runnable

from ctd_agent.errors import CtdError, UserError
from ctd_agent.schema import Exchange, Reply, Usage

CONTEXT = 12_288  # tokens a conversation may hold in the local engine
TIMEOUT = 600.0  # seconds for one call: a long prompt on a slow processor, not a hung engine
CONNECT = 5.0  # seconds to reach an endpoint: one that is not there must not hold up every document
RETRIES = 2  # by the client, of what may pass: no connection, 408, 409, 429, 5xx; it heeds Retry-After

SPECS = {
    "local": "Qwen2.5-Coder-1.5B-Instruct Q4_K_M on llama.cpp, in this process; needs nothing else",
    "gguf:FILE": "llama.cpp in this process on a .gguf file, or on OWNER/REPO/FILE.gguf from the Hugging Face Hub",
    "openai:MODEL[@URL]": "an OpenAI-compatible endpoint, its key in OPENAI_API_KEY; a URL without a path gets /v1",
    "vllm:MODEL@URL": "a vLLM server that runs already; a URL without a path gets /v1",
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
    `slots`: the documents it carries at once. `constrained`: it decodes under a JSON schema in
    OpenAI's form.
    """

    spec: str
    chat: BaseChatModel
    native_tools: bool = True
    listwise: bool = True
    slots: int = 8
    constrained: bool = True

    def ask(self, exchange: Exchange, within: Callable[[Usage], bool] = lambda _: True) -> Exchange:
        """Send the exchange's prompts one by one; return it with the replies.

        `within` is asked before each call, with what the exchange has cost so far, whether to go on.
        Raises EngineError when the engine fails on any prompt.
        """
        bound = self._bound(exchange.options)
        for prompt in exchange.prompts:
            if not within(exchange.usage):
                break
            started = perf_counter()
            try:
                message = bound.invoke(convert_to_messages(prompt))
                reply = _reply(message, perf_counter() - started)
            except Exception as error:  # every engine and client has its own
                raise EngineError(f"{self.spec}: {_reason(error)}", exchange) from error
            exchange = exchange.model_copy(update={"replies": [*exchange.replies, reply]})
        return exchange

    def _bound(self, options: dict[str, Any]) -> Runnable[Any, AIMessage]:
        options = dict(options)
        tools = options.pop("tools", None)
        if not self.constrained:  # the prompt asks for JSON in words, too
            options.pop("response_format", None)
        # Each provider's client has its own form of a tool, and knows how to make it.
        return (self.chat.bind_tools(tools) if tools else self.chat).bind(**options)


def load_model(spec: str) -> ChatModel:
    """Return the chat model a spec names: `local`, `gguf:FILE`, `openai:MODEL[@URL]`, `vllm:MODEL@URL`.

    Anything else is given to LangChain's `init_chat_model`. Raises UserError for a spec that
    names nothing, CtdError for an engine that does not start.
    """
    engine, _, name = spec.partition(":")
    if spec == "local":
        from ctd_agent.agents.weights import fetch

        return _llama(spec, fetch())
    if engine in ("gguf", "openai", "vllm") and not name:
        raise UserError(f"{spec}: name a model behind it; {_FORMS}")
    if engine == "gguf":
        return _llama(spec, _gguf(spec, name))
    if engine in ("openai", "vllm"):
        return ChatModel(spec, _openai(*_endpoint(spec, engine, name)))
    return ChatModel(spec, _other(spec), constrained=False)


_FORMS = "a model is local, gguf:FILE, openai:MODEL[@URL] or vllm:MODEL@URL"


def _endpoint(spec: str, engine: str, name: str) -> tuple[str, str | None]:
    """Return the model and the base URL that `MODEL[@URL]` names; a model's own name may hold an @."""
    found = re.fullmatch(r"(.+?)@(https?://.+)", name)
    if found and urlsplit(found[2]).hostname:
        model, url = found[1], found[2].rstrip("/")
        return model, url if urlsplit(url).path else f"{url}/v1"
    if engine == "vllm":
        model = name.partition("@")[0]
        raise UserError(f"{spec}: start it with `vllm serve {model}`, then name it vllm:{model}@http://HOST:PORT")
    if "@" in name:  # were it taken for a model's name, the documents would go to OpenAI
        raise UserError(f"{spec}: what follows the @ is no http:// or https:// URL")
    if not os.environ.get("OPENAI_API_KEY"):
        raise UserError(f"{spec}: set OPENAI_API_KEY, or name an endpoint: {spec}@http://HOST:PORT")
    return name, None


def _openai(model: str, url: str | None, **options: Any) -> BaseChatModel:
    from pydantic import SecretStr

    timeouts = (CONNECT, TIMEOUT, TIMEOUT, TIMEOUT)  # to connect, read, write, and wait for a connection
    options = {"max_retries": RETRIES, "timeout": timeouts} | options
    if url:
        options["base_url"] = url
        if not str(urlsplit(url).hostname).endswith(("openai.com", "azure.com")):
            options |= {"compatible": True, "use_responses_api": False}
    key = SecretStr(os.environ.get("OPENAI_API_KEY") or "none")
    chat: BaseChatModel = _client()(model=model, api_key=key, **options)
    return chat


@cache
def _client() -> type[BaseChatModel]:
    """Return LangChain's client with three gaps closed; importing it takes a second."""
    from langchain_openai import ChatOpenAI

    class Client(ChatOpenAI):
        compatible: bool = False  # not OpenAI's own

        def _get_request_payload(self, *args: Any, **options: Any) -> dict[str, Any]:
            # Past the client's own parser: of an answer that max_tokens cut it raises, and shows nothing.
            payload = super()._get_request_payload(*args, **options)
            if "messages" in payload and "response_format" in payload:
                extra = payload.get("extra_body") or {}
                payload["extra_body"] = {**extra, "response_format": payload.pop("response_format")}
            if not self.compatible and re.match(r"o\d|gpt-5(?!-chat)", self.model_name):
                payload.pop("temperature", None)  # OpenAI's reasoning models refuse any
            if self.compatible and "max_completion_tokens" in payload:
                # OpenAI has renamed it; Ollama and LM Studio ignore the new name, Mistral refuses it.
                payload["max_tokens"] = payload.pop("max_completion_tokens")
            return payload

        def _create_chat_result(self, response: Any, *args: Any) -> Any:
            # The reasoning that engines send beside the content is no part of OpenAI's API.
            result = super()._create_chat_result(response, *args)
            if not result.generations:
                raise ValueError("the engine's answer has no choices")
            extra = response.choices[0].message.model_extra or {}
            reasoning = extra.get("reasoning_content") or extra.get("reasoning")
            result.generations[0].message.additional_kwargs["reasoning_content"] = reasoning
            return result

    return Client


def _other(spec: str) -> BaseChatModel:
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise UserError(f"{spec}: {_FORMS}; for LangChain's names, pip install 'ctd-agent[langchain]'") from error
    try:
        model = init_chat_model(spec)
    except Exception as error:  # every provider has its own for a missing key or package
        raise UserError(f"{spec}: {_FORMS}, or a name LangChain knows: {_reason(error)}") from error
    assert isinstance(model, BaseChatModel)  # noqa: S101 - a fixed model was asked for
    return model


def _gguf(spec: str, name: str) -> Path:
    path = Path(name).expanduser()  # behind a colon no shell does it
    if path.suffix != ".gguf":
        raise UserError(f"{spec}: name a .gguf file, or OWNER/REPO/FILE.gguf on the Hugging Face Hub")
    if not path.is_file():
        if len(path.parts) != 3 or path.is_absolute():
            raise UserError(f"{spec}: no such file")
        from ctd_agent.agents.weights import hub_file

        path = hub_file(name)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(f"{spec}: cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise UserError(f"{spec}: not a GGUF file, whatever its name")
    return path


def _llama(spec: str, weights: Path) -> ChatModel:
    from openai import DefaultHttpxClient

    url = f"{_llama_server(weights.resolve())}/v1"
    # Our own process: never by way of a proxy; and what fails in it once fails again.
    chat = _openai(weights.stem, url, http_client=DefaultHttpxClient(trust_env=False), max_retries=0)
    return ChatModel(spec, chat, native_tools=False, listwise=False, slots=1)


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
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _processors()
    try:
        server = xllamacpp.Server(params)
    except Exception as error:
        raise CtdError(f"{weights}: llama.cpp cannot load it; damaged, or too large? ({error})") from error
    return server, server.listening_address


def _processors() -> int:
    # Those this process may use; macOS cannot tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reply(message: Any, seconds: float) -> Reply:
    if not isinstance(message, AIMessage):
        raise TypeError(f"the chat model answered with a {type(message).__name__}, not a message")
    usage: dict[str, Any] = dict(message.usage_metadata or {})
    first = ((message.response_metadata.get("logprobs") or {}).get("content") or [{}])[0]
    # Likeliest first; two tokens may look the same, and JSON has no infinity.
    likeliest = {t["token"]: t["logprob"] for t in reversed(first.get("top_logprobs") or [])}
    made = [*message.tool_calls, *message.invalid_tool_calls]  # the latter's arguments are no JSON: a string
    calls = [{"name": call["name"] or "", "args": call["args"], "id": call["id"]} for call in made]
    return Reply(
        content=_encodable(message.text),
        reasoning=_encodable(str(message.additional_kwargs.get("reasoning_content") or "")),
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


def _encodable(text: str) -> str:
    # JSON of a model's making may hold lone surrogates, which no file can.
    return text.encode("utf-8", "replace").decode()


def _reason(error: Exception) -> str:
    """Return an error on one line, with what is at its root: `Connection error.` alone helps nobody."""
    root: BaseException = error
    while root.__cause__:
        root = root.__cause__
    words = f"{type(error).__name__}: {error}" + (f" ({root})" if root is not error else "")
    return _encodable(" ".join(words.split())[:500])
