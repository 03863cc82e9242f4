"""Shards of documents: each into files of its own; and over Ray, whatever dies on the way."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LABELS, build_index
from server import Raw, Server

from ctd_agent.cli import run
from ctd_agent.errors import UserError
from ctd_agent.files.parquet import write_parquet
from ctd_agent.graphs import shards
from ctd_agent.graphs.batch import Output
from ctd_agent.graphs.job import Job
from ctd_agent.graphs.logged import read_log
from ctd_agent.graphs.on_ray import Actor, label_shards
from ctd_agent.graphs.shards import find_shards
from ctd_agent.records import read_records
from ctd_agent.schema import ChosenLabel, Document, Failure, Finding, LabeledDocument, ShortlistEntry, Usage

COMMAND = Path(sys.executable).with_name("ctd-agent")


def write_shards(folder: Path, jsonl: int, parquet: int, documents: int) -> Counter[str]:
    """Write shards of so many documents each; return the documents' ids, each once."""
    folder.mkdir()
    for number in range(jsonl + parquet):
        rows = [{"id": f"{number}-{row}", "text": f"Serve and volley, set {row}"} for row in range(documents)]
        if number < jsonl:
            (folder / f"part-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), folder / f"part-{number}.parquet")
    return Counter(f"{number}-{row}" for number in range(jsonl + parquet) for row in range(documents))


def results(out: Path) -> Counter[str]:
    """How often each document is in the results, every one of which is valid."""
    lines = [record.id for path in out.glob("*.jsonl") for record in read_records(path, LabeledDocument)]
    rows = [row["id"] for path in out.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return Counter(lines + rows)


def logged(out: Path) -> Counter[str]:
    """How often each document has a whole set of steps in the logs."""
    return Counter(document for path in (out / "_transitions").iterdir() for document in read_log(path).steps)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """Make a job for the model of a server, over a small index, into the folder `out`."""
    build_index(LABELS, tmp_path / "index")

    def make(server: Server, **more: Any) -> Job:
        index = str(tmp_path / "index")
        return Job(
            index=index, shortlister=server.spec, selector=server.spec, task="topics", budget={"turns": 0}, **more
        )

    return make


# One shard


def test_a_shard_of_jsonl_and_one_of_parquet_become_files_of_the_same_names_and_kinds(
    tmp_path: Path, job: Callable[..., Job]
):
    ids = write_shards(tmp_path / "documents", jsonl=1, parquet=1, documents=3)
    with Server() as server:
        reports = [
            Actor(job(server), tmp_path / "out", []).label(shard) for shard in find_shards(str(tmp_path / "documents"))
        ]
    assert [(report.shard, report.documents) for report in reports] == [("part-0.jsonl", 3), ("part-1.parquet", 3)]
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["part-0.jsonl", "part-1.parquet"]
    assert results(out) == logged(out) == ids
    table = pq.read_table(out / "part-1.parquet")
    assert (
        table["labels"][0].as_py()
        == [{"id": "tennis", "name": "Tennis", "rank": 1, "score": 0.9, "reason": "because it does"}]
        or table["labels"][0].as_py()
    )


def test_a_shard_goes_on_where_it_was_cut_and_failures_of_the_engine_are_tried_again(
    tmp_path: Path, job: Callable[..., Job]
):
    ids = write_shards(tmp_path / "documents", jsonl=0, parquet=1, documents=4)
    (shard,) = find_shards(str(tmp_path / "documents"))
    with Server() as server:
        server.script = [Raw(status=404)]
        report = Actor(job(server, concurrency=1), tmp_path / "out", []).label(shard)
        assert report.failed == {"engine": 1}
        assert report.first["engine"][0] == "0-0"
        server.reset()
        assert Actor(job(server), tmp_path / "out", []).label(shard).failed == {}
        assert len(server.requests) == 1
        whole = (tmp_path / "out" / shard.name).read_bytes()
        assert Actor(job(server), tmp_path / "out", []).label(shard).documents == 4
        assert len(server.requests) == 1
    assert (tmp_path / "out" / shard.name).read_bytes() == whole
    assert results(tmp_path / "out") == logged(tmp_path / "out") == ids
    assert [row["id"] for row in pq.read_table(tmp_path / "out" / shard.name).to_pylist()] == [*ids]


def test_a_shard_that_cannot_be_read_or_that_another_holds_says_so_in_its_report(
    tmp_path: Path, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shards, "WAIT", 0.1)
    write_shards(tmp_path / "documents", jsonl=1, parquet=0, documents=1)
    (tmp_path / "documents" / "broken.jsonl").write_text('{"id": "1", "te')
    broken, good = find_shards(str(tmp_path / "documents"))
    with Server() as server:
        labeller = Actor(job(server), tmp_path / "out", [])
        assert "broken.jsonl:1: malformed JSON" in (labeller.label(broken).error or "")
        with Output(tmp_path / "out" / good.name):
            report = labeller.label(good)
    assert report.users_fault
    assert "another run is writing its results here" in (report.error or "")


def test_a_shard_that_a_dying_node_still_holds_is_waited_for(tmp_path: Path):
    dying = Output(tmp_path / "out.jsonl")
    dying.write(LabeledDocument(id="1", labels=[], shortlist=[], usage={}))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Output, dying.path, wait=10)
        time.sleep(0.2)
        dying.close()
        left = waiting.result().left([Document(id="1", text=""), Document(id="2", text="")])
        assert [document.id for document in left] == ["2"]
        pool.submit(waiting.result().close).result()  # a lock is its thread's


def test_another_task_is_refused(tmp_path: Path, job: Callable[..., Job]):
    write_shards(tmp_path / "documents", jsonl=1, parquet=0, documents=1)
    (shard,) = find_shards(str(tmp_path / "documents"))
    with Server() as server:
        server.script = [Raw(status=404)]
        assert Actor(job(server), tmp_path / "out", []).label(shard).failed == {"engine": 1}
        other = job(server).model_copy(update={"task": "sports"})
        assert "differs from this one in task" in (Actor(other, tmp_path / "out", []).label(shard).error or "")


def test_of_a_folder_hidden_files_are_passed_over_and_strange_ones_refused(tmp_path: Path):
    for name in ("_SUCCESS", ".part-0.crc", "b.jsonl", "a.parquet"):
        (tmp_path / name).touch()
    assert [shard.name for shard in find_shards(str(tmp_path))] == ["a.parquet", "b.jsonl"]
    (tmp_path / "c.csv").touch()
    with pytest.raises(UserError, match=r"c\.csv: not a shard of documents; a shard is one of \.jsonl"):
        find_shards(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no shards in it"):
        find_shards(str(tmp_path / "empty"))


def test_a_result_comes_back_from_parquet_as_it_went_in(tmp_path: Path):
    whole = LabeledDocument(
        id="1",
        labels=[ChosenLabel(id="a", name="A", rank=1, score=0.5, reason="so")],
        shortlist=[ShortlistEntry(id="a", score=1.0, found_by=[Finding(source="labels", query="", rank=1, score=0.1)])],
        usage={"select": Usage(calls=1, seconds=0.5)},
        truncated_from=9_000,
        failure=Failure(phase="select", kind="engine", message="refused"),
    )
    empty = LabeledDocument(id="2", labels=[], shortlist=[], usage={})
    write_parquet(tmp_path / "out.parquet", tmp_path / "draft", LabeledDocument, [whole, empty])
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    for row in rows:
        row["usage"] = {phase: usage for phase, usage in row["usage"].items() if usage}
    assert [LabeledDocument.model_validate(row) for row in rows] == [whole, empty]
    assert os.listdir(tmp_path) == ["out.parquet"]


# The user's mistakes, told before a cluster is asked


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["-", "--index", "index", "-o", "out"], "-: no such file or folder"),
        (["--text", "a", "--index", "index", "-o", "out"], "--text does not go with --on ray"),
        (["documents", "--labels", "labels.txt", "-o", "out"], "--labels does not go with --on ray"),
        (["documents", "--index", "index"], "--on ray needs files of documents, --index INDEX and -o FOLDER"),
        (["documents", "--index", "index", "-o", "documents"], "documents: the documents are there"),
        (["documents", "--index", "nowhere", "-o", "out"], "nowhere: no finished index here"),
        (["documents", "--index", "index", "-o", "out", "--model", "local"], "local: every actor would load its own"),
        (["documents", "--index", "index", "-o", "out", "--model", "vllm:m"], "vllm:m: every actor would load"),
    ],
)
def test_a_mistake_is_told_on_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    problem: str,
):
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "documents", jsonl=1, parquet=0, documents=1)
    model = ["--model", "openai:m@http://127.0.0.1:9"]
    assert run(["label", "--on", "ray", *model, *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert problem in line


def test_a_shard_that_is_refused_keeps_its_results(tmp_path: Path, job: Callable[..., Job]):
    """Its log is of another task, and one of its documents has no result."""
    write_shards(tmp_path / "documents", jsonl=0, parquet=1, documents=2)
    (shard,) = find_shards(str(tmp_path / "documents"))
    with Server() as server:
        Actor(job(server), tmp_path / "out", []).label(shard)
        lines = tmp_path / "out" / "_lines" / f"{shard.name}.jsonl"
        lines.write_text(lines.read_text().splitlines(keepends=True)[0])
        before = (tmp_path / "out" / shard.name).read_bytes()
        other = job(server).model_copy(update={"task": "sports"})
        assert "differs from this one in task" in (Actor(other, tmp_path / "out", []).label(shard).error or "")
    assert (tmp_path / "out" / shard.name).read_bytes() == before


def test_a_key_that_a_node_lacks_is_named_with_the_node_and_not_shown(
    tmp_path: Path, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as server:
        actor = Actor(job(server), tmp_path / "out", ["OPENAI_API_KEY"])
    told = actor({"shard": "any"})
    assert told["fault"].startswith(f"on node {socket.gethostname()}: OPENAI_API_KEY is not set here")
    assert told["report"] == ""


@pytest.mark.parametrize(
    ("module", "address", "problem"),
    [
        (None, "", "--on ray needs Ray: pip install 'ctd-agent[ray]'"),
        (ModuleType("ray.data"), "127.0.0.1:9", "RAY_ADDRESS: no Ray cluster answers at 127.0.0.1:9"),
    ],
)
def test_without_ray_or_its_cluster_the_command_says_so_at_once(
    tmp_path: Path, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, module: Any, address: str, problem: str
):
    ray = SimpleNamespace(data=module, exceptions=SimpleNamespace(RayError=OSError))
    monkeypatch.setitem(sys.modules, "ray", ray if module else None)
    monkeypatch.setitem(sys.modules, "ray.data", module)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with Server() as server, pytest.raises(UserError, match=re.escape(problem)):
        list(label_shards([tmp_path / "any.jsonl"], job(server), tmp_path / "out"))


# A real cluster of two nodes on this machine

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
SECRET = "sk-that-nobody-may-read"  # noqa: S105 - it is none


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a Ray cluster of a head and another node, one processor each, that the command finds by RAY_ADDRESS."""
    pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: pip install 'ctd-agent[ray]' to test the cluster")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("CTD_AGENT_API_KEY", SECRET)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        cluster.add_node(**{key: value for key, value in NODE.items() if key != "include_dashboard"})
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def command(tmp_path: Path, cluster: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command over the shards in `documents`, in a process of its own."""
    build_index(LABELS, tmp_path / "index")
    started: list[subprocess.Popen[str]] = []

    def start(server: Server) -> subprocess.Popen[str]:
        options = ["--index", "index", "--model", server.spec, "--turns", "0", "--concurrency", "2", "-o", "out"]
        arguments = [COMMAND, "label", "documents", "--on", "ray", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(arguments, cwd=tmp_path, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


SLOW, QUICK = 1.0, 0.1  # seconds an answer: until both are at work, however long one takes to start; and then


def wait_until_both_are_at_work(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until two shards are begun, on a node each, and both have results."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        held = [Path(str(lock).removesuffix(".lock")) for lock in out.rglob("*.lock")]
        if len(held) == 2 and all(path.exists() and path.read_bytes().count(b"\n") > 3 for path in held):
            return
        time.sleep(0.02)
    pytest.fail(f"two actors were never at work at once; the command's exit code: {process.poll()}")


def assert_secret_is_nowhere(*folders: Path) -> None:
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_node_dies_midway_and_the_run_goes_on_nothing_lost_nothing_twice(
    tmp_path: Path, cluster: Any, command: Callable[..., subprocess.Popen[str]]
):
    ids = write_shards(tmp_path / "documents", jsonl=3, parquet=3, documents=30)
    out = tmp_path / "out"
    with Server() as server:
        server.delay = SLOW
        process = command(server)
        wait_until_both_are_at_work(out, process)
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        server.delay = QUICK
        printed, told = process.communicate(timeout=120)
        asked = len(server.requests)
    assert (process.returncode, printed) == (0, ""), told
    assert f"{out}: 180 documents in 6 of 6 shards" in told
    assert results(out) == logged(out) == ids
    assert 180 <= asked <= 180 + 4  # only what was under way on the dead node was asked again
    assert not list(out.rglob("*.lock"))
    assert SECRET not in told
    assert_secret_is_nowhere(out, Path(cluster.head_node.get_session_dir_path()) / "logs")


@pytest.mark.slow
def test_the_driver_is_killed_and_the_same_command_goes_on_nothing_lost_nothing_twice(
    tmp_path: Path, cluster: Any, command: Callable[..., subprocess.Popen[str]]
):
    ids = write_shards(tmp_path / "documents", jsonl=2, parquet=2, documents=30)
    out = tmp_path / "out"
    with Server() as server:
        server.delay = SLOW
        process = command(server)
        wait_until_both_are_at_work(out, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.delay = QUICK
        process = command(server)
        printed, told = process.communicate(timeout=120)
        asked = len(server.requests)
    assert (process.returncode, printed) == (0, ""), told
    assert results(out) == logged(out) == ids
    assert 120 <= asked <= 120 + 4
