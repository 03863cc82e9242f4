"""llama.cpp in this process: one server a weights file, on a free loopback port."""

import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

from ctd_agent.agents.engines.chat_model import ChatModel, as_taught
from ctd_agent.agents.engines.openai_chat import OWN_KEY, openai_chat, template_thinking
from ctd_agent.agents.manner import Manner
from ctd_agent.errors import CtdError, UserError

CONTEXT = 12_288  # tokens a conversation may hold

_starting = threading.Lock()


def load_local(spec: str, name: str) -> ChatModel:
    """Return the default model, its weights fetched where the cache has none. Raises as `weights.fetch` does."""
    from ctd_agent.agents.engines.weights import fetch

    return _on_llama(spec, fetch())


def load_gguf(spec: str, name: str) -> ChatModel:
    """Return the model of a .gguf file, or of OWNER/REPO/FILE.gguf on the Hugging Face Hub.

    Raises UserError where there is no such file or it is no GGUF.
    """
    path = Path(name).expanduser()  # behind a colon no shell does it
    if path.suffix != ".gguf":
        raise UserError(f"{spec}: name a .gguf file, or OWNER/REPO/FILE.gguf on the Hugging Face Hub")
    if not path.is_file():
        if len(path.parts) != 3 or path.is_absolute():
            raise UserError(f"{spec}: no such file")
        from ctd_agent.agents.engines.weights import hub_file

        path = hub_file(name)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(f"{spec}: cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise UserError(f"{spec}: not a GGUF file, whatever its name")
    return _on_llama(spec, path)


def llama_thinking(tokens: int) -> dict[str, Any]:
    """Return the options that tell llama.cpp's server how many tokens to think, 0 for none."""
    return template_thinking(tokens, thinking_budget_tokens=tokens)


def _on_llama(spec: str, weights: Path) -> ChatModel:
    chat = openai_chat(weights.stem, llama_server(weights), OWN_KEY)
    model = ChatModel(spec, chat, Manner(native_tools=False), searches=False, selects="pointwise", slots=1)
    return as_taught(model, weights.parent)


def llama_server(weights: Path) -> str:
    """Return the base URL of llama.cpp's server on these weights, started once a process.

    Raises CtdError for weights that it cannot load.
    """
    with _starting:  # the cache alone would let two threads load the same weights twice
        return f"{_start(weights.resolve())[1]}/v1"


@cache
def _start(weights: Path) -> tuple[Any, str]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.n_ctx = CONTEXT
    params.n_parallel = 1  # one slot: the next prompt finds this document's prefix in its cache
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [OWN_KEY]
    params.cors_origins = ""  # no page in a browser may ask
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
