"""Our own files: resumed where they were cut, and written whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import NASTY, refusal, write

from ctd_agent.records import append_lines, cut_torn_line, read_records, write_text
from ctd_agent.schema import Document

DONE = [Document(id=str(i), text=text) for i, text in enumerate(NASTY)]


class TestResuming:
    """A run appends a line per document; after a kill it cuts what is torn and goes on."""

    @pytest.fixture
    def log(self, tmp_path) -> Path:
        path = tmp_path / "run.jsonl"
        with path.open("ab", buffering=0) as file:
            append_lines(file, *DONE)
        return path

    def test_what_was_appended_is_read_back(self, log):
        assert list(read_records(log, Document)) == DONE
        assert log.read_bytes().count(b"\n") == len(DONE)

    def test_a_whole_file_is_left_as_it_is(self, log):
        before = log.read_bytes()
        cut_torn_line(log, Document)
        assert log.read_bytes() == before

    @pytest.mark.parametrize(
        "torn",
        [b"{", '{"id": "9", "text": "é'.encode()[:-1], b'{"id": \n', b"\0\0\0\0"],
        ids=["first byte", "inside a character", "with a newline", "zeros"],
    )
    def test_a_torn_last_line_is_skipped_and_cut(self, log, torn):
        whole = log.read_bytes()
        log.write_bytes(whole + torn)
        assert list(read_records(log, Document)) == DONE
        cut_torn_line(log, Document)
        assert log.read_bytes() == whole
        with log.open("ab", buffering=0) as file:
            append_lines(file, Document(id="9", text="again"))
        assert list(read_records(log, Document)) == [*DONE, Document(id="9", text="again")]

    def test_a_whole_last_line_only_gets_its_newline(self, log):
        whole = log.read_bytes()
        log.write_bytes(whole[:-1])
        assert list(read_records(log, Document)) == DONE
        cut_torn_line(log, Document)
        assert log.read_bytes() == whole

    @pytest.mark.parametrize("torn", ['{"id": "9", "text": "é', '{"id":"9","text":"","more', "\0\0\0"])
    def test_a_torn_only_line_of_ours_leaves_an_empty_file(self, tmp_path, torn):
        path = Path(write(tmp_path / "run.jsonl", torn))
        assert list(read_records(path, Document)) == []
        cut_torn_line(path, Document)
        assert path.read_bytes() == b""

    @pytest.mark.parametrize("whole", ["", "thesis\n", '{"chapter": 1}\n', "\n\n"])
    @pytest.mark.parametrize("last", ["{", '{ "name": "mine", "years": [2019, ', '{"id": "9", "te', "{all of my work}"])
    def test_a_torn_line_that_is_not_ours_is_refused_and_never_cut(self, tmp_path, whole, last):
        path = Path(write(tmp_path / "mine", whole + last))
        told = f"{path}: its last line is broken and not one of ours; give another file"
        for cut in (False, True):
            assert refusal(lambda: cut_torn_line(path, Document, cut=cut)) == told  # noqa: B023
        assert path.read_text() == whole + last

    def test_nothing_done_yet(self, tmp_path):
        cut_torn_line(tmp_path / "run.jsonl", Document)
        assert not (tmp_path / "run.jsonl").exists()
        message = refusal(list, read_records(tmp_path / "run.jsonl", Document))
        assert message.endswith("run.jsonl: cannot be read: No such file or directory")

    def test_a_directory_is_no_run(self, tmp_path):
        assert refusal(cut_torn_line, tmp_path, Document) == f"{tmp_path}: cannot be resumed: Is a directory"

    def test_another_kind_of_file_is_refused_and_never_cut(self, tmp_path):
        path = Path(write(tmp_path / "thesis.txt", "all of my work"))
        cut_torn_line(path, Document)
        assert path.read_text() == "all of my work"
        assert refusal(list, read_records(path, Document)).startswith(f"{path}:1: not a Document: Invalid JSON")

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ('{"id": "1", "te', "Invalid JSON: "),
            ('{"id": "1"}', "field 'text': Field required"),
            ('{"id": "1", "text": "", "x\\ny": 1}', "field 'x\\ny': Extra inputs are not permitted"),
        ],
    )
    def test_a_corrupt_line_elsewhere_is_refused(self, tmp_path, line, problem):
        path = Path(write(tmp_path / "run.jsonl", f'{{"id": "0", "text": ""}}\n\n{line}\n{{"id": "2", "text": ""}}\n'))
        records = read_records(path, Document)
        assert next(records) == Document(id="0", text="")
        assert refusal(next, records).startswith(f"{path}:3: not a Document: {problem}")

    def test_a_killed_process_loses_nothing_that_it_appended(self, tmp_path):
        script = (
            "import os, sys; from ctd_agent.records import append_lines; from ctd_agent.schema import Document\n"
            "file = open(sys.argv[1], 'ab', buffering=0)\n"
            "append_lines(file, Document(id='1', text='kept'))\n"
            "os.kill(os.getpid(), 9)\n"
        )
        root = Path(__file__).parent.parent
        environment = os.environ | {"PYTHONPATH": str(root)}
        killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run.jsonl")], env=environment)
        assert killed.returncode == -9
        assert list(read_records(tmp_path / "run.jsonl", Document)) == [Document(id="1", text="kept")]


def test_a_file_that_is_written_anew_is_the_old_or_the_new_one_and_never_a_half(tmp_path, monkeypatch):
    path = tmp_path / "characterization.json"
    write_text(path, "old")
    path.chmod(0o640)
    with monkeypatch.context() as power_cut:
        power_cut.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert refusal(write_text, path, "new") == f"{path}: cannot be written: No space left on device"
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]
    write_text(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [*tmp_path.iterdir()] == [path]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path):
    path, link, pipe = tmp_path / "figures.json", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(path)
    write_text(link, "figures")
    assert (link.is_symlink(), path.read_text()) == (True, "figures")
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        write_text(pipe, "figures")
        assert reader.stdout
        assert reader.stdout.read() == "figures"
    assert pipe.is_fifo()
    assert {*tmp_path.iterdir()} == {path, link, pipe}
