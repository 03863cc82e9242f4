"""One output is one run: what differs is told, changed documents are labelled again, and no input is written over."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from server import Server

from ctd_agent import cache
from ctd_agent.cli import run
from ctd_agent.records import read_records
from ctd_agent.schema import Document, LabeledDocument

pytest_plugins = ["servers"]

LOG = "out.jsonl.transitions.jsonl"
OTHER_RUNS = [
    (("--model", "openai:other@http://127.0.0.1:9"), 'shortlister ("openai:'),
    (("--task", "sports"), 'task ("'),
    (("--candidates", "7"), "budget ("),
    (("--select-sampling", "temperature=0.5"), "sampling ("),
    (("--index", "other"), "catalogue ("),
]
Told = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two documents, and two catalogues with their indexes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path / "cache"))
    write("a", "b")
    Path("labels.txt").write_text("Tennis\nFootball\n")
    Path("others.txt").write_text("Chess\nGolf\n")
    for catalogue, index in (("labels.txt", "index"), ("others.txt", "other")):
        assert run(["index", catalogue, "--out", index, "--embedder", "static"]) == 0


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """Run the command in this process; return its exit code and what it said."""

    def call(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        return run(arguments), capfd.readouterr().err

    return call


def write(*texts: str) -> None:
    """Write documents 0, 1, … to documents.jsonl."""
    documents = [Document(id=str(number), text=text) for number, text in enumerate(texts)]
    Path("documents.jsonl").write_text("".join(document.model_dump_json() + "\n" for document in documents))


def label(server: Server, *more: str) -> list[str]:
    return ["label", "documents.jsonl", "--index", "index", "--model", server.spec, "-o", "out.jsonl", *more]


def results() -> list[LabeledDocument]:
    return list(read_records(Path("out.jsonl"), LabeledDocument))


def files() -> list[bytes]:
    return [Path(name).read_bytes() for name in ("out.jsonl", LOG)]


def test_a_result_names_its_run_and_the_digest_of_its_text(told: Told, server: Server):
    assert told(*label(server))[0] == 0
    header = json.loads(Path(LOG).read_text().splitlines()[0])
    assert [result.run for result in results()] == [header["run"]] * 2
    assert [result.digest for result in results()] == [Document(id="any", text=text).digest for text in "ab"]


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "half finished"])
@pytest.mark.parametrize(("options", "differs"), OTHER_RUNS, ids=[options[0] for options, _ in OTHER_RUNS])
def test_what_differs_from_the_run_before_is_told_and_nothing_changes(
    told: Told, server: Server, options: tuple[str, ...], differs: str, finished: bool
):
    assert told(*label(server))[0] == 0
    if not finished:
        Path("out.jsonl").write_text(Path("out.jsonl").read_text().splitlines(keepends=True)[0])
    before = files()
    code, said = told(*label(server, *options))
    assert code == 2
    assert f"{LOG}: the run that is logged here differs from this one in {differs}" in said
    assert ", now " in said
    assert files() == before


def test_force_goes_on_with_another_runs_results_all_the_same(told: Told, server: Server):
    assert told(*label(server))[0] == 0
    first = results()[0]
    write("a", "b, since corrected")
    code, said = told(*label(server, "--task", "sports", "--force"))
    assert code == 0, said
    assert [result.run == first.run for result in results()] == [True, False]
    assert results()[0] == first


def test_another_log_is_refused_for_the_results_that_it_does_not_know(told: Told, server: Server):
    assert told(*label(server))[0] == 0
    write("x", "y")
    assert told(*label(server, "-o", "else.jsonl"))[0] == 0
    write("a", "b")
    code, said = told(*label(server, "--log", "else.jsonl.transitions.jsonl"))
    assert code == 2
    assert (
        f"out.jsonl: has results of run {results()[0].run}, which else.jsonl.transitions.jsonl has not logged" in said
    )


def test_a_document_that_has_changed_is_labelled_again_and_no_other(told: Told, server: Server):
    assert told(*label(server))[0] == 0
    kept, asked = results()[0], len(server.requests)
    write("a", "b, since corrected", "c")
    code, said = told(*label(server))
    assert code == 0
    assert "out.jsonl: 1 documents have changed since, and are labelled again" in said
    assert "1 of 3 documents are done, going on" in said
    assert len(server.requests) > asked
    assert [result.digest for result in results()] == [document.digest for document in documents()]
    assert results()[0] == kept


def documents() -> list[Document]:
    return list(read_records(Path("documents.jsonl"), Document))


def test_results_of_version_0_1_name_no_run_and_go_on(told: Told, server: Server):
    assert told(*label(server))[0] == 0
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    older = [{name: value for name, value in line.items() if name not in ("run", "digest")} for line in lines]
    Path("out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in older))
    code, said = told(*label(server))
    assert code == 0
    assert "2 of 2 documents are done, nothing to do" in said


def test_a_finished_run_without_its_catalogue_is_told_what_is_missing(told: Told, server: Server):
    assert told(*label(server))[0] == 0
    code, said = told("label", "documents.jsonl", "--model", server.spec, "-o", "out.jsonl")
    assert (code, said) == (2, "error: give either --labels CATALOGUE or --index INDEX\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("label documents.jsonl --labels labels.txt -o labels.txt", "--output labels.txt: it is the input labels.txt"),
        ("label documents.jsonl --labels labels.txt --log labels.txt", "--log labels.txt: it is the input labels.txt"),
        ("label documents.jsonl --labels labels.txt -o link", "--output link: it is the input documents.jsonl"),
        ("label documents.jsonl --labels labels.txt -o hard", "--output hard: it is the input documents.jsonl"),
        ("eval documents.jsonl --gold gold.jsonl --out gold.jsonl", "--out gold.jsonl: it is the input gold.jsonl"),
        ("report documents.jsonl --out documents.jsonl", "--out documents.jsonl: it is the input documents.jsonl"),
        ("index labels.txt --out ./labels.txt", "--out labels.txt: it is the input labels.txt"),
        ("dataset hf:index --out index", "--out index: it is the input index"),
        ("distill train index --student m --out index", "--out index: it is the input index"),
    ],
)
def test_a_file_that_is_read_is_never_written_over(told: Told, arguments: str, named: str):
    os.symlink("documents.jsonl", "link")
    os.link("documents.jsonl", "hard")
    Path("gold.jsonl").write_text('{"id": "0", "labels": ["1"]}\n')
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    code, said = told(*arguments.split())
    assert code == 2
    assert f"error: {named}; give another file" in said
    assert {path: path.read_bytes() for path in before} == before


def test_only_the_owner_reads_results_logs_and_the_folders_made_for_them(told: Told, server: Server):
    assert told(*label(server, "-o", "new/out.jsonl"))[0] == 0
    assert told("label", "--text", "a", "--index", "index", "--model", server.spec)[0] == 0
    made = [Path("new"), *Path("new").iterdir(), Path("cache/runs"), *Path("cache/runs").iterdir()]
    assert len(made) == 5
    assert {(path.is_dir(), oct(path.stat().st_mode & 0o777)) for path in made} == {(True, "0o700"), (False, "0o600")}


def test_results_that_their_owner_has_opened_to_others_stay_open(told: Told, server: Server):
    assert told(*label(server))[0] == 0
    Path("out.jsonl").chmod(0o644)
    write("a", "b, since corrected")
    assert told(*label(server))[0] == 0  # the old line is dropped, and the file written anew
    assert oct(Path("out.jsonl").stat().st_mode & 0o777) == "0o644"


def test_old_logs_in_the_cache_are_deleted_and_that_is_said(
    told: Told, server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache, "SIZE", 100)
    runs = Path("cache/runs")
    runs.mkdir(parents=True)
    month = 31 * 24 * 3600
    for name, size, age in [("old", 1, month), ("large", 99, 60), ("new", 50, 10)]:
        (runs / f"{name}.jsonl").write_bytes(b" " * size)
        os.utime(runs / f"{name}.jsonl", times=(time.time() - age,) * 2)
    code, said = told("label", "--text", "a", "--index", "index", "--model", server.spec)
    assert code == 0
    assert f"{runs.resolve()}: 2 logs of runs without --output were deleted" in said
    assert not any((runs / f"{name}.jsonl").exists() for name in ("old", "large"))
    assert (runs / "new.jsonl").exists()
