"""It survives: whatever ends a run or fails in it, nothing that was done is lost, and the same command goes on."""

import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from server import Raw, Server, completion

from ctd_agent.cli import run
from ctd_agent.graphs.logged import read_log
from ctd_agent.records import read_records
from ctd_agent.schema import Document, LabeledDocument

pytest_plugins = ["servers"]

COMMAND = Path(sys.executable).with_name("ctd-agent")
LOG = "out.jsonl.transitions.jsonl"
Told = Callable[..., tuple[int, list[str]]]


def write_documents(count: int) -> list[str]:
    """Write so many documents to documents.jsonl; return their ids."""
    documents = [Document(id=f"doc-{number}", text=f"Serve and volley, set {number:03}") for number in range(count)]
    Path("documents.jsonl").write_text("".join(document.model_dump_json() + "\n" for document in documents))
    return [document.id for document in documents]


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a catalogue and its index."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path / "cache"))
    Path("labels.txt").write_text("Tennis\nFootball\nInterest rates\n")
    assert run(["index", "labels.txt", "--out", "index", "--embedder", "static"]) == 0


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """Run the command in this process; return its exit code and what it said."""

    def call(arguments: list[str]) -> tuple[int, list[str]]:
        capfd.readouterr()
        return run(arguments), capfd.readouterr().err.splitlines()

    return call


def label(spec: str, *more: str) -> list[str]:
    """The arguments that label documents.jsonl into out.jsonl."""
    return ["label", "documents.jsonl", "--index", "index", "--model", spec, "--turns", "1", "-o", "out.jsonl", *more]


def start(arguments: list[str], limit: int | None = None) -> "subprocess.Popen[str]":
    """Start the command in a process of its own; `limit` is the longest a file of its may get."""

    def prepare() -> None:
        # A shell starts what it runs in the background with Ctrl-C ignored; the command must not inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen([COMMAND, *arguments], stderr=subprocess.PIPE, text=True, preexec_fn=prepare)


def end(process: "subprocess.Popen[str]", how: signal.Signals | None = None) -> tuple[int, list[str]]:
    """Wait for the command, or end it by a signal; return its exit code and what it said."""
    if how:
        process.send_signal(how)
    _, told = process.communicate(timeout=120)
    assert "Traceback" not in told
    return process.returncode, told.splitlines()


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


def results(path: str = "out.jsonl") -> list[LabeledDocument]:
    return list(read_records(Path(path), LabeledDocument))


def whole_lines(path: str) -> bytes:
    """What a file holds but for a torn last line."""
    content = Path(path).read_bytes() if Path(path).exists() else b""
    return content[: content.rfind(b"\n") + 1]


def assert_complete(ids: list[str], out: str = "out.jsonl", log: str = LOG) -> None:
    """Every document has one result, in order, and a whole set of steps; every line of both files is valid JSON."""
    for path in (out, log):
        assert all(isinstance(json.loads(line), dict) for line in Path(path).read_bytes().splitlines())
    assert [result.id for result in results(out)] == ids
    steps = read_log(Path(log)).steps
    assert steps.keys() == set(ids)
    assert {tuple(step.node for step in of_one) for of_one in steps.values()} == {("read", "shortlist", "select")}


# The process dies


@pytest.mark.slow
def test_killed_at_fifty_random_moments_and_run_again_each_time_a_run_ends_complete(server: Server):
    ids = write_documents(200)
    server.delay = 0.02
    chance = random.Random(7)  # noqa: S311 - of moments
    kept = {"out.jsonl": b"", LOG: b""}
    for _ in range(50):
        until = len(server.requests) + chance.randint(1, 16)  # by progress: on a fast machine, too, 50 are not too many
        process = start(label(server.spec, "--concurrency", "4"))
        wait_for(lambda until=until: len(server.requests) >= until)
        time.sleep(chance.uniform(0, 0.03))
        code, _ = end(process, signal.SIGKILL)
        assert code == -signal.SIGKILL
        for path, before in kept.items():
            kept[path] = whole_lines(path)
            assert kept[path].startswith(before), "what was there is still there"
    assert 50 < len(kept["out.jsonl"].splitlines()) < 200
    code, told = end(start(label(server.spec, "--concurrency", "4")))
    assert code == 0, told
    assert_complete(ids)
    assert not any(result.failure for result in results())


