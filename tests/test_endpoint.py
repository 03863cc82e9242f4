"""Servers that drip, swell or want a key: a call to one is bounded as a whole, and no key goes where it is not for."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from server import Server
from tenacity import wait_none

from ctd_agent import endpoint
from ctd_agent.agents.engines import load_model, openai_chat, retry
from ctd_agent.agents.engines.chat_model import EngineError
from ctd_agent.endpoint import key_for
from ctd_agent.errors import CtdError, redacted
from ctd_agent.schema import Exchange
from ctd_agent.tools import embedding
from ctd_agent.tools.embedding import OpenAIEmbedder

pytest_plugins = ["servers"]

ASK = Exchange(messages=[{"role": "user", "content": "Which label?"}])
BOMB = gzip.compress(b" " * 2**24)  # 16 MiB in 16 kB
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Hostile(ThreadingHTTPServer):
    """Answers every request with the bytes of `answer`, written one by one as they come, and keeps the keys."""

    daemon_threads = True
    answer: Callable[[], Iterator[bytes]]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.keys: list[str] = []

    def handle_error(self, *_: object) -> None:
        """Print nothing: the client hangs up."""


class _Answer(BaseHTTPRequestHandler):
    server: Hostile

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["Authorization"])
        self.close_connection = True
        for part in self.server.answer():
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    """A hostile server, and a client of little patience: no pauses, half a second a call, a megabyte an answer."""
    monkeypatch.setattr(retry, "_PAUSE", wait_none())
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    monkeypatch.setattr(openai_chat, "TIMEOUT", 0.5)
    monkeypatch.setattr(embedding, "TIMEOUT", 0.5)
    monkeypatch.setattr(endpoint, "SIZE", 2**20)
    for name in ("OPENAI_API_KEY", "CTD_AGENT_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    with Hostile() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def dripped_body() -> Iterator[bytes]:
    yield HEAD + b"\r\n{"
    yield from drip()


def dripped_headers() -> Iterator[bytes]:
    yield HEAD + b"X-Drip: "
    yield from drip()


def drip() -> Iterator[bytes]:
    for _ in range(300):  # 15 seconds
        time.sleep(0.05)
        yield b" "


def bomb() -> Iterator[bytes]:
    yield HEAD + b"Content-Encoding: gzip\r\n\r\n" + BOMB


def endless() -> Iterator[bytes]:
    yield HEAD + b"\r\n"
    while True:
        yield b" " * 2**16


def redirected_bomb() -> Iterator[bytes]:
    yield b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /v1/there\r\nContent-Encoding: gzip\r\n\r\n"
    yield BOMB


def damaged() -> Iterator[bytes]:
    yield HEAD + b"Content-Encoding: gzip\r\n\r\nno gzip at all"


HOSTILE = [
    (dripped_body, "no whole answer within the limit of 0.5 seconds"),
    (dripped_headers, "no whole answer within the limit of 0.5 seconds"),
    (bomb, "larger than the limit of 1,048,576 bytes"),
    (endless, "larger than the limit of 1,048,576 bytes"),
    (redirected_bomb, "larger than the limit of 1,048,576 bytes"),
    (damaged, "cannot be decompressed"),
]


@pytest.mark.parametrize(("answer", "told"), HOSTILE)
@pytest.mark.parametrize("engine", ["openai", "vllm"])
def test_a_call_to_a_model_is_bounded_as_a_whole(hostile: Hostile, answer, told: str, engine: str):
    hostile.answer = answer
    started = time.monotonic()
    with pytest.raises(EngineError, match=told):
        load_model(f"{engine}:m@{hostile.url}").ask(ASK)
    assert time.monotonic() - started < 4
    # Tried again as after any other time-out, but one that is too large would be so again.
    assert len(hostile.keys) == (1 if "larger" in told else retry.ATTEMPTS)


@pytest.mark.parametrize(("answer", "told"), HOSTILE)
def test_a_call_to_an_embeddings_endpoint_is_too(hostile: Hostile, answer, told: str):
    hostile.answer = answer
    started = time.monotonic()
    with pytest.raises(CtdError, match=told):
        OpenAIEmbedder(f"m@{hostile.url}")
    assert time.monotonic() - started < 4


def test_a_compressed_answer_of_fair_size_is_read(hostile: Hostile):
    body = gzip.compress(b'{"object": "list", "model": "m", "data": [{"index": 0, "embedding": [3, 4]}]}')
    hostile.answer = lambda: iter([HEAD + b"Content-Encoding: gzip\r\n\r\n" + body])
    assert OpenAIEmbedder(f"m@{hostile.url}").size == 2


# Keys

OURS, THEIRS = "ctd-key-0123456789", "sk-openai-0123456789"


def test_openais_key_goes_to_no_server_that_is_named_in_a_spec(hostile: Hostile, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", THEIRS)
    assert sent_to(hostile) == {"Bearer none"}


def test_a_server_that_is_named_in_a_spec_gets_the_key_for_it(hostile: Hostile, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", THEIRS)
    monkeypatch.setenv("CTD_AGENT_API_KEY", OURS)
    assert sent_to(hostile) == {f"Bearer {OURS}"}


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
def test_openais_key_goes_to_the_server_that_openais_variable_names(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, variable: str
):
    monkeypatch.setenv("OPENAI_API_KEY", THEIRS)
    monkeypatch.setenv("CTD_AGENT_API_KEY", OURS)
    monkeypatch.setenv(variable, hostile.url)
    assert sent_to(hostile) == {f"Bearer {THEIRS}"}


def sent_to(server: Hostile) -> set[str]:
    """What a model and an embedder there are authorized with."""
    server.answer = lambda: iter([b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"])
    for engine in ("openai", "vllm"):
        with pytest.raises(EngineError):
            load_model(f"{engine}:m@{server.url}").ask(ASK)
    with pytest.raises(CtdError):
        OpenAIEmbedder(f"m@{server.url}")
    return set(server.keys)


def test_an_address_that_only_looks_like_openais_is_another_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", THEIRS)
    monkeypatch.delenv("CTD_AGENT_API_KEY", raising=False)
    assert key_for(None) == key_for("https://api.openai.com/v1") == THEIRS
    for url in ("http://api.openai.com/v1", "https://api.openai.com.evil.org/v1", "https://api.openai.com@evil.org"):
        assert key_for(url) == "none"


def test_a_server_that_refuses_a_call_without_a_key_is_told_with_what_to_set(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", THEIRS)
    monkeypatch.delenv("CTD_AGENT_API_KEY", raising=False)
    server.refuses = True
    told = "OPENAI_API_KEY was not sent, .* set CTD_AGENT_API_KEY for this server"
    with pytest.raises(EngineError, match=told):
        load_model(server.spec).ask(ASK)
    with pytest.raises(CtdError, match=told):
        OpenAIEmbedder(server.spec.removeprefix("openai:"))


def test_the_key_for_named_servers_is_redacted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CTD_AGENT_API_KEY", OURS)
    assert redacted(f"the key {OURS} is wrong") == "the key *** is wrong"
