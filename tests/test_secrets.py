"""An API key or a password that the user gave never comes back: in no error, result, log or help text."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import write_manifest
from server import Server

from ctd_agent.cli import run
from ctd_agent.errors import CtdError, UserError, redacted
from ctd_agent.graphs.transitions import Transition, new_run

pytest_plugins = ["servers"]

COMMAND = Path(sys.executable).with_name("ctd-agent")
SECRETS = {
    "OPENAI_API_KEY": "sk-secret-0123456789",
    "CTD_AGENT_API_KEY": "ctd-secret-0123456789",
    "QDRANT_API_KEY": "qd-secret-0123456789",
}
PASSWORD = "pa55word"  # noqa: S105
Told = Callable[..., tuple[int, str]]
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()


@pytest.fixture
def server(server: Server) -> Server:
    """A server that refuses every request and quotes the key it got."""
    server.refuses = True
    return server


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a catalogue and two documents, a cache in it, and keys in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTD_AGENT_CACHE", "cache")
    for name, key in SECRETS.items():
        monkeypatch.setenv(name, key)
    Path("labels.txt").write_text("Tennis\nFootball\n")
    Path("documents.txt").write_text("Serve and volley\nA goal\n")


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """Run the command; return its exit code and all that it said."""

    def call(*arguments: str) -> tuple[int, str]:
        return run(arguments), "".join(capfd.readouterr())

    return call


def written() -> str:
    """What stands in all the files that the command has written."""
    return "".join(path.read_bytes().decode(errors="replace") for path in Path().rglob("*") if path.is_file())


def assert_no_secret_in(said: str) -> None:
    for secret in (*SECRETS.values(), PASSWORD, BASIC):
        assert secret not in said, said[max(0, said.find(secret) - 300) : said.find(secret) + 100]


def with_password(url: str) -> str:
    return url.replace("://", f"://user:{PASSWORD}@")


LABEL = ("label", "documents.txt", "--labels", "labels.txt", "-o", "out.jsonl", "--embedder")


def test_an_engine_that_quotes_the_key_tells_it_to_nobody(told: Told, server: Server):
    code, said = told(*LABEL, "static", "--model", server.spec)
    assert code == 1
    assert "401" in said
    assert "2 of 2 documents failed: 2 engine" in said
    assert len([line for line in Path("out.jsonl").read_text().splitlines() if json.loads(line)["failure"]]) == 2
    assert_no_secret_in(said + written())


def test_a_run_that_ends_by_it_leaves_no_key_in_a_traceback_either(server: Server):
    done = subprocess.run([COMMAND, *LABEL, server.spec, "--model", server.spec], capture_output=True, text=True)
    assert done.returncode == 1
    assert "401" in done.stderr
    assert_no_secret_in(done.stdout + done.stderr)


def test_the_log_of_a_run_holds_no_password_of_a_spec():
    spec = with_password("openai:m@http://127.0.0.1:8000/v1")
    fields = {"task": "topics", "prompts": {}, "catalogue": "c", "labels": 1, "budget": {}}
    run = new_run(shortlister=spec, selector=spec, embedder=spec, **fields)
    step = Transition(run=run.run, document="1", step=0, phase="select", node="select", goto="finish", model=spec)
    assert run.embedder == step.model == "openai:m@http://***@127.0.0.1:8000/v1"
    assert_no_secret_in(run.model_dump_json() + step.model_dump_json())


def test_an_embeddings_endpoint_that_quotes_the_key_tells_it_to_nobody(told: Told, server: Server):
    code, said = told(*LABEL, server.spec, "--model", server.spec)
    assert code == 1
    assert "401" in said
    assert_no_secret_in(said + written())


def test_a_password_in_an_embedders_url_is_refused_for_the_index_would_keep_it(told: Told, server: Server):
    code, said = told(*LABEL, with_password(server.spec), "--model", server.spec)
    assert code == 2
    assert "no password in this URL" in said
    assert_no_secret_in(said + written())


@pytest.mark.parametrize("command", ["label", "index", "search"])
def test_a_qdrant_server_that_quotes_the_key_tells_it_to_nobody(told: Told, server: Server, command: str):
    where = with_password(f"http://127.0.0.1:{server.server_port}/labels")
    arguments = {
        "label": ("documents.txt", "--index", where, "--model", server.spec),
        "index": ("labels.txt", "--out", where, "--embedder", "static"),
        "search": (where, "tennis"),
    }
    code, said = told(command, *arguments[command])
    assert code == 1
    assert "no Qdrant server answers" in said
    assert_no_secret_in(said + written())


@pytest.mark.parametrize(
    "mistake",
    [
        ("label", "documents.txt", "--labels", "labels.txt", "--embedder", "static", "--model", "{}"),
        ("label", "documents.txt", "--labels", "labels.txt", "--embedder", "openai:m@{}", "--model", "openai:m@{}"),
        ("label", "documents.txt", "--index", "{}/labels", "--model", "openai:m@{}"),
        ("search", "{}", "tennis"),
        ("index", "labels.txt", "--out", "{}"),
        ("label", "{}", "--labels", "labels.txt"),
    ],
    ids=lambda mistake: " ".join(mistake[:1]),
)
def test_a_mistake_in_a_url_with_a_password_does_not_quote_the_password(told: Told, mistake: tuple[str, ...]):
    code, said = told(*(part.format(with_password("http://127.0.0.1:9")) for part in mistake))
    assert code in (1, 2)
    assert "error: " in said or "failed (engine)" in said
    assert_no_secret_in(said + written())


@pytest.mark.parametrize("command", [(), ("label",), ("index",), ("search",), ("models",)])
def test_help_shows_no_key(told: Told, command: tuple[str, ...]):
    code, said = told(*command, "--help")
    assert code == 0
    assert_no_secret_in(said + written())


@pytest.mark.parametrize("kind", [CtdError, UserError])
def test_from_python_no_error_of_ours_quotes_one(kind: type[Exception]):
    error = kind(f"{with_password('http://127.0.0.1')}: {SECRETS['OPENAI_API_KEY']} is wrong")
    assert str(error) == "http://***@127.0.0.1: *** is wrong"


def test_what_is_redacted_is_keys_and_the_credentials_of_urls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh")
    monkeypatch.setenv("OTHER_API_KEY", "none")  # a placeholder, as local engines want it
    assert redacted("the key abcdefgh is wrong") == "the key *** is wrong"
    assert redacted("none of them at user@example.org") == "none of them at user@example.org"
    assert (
        redacted("openai:m@https://user:p@ss@host/v1, http://host/a@b")
        == "openai:m@https://***@host/v1, http://host/a@b"
    )
    assert redacted("{'message': 'Basic dXNlcjpwYXNz'}, Bearer sk-abc") == "{'message': 'Basic ***'}, Bearer ***"


# Indexes of strangers


@pytest.mark.parametrize(
    "command",
    [
        ["search", "theirs", "patient Jane Doe"],
        ["label", "documents.txt", "--index", "theirs", "--model", "openai:m@http://127.0.0.1:9"],
        ["index", "labels.txt", "--out", "theirs"],
    ],
    ids=lambda command: command[0],
)
def test_an_index_that_names_a_server_gets_neither_text_nor_key(told: Told, server: Server, command: list[str]):
    assert told("index", "labels.txt", "--out", "theirs", "--embedder", "static")[0] == 0
    before = sorted(path.name for path in Path("theirs").iterdir())
    theirs = f"openai:x@http://127.0.0.1:{server.server_port}/v1"
    write_manifest(Path("theirs"), embedder=theirs)  # as who shares the folder can
    code, said = told(*command)
    assert code == 2
    assert f"theirs: built with embedder '{theirs}'" in said
    assert f"--embedder {theirs}" in said
    assert server.requests == []
    assert sorted(path.name for path in Path("theirs").iterdir()) == before


def test_an_embedder_that_the_user_names_is_asked(told: Told, server: Server):
    assert told("index", "labels.txt", "--out", "mine", "--embedder", "static")[0] == 0
    spec = f"openai:x@http://127.0.0.1:{server.server_port}/v1"
    write_manifest(Path("mine"), embedder=spec)
    assert told("search", "mine", "tennis", "--embedder", spec)[0] == 1  # this one refuses all
    assert len(server.requests) >= 1


# Tracing of another project


class Collector(ThreadingHTTPServer):
    """Stands in for LangSmith: keeps the body of every post."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Collect)
        self.bodies: list[bytes] = []


class _Collect(BaseHTTPRequestHandler):
    server: Collector

    def do_GET(self) -> None:
        self._answer(b"{}")

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize(("options", "traced"), [([], False), (["--trace"], True)], ids=["by default", "asked for"])
def test_documents_go_to_langsmith_only_where_asked_for(options: list[str], traced: bool):
    with Collector() as langsmith, Server() as engine:
        threading.Thread(target=langsmith.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "LANGSMITH_TRACING": "true",
            "LANGSMITH_ENDPOINT": f"http://127.0.0.1:{langsmith.server_port}",
            "LANGSMITH_API_KEY": "ls-key",
            "LANGCHAIN_CALLBACKS_BACKGROUND": "false",
        }
        command = [COMMAND, "label", "--text", "Serve and volley", "--labels", "labels.txt", "--embedder", "static"]
        command += ["--model", engine.spec, *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        langsmith.shutdown()
    assert done.returncode == 0, done.stderr
    assert bool(langsmith.bodies) == traced
    assert ("LangSmith's tracing is set in the environment and left off" in done.stderr) != traced