@pytest.mark.parametrize(("how", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_ctrl_c_ends_at_once_and_says_what_is_done_and_how_to_go_on_and_so_does_sigterm(
    told: Told, server: Server, how: signal.Signals, expected: int
):
    ids = write_documents(16)
    Path("documents.jsonl").write_text(Path("documents.jsonl").read_text().replace("Serve and volley, set 000", " "))
    server.stalls_on = "set 01"  # on those from doc-10: the engine works on them when Ctrl-C comes
    process = start(label(server.spec, "--concurrency", "8"))
    wait_for(lambda: whole_lines("out.jsonl").count(b"\n") >= 5)
    pressed = time.monotonic()
    code, said = end(process, how)
    assert code == expected
    assert time.monotonic() - pressed < 5, "what is under way is not waited for"
    done = len(results())
    assert any(line.startswith(f"{done} of 16 documents are done; {done} now, in ") for line in said), said
    assert said[-5:] == [
        f"1 of {done} documents failed: 1 empty_document",
        "the same command goes on from here",
        "results: out.jsonl",
        f"transitions log: {LOG}",
        "interrupted",
    ]
    server.reset()
    code, said = told(label(server.spec))
    assert code == 1, said  # for the empty one
    assert [result.id for result in results()] == ids
    assert read_log(Path(LOG)).steps.keys() == set(ids)


@pytest.mark.slow
def test_a_second_ctrl_c_just_ends(told: Told, server: Server):
    ids = write_documents(16)
    server.stalls_on = "set 01"
    process = start(label(server.spec, "--concurrency", "8"))
    wait_for(lambda: whole_lines("out.jsonl").count(b"\n") >= 5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    code, said = end(process, signal.SIGINT)
    assert code in (130, -signal.SIGINT), said
    server.reset()
    assert told(label(server.spec))[0] == 0
    assert_complete(ids)


def test_the_first_process_of_a_container_heeds_sigterm(server: Server):
    """The system gives it no default: what it does not heed itself does nothing."""
    alone = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a namespace of processes")
    write_documents(8)
    server.stalls_on = "set 007"
    command = [*alone, COMMAND, *label(server.spec, "--concurrency", "1")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: whole_lines("out.jsonl").count(b"\n") >= 5)
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        code, said = end(process)
    assert code == 143
    assert said[-4:] == [
        "the same command goes on from here",
        "results: out.jsonl",
        f"transitions log: {LOG}",
        "interrupted",
    ]


# Nobody listens


def test_a_closed_stderr_ends_no_run_and_no_file_takes_its_place(server: Server):
    ids = write_documents(4)
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", COMMAND, *label(server.spec)])
    assert done.returncode == 0
    assert_complete(ids)


def test_a_stderr_whose_reader_has_gone_ends_no_run(server: Server):
    write_documents(4)
    Path("documents.jsonl").write_text(Path("documents.jsonl").read_text().replace("Serve and volley, set 000", " "))
    server.delay = 0.05
    with subprocess.Popen([COMMAND, *label(server.spec)], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 1  # for the empty one, which is told in vain
    assert [bool(result.failure) for result in results()] == [True, False, False, False]


def test_results_for_a_closed_stdout_are_an_error_and_not_lost_in_silence(server: Server):
    write_documents(1)
    command = ["label", "documents.jsonl", "--index", "index", "--model", server.spec]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", COMMAND, *command], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: [Errno 9] Bad file descriptor"


# The engine dies, or fails now and then


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def engine(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """An engine in a process of its own, which is killed at the end."""
    command = [sys.executable, Path(__file__).with_name("server.py"), str(port), "0.1"]
    with subprocess.Popen(command) as process:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield process
        process.kill()


@pytest.mark.slow
def test_an_engine_that_dies_and_comes_back_costs_no_document():
    ids = write_documents(60)
    port = free_port()
    with engine(port):
        process = start(label(f"openai:scripted@http://127.0.0.1:{port}", "--concurrency", "4"))
        wait_for(lambda: whole_lines("out.jsonl").count(b"\n") >= 10)
    assert len(results()) < 60
    time.sleep(2)
    with engine(port):
        code, said = end(process)
    assert code == 0, said
    assert_complete(ids)


@pytest.mark.slow
def test_with_three_calls_in_ten_failing_hardly_a_document_does_and_the_same_command_does_the_rest(
    told: Told, server: Server
):
    ids = write_documents(40)
    server.fails = 0.3
    code, said = told(label(server.spec, "--concurrency", "20"))
    failed = [result.failure for result in results() if result.failure]
    assert [result.id for result in results()] == ids
    assert len(failed) <= 1, said
    assert {failure.kind for failure in failed} <= {"engine"}
    assert code == bool(failed)
    server.fails = 0.0
    assert told(label(server.spec))[0] == 0
    assert_complete(ids)


# A document fails


def test_a_failing_document_stops_no_other_the_exit_code_tells_and_retry_failed_tries_it_again(
    told: Told, server: Server
):
    write_documents(4)
    documents = Path("documents.jsonl").read_text().replace("Serve and volley, set 002", " ")
    Path("documents.jsonl").write_text(documents)
    command = label(server.spec, "--turns", "0", "--concurrency", "1")
    server.script = [completion("I would rather not"), Raw(status=400)]

    code, said = told(command)
    assert code == 1
    assert "3 of 4 documents failed: 1 invalid_output, 1 engine, 1 empty_document" in said
    assert "the same command tries again those that failed by no fault of their own" in said
    kinds = [result.failure and result.failure.kind for result in results()]
    assert kinds == ["invalid_output", "engine", "empty_document", None]

    code, said = told(command)
    assert (code, len(server.requests)) == (1, 4), "only the engine's failure is tried again of itself"
    assert "2 of 4 documents failed: 1 invalid_output, 1 empty_document" in said
    assert "the same command with --retry-failed tries all again that failed" in said
    assert "the same command tries again those that failed by no fault of their own" not in said

    before = Path("out.jsonl").read_bytes()
    code, said = told(command)
    assert (code, len(server.requests)) == (1, 4), "nothing is left, and the exit code still tells"
    assert "out.jsonl: 4 of 4 documents are done, nothing to do" in said
    assert Path("out.jsonl").read_bytes() == before

    Path("documents.jsonl").write_text(documents.replace('" "', '"Serve and volley"'))
    code, said = told([*command, "--retry-failed"])
    assert (code, len(server.requests)) == (0, 6), said
    assert [result.id for result in results()] == ["doc-0", "doc-1", "doc-2", "doc-3"]
    assert not any(result.failure for result in results())


def test_retry_failed_needs_results_to_go_on_with(told: Told, server: Server):
    code, said = told(["label", "--text", "tennis", "--index", "index", "--model", server.spec, "--retry-failed"])
    assert (code, said[-1]) == (2, "error: --retry-failed: name the file of results to go on with by --output")


# There is no room, or no right, to write


@pytest.mark.parametrize(
    ("options", "path", "code", "room"),
    # Results are written in order: with four at once, up to seven documents may be logged before the first of them.
    [(["--log", "/dev/null"], "out.jsonl", 2, 16_000), ([], LOG, 1, 50_000)],
    ids=["results", "log"],
)
def test_a_file_that_can_grow_no_longer_ends_the_run_whole_and_it_goes_on_where_there_is_room(
    told: Told, server: Server, options: list[str], path: str, code: int, room: int
):
    ids = write_documents(30)
    returned, said = end(start(label(server.spec, *options, "--concurrency", "4"), limit=room))
    assert (returned, said[-1][: len(path) + 8]) == (code, f"error: {path}:"), said
    assert said[-1].endswith("File too large")
    done = len(results())
    assert 0 < done < 30
    assert any(line.startswith(f"{done} of 30 documents are done") for line in said)
    for written in Path().glob("out.jsonl*"):
        assert written.read_bytes() == whole_lines(str(written)), "no torn line"
    returned, said = told(label(server.spec, *options))
    assert returned == 0, said
    if options:
        assert [result.id for result in results()] == ids
    else:
        assert_complete(ids)


def test_a_full_disk_ends_the_run_whole_and_it_goes_on_where_there_is_room(told: Told, server: Server):
    ids = write_documents(30)
    Path("disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", "disk"]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    try:
        code, said = told(label(server.spec, "-o", "disk/out.jsonl"))
        assert code in (1, 2)  # by whichever file has grown last
        assert said[-1].startswith("error: disk/out.jsonl")
        assert said[-1].endswith("No space left on device")
        for written in Path("disk").iterdir():
            assert written.read_bytes() == whole_lines(str(written)), "no torn line"
        subprocess.run(["mount", "-o", "remount,size=8m", "disk"], check=True)
        code, said = told(label(server.spec, "-o", "disk/out.jsonl"))
        assert code == 0, said
        assert_complete(ids, "disk/out.jsonl", f"disk/{LOG}")
    finally:
        subprocess.run(["umount", "-l", "disk"], check=True)


@pytest.mark.parametrize(
    ("option", "path", "problem"),
    [
        ("-o", "labels.txt/out.jsonl", "cannot write the results here: File exists"),
        ("-o", "index", "cannot write the results here: Is a directory"),
        ("--log", "labels.txt/log.jsonl", "cannot write the transitions log here: "),
        ("--log", "index", "cannot be read: Is a directory"),
    ],
)
def test_where_a_file_cannot_be_written_is_told_before_any_model_is_asked(
    told: Told, server: Server, option: str, path: str, problem: str
):
    write_documents(2)
    code, said = told(label(server.spec, option, path))
    assert code == 2
    assert said[-1].startswith(f"error: {path}: {problem}")
    assert server.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("option", ["-o", "--log"])
def test_a_folder_without_the_right_to_write_is_told_before_any_model_is_asked(told: Told, server: Server, option: str):
    write_documents(2)
    Path("theirs").mkdir(mode=0o500)
    code, said = told(label(server.spec, option, "theirs/file.jsonl"))
    assert code == 2
    assert said[-1].startswith("error: theirs/file.jsonl: cannot write the ")
    assert said[-1].endswith("Permission denied")
    assert server.requests == []


# Others are at work on the same files


@pytest.mark.slow
def test_two_runs_may_share_an_index_and_a_log_and_one_that_is_killed_harms_not_the_other(server: Server):
    ids = write_documents(30)
    server.delay = 0.02
    first, second = (
        label(server.spec, "-o", out, "--log", "log.jsonl", "--concurrency", "2") for out in ("a.jsonl", "b.jsonl")
    )
    running, killed = start(first), start(second)
    wait_for(lambda: whole_lines("b.jsonl").count(b"\n") >= 3)
    assert end(killed, signal.SIGKILL)[0] == -signal.SIGKILL
    assert end(start(second))[0] == 0
    assert end(running)[0] == 0
    for out in ("a.jsonl", "b.jsonl"):
        assert_complete(ids, out, "log.jsonl")


@pytest.mark.slow
def test_two_runs_that_both_need_a_catalogues_index_first_make_it_once(server: Server):
    write_documents(2)
    command = ["label", "documents.jsonl", "--labels", "labels.txt", "--embedder", "static", "--model", server.spec]
    runs = [start([*command, "-o", out]) for out in ("a.jsonl", "b.jsonl")]
    said = [end(each) for each in runs]
    assert [code for code, _ in said] == [0, 0]
    assert sum("indexing: 3/3" in lines for _, lines in said) == 1


def test_two_runs_cannot_share_a_file_of_results(told: Told, server: Server):
    write_documents(4)
    server.stalls_on = "set 003"
    process = start(label(server.spec))
    wait_for(lambda: whole_lines("out.jsonl").count(b"\n") >= 1)
    code, said = told(label(server.spec))
    assert (code, said[-1]) == (2, "error: out.jsonl: another run is writing its results here")
    end(process, signal.SIGKILL)
    server.reset()
    assert told(label(server.spec))[0] == 0, "what is dead holds nothing"


def test_an_index_opened_with_another_embedder_is_refused_before_any_model_is_asked(told: Told, server: Server):
    write_documents(2)
    code, said = told(label(server.spec, "--embedder", "minilm"))
    assert code == 2
    assert said[-1].startswith("error: index: built with embedder 'static', not 'minilm'; leave --embedder out, or ")
    assert server.requests == []
