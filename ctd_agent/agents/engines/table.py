"""A model spec to a LangChain chat model; starts a local engine when the spec names one.

Every engine is an OpenAI-compatible endpoint behind one client. Nothing else in ctd-agent knows
an engine by name.
"""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel

from ctd_agent.agents.chat_model import ChatModel, reason
from ctd_agent.agents.encoders import SPEC as ENCODER
from ctd_agent.agents.encoders import Encoder, load_encoder
from ctd_agent.agents.llama import llama_server
from ctd_agent.agents.openai_chat import openai_chat
from ctd_agent.agents.retry import Patience
from ctd_agent.agents.student import read_student
from ctd_agent.agents.vllm_server import vllm_server
from ctd_agent.errors import UserError

VLLM_SLOTS = 64  # vLLM batches what it is given: too few documents at once leave it idle
OPENAI_SLOTS = 16  # an endpoint's limits are unknown: it says 429 where this is too much

SPECS = {
    "local": "Qwen2.5-Coder-1.5B-Instruct Q4_K_M on llama.cpp, in this process; needs nothing else",
    "gguf:FILE": "llama.cpp in this process on a .gguf file, or on OWNER/REPO/FILE.gguf from the Hugging Face Hub",
    "openai:MODEL[@URL]": "an OpenAI-compatible endpoint, its key in OPENAI_API_KEY; a URL without a path gets /v1",
    "vllm:MODEL": "a vLLM server on this machine for the run, with the extra `vllm`; MODEL is a folder or on the "
    "Hugging Face Hub; more arguments for the server in CTD_AGENT_VLLM_ARGS",
    "vllm:MODEL@URL": "a vLLM server that runs already; a URL without a path gets /v1",
    "encoder:FOLDER": "an encoder that `ctd-agent distill train` has trained, for the phase that it was trained for",
    "PROVIDER:MODEL": "whatever LangChain's init_chat_model accepts, with the extra `langchain`",
}


Model = ChatModel | Encoder  # what a phase of the graph may be done by


def load_model(spec: str) -> Model:
    """Return the model a spec names: `local`, `gguf:FILE`, `openai:MODEL[@URL]`, `vllm:MODEL[@URL]`, `encoder:FOLDER`.

    Anything else is given to LangChain's `init_chat_model`. Raises UserError for a spec that
    names nothing, CtdError for an engine that does not start.
    """
    engine, _, name = spec.partition(":")
    if spec.startswith(ENCODER):
        return load_encoder(spec)
    if spec == "local":
        from ctd_agent.agents.weights import fetch

        return _llama(spec, fetch())
    if engine in ("gguf", "openai", "vllm") and not name:
        raise UserError(f"{spec}: name a model behind it; {_FORMS}")
    if engine == "gguf":
        return _llama(spec, _gguf(spec, name))
    if engine == "vllm" and "@" not in name:
        return _vllm(spec, name)
    if engine in ("openai", "vllm"):
        model, url = _endpoint(spec, name)
        thinking = _vllm_thinking if url else _openai_thinking
        slots = VLLM_SLOTS if engine == "vllm" else OPENAI_SLOTS
        return ChatModel(spec, openai_chat(model, url), slots=slots, thinking=thinking)
    return ChatModel(spec, _other(spec), constrained=False)


def load_phases(shortlister: str, selector: str, listwise: bool | None = None) -> tuple[Model, Model]:
    """Return the models of the two phases, one and the same where the specs are; raises as load_model does.

    `listwise`, where not None, says whether the selector is to be shown the whole shortlist.
    """
    specs = sorted({shortlister, selector}, key="local".__eq__)  # last what may be a download
    loaded = {spec: load_model(spec) for spec in specs}
    chooses = loaded[selector]
    if listwise is None or isinstance(chooses, Encoder):
        return loaded[shortlister], chooses
    return loaded[shortlister], replace(chooses, listwise=listwise)


_FORMS = "a model is local, gguf:FILE, openai:MODEL[@URL] or vllm:MODEL[@URL]"


def _endpoint(spec: str, name: str) -> tuple[str, str | None]:
    """Return the model and the base URL that `MODEL[@URL]` names; a model's own name may hold an @."""
    found = re.fullmatch(r"(.+?)@(https?://.+)", name)
    if found and urlsplit(found[2]).hostname:
        model, url = found[1], found[2].rstrip("/")
        return model, url if urlsplit(url).path else f"{url}/v1"
    if "@" in name:  # were it taken for a model's name, the documents would go to OpenAI
        raise UserError(f"{spec}: what follows the @ is no http:// or https:// URL")
    if not os.environ.get("OPENAI_API_KEY"):
        raise UserError(f"{spec}: set OPENAI_API_KEY, or name an endpoint: {spec}@http://HOST:PORT")
    return name, None


def _other(spec: str) -> BaseChatModel:
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise UserError(f"{spec}: {_FORMS}; for LangChain's names, pip install 'ctd-agent[langchain]'") from error
    try:
        model = init_chat_model(spec)
    except Exception as error:  # every provider has its own for a missing key or package
        raise UserError(f"{spec}: {_FORMS}, or a name LangChain knows: {reason(error)}") from error
    return cast("BaseChatModel", model)  # of one that is named; with no name it would be a configurable one


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

    # Our own process: never by way of a proxy.
    chat = openai_chat(weights.stem, llama_server(weights), http_client=DefaultHttpxClient(trust_env=False))
    model = ChatModel(spec, chat, native_tools=False, searches=False, listwise=False, slots=1, thinking=_llama_thinking)
    return _as_taught(model, weights.parent)


def _vllm(spec: str, model: str) -> ChatModel:
    from openai import DefaultHttpxClient

    server = vllm_server(model)
    chat = openai_chat(model, server.url, http_client=DefaultHttpxClient(trust_env=False))
    thinking = _vllm_thinking if server.reasoning else _template_thinking
    patience = Patience(server.revive)
    made = ChatModel(
        spec,
        chat,
        native_tools=bool(server.tools),
        searches=bool(server.tools),
        slots=VLLM_SLOTS,
        thinking=thinking,
        patience=patience,
    )
    return _as_taught(made, Path(model))


def _as_taught(model: ChatModel, folder: Path) -> ChatModel:
    """Return a model that is asked as it was trained to be, where it is a student that lies in this folder."""
    student = read_student(folder)
    if student is None or student.kind != "writer":
        return model
    return replace(
        model,
        native_tools=student.native_tools,
        searches=student.target in ("both", "shortlist"),
        listwise=True,
        candidates=student.candidates,
        reasons=student.reasons,
        names=student.names,
    )


# What a thinking budget is called; with 0 none is wanted.


def _template_thinking(tokens: int) -> dict[str, Any]:
    return {"extra_body": {"chat_template_kwargs": {"enable_thinking": tokens > 0}}}


def _vllm_thinking(tokens: int) -> dict[str, Any]:
    body = _template_thinking(tokens)["extra_body"]
    return {"extra_body": body | ({"thinking_token_budget": tokens} if tokens else {})}


def _llama_thinking(tokens: int) -> dict[str, Any]:
    body = _template_thinking(tokens)["extra_body"]
    return {"extra_body": body | ({"thinking_budget_tokens": tokens} if tokens else {})}


def _openai_thinking(tokens: int) -> dict[str, Any]:
    return {"reasoning_effort": "low" if tokens <= 4_096 else "medium" if tokens <= 16_384 else "high"}
