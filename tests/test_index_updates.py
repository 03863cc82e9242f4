"""What an index does over its life: it is cut and goes on, follows its catalogue, and is given a graph.

The server is qdrant-client's local mode, as in test_label_index.py.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from ctd_agent.cli import run
from ctd_agent.errors import UserError
from ctd_agent.schema import Label
from ctd_agent.tools import folder_store, label_index, points
from ctd_agent.tools.embedding import StaticEmbedder
from ctd_agent.tools.folder_store import copy_shard
from ctd_agent.tools.hnsw import PAYS, add_graph, start_graph
from ctd_agent.tools.index_cache import cached_index
from ctd_agent.tools.label_index import Changes, LabelIndex
from ctd_agent.tools.points import SAMPLE, mean_tokens

ROOT = Path(__file__).parents[1]
URL = "http://qdrant.example:6333/labels"
BATCH = 64
MANY = [Label(id=f"n{n}", name=f"thing {n}") for n in range(BATCH * 4)]
BUILD = """
import sys
from ctd_agent.schema import Label
from ctd_agent.tools import label_index, points
points.BATCH = 64
label_index.SAVE = 0  # seconds: after every batch
labels = [Label(id=f"n{n}", name=f"thing {n}") for n in range(int(sys.argv[2]))]
def wait(done):
    if done >= int(sys.argv[3]):
        print(done, flush=True)
        sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(points, "BATCH", BATCH)


@pytest.fixture(params=["folder", "server"])
def where(request, tmp_path, monkeypatch):
    """A place for an index: a folder, then a server."""
    if request.param == "folder":
        yield str(tmp_path / "index")
        return
    memory = QdrantClient(":memory:")
    monkeypatch.setattr("qdrant_client.QdrantClient", lambda **options: memory)
    yield URL
    memory.close()


@pytest.fixture
def embedded(monkeypatch):
    """The texts that the static encoder embeds while labels are indexed."""
    texts = []
    embed = StaticEmbedder.embed

    def watched(self, batch):
        texts.extend(batch)
        return embed(self, batch)

    monkeypatch.setattr(StaticEmbedder, "embed", watched)
    return texts


def ids(hits):
    return [hit.label.id for hit in hits]


def names(index):
    """All labels of an index, by id, as a dense search finds them."""
    return {hit.label.id: hit.label.name for hit in index.search("thing", index.manifest.labels, "dense")}


def cut_after(batches):
    """Progress that is interrupted after so many batches."""
    left = batches

    def progress(done):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    return progress


def interrupted(work, batches=1):
    with pytest.raises(KeyboardInterrupt):
        work(cut_after(batches))


