"""LangChain's client for OpenAI-compatible endpoints, its gaps closed: every engine but LangChain's own is one."""

import os
import re
from functools import cache
from secrets import token_urlsafe
from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel

from ctd_agent.agents.engines.chat_model import ChatModel
from ctd_agent.endpoint import EndpointClient, key_for
from ctd_agent.errors import UserError

VLLM_SLOTS = 64  # vLLM batches what it is given: too few documents at once leave it idle
OPENAI_SLOTS = 16  # an endpoint's limits are unknown: it says 429 where this is too much
OWN_KEY = token_urlsafe()  # of the servers that this process starts: other users of the machine have none
TIMEOUT = 600.0  # seconds for one call: a long prompt on a slow processor, not a hung engine
CONNECT = 5.0  # seconds to reach an endpoint


def load_openai(spec: str, name: str) -> ChatModel:
    """Return a model at OpenAI, or at the endpoint in `MODEL@URL`. Raises UserError for a bad URL, or no key."""
    model, url = _endpoint(spec, name)
    return ChatModel(spec, openai_chat(model, url), slots=OPENAI_SLOTS, thinking=None if url else _effort)


def load_served(spec: str, name: str) -> ChatModel:
    """Return a model on a vLLM server that runs already. Raises UserError for a bad URL."""
    model, url = _endpoint(spec, name)
    return ChatModel(spec, openai_chat(model, url), slots=VLLM_SLOTS)


def vllm_thinking(tokens: int) -> dict[str, Any]:
    """Return the options that tell a vLLM server with a reasoning parser how many tokens to think, 0 for none."""
    return template_thinking(tokens, thinking_token_budget=tokens)


def template_thinking(tokens: int, **budget: int) -> dict[str, Any]:
    """Return the options that tell a chat template whether to think, with the engine's `budget` where it is to."""
    return {"extra_body": {"chat_template_kwargs": {"enable_thinking": tokens > 0}} | (budget if tokens else {})}


def _effort(tokens: int) -> dict[str, Any]:
    """Return the option that tells OpenAI's models how much to think: an effort that stands for so many tokens."""
    return {"reasoning_effort": "low" if tokens <= 4_096 else "medium" if tokens <= 16_384 else "high"}


def _endpoint(spec: str, name: str) -> tuple[str, str | None]:
    """Return the model and the base URL that `MODEL[@URL]` names. A model's own name may hold an @."""
    named = re.fullmatch(r"(.+?)@(https?://.+)", name)
    if named and urlsplit(named[2]).hostname:
        model, url = named[1], named[2].rstrip("/")
        return model, url if urlsplit(url).path else f"{url}/v1"
    if "@" in name:  # were it taken for a model's name, the documents would go to OpenAI
        raise UserError(f"{spec}: what follows the @ is no http:// or https:// URL")
    if not os.environ.get("OPENAI_API_KEY"):
        raise UserError(f"{spec}: set OPENAI_API_KEY, or name an endpoint: {spec}@http://HOST:PORT")
    return name, None


def openai_chat(model: str, url: str | None, own_key: str = "") -> BaseChatModel:
    """Return a chat model on OpenAI's API, at a base URL or at OpenAI itself. `key_for` says which key goes there.

    `own_key` is that of a server of this process: no other key goes there, and no proxy lies between.
    """
    from pydantic import SecretStr

    timeouts = (CONNECT, TIMEOUT, TIMEOUT, TIMEOUT)  # to connect, read, write, and wait for a connection
    options: dict[str, Any] = {"max_retries": 0, "timeout": timeouts}  # `retry` has more patience
    proxy = None if own_key else os.environ.get("OPENAI_PROXY")  # LangChain's variable, for a client of its own making
    options |= {"http_client": EndpointClient(TIMEOUT, trust_env=not own_key, proxy=proxy), "openai_proxy": None}
    if url:
        options["base_url"] = url
        if not str(urlsplit(url).hostname).endswith(("openai.com", "azure.com")):
            options |= {"compatible": True, "use_responses_api": False}
    key = SecretStr(own_key or key_for(url))
    chat: BaseChatModel = _client()(model=model, api_key=key, **options)
    return chat


@cache
def _client() -> type[BaseChatModel]:
    """Return LangChain's client with three gaps closed. Importing it takes a second."""
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
