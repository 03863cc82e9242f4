"""The command line: what a user types, and what stands on stdout, on stderr and in the exit code."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from server import Server, completion

import ctd_agent
from ctd_agent.agents.engines import ENGINES, weights
from ctd_agent.cli import run
from ctd_agent.schema import LabeledDocument

pytest_plugins = ["servers"]

COMMAND = Path(sys.executable).with_name("ctd-agent")
HEAVY = {"httpx", "langchain_core", "langgraph", "model2vec", "numpy", "onnxruntime", "openai", "qdrant_edge", "rich"}

Told = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with a catalogue and two documents, a cache of its own, and no way to fetch `local`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(weights, "fetch", lambda: pytest.fail("the weights of `local` were asked for"))
    Path("labels.txt").write_text("Tennis\nFootball\nInterest rates\n")
    Path("documents.txt").write_text("Serve and volley on grass\nThe central bank raises rates\n")


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """Run the command; return its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def labelling(server: Server, *more: str) -> list[str]:
    return ["label", "--labels", "labels.txt", "--embedder", "static", "--model", server.spec, *more]


def standard_input(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(text.encode())))


def on_a_terminal(*arguments: str) -> str:
    """What the command shows on a terminal that is its stdout and its stderr."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    with subprocess.Popen([COMMAND, *arguments], stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how a terminal says that the other side has gone
            os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())  # colours and bold apart


# Help


def test_help_imports_nothing_heavy():
    code = f"import sys; from ctd_agent.cli import run; run(['--help']); print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Label documents from large catalogues" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["label", "index", "search", "models"])
def test_every_commands_help_has_an_example(told: Told, command: str):
    code, out, _ = told(command, "--help")
    assert code == 0
    assert f"Example: ctd-agent {command} " in out


def test_help_shows_a_model_spec_whole(told: Told):
    assert "openai:MODEL[@URL]" in told("label", "--help")[1]


# Results


def test_label_prints_a_json_line_a_document_on_stdout_and_the_rest_on_stderr(told: Told, server: Server):
    code, out, err = told(*labelling(server, "documents.txt"))
    assert code == 0
    first, second = (LabeledDocument.model_validate_json(line) for line in out.splitlines())
    assert (first.id, [label.name for label in first.labels]) == ("1", ["Tennis"])
    assert (second.id, [label.name for label in second.labels]) == ("2", ["Interest rates"])
    assert first.labels[0].reason == "because it does"
    assert "labelling: 2/2" in err
    assert "transitions log: " in err


def test_label_takes_one_text(told: Told, server: Server):
    code, out, _ = told(*labelling(server, "--text", "Serve and volley"))
    assert (code, json.loads(out)["labels"][0]["id"]) == (0, "Tennis")


@pytest.mark.parametrize("piped", ["documents", "labels"])
def test_a_dash_is_standard_input(told: Told, server: Server, monkeypatch: pytest.MonkeyPatch, piped: str):
    standard_input(monkeypatch, Path(f"{piped}.txt").read_text())
    sources = {"documents": "documents.txt", "labels": "labels.txt"} | {piped: "-"}
    code, out, _ = told(*labelling(server, sources["documents"], "--labels", sources["labels"]))
    assert (code, len(out.splitlines())) == (0, 2)


def test_into_a_file_stdout_stays_empty(told: Told, server: Server):
    code, out, _ = told(*labelling(server, "documents.txt", "-o", "new/out.jsonl"))
    assert (code, out) == (0, "")
    assert len(Path("new/out.jsonl").read_text().splitlines()) == 2
    assert Path("new/out.jsonl.transitions.jsonl").exists()


def test_a_document_that_fails_by_its_own_fault_is_told_and_counts(told: Told, server: Server):
    code, out, err = told(*labelling(server, "--text", " "))
    assert code == 1
    assert json.loads(out)["failure"]["kind"] == "empty_document"
    assert "1 of 1 documents failed: 1 empty_document" in err


def test_names_with_commas_quotes_newlines_emoji_and_hebrew_come_back_as_they_were(told: Told, server: Server):
    names = ['a, "quoted" one', "two\nlines", "🎾 tennis", "טניס"]
    rows = "".join(f'{number},"{name.replace(chr(34), chr(34) * 2)}"\n' for number, name in enumerate(names))
    Path("labels.csv").write_text(f"id,name\n{rows}", encoding="utf-8")
    for name in names:
        code, out, _ = told(*labelling(server, "--labels", "labels.csv", "--text", name))
        result = json.loads(out)
        assert (code, result["labels"][0]["name"]) == (0, name)
        assert names[int(result["labels"][0]["id"])] == name


def test_an_index_is_built_then_searched_and_labelled_with(told: Told, server: Server):
    code, out, err = told("index", "labels.txt", "--out", "my-index", "--embedder", "static")
    assert (code, out) == (0, "")
    assert "my-index: 3 labels, embedder static" in err
    code, out, err = told("search", "my-index", "interest rates", "--limit", "1")
    assert (code, err) == (0, "")
    assert json.loads(out)["id"] == "Interest rates"
    code, out, _ = told("label", "documents.txt", "--index", "my-index", "--model", server.spec)
    assert (code, len(out.splitlines())) == (0, 2)


def test_models_lists_the_specs(told: Told):
    code, out, _ = told("models")
    assert (code, json.loads(out)["specs"]) == (0, {engine.form: engine.help for engine in ENGINES})


def test_a_terminal_gets_a_table_without_control_characters_or_lines_with_json(told: Told):
    Path("labels.jsonl").write_text(json.dumps({"id": "t", "name": "Tennis [bold] \x1b[31mred"}) + "\n")
    assert told("index", "labels.jsonl", "--out", "my-index", "--embedder", "static")[0] == 0
    shown = on_a_terminal("search", "my-index", "tennis")
    assert "┃ # ┃ id ┃ name" in shown
    assert "Tennis [bold] �[31mred" in shown
    shown = on_a_terminal("search", "my-index", "tennis", "--json")
    assert json.loads(shown)["name"] == "Tennis [bold] \x1b[31mred"


HOSTILE = "Tennis\x9b2J \u202eevil\x7f\nerror: all is lost"


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_ids_names_and_reasons_never_command_a_terminal(server: Server, options: list[str]):
    Path("labels.jsonl").write_text(json.dumps({"id": HOSTILE, "name": HOSTILE}) + "\n")
    documents = [{"id": HOSTILE, "text": "Serve and volley"}, {"id": f"{HOSTILE} too", "text": ""}]
    Path("documents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    answer = {"reasoning": HOSTILE, "labels": [{"number": 1, "score": 0.9, "reason": HOSTILE}]}
    server.otherwise = lambda _: completion(json.dumps(answer))
    label = ["label", "documents.jsonl", "--labels", "labels.jsonl", "--embedder", "static", "--turns", "0"]
    shown = on_a_terminal(*label, "--model", server.spec, *options)
    assert "Tennis" in shown
    assert not set("\x9b\x7f\u202e") & set(shown)
    assert not [line for line in shown.splitlines() if line.startswith("error")]
    assert f"{shown_inline(HOSTILE)} too: search failed (empty_document)" in " ".join(shown.split("\r\n"))


def shown_inline(text: str) -> str:
    return text.encode("unicode_escape").decode()


def test_json_with_such_names_is_the_same_value_also_in_a_pipe(told: Told):
    Path("labels.jsonl").write_text(json.dumps({"id": "t", "name": HOSTILE}) + "\n")
    assert told("index", "labels.jsonl", "--out", "my-index", "--embedder", "static")[0] == 0
    _, out, _ = told("search", "my-index", "tennis", "--json")
    assert json.loads(out)["name"] == HOSTILE
    assert not set("\x9b\x7f\u202e") & set(out)


def test_no_command_writes_json_past_the_console():
    for path in (Path(ctd_agent.__file__).parent / "commands").glob("*.py"):
        assert "stdout.write" not in path.read_text(encoding="utf-8"), path


def test_label_shows_a_table_a_document_on_a_terminal_each_in_the_bars_place(server: Server):
    shown = on_a_terminal(*labelling(server, "documents.txt"))
    assert shown.count("│ because it does │") == 2
    erased = "\x1b[1A\x1b[2K"  # up a line, which is then cleared
    for next_line in ("1 ", "2 ", "2 of 2 documents are done"):
        assert erased + next_line in shown


def test_a_reader_that_has_enough_ends_the_command_without_a_traceback(server: Server):
    Path("documents.txt").write_text("Serve and volley\n" * 50)
    server.stalls_after = 20
    command = [COMMAND, *labelling(server, "documents.txt", "--turns", "0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == "1"
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Exception" not in err


# The user's mistakes: one line, exit code 2, nothing on stdout

ONE_TEXT = ["--text", "a text"]
CATALOGUE = ["--labels", "labels.txt", "--embedder", "static"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["label", *CATALOGUE], "give either a file of documents or --text"),
        (["label", "documents.txt", *ONE_TEXT, *CATALOGUE], "give either a file of documents or --text"),
        (["label", *ONE_TEXT], "give either --labels CATALOGUE or --index INDEX"),
        (["label", *ONE_TEXT, *CATALOGUE, "--index", "x"], "give either --labels CATALOGUE or --index INDEX"),
        (["label", "-", "--labels", "-"], "only one of them can be standard input"),
        (["label", "nowhere.txt", *CATALOGUE], "nowhere.txt: cannot be read: No such file"),
        (["label", *ONE_TEXT, "--labels", "labels.doc"], "labels.doc: unknown format '.doc'"),
        (["label", *ONE_TEXT, "--index", "nowhere"], "nowhere: no finished index here"),
        (["label", *ONE_TEXT, *CATALOGUE, "--embedder", "nonsense"], "embedder 'nonsense': not one of"),
        (["label", *ONE_TEXT, *CATALOGUE, "--model", "vllm:foo"], "vllm:foo: pip install 'ctd-agent[vllm]' first"),
        (["label", *ONE_TEXT, *CATALOGUE, "--model", "gguf:nope.gguf"], "gguf:nope.gguf: no such file"),
        (["label", *ONE_TEXT, *CATALOGUE, "--model", "gguf:text.gguf"], "gguf:text.gguf: not a GGUF file"),
        (["label", *ONE_TEXT, *CATALOGUE, "--selector", "nonsense"], "a model is one of local, gguf:FILE"),
        (["label", *ONE_TEXT, *CATALOGUE, "--model", "openai:gpt-5"], "openai:gpt-5: set OPENAI_API_KEY"),
        (
            ["label", *ONE_TEXT, *CATALOGUE, "--selecting", "nonsense"],
            "'nonsense' is no way of selecting; choose one of",
        ),
        (["label", *ONE_TEXT, *CATALOGUE, "--engine", "ray"], "--engine is now --on: say --on ray"),
        (["label", "--text", "\udcff", *CATALOGUE], "not UTF-8"),
        (["label", "documents.txt", "--text-column", "body", *CATALOGUE], "documents.txt: no column 'body'"),
        (["search", "nowhere", "tennis"], "nowhere: no finished index here"),
        (["index", "nowhere.txt", "--out", "x"], "nowhere.txt: cannot be read: No such file"),
    ],
)
def test_a_mistake_is_told_on_one_line(told: Told, arguments: list[str], problem: str):
    Path("labels.doc").write_text("Tennis\n")
    Path("text.gguf").write_text("just text")
    code, out, err = told(*arguments)
    assert (code, out) == (2, "")
    error = err.splitlines()[-1]
    assert error.startswith("error: ")
    assert problem in error
    assert all(line.startswith(("error: ", "indexing: ")) for line in err.splitlines())


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "labels.jsonl",
            '{"id": "a", "name": "A"}\n{"id": "a", "name": "B"}\n',
            "labels.jsonl:2: field 'id' repeats the id 'a'",
        ),
        ("labels.csv", "id,name\n1,Tennis\n2, \n", "labels.csv:3: field 'name' must not be blank"),
        ("labels.csv", "code,title\n1,Tennis\n", "labels.csv: no column 'name'; its columns are 'code', 'title'"),
        ("labels.csv", "id,name\n", "labels.csv: no labels in it"),
        ("labels.txt", "", "labels.txt: no labels in it"),
        ("labels.txt", b"Tennis\nCaf\xe9\n", "labels.txt:2: byte 10 (0xe9) is not UTF-8"),
    ],
)
def test_a_catalogue_with_a_fault_names_file_line_and_field(told: Told, name: str, content: Any, problem: str):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = told("label", *ONE_TEXT, "--labels", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {problem}")
    assert len(err.splitlines()) == 1


def test_a_column_may_have_another_name(told: Told, server: Server):
    Path("labels.csv").write_text("code,title\n7,Tennis\n")
    options = ["--labels", "labels.csv", "--label-id-column", "code", "--name-column", "title"]
    code, out, _ = told(*labelling(server, "--text", "tennis", *options))
    assert (code, json.loads(out)["labels"][0]["id"]) == (0, "7")


def test_an_unknown_option_exits_2(told: Told):
    code, out, err = told("label", "--lables", "x")
    assert (code, out) == (2, "")
    assert "No such option" in err
    assert "--lables" in err


def test_an_index_in_the_cache_is_built_once_and_again_where_it_is_damaged(told: Told, server: Server):
    assert "indexing" in told(*labelling(server, "--text", "tennis"))[2]
    assert "indexing" not in told(*labelling(server, "--text", "tennis"))[2]
    (manifest,) = Path("cache/indexes").rglob("manifest.json")
    manifest.write_text("{")
    code, _, err = told(*labelling(server, "--text", "tennis"))
    assert code == 0
    assert "indexing" in err