def killed(code, *args):
    """Run code in another process until it prints a line, then kill it; return the line."""
    with subprocess.Popen(
        [sys.executable, "-c", BUILD + code, *map(str, args)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        line = process.stdout.readline()
        process.kill()
    return line


# --- cut, and going on


def test_a_build_that_was_interrupted_goes_on_where_it_was(where, embedded):
    interrupted(lambda progress: LabelIndex.build(MANY, where, "static", progress), batches=2)
    embedded.clear()
    done = []

    index = LabelIndex.build(MANY, where, "static", done.append)

    assert done == [BATCH * 3, BATCH * 4]
    assert len(embedded) == BATCH * 2
    assert names(LabelIndex.open(where)) == names(index) == {label.id: label.name for label in MANY}


def test_a_killed_build_goes_on_from_its_last_save(tmp_path, embedded):
    line = killed('LabelIndex = label_index.LabelIndex\nLabelIndex.build(labels, sys.argv[1], "static", wait)',
                  tmp_path / "index", len(MANY), BATCH * 3)  # fmt: skip
    assert line == f"{BATCH * 3}\n"

    index = LabelIndex.build(MANY, tmp_path / "index", "static")

    # Progress is told before the save, so of three batches two are safe.
    assert BATCH <= len(embedded) <= BATCH * 2
    assert names(LabelIndex.open(tmp_path / "index")) == names(index) == {label.id: label.name for label in MANY}
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["ctd-index-1"]


def test_a_build_of_another_catalogue_does_not_go_on_where_one_was_cut(where, embedded):
    interrupted(lambda progress: LabelIndex.build(MANY, where, "static", progress))
    embedded.clear()

    LabelIndex.build(MANY[1:], where, "static")

    assert len(embedded) == len(MANY) - 1
    assert names(LabelIndex.open(where)) == {label.id: label.name for label in MANY[1:]}


def test_a_build_cut_before_its_first_save_begins_anew(tmp_path):
    interrupted(lambda progress: LabelIndex.build(MANY, tmp_path / "index", "static", progress))
    (segment,) = (tmp_path / "index").glob("**/segment.json")
    segment.write_text("")

    LabelIndex.build(MANY, tmp_path / "index", "static")

    assert names(LabelIndex.open(tmp_path / "index")) == {label.id: label.name for label in MANY}


def test_two_processes_do_not_build_one_index(tmp_path):
    errors = []

    def meanwhile(done):
        with pytest.raises(UserError, match="another process is building this index") as caught:
            LabelIndex.build(MANY, tmp_path / "index", "static")
        errors.append(caught.value)

    LabelIndex.build(MANY[:10], tmp_path / "index", "static", meanwhile)

    assert len(errors) == 1
    assert LabelIndex.open(tmp_path / "index").manifest.labels == 10


def test_an_index_in_the_cache_goes_on_where_it_was_cut(tmp_path, monkeypatch, embedded):
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path))
    interrupted(lambda progress: cached_index(MANY, "static", progress), batches=3)
    embedded.clear()

    cached_index(MANY, "static")

    assert len(embedded) == BATCH


# --- following the catalogue


def test_an_update_writes_what_is_new_or_changed_and_removes_what_is_gone(where, embedded):
    index = LabelIndex.build(MANY, where, "static")
    embedded.clear()
    changed = MANY[5].model_copy(update={"name": "cormorant"})
    new = [Label(id="new 1", name="heron"), Label(id="new 2", name="egret")]
    catalogue = [*new, *MANY[:3], changed, *MANY[6:]]
    done = []

    changes = index.update(catalogue, done.append)

    assert changes == Changes(added=2, changed=1, removed=2)
    assert sorted(embedded) == ["cormorant", "egret", "heron"]
    assert done == [len(catalogue)]
    for after in (index, LabelIndex.open(where)):
        assert names(after) == {label.id: label.name for label in catalogue}
        assert ids(after.search("cormorant", 5, "bm25")) == ["n5"]
        assert ids(after.search("heron", 1)) == ["new 1"]
        assert "n3" not in ids(after.search("thing 3", 50))
        assert after.manifest.fingerprint == label_index.fingerprint(catalogue)


def test_an_update_to_the_same_catalogue_does_nothing(where, embedded):
    index = LabelIndex.build(MANY[:9], where, "static")
    embedded.clear()

    assert index.update(MANY[:9]) == Changes(0, 0, 0)
    assert index.update(MANY[8::-1]) == Changes(0, 0, 0)  # the order alone

    assert embedded == []
    assert LabelIndex.open(where).manifest.fingerprint == label_index.fingerprint(MANY[8::-1])


def test_a_label_whose_metadata_changed_is_written_again(where):
    index = LabelIndex.build(MANY[:9], where, "static")

    assert index.update([*MANY[:8], MANY[8].model_copy(update={"metadata": {"since": 2024}})]) == Changes(0, 1, 0)

    assert index.search("thing 8", 1)[0].label.metadata == {"since": 2024}


def test_labels_much_longer_than_before_are_all_written_again(where, embedded):
    """BM25's weights know the mean length of the labels."""
    index = LabelIndex.build(MANY[:9], where, "static")
    longer = [Label(id=f"long {n}", name="cormorant heron egret", description="birds of the shore") for n in range(9)]
    embedded.clear()

    changes = index.update(MANY[:9] + longer)

    assert changes == Changes(added=9, changed=0, removed=0)
    assert len(embedded) == 18
    assert index.manifest.mean_tokens == mean_tokens(MANY[:9] + longer)
    assert names(LabelIndex.open(where)) == names(index)
    assert len(names(index)) == 18


