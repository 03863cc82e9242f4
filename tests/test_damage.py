"""What becomes of an index whose files a disk, a copy or another program has damaged: it never answers otherwise."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import write_manifest

from ctd_agent.cli import run
from ctd_agent.errors import CtdError, UserError
from ctd_agent.schema import Label
from ctd_agent.tools.hnsw import add_graph
from ctd_agent.tools.index_cache import cached_index
from ctd_agent.tools.label_index import Hit, LabelIndex
from ctd_agent.tools.seal import BLOCK, DamagedError
from ctd_agent.tools.store import one_line

LABELS = [Label(id=f"n{n}", name=f"thing {n}") for n in range(40)]
PIECE = 4096  # bytes: what a disk loses at once

Damage = Callable[[bytes, int], bytes | None]
DAMAGES: dict[str, Damage] = {  # of a file's bytes, at a place: what is there then, None for no file
    "cut": lambda whole, place: whole[:place],
    "changed": lambda whole, place: whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :],
    "zeroed": lambda whole, place: whole[:place] + bytes(len(whole[place : place + PIECE])) + whole[place + PIECE :],
    "gone": lambda whole, place: None,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index, to be copied."""
    folder = tmp_path_factory.mktemp("whole") / "index"
    LabelIndex.build(LABELS, folder, "static")
    return folder


@pytest.fixture
def index(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of one's own, in the folder where the command is run."""
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("".join(f"{label.name}\n" for label in LABELS))
    return Path(shutil.copytree(whole, "index"))


def damage(file: Path, how: str, place: int) -> None:
    if (left := DAMAGES[how](file.read_bytes(), place)) is None:
        file.unlink()
    else:
        file.write_bytes(left)


def files_of(index: Path) -> list[Path]:
    """The files of an index that hold anything."""
    return sorted(path for path in index.rglob("*") if path.is_file() and path.stat().st_size)


def file_of(index: Path, name: str) -> Path:
    return next(path for path in files_of(index) if path.as_posix().endswith(name))


def answers(index: LabelIndex) -> list[list[Hit]]:
    return [index.search(query, 7, mode) for query in ("thing 7", "thing") for mode in ("hybrid", "bm25", "dense")]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "segment.json", "store/page_0.dat", "vectors/status.dat"])
def test_a_damaged_index_is_told_on_one_line_that_says_what_to_do(
    index: Path, capfd: pytest.CaptureFixture[str], name: str, how: str
):
    damage(file_of(index, name), how, 0)
    assert run(["search", "index", "thing 7"]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    if (name, how) != ("manifest.json", "gone"):
        assert line.startswith("error: index: the index is damaged, ctd-index-1/")
        assert f"{name} is not what was written" in line
    assert line.endswith("build it again with `ctd-agent index CATALOGUE --out index`") or "no finished index" in line

    assert run(["index", "labels.txt", "--out", "index", "--embedder", "static"]) == 0
    assert run(["search", "index", "thing 7"]) == 0


def test_a_damaged_index_in_the_cache_is_built_again_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path))
    before = answers(cached_index(LABELS, "static"))
    damage(file_of(tmp_path, "vectors/chunk_0.mmap"), "changed", 9)
    assert answers(cached_index(LABELS, "static")) == before
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(str(tmp_path))
    assert line.endswith(": the cached index is damaged, so it is built again")
    assert answers(cached_index(LABELS, "static")) == before
    assert capfd.readouterr().err == ""


def test_a_file_that_changed_without_being_written_is_noticed_where_it_is_sampled(index: Path):
    """As a failing disk changes it."""
    file = file_of(index, "vectors/chunk_0.mmap")
    assert file.stat().st_size > 100 * BLOCK
    os.utime(file, ns=(0, written := file.stat().st_mtime_ns))
    damage(file, "changed", 9)
    os.utime(file, ns=(0, written))
    with pytest.raises(DamagedError, match=file.name):
        LabelIndex.open(index)


