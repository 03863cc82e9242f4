"""A vLLM server of our own: a child process on loopback that ends with this one, however it ends."""

import os
import shlex
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep, strftime
from typing import IO

import httpx

from ctd_agent.agents.engines.chat_model import ChatModel, as_taught
from ctd_agent.agents.engines.model_files import chat_template, special_tokens
from ctd_agent.agents.engines.openai_chat import OWN_KEY, VLLM_SLOTS, openai_chat, template_thinking
from ctd_agent.agents.engines.retry import Patience
from ctd_agent.agents.manner import Manner
from ctd_agent.cache import cache_folder
from ctd_agent.console import note
from ctd_agent.errors import CtdError, UserError
from ctd_agent.records import opened

ARGUMENTS = "CTD_AGENT_VLLM_ARGS"  # the variable of the environment that holds more arguments for the server
RESTARTS = 3  # of a server that dies: what kills it may be no accident

# What tells a model's forms is its chat template. Of the marks, the first that is in it counts.
_TOOL_PARSERS = {
    "<|channel|>": "openai",
    "<seed:tool_call>": "seed_oss",
    "<minimax:tool_call>": "minimax_m2",
    "tool_declare<|im_middle|>": "kimi_k2",
    "<|tool_call_start|>": "lfm2",
    "<|tool_call>": "gemma4",
    "not thinking is defined": "deepseek_v31",
    "<arg_key>": "glm45",
    "<function=": "qwen3_coder",
    "<tool_call>": "hermes",
    "[TOOL_CALLS]": "mistral",
    "<|python_tag|>": "llama3_json",
}
_REASONING_PARSERS = {
    "<|channel|>": "openai_gptoss",
    "<seed:think>": "seed_oss",
    "<minimax:tool_call>": "minimax_m2",
    "not thinking is defined": "deepseek_v3",  # from V3.1 on they think when told to
    "<｜Assistant｜>": "deepseek_r1",
    "<arg_key>": "glm45",
    "[THINK]": "mistral",
    "<think>": "qwen3",
}


def load_vllm(spec: str, name: str) -> ChatModel:
    """Return a model on a vLLM server that is started for it. Raises as VllmServer does."""
    server = vllm_server(name)
    tools = bool(server.tools)
    model = ChatModel(
        spec,
        openai_chat(name, server.url, OWN_KEY),
        Manner(native_tools=tools),
        searches=tools,
        slots=VLLM_SLOTS,
        thinking=None if server.reasoning else template_thinking,  # with a parser, as any vLLM server
        patience=Patience(server.revive),
        control=special_tokens(name),
    )
    return as_taught(model, Path(name))


class VllmServer:
    """A running server. `url` is its API's base, `tools` and `reasoning` the parsers it runs with, if any."""

    def __init__(self, model: str) -> None:
        """Start the server and wait until it answers.

        Raises UserError where vLLM is not installed, CtdError where it does not start.
        """
        if find_spec("vllm") is None:
            raise UserError(f"vllm:{model}: pip install 'ctd-agent[vllm]' first, or name a server: vllm:{model}@URL")
        template = chat_template(model)
        self.tools = _first(_TOOL_PARSERS, template)
        self.reasoning = _first(_REASONING_PARSERS, template)
        self._model = model
        self._port = _free_port()
        self._log = cache_folder() / "engines" / f"vllm-{strftime('%Y%m%dT%H%M%S')}-{self._port}.log"
        self._lock = threading.Lock()
        self._left = RESTARTS
        self._start()

    @property
    def url(self) -> str:
        """The base URL of its API."""
        return f"http://127.0.0.1:{self._port}/v1"

    def revive(self) -> None:
        """Start the server again if it has died. Raises CtdError where it has died too often, or does not start."""
        with self._lock:
            if self._process.poll() is None:
                return
            if not self._left:
                raise self._dead()
            self._left -= 1
            self._process.communicate()  # closes what it held open
            note(f"vllm:{self._model} has died ({self._last_words()}), starting it again")
            self._start()

    def _start(self) -> None:
        started = monotonic()
        note(f"starting vLLM on {self._model}; its log: {self._log}")
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with opened(self._log) as log:
            self._process = self._launch(log)
        while not _healthy(self._port):
            if self._process.poll() is not None:
                raise self._dead()
            sleep(0.5)
        note(f"vLLM answers after {monotonic() - started:.0f} seconds")

    def _launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", self._model]
        server += ["--host", "127.0.0.1", "--port", str(self._port)]
        server += ["--enable-prefix-caching", "--enable-prompt-tokens-details"]  # the latter: how much it spared
        if self.tools:
            server += ["--enable-auto-tool-choice", "--tool-call-parser", self.tools]
        if self.reasoning:
            server += ["--reasoning-parser", self.reasoning]
        server += shlex.split(os.environ.get(ARGUMENTS, ""))
        # Keys are for others: what is logged there is not ours to keep them out of.
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        environment["VLLM_API_KEY"] = OWN_KEY
        return subprocess.Popen(  # noqa: S603 - our interpreter and module, no shell
            [sys.executable, "-m", "ctd_agent.agents.engines.warden", *server],
            stdin=subprocess.PIPE,  # closed by the system when this process ends: then the warden ends the server
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to heed
        )

    def _dead(self) -> CtdError:
        return CtdError(f"vllm:{self._model}: the server has ended: {self._last_words()}; its log: {self._log}")

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        return (errors or lines or ["it said nothing"])[-1][-300:]


_starting = threading.Lock()
_server = cache(VllmServer)


def vllm_server(model: str) -> VllmServer:
    """Return the server of a model, started once a process. Raises as VllmServer does."""
    with _starting:  # the cache alone would let two threads start it twice
        return _server(model)


def _first(marks: dict[str, str], template: str) -> str | None:
    return next((parser for mark, parser in marks.items() if mark in template), None)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _healthy(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0, trust_env=False).is_success
    return False
