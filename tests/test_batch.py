"""Many documents: in order, a few at a time, and on from where a run was cut, whatever cut it."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from results import ALL, COUNT, documents, ids, labelled
from server import USAGE, Raw, Server, completion
from tenacity import wait_none

from ctd_agent.agents.engines import ChatModel, retry, table
from ctd_agent.agents.shortlister import Shortlister
from ctd_agent.cli import run
from ctd_agent.errors import CtdError
from ctd_agent.graphs.batch import label_documents
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.logged import read_log
from ctd_agent.records import read_records
from ctd_agent.schema import Document, LabeledDocument
from ctd_agent.tools.label_index import LabelIndex

COMMAND = Path(sys.executable).with_name("ctd-agent")


def graph(work: Callable[[Document], Any] = lambda _: None) -> Any:
    """What label_documents needs of a graph."""

    def invoke(state: dict[str, Document]) -> dict[str, LabeledDocument]:
        work(state["document"])
        return {"result": labelled(state["document"].id)}

    return SimpleNamespace(invoke=invoke)


# In one process


def test_results_come_in_input_order_though_the_first_takes_longest():
    others = threading.Event()
    slow_first = graph(lambda document: others.wait(5) if document.id == "doc-0" else others.set())
    results = label_documents(slow_first, documents(4), concurrency=2)
    assert [result.id for result in results] == ["doc-0", "doc-1", "doc-2", "doc-3"]


def test_unordered_results_come_as_each_is_done():
    others = threading.Event()
    slow_first = graph(lambda document: others.wait(5) if document.id == "doc-0" else None)
    results = label_documents(slow_first, documents(3), concurrency=2, ordered=False)
    assert {next(results).id, next(results).id} == {"doc-1", "doc-2"}
    others.set()
    assert next(results).id == "doc-0"


def test_a_document_that_breaks_the_graph_fails_alone_and_tells_where():
    def breaks(document: Document) -> None:
        if document.id == "doc-1":
            raise KeyError("gone")

    results = list(label_documents(graph(breaks), documents(3)))
    assert [result.failure and result.failure.kind for result in results] == [None, "internal", None]
    assert results[1].failure is not None
    assert results[1].failure.message.startswith("KeyError: 'gone' (test_batch.py:")


@pytest.mark.parametrize(("broken", "phase"), [("opening", "search"), ("ask", "shortlist"), ("read", "shortlist")])
def test_what_breaks_the_graph_is_said_to_be_of_the_phase_that_it_broke(
    large: Callable[..., ChatModel], index: LabelIndex, monkeypatch: pytest.MonkeyPatch, broken: str, phase: str
):
    def breaks(*_: Any, **__: Any) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(Shortlister, broken, breaks)
    model = large(otherwise=lambda *_: AIMessage("nothing is missing"))
    (result,) = label_documents(build_graph(model, model, index), documents(1))
    assert result.failure is not None
    assert (result.failure.kind, result.failure.phase) == ("internal", phase)


def test_a_log_that_can_no_longer_be_written_ends_the_run_for_no_other_document_could_be_logged(
    large: Callable[..., ChatModel], index: LabelIndex, tmp_path: Path
):
    model = large(otherwise=lambda *_: AIMessage("nothing is missing"))
    log = tmp_path / "logs" / "log.jsonl"
    results = label_documents(build_graph(model, model, index, log=log), documents(9))
    assert next(results).id == "doc-0"
    log.parent.rename(tmp_path / "elsewhere")
    with pytest.raises(CtdError, match="the transitions log cannot be written: No such file"):
        list(results)
    assert len(model.chat.prompts) < 2 * 9


def test_ten_thousand_documents_are_read_as_they_are_needed_and_take_time_in_proportion():
    read = 0

    def many(count: int) -> Iterator[Document]:
        nonlocal read
        for document in documents(count):
            read += 1
            yield document

    def seconds(count: int) -> float:
        nonlocal read
        read, started = 0, time.process_time()
        for done, _ in enumerate(label_documents(graph(), many(count), concurrency=4)):
            assert read <= done + 8  # two for each under way: no result waits longer in memory
        return time.process_time() - started

    assert seconds(10_000) < 40 * seconds(1_000) + 1  # quadratic would be a hundred times


def test_closed_early_no_other_document_is_begun_and_none_is_waited_for():
    begun: list[str] = []
    never = threading.Event()

    def work(document: Document) -> None:
        begun.append(document.id)
        if document.id != "doc-0":
            never.wait(30)

    started = time.monotonic()
    results = label_documents(graph(work), documents(9))
    assert next(results).id == "doc-0"
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 20
    never.set()
    assert len(begun) <= 2


# The command, run again


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The arguments that label COUNT documents with a server's model, into out.jsonl."""
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    monkeypatch.setattr(retry, "_PAUSE", wait_none())
    (tmp_path / "labels.txt").write_text("Tennis\nFootball\nInterest rates\n")
    (tmp_path / "documents.jsonl").write_text("".join(d.model_dump_json() + "\n" for d in documents(COUNT)))

    def arguments(server: Server, *more: str) -> list[str]:
        files = ["label", str(tmp_path / "documents.jsonl"), "--labels", str(tmp_path / "labels.txt")]
        into = ["--embedder", "static", "--model", server.spec, "--turns", "0", "-o", str(tmp_path / "out.jsonl")]
        return [*files, *into, *more]

    return arguments


