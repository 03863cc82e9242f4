"""LangChain's client for OpenAI-compatible endpoints, its gaps closed: every engine but LangChain's own is one."""

import os
import re
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel

TIMEOUT = 600.0  # seconds for one call: a long prompt on a slow processor, not a hung engine
CONNECT = 5.0  # seconds to reach an endpoint


def openai_chat(model: str, url: str | None, **options: Any) -> BaseChatModel:
    """Return a chat model on OpenAI's API, at a base URL or at OpenAI itself; its key is in OPENAI_API_KEY."""
    from pydantic import SecretStr

    timeouts = (CONNECT, TIMEOUT, TIMEOUT, TIMEOUT)  # to connect, read, write, and wait for a connection
    options = {"max_retries": 0, "timeout": timeouts} | options  # `retry` has more patience
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