def test_the_mean_length_of_a_large_catalogue_is_that_of_a_sample():
    labels = [Label(id=str(n), name="heron" if n % 4 < 2 else "heron egret") for n in range(SAMPLE * 2 + 1)]

    assert mean_tokens(labels) == pytest.approx(1.5, abs=0.51)
    assert mean_tokens(labels[:100]) == 1.5


def test_a_folder_answers_with_the_old_labels_until_the_update_is_done(tmp_path):
    index = LabelIndex.build(MANY[:9], tmp_path, "static")
    reader = LabelIndex.open(tmp_path)
    found = []

    def search(done):
        found.extend(ids(LabelIndex.open(tmp_path).search("thing 9", 1, "bm25")))

    index.update(MANY[5:10], search)

    assert "n9" not in found
    assert ids(reader.search("thing 2", 1)) == ["n2"]
    assert ids(LabelIndex.open(tmp_path).search("thing 9", 1)) == ["n9"]


def test_an_update_that_was_cut_leaves_the_old_index_in_a_folder_and_none_on_a_server(where, embedded):
    index = LabelIndex.build(MANY[:9], where, "static")
    interrupted(lambda progress: index.update(MANY, progress), batches=3)
    embedded.clear()

    if where == URL:
        with pytest.raises(UserError, match="no finished ctd-agent index"):
            LabelIndex.open(where)
        LabelIndex.build(MANY, where, "static")  # what `ctd-agent index` does then
    else:
        old = LabelIndex.open(where)
        assert names(index) == names(old)
        assert names(old) == {label.id: label.name for label in MANY[:9]}
        embedded.clear()
        assert old.update(MANY) == Changes(added=len(MANY) - 9 - BATCH * 3, changed=0, removed=0)

    assert len(embedded) == len(MANY) - 9 - BATCH * 3
    assert names(LabelIndex.open(where)) == {label.id: label.name for label in MANY}


def test_a_killed_update_goes_on_from_its_last_save(tmp_path, embedded):
    LabelIndex.build(MANY[:9], tmp_path, "static")
    embedded.clear()

    killed("label_index.LabelIndex.open(sys.argv[1]).update(labels, wait)", tmp_path, len(MANY), BATCH * 3)

    assert names(LabelIndex.open(tmp_path)) == {label.id: label.name for label in MANY[:9]}
    LabelIndex.open(tmp_path).update(MANY)
    assert len(embedded) <= BATCH * 3
    assert names(LabelIndex.open(tmp_path)) == {label.id: label.name for label in MANY}


# --- the graph


def test_a_graph_finds_nearly_what_comparing_all_labels_finds(tmp_path):
    words = ["heron", "egret", "tax", "wages", "opera", "dog", "code", "tool", "game", "font", "server", "mail"]
    labels = [Label(id=f"{a} {b} {c}", name=f"{a} {b} {c}") for a in words for b in words for c in words[:6]]
    before = LabelIndex.build(labels, tmp_path, "static")

    add_graph(tmp_path)

    after = LabelIndex.open(tmp_path)
    assert (before.manifest.outside, after.manifest.outside) == (len(labels), 0)
    for mode in ("dense", "bm25"):
        there, here = (index.search("opera game wages", 20, mode) for index in (before, after))
        assert here[0].score == pytest.approx(there[0].score)
        assert here[-1].score == pytest.approx(there[-1].score, rel=0.02)  # of equals others may come
    assert len(after.search("opera", len(labels), "dense")) == len(labels)
    assert [path.name for path in tmp_path.iterdir()] == ["ctd-index-2"]
    assert len(before.search("opera", len(labels), "dense")) == len(labels)  # a reader from before goes on