def killed(arguments: list[str], out: Path, how: signal.Signals) -> tuple[int, str]:
    """Run the command in a process of its own, and kill it once five results are written."""
    # A shell starts what it runs in the background with Ctrl-C ignored; the command must not inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen([COMMAND, *arguments], stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 5):
            time.sleep(0.01)
        process.send_signal(how)
        assert process.stderr is not None
        told = process.stderr.read()
    return process.returncode, told


@pytest.mark.parametrize(
    ("how", "code", "options"),
    [(signal.SIGKILL, -9, ()), (signal.SIGINT, 130, ("--unordered",))],
    ids=["killed", "interrupted"],
)
def test_cut_and_run_again_no_document_is_lost_or_twice(
    tmp_path: Path, command: Callable[..., list[str]], how: signal.Signals, code: int, options: tuple[str, ...]
):
    out, log = tmp_path / "out.jsonl", tmp_path / "out.jsonl.transitions.jsonl"
    with Server() as server:
        port = server.server_port
        arguments = command(server, *options, "--concurrency", "8")
        server.stalls_on = "set 1"  # on those from doc-10: the engine works on them when the end comes
        returned, told = killed(arguments, out, how)
    assert returned == code
    assert "Traceback" not in told
    assert ("interrupted" in told.splitlines()) == (how == signal.SIGINT)
    kept = ids(out)
    assert 5 <= len(kept) <= 10
    for path in (out, log):  # as a process leaves it that dies within a write
        with path.open("ab") as file:
            file.write(b'{"id": "doc-9", "reco')
    with Server(port=port) as server:  # another: the first may still be reading what the dead have sent
        assert run(arguments) == 0
        assert len(server.requests) == COUNT - len(kept)
    assert ids(out)[: len(kept)] == kept
    assert sorted(ids(out)) == sorted(ALL)
    assert ids(out) == ALL or options
    steps = read_log(log).steps
    assert steps.keys() == set(ALL)
    assert {tuple(step.node for step in document) for document in steps.values()} == {("read", "select")}


def test_an_engine_that_dies_fails_its_documents_and_they_alone_are_asked_again(
    tmp_path: Path, command: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
):
    out = tmp_path / "out.jsonl"
    with Server() as server:
        port = server.server_port
        server.script = [Raw(status=500)]
        assert run(command(server)) == 1
    told = capfd.readouterr().err
    assert "1 of 16 documents failed: 1 engine" in told
    assert "the same command tries again" in told
    failed = [result for result in read_records(out, LabeledDocument) if result.failure]
    assert [result.failure and result.failure.kind for result in failed] == ["engine"]

    assert run(command(server)) == 1  # now nobody answers at all
    told = capfd.readouterr().err
    assert "15 of 16 documents are done, going on" in told
    assert "refused" in told
    assert len(ids(out)) == COUNT

    with Server(port=port) as server:
        assert run(command(server)) == 0
        assert [request["path"] for request in server.requests] == ["/v1/chat/completions"]
    assert ids(out) == ALL
    assert not any(result.failure for result in read_records(out, LabeledDocument))
    last = read_log(tmp_path / "out.jsonl.transitions.jsonl").steps
    assert not any(step.failure for steps in last.values() for step in steps)