def test_an_index_is_whole_whatever_is_done_with_it(tmp_path: Path):
    """The engine writes into its files when it opens and closes them."""
    LabelIndex.build(LABELS, tmp_path, "static")
    for change in (lambda: add_graph(tmp_path), lambda: LabelIndex.open(tmp_path).update(LABELS[3:]), lambda: None):
        change()
        for _ in range(3):
            index = LabelIndex.open(tmp_path)
            assert LabelIndex.open(tmp_path).search("thing 7", 1)[0].label.id == "n7"
            index._store._shard.close()  # type: ignore[attr-defined]


def test_an_index_is_not_updated_from_a_damaged_one(index: Path):
    opened = LabelIndex.open(index)
    damage(file_of(index, "vectors/chunk_0.mmap"), "changed", 9)
    with pytest.raises(DamagedError):
        opened.update(LABELS[3:])


def test_an_index_of_version_0_1_has_no_checksums_and_opens(index: Path):
    before = answers(LabelIndex.open(index))
    write_manifest(index)
    assert answers(LabelIndex.open(index)) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segment.json", "Qdrant cannot open the index; make its folder writable, or build it again"),
        ("mutable_id_tracker.mappings", r"holds \d+ labels of 40; build the index again"),
        ("vectors/status.dat", "Qdrant cannot open the index"),  # the engine panics
    ],
)
def test_what_the_engine_cannot_open_without_checksums_is_an_error_of_one_line(index: Path, name: str, message: str):
    write_manifest(index)
    file = file_of(index, name)
    damage(file, "cut", file.stat().st_size // 2)
    with pytest.raises(CtdError, match=message) as caught:
        LabelIndex.open(index)
    assert "\n" not in str(caught.value)


def test_a_panic_of_the_engine_is_an_error_and_an_interrupt_is_none():
    class PanicException(BaseException):
        """As Rust's is seen from Python."""

    with pytest.raises(CtdError, match=r"^it failed \(index out of bounds\)$"), one_line("it failed"):
        raise PanicException("index out\nof bounds")
    with pytest.raises(KeyboardInterrupt), one_line("it failed"):
        raise KeyboardInterrupt


def spoil(file: Path, how: str, chance: random.Random) -> None:
    """Damage a file where it holds anything: the rest is room for more."""
    data = file.read_bytes()
    damage(file, how, chance.randrange(len(data.rstrip(b"\0")) or len(data)))


def told_or(before: list[list[Hit]], index: Path) -> bool:
    """Whether opening a damaged index is an error that says what to do; if not, it answers as before."""
    try:
        found = answers(LabelIndex.open(index))
    except UserError as error:
        return "build it again" in str(error) or "no finished index" in str(error)
    assert found == before
    return False


@pytest.mark.slow
def test_of_a_hundred_damages_to_a_cached_index_none_changes_an_answer_and_none_is_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path))
    before, chance = answers(cached_index(LABELS, "static")), random.Random(11)  # noqa: S311 - of places
    (index,) = (path for path in (tmp_path / "indexes").iterdir() if path.is_dir())
    told = 0
    for how in DAMAGES:
        for number in range(count := len(files_of(index))):
            spoil(files_of(index)[number], how, chance)
            told += (damaged := told_or(before, index))
            assert answers(cached_index(LABELS, "static")) == before
            assert len(capfd.readouterr().err.splitlines()) <= damaged
            assert len(files_of(index)) == count
    assert told > 80


@pytest.mark.slow
def test_no_damage_to_an_index_with_a_graph_changes_an_answer(tmp_path: Path):
    LabelIndex.build(LABELS, tmp_path, "static")
    add_graph(tmp_path)
    before, chance = answers(LabelIndex.open(tmp_path)), random.Random(12)  # noqa: S311 - of places
    for file in files_of(tmp_path):
        whole = file.read_bytes()
        for how in chance.sample(sorted(DAMAGES), 2):
            spoil(file, how, chance)
            told_or(before, tmp_path)
            file.write_bytes(whole)
    assert answers(LabelIndex.open(tmp_path)) == before