def test_an_index_with_a_graph_is_updated_and_knows_what_is_outside_it(tmp_path):
    LabelIndex.build(MANY, tmp_path, "static")
    add_graph(tmp_path)
    index = LabelIndex.open(tmp_path)

    index.update([*MANY[5:], Label(id="new", name="cormorant")])

    index = LabelIndex.open(tmp_path)
    assert index.manifest.outside == 1
    assert ids(index.search("cormorant", 1)) == ids(index.search("cormorant", 1, "dense")) == ["new"]
    assert "n3" not in ids(index.search("thing 3", 50, "dense"))
    add_graph(tmp_path)
    assert ids(LabelIndex.open(tmp_path).search("cormorant", 1, "dense")) == ["new"]


def test_a_graph_that_comes_after_an_update_is_given_up(tmp_path, monkeypatch):
    index = LabelIndex.build(MANY[:9], tmp_path, "static")

    def copy_while_an_update_begins(build, to):
        copy_shard(build, to)
        (tmp_path / "ctd-index-2").mkdir()
        (tmp_path / "ctd-index-2" / "shard").mkdir()

    monkeypatch.setattr("ctd_agent.tools.hnsw.copy_shard", copy_while_an_update_begins)
    add_graph(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"ctd-index-1", "ctd-index-2"}
    index.update(MANY[:12])
    assert [path.name for path in tmp_path.iterdir()] == ["ctd-index-3"]


def test_what_a_killed_process_left_of_a_graph_is_gone_with_the_next(tmp_path):
    LabelIndex.build(MANY[:9], tmp_path, "static")
    draft = tmp_path / "ctd-index-2.graph" / "shard"
    draft.mkdir(parents=True)
    (draft / "half.bin").write_text("")

    add_graph(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["ctd-index-2"]
    assert not list(tmp_path.glob("**/half.bin"))
    assert LabelIndex.open(tmp_path).manifest.outside == 0


def test_a_small_index_and_one_on_a_server_are_given_no_graph(tmp_path):
    manifest = LabelIndex.build(MANY[:9], tmp_path, "static").manifest

    assert start_graph(tmp_path, manifest) is None
    assert start_graph(URL, manifest.model_copy(update={"outside": PAYS})) is None


def test_an_index_that_is_replaced_while_it_is_opened_opens_as_the_new_one(tmp_path, monkeypatch):
    index = LabelIndex.build(MANY[:9], tmp_path, "static")
    newest = iter([tmp_path / "ctd-index-1"])
    index.update(MANY[:12])
    real = folder_store.newest_build
    monkeypatch.setattr(folder_store, "newest_build", lambda where: next(newest, None) or real(where))

    assert LabelIndex.open(tmp_path).manifest.labels == 12


def test_a_child_process_makes_the_graph(tmp_path):
    manifest = LabelIndex.build(MANY, tmp_path, "static").manifest

    process = start_graph(tmp_path, manifest.model_copy(update={"outside": PAYS}))

    assert process.wait() == 0
    assert LabelIndex.open(tmp_path).manifest.outside == 0


# --- the command


def test_the_same_command_builds_an_index_then_brings_it_up_to_date(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    labels = Path("labels.txt")
    command = ["index", "labels.txt", "--out", "my-index"]

    labels.write_text("Heron\nEgret\nStork\n")
    assert run([*command, "--embedder", "static"]) == 0
    assert capfd.readouterr().err.endswith("my-index: 3 labels, embedder static\n")

    labels.write_text("Heron\nCrane\nEgret\nIbis\n")
    assert run(command) == 0
    assert capfd.readouterr().err.endswith("my-index: 4 labels, embedder static; 2 added, 0 changed, 1 removed\n")

    assert run([*command, "--embedder", "minilm"]) == 0
    assert capfd.readouterr().err.endswith("my-index: 4 labels, embedder minilm\n")


def test_a_large_index_is_given_its_graph_by_the_command(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ctd_agent.tools.hnsw.PAYS", 10)
    Path("labels.txt").write_text("\n".join(label.name for label in MANY))

    assert run(["index", "labels.txt", "--out", "my-index", "--embedder", "static"]) == 0

    assert "my-index: ready for use; a graph that makes its search faster takes" in capfd.readouterr().err
    assert LabelIndex.open("my-index").manifest.outside == 0