def test_at_its_end_a_run_says_what_it_has_cost(command: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]):
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 75}}
    with Server() as server:
        server.script = [completion('{"labels": []}', usage=usage)] * COUNT
        assert run(command(server)) == 0
    told = capfd.readouterr().err
    (summary,) = re.findall(r"^16 of 16 documents are done; .*$", told, re.MULTILINE)
    assert re.fullmatch(
        r"16 of 16 documents are done; 16 now, in \d+\.\d s \(\d+\.\d\d s each\), with 16 model calls, "
        r"105 tokens each; the engine's cache spared 75% of the prompts",
        summary,
    )


def test_an_engine_that_is_not_there_fails_every_document_in_a_line_or_two(
    tmp_path: Path, command: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
):
    with Server() as server:
        pass
    assert run(command(server)) == 1
    told = capfd.readouterr().err.splitlines()
    assert "16 of 16 documents failed: 16 engine" in told
    assert sum("refused" in line for line in told) == 1
    results = list(read_records(tmp_path / "out.jsonl", LabeledDocument))
    assert [result.id for result in results] == ALL
    assert all(result.failure and "refused" in result.failure.message for result in results)


def test_when_all_is_done_no_model_is_loaded_and_that_is_said(
    tmp_path: Path,
    command: Callable[..., list[str]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    with Server() as server:
        assert run(command(server)) == 0
        capfd.readouterr()
        before, asked = (tmp_path / "out.jsonl").read_bytes(), len(server.requests)
        monkeypatch.setattr(table, "load_model", lambda _: pytest.fail("a model was loaded"))
        assert run(command(server)) == 0
        assert len(server.requests) == asked
    assert "out.jsonl: 16 of 16 documents are done, nothing to do" in capfd.readouterr().err
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_another_model_task_or_catalogue_is_refused_and_both_files_stay(
    tmp_path: Path, command: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
):
    out, log = tmp_path / "out.jsonl", tmp_path / "out.jsonl.transitions.jsonl"
    other = tmp_path / "other.txt"
    other.write_text("Chess\nGolf\n")
    with Server() as server:
        server.script = [Raw(status=500)]
        assert run(command(server)) == 1
        before, asked = (out.read_bytes(), log.read_bytes()), len(server.requests)
        capfd.readouterr()
        for option, field in [
            (("--model", f"{server.spec}/"), "shortlister"),
            (("--task", "sports"), "task"),
            (("--labels", str(other)), "catalogue"),
            (("--log", str(tmp_path / "elsewhere.jsonl")), "the log of the results in"),
            (("--log", str(out)), "cannot be both the results and the log"),
        ]:
            assert run(command(server, *option)) == 2
            error = capfd.readouterr().err.splitlines()[-1]
            assert error.startswith("error: ")
            assert field in error
            assert (out.read_bytes(), log.read_bytes()) == before
        assert len(server.requests) == asked
    assert not (tmp_path / "elsewhere.jsonl").exists()


def test_what_came_unordered_is_in_order_once_the_same_command_has_run_without(
    tmp_path: Path, command: Callable[..., list[str]]
):
    out = tmp_path / "out.jsonl"
    with Server() as server:
        assert run(command(server, "--unordered")) == 0
        lines = out.read_bytes().splitlines(keepends=True)
        out.write_bytes(b"".join(reversed(lines[:-1])))
        assert run(command(server)) == 0
    assert ids(out) == ALL
    assert [json.loads(line)["labels"][0]["rank"] for line in out.read_bytes().splitlines()] == [1] * COUNT
