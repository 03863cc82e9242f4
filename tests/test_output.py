"""The file of results: what is done and what is left, of one run at a time."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from results import ALL, documents, ids, labelled

from ctd_agent.errors import UserError
from ctd_agent.graphs import batch
from ctd_agent.graphs.batch import Output


def test_what_is_done_is_not_left_and_what_failed_by_no_fault_of_its_own_is(tmp_path: Path):
    path = tmp_path / "new" / "out.jsonl"
    with Output(path) as out:
        out.write(labelled("doc-0"))
        out.write(labelled("doc-1", "engine"))
        out.write(labelled("doc-2", "invalid_output"))
        out.write(labelled("doc-3", "internal"))
    before = path.read_bytes()
    with Output(path) as out:
        assert [document.id for document in out.left(documents(5))] == ["doc-1", "doc-3", "doc-4"]
        assert path.read_bytes() == before
        for key in ("doc-1", "doc-3", "doc-4"):
            out.write(labelled(key))
        assert ids(path) == ["doc-0", "doc-2", "doc-1", "doc-3", "doc-4"]
        out.sort(documents(5))
    assert ids(path) == ["doc-0", "doc-1", "doc-2", "doc-3", "doc-4"]
    assert os.listdir(path.parent) == ["out.jsonl"]


def test_with_retry_failed_whatever_has_failed_is_left(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    with Output(path) as out:
        for key, failure in zip(ALL, (None, "engine", "invalid_output", "empty_document"), strict=False):
            out.write(labelled(key, failure))
    with Output(path) as out:
        assert [document.id for document in out.left(documents(4))] == ["doc-1"]
        assert out.failed == {"invalid_output": 1, "empty_document": 1}
    with Output(path, retry_failed=True) as out:
        assert [document.id for document in out.left(documents(4))] == ["doc-1", "doc-2", "doc-3"]
        assert not out.failed
        out.write(labelled("doc-1"))
    assert ids(path) == ["doc-0", "doc-1"]


@pytest.mark.parametrize(
    "end", [b'\n{"id": "doc-1", "lab', b"\n{", b""], ids=["torn line", "torn at its first byte", "no newline"]
)
def test_a_run_goes_on_after_the_last_whole_line(tmp_path: Path, end: bytes):
    path = tmp_path / "out.jsonl"
    path.write_bytes(labelled("doc-0").model_dump_json().encode() + end)
    with Output(path) as out:
        assert [document.id for document in out.left(documents(2))] == ["doc-1"]
        out.write(labelled("doc-1"))
    assert ids(path) == ["doc-0", "doc-1"]


def test_the_input_given_as_output_by_mistake_is_refused_and_left_as_it_is(tmp_path: Path):
    path = tmp_path / "documents.jsonl"
    path.write_text('{"id": "1", "text": "precious"}')
    with pytest.raises(UserError, match="not a LabeledDocument"):
        Output(path)
    assert path.read_text() == '{"id": "1", "text": "precious"}'


def test_a_file_of_other_documents_or_of_anything_else_is_refused_and_left_as_it_is(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    path.write_text(labelled("stranger").model_dump_json() + "\n")
    with Output(path) as out, pytest.raises(UserError, match="'stranger', which is not among the documents"):
        out.left(documents(2))
    path.write_text('{"id": "1", "text": "a document"}\n{"id": "2", "te')
    with pytest.raises(UserError, match=r"out\.jsonl:1: not a LabeledDocument"):
        Output(path)
    assert path.read_text() == '{"id": "1", "text": "a document"}\n{"id": "2", "te'
    with pytest.raises(UserError, match="cannot write the results here: Is a directory"):
        Output(tmp_path)


def test_two_runs_cannot_write_one_file(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    with Output(path):
        with pytest.raises(UserError, match="another run is writing"):
            Output(path)
        assert path.with_name("out.jsonl.lock").exists()
    with Output(path) as out:
        assert out.left(documents(1))


def test_of_runs_that_begin_as_another_ends_one_gets_the_file(tmp_path: Path):
    """Each lets the file go by unlinking its lock; who has opened that very lock must not think it has it."""
    path, holders, most = tmp_path / "out.jsonl", 0, 0
    counting = threading.Lock()

    def work() -> None:
        nonlocal holders, most
        end = time.monotonic() + 1
        while time.monotonic() < end:
            with suppress(UserError), Output(path):
                with counting:
                    holders += 1
                    most = max(most, holders)
                with counting:
                    holders -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_full_disk_is_told_on_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batch, "append_lines", full)
    with (
        Output(tmp_path / "out.jsonl") as out,
        pytest.raises(UserError, match=r"out\.jsonl: .* No space left on device"),
    ):
        out.write(labelled("doc-0"))
