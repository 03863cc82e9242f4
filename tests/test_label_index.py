"""What a user does with an index, and what they get: Qdrant's own engine, the real encoders.

A Qdrant server was not to be had where these tests were written (no network, no container). In its
place stands qdrant-client's local mode, Qdrant's semantics in Python: it answers the same calls, but
nothing here has crossed a wire to a real server.
"""

import contextlib
import random
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from conftest import write_manifest
from qdrant_client import QdrantClient, models

from ctd_agent.errors import CtdError, UserError
from ctd_agent.files import read_labels
from ctd_agent.schema import Label, Search
from ctd_agent.tools.label_index import FORMAT, LabelIndex, fingerprint
from ctd_agent.tools.label_search import SEARCH_LABELS, found_text, log_entry
from ctd_agent.tools.points import BATCH, SAMPLE, mean_tokens

ROOT = Path(__file__).parents[1]
URL = "http://qdrant.example:6333/labels"

DOGS = Label(id="dogs", name="Dogs", aliases=["canines", "puppies"], description="Keeping and training a dog.")
TAXES = Label(id="taxes", name="Income tax", description="What the state takes of wages.")
OPERA = Label(
    id="opera",
    name="Opera",
    metadata={
        "big": 2**80 + 1,
        "small": -(2**63) - 1,
        "float": 0.1 + 0.2,
        "tiny": 1e-320,
        "nested": {"a.b": [{"": None, "c": True}, [], "é"]},
    },
)
ODD = [
    Label(id=f"odd {name}", name=name, description=name)
    for name in (
        "🐛🔥",
        "שלום עולם",
        "مرحبا بالعالم",
        "中文標籤",
        'say "it\'s"',
        "two\nlines\tand a tab",
        "nul\0inside",
        "naïve café",
        "...",
        "the of and",
        "x" * 500,
    )
]
LABELS = [DOGS, TAXES, OPERA, *ODD]
MANY = [Label(id=f"n{n}", name=f"thing {n}") for n in range(BATCH + 44)]  # two batches

EMBEDDERS = ["minilm", "static"]


@pytest.fixture(scope="module", params=EMBEDDERS)
def index(request, tmp_path_factory):
    """The labels above in a folder, built and then opened."""
    folder = tmp_path_factory.mktemp("index") / request.param
    LabelIndex.build(LABELS, folder, request.param)
    return LabelIndex.open(folder)


@pytest.fixture
def server(monkeypatch):
    """Qdrant at URL: qdrant-client's local mode, wherever a client is made."""
    memory = QdrantClient(":memory:")
    monkeypatch.setattr("qdrant_client.QdrantClient", lambda **options: memory)
    yield memory
    memory.close()


@pytest.fixture(params=["folder", "server"])
def where(request, tmp_path):
    """A place for an index: a folder, then a server."""
    if request.param == "server":
        request.getfixturevalue("server")
        return URL
    return str(tmp_path / "index")


def run_python(code, *args):
    """Start another Python process that speaks by lines."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ids(hits):
    return [hit.label.id for hit in hits]


# --- searching


def test_search_finds_by_word_and_by_meaning(index):
    assert ids(index.search("canines", 1, "bm25")) == ["dogs"]
    assert ids(index.search("my young hound does not listen", 1, "dense")) == ["dogs"]
    assert ids(index.search("how much of my salary goes to the state in tax", 1)) == ["taxes"]


def test_labels_come_back_as_they_went_in(index):
    found = {hit.label.id: hit.label for hit in index.search("opera", len(LABELS))}

    assert found == {label.id: label for label in LABELS}
    assert isinstance(found["opera"].metadata["big"], int)


@pytest.mark.parametrize("limit", [1, 5, len(LABELS), len(LABELS) + 1, 2**70])
def test_hybrid_and_dense_search_bring_as_many_labels_as_asked_for(index, limit):
    for mode in ("hybrid", "dense"):
        hits = index.search("a dog at the opera", limit, mode)
        assert len(hits) == len(set(ids(hits))) == min(limit, len(LABELS))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_bm25_search_brings_only_labels_that_share_a_word(index):
    assert set(ids(index.search("a dog at the opera", 100, "bm25"))) == {"dogs", "opera"}


def test_the_fused_score_is_qdrants_weighted_reciprocal_rank(index):
    weight = {"minilm": 1.0, "static": 0.1}[index.manifest.embedder]

    (first,) = index.search("Opera", 1)  # first on both sides

    assert first.label == OPERA
    assert first.score == pytest.approx(1 / 10 + 1 / (9 + 1 / weight))


@pytest.mark.parametrize("label", ODD, ids=lambda label: ascii(label.name[:12]))
def test_a_label_of_any_script_is_found_by_its_own_name(index, label):
    hits = index.search(label.name, 3)

    if hits:
        assert label.id in ids(hits)
    else:  # the static encoder has no vector for an emoji, and BM25 has no word
        assert index.manifest.embedder == "static"
        assert label.name == "🐛🔥"


@pytest.mark.parametrize("query", ["", " ", "\n\t"])
def test_an_empty_query_finds_nothing(index, query):
    assert index.search(query, 10) == []


def test_a_limit_below_one_finds_nothing(index):
    assert index.search("dogs", 0) == index.search("dogs", -1) == []


def test_a_query_without_an_indexable_word_is_searched_by_meaning_alone(index):
    assert index.search("...", 5, "bm25") == []
    assert ids(index.search("...", 5)) == ids(index.search("...", 5, "dense"))
    assert len(index.search("...", 5)) == 5


def test_a_document_of_200_000_characters_is_a_query(index):
    words = " ".join(f"word{n}" for n in range(22_000))

    assert ids(index.search(f"opera opera opera {words}", 1)) == ["opera"]
    assert len(index.search("x" * 200_000, 5, "bm25")) == 0


@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_a_catalogue_of_one_label_is_an_index(tmp_path, embedder):
    index = LabelIndex.build([DOGS], tmp_path / "index", embedder)

    assert [ids(index.search("anything else", 10, mode)) for mode in ("hybrid", "dense", "bm25")] == [
        ["dogs"],
        ["dogs"],
        [],
    ]


# --- building and opening, in a folder and on a server


def test_an_index_is_built_and_opened_by_its_spec(where):
    done = []

    built = LabelIndex.build(MANY, where, "static", done.append)
    opened = LabelIndex.open(where, "static")

    assert done == [BATCH, len(MANY)]
    assert opened.manifest == built.manifest
    assert opened.manifest.fingerprint == fingerprint(MANY)
    assert (opened.manifest.labels, opened.manifest.embedder) == (len(MANY), "static")
    assert ids(opened.search("thing 123", 1)) == ids(built.search("thing 123", 1)) == ["n123"]
    assert len(opened.search("thing 123", 1000)) == len(MANY)


def test_an_index_opens_with_the_embedder_it_was_built_with(where):
    assert LabelIndex.build([DOGS], where).manifest.embedder == "minilm"
    assert LabelIndex.open(where).manifest.embedder == "minilm"


def test_a_folder_and_a_server_answer_alike(server, tmp_path):
    folder = LabelIndex.build(LABELS, tmp_path / "index", "minilm")
    remote = LabelIndex.build(LABELS, URL, "minilm")

    for query in ("puppies", "tax on wages", "中文標籤", "..."):
        for mode in ("hybrid", "dense"):
            here, there = folder.search(query, 3, mode), remote.search(query, 3, mode)
            assert here[0].label == there[0].label
            assert [hit.score for hit in there] == pytest.approx([hit.score for hit in here], abs=1e-4)
        # Not the scores: the engine's document frequencies leave out labels without a word, local mode's do not.
        assert ids(folder.search(query, 3, "bm25")) == ids(remote.search(query, 3, "bm25"))


def test_building_again_replaces_the_index(where):
    LabelIndex.build(LABELS, where, "static")

    LabelIndex.build([DOGS, TAXES], where, "static")

    index = LabelIndex.open(where)
    assert index.manifest.labels == 2
    assert set(ids(index.search("opera", 10))) == {"dogs", "taxes"}


def test_a_build_that_fails_leaves_no_index(where):
    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LabelIndex.build(LABELS, where, "static", interrupt)

    with pytest.raises(UserError, match="no finished"):
        LabelIndex.open(where)
    assert LabelIndex.build(LABELS, where, "static").search("opera", 1)[0].label == OPERA


def test_opening_with_another_embedder_is_an_error_that_says_what_to_do(where):
    LabelIndex.build([DOGS], where, "static")

    with pytest.raises(UserError, match="built with embedder 'static', not 'minilm'; leave --embedder out, or build"):
        LabelIndex.open(where, "minilm")


def test_a_catalogue_without_labels_is_an_error(where):
    with pytest.raises(UserError, match="no labels"):
        LabelIndex.build([], where)


def test_an_id_that_is_there_twice_is_an_error_that_names_it(where):
    with pytest.raises(UserError, match="label id 'dogs' is there 2 times"):
        LabelIndex.build([DOGS, TAXES, DOGS], where)


def test_metadata_that_is_no_json_is_an_error_that_names_the_label(where):
    with pytest.raises(UserError, match="label 'odd': its metadata cannot be written as JSON"):
        LabelIndex.build([DOGS, Label(id="odd", name="odd", metadata={"set": object()})], where)


# --- the folder


def test_a_killed_build_leaves_the_old_index_as_it_was_and_no_new_one(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    LabelIndex.build([DOGS], old, "static")
    code = """
import sys
from ctd_agent.tools.label_index import Label, LabelIndex
from ctd_agent.tools.points import BATCH, SAMPLE, mean_tokens
labels = [Label(id=f"n{n}", name=f"thing {n}") for n in range(BATCH * 2)]
def build(folder, then):
    LabelIndex.build(labels, folder, "static", lambda done: then(f"{done} of {len(labels)}"))
def wait(done):
    print(done, flush=True)
    sys.stdin.read()
build(sys.argv[1], lambda done: build(sys.argv[2], wait))
"""
    with run_python(code, str(old), str(new)) as building:
        assert building.stdout.readline() == f"{BATCH} of {BATCH * 2}\n"  # half of both is written
        building.kill()

    assert ids(LabelIndex.open(old).search("thing 7", 10)) == ["dogs"]
    with pytest.raises(UserError, match="no finished index here; build one with `ctd-agent index"):
        LabelIndex.open(new)

    for folder in (old, new):
        LabelIndex.build([TAXES], folder, "static")
        assert ids(LabelIndex.open(folder).search("thing 7", 10)) == ["taxes"]
        assert len(list(folder.iterdir())) == 1  # what the killed build left is gone


def test_two_live_processes_read_one_index(tmp_path):
    LabelIndex.build(MANY, tmp_path, "static")
    mine = LabelIndex.open(tmp_path)
    code = """
import sys
from ctd_agent.tools.label_index import LabelIndex
index = LabelIndex.open(sys.argv[1])
for line in sys.stdin:
    print(index.search(line, 1)[0].label.id, flush=True)
"""
    with run_python(code, str(tmp_path)) as other:
        for n in (5, 250):
            other.stdin.write(f"thing {n}\n")
            other.stdin.flush()
            assert other.stdout.readline() == f"n{n}\n"
            assert other.poll() is None
            assert ids(mine.search(f"thing {n}", 1)) == [f"n{n}"]
            assert len(LabelIndex.open(tmp_path).search("thing", 1000)) == len(MANY)


def test_the_old_index_answers_until_the_new_one_is_done_and_its_readers_go_on(tmp_path):
    LabelIndex.build(MANY, tmp_path, "static")
    reader = LabelIndex.open(tmp_path)
    found_meanwhile = []

    def search(done):
        found_meanwhile.extend(ids(LabelIndex.open(tmp_path).search("thing 9", 1)))

    LabelIndex.build([DOGS], tmp_path, "static", search)

    assert found_meanwhile == ["n9"]
    assert ids(LabelIndex.open(tmp_path).search("thing 9", 1)) == ["dogs"]
    assert ids(reader.search("thing 9", 1)) == ["n9"]


def test_the_newest_of_two_finished_builds_is_the_index(tmp_path):
    LabelIndex.build([DOGS], tmp_path, "static")
    shutil.copytree(tmp_path / "ctd-index-1", tmp_path.with_name("copy"))
    LabelIndex.build([TAXES], tmp_path, "static")
    tmp_path.with_name("copy").rename(tmp_path / "ctd-index-1")  # as if killed before it was removed

    assert ids(LabelIndex.open(tmp_path).search("dogs", 5)) == ["taxes"]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(UserError, match="exists and is no ctd-agent index; choose another folder"):
        LabelIndex.build([DOGS], tmp_path, "static")

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_files_that_came_into_an_index_folder_outlive_a_new_build(tmp_path):
    LabelIndex.build([DOGS], tmp_path, "static")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "ctd-index-backup").mkdir()

    LabelIndex.build([TAXES], tmp_path, "static")

    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "ctd-index-backup").is_dir()
    assert ids(LabelIndex.open(tmp_path).search("dogs", 5)) == ["taxes"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_a_folder_is_an_error(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(UserError, match="cannot write the index here: Not a directory"):
        LabelIndex.build([DOGS], tmp_path / place, "static")
    with pytest.raises(UserError, match="no finished index here"):
        LabelIndex.open(tmp_path / place)


def test_an_index_of_another_version_is_an_error_that_says_what_to_do(tmp_path):
    LabelIndex.build([DOGS], tmp_path, "static")

    write_manifest(tmp_path, format=1)
    with pytest.raises(UserError, match=f"index format 1, this version reads {FORMAT}; build it again"):
        LabelIndex.open(tmp_path)

    write_manifest(tmp_path, language="en")
    with pytest.raises(UserError, match="not an index of this version of ctd-agent; build it again"):
        LabelIndex.open(tmp_path)


def test_an_embedder_that_changed_its_size_is_an_error_that_says_what_to_do(tmp_path):
    LabelIndex.build([DOGS], tmp_path, "static")
    write_manifest(tmp_path, size=1024)

    with pytest.raises(UserError, match="vectors of 1024 dimensions, but 'static' makes 256; build the index again"):
        LabelIndex.open(tmp_path)


# --- the server


def test_a_collection_that_is_not_there_is_an_error_that_says_how_to_build_it(server):
    with pytest.raises(UserError, match=f"{URL}: no such collection; build it with `ctd-agent index CATALOGUE --out"):
        LabelIndex.open(URL)


def test_a_collection_of_someone_else_is_left_alone(server):
    server.create_collection("labels", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    server.upsert("labels", [models.PointStruct(id=1, vector=[1, 2])])

    with pytest.raises(UserError, match="exists and is no ctd-agent index; choose another name"):
        LabelIndex.build([DOGS], URL, "static")
    with pytest.raises(UserError, match="no finished ctd-agent index"):
        LabelIndex.open(URL)

    assert server.count("labels").count == 1


def test_a_collection_that_lost_points_is_an_error_that_says_what_to_do(server):
    LabelIndex.build([DOGS, TAXES], URL, "static")
    server.delete("labels", [server.scroll("labels", limit=1)[0][0].id])

    with pytest.raises(CtdError, match="holds 1 labels of 2; build the index again"):
        LabelIndex.open(URL)


def test_a_collection_that_is_dropped_under_a_reader_is_an_error_of_ours(server):
    index = LabelIndex.build([DOGS], URL, "static")
    server.delete_collection("labels")

    with pytest.raises(CtdError, match=f"^{URL}: Qdrant failed .*labels not found"):
        index.search("dogs", 1)


@pytest.mark.parametrize(
    "url", ["http://localhost:6333", "http://localhost:6333/", "http:///labels", "http://host:port/labels", "ftp://a/b"]
)
def test_a_malformed_url_is_an_error_that_shows_the_form(url):
    for attempt in (LabelIndex.open, lambda where: LabelIndex.build([DOGS], where, "static")):
        with pytest.raises(UserError, match=r"an index on a server is http\(s\)://HOST:PORT/COLLECTION"):
            attempt(url)


def test_a_server_that_is_not_there_is_an_error_of_ours():
    with pytest.raises(CtdError, match=r"^http://127\.0\.0\.1:9: no Qdrant server answers") as caught:
        LabelIndex.open("http://127.0.0.1:9/labels")  # discard, which nobody runs: refused at once

    assert "\n" not in str(caught.value)


@pytest.fixture
def refusing():
    """A web server that is no Qdrant: it refuses every request and keeps the keys it was sent."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.keys.append(self.headers["api-key"])
            self.send_error(401)

        def log_message(self, *args):
            """Keep stderr for what is tested."""

    with HTTPServer(("127.0.0.1", 0), Refusal) as server, contextlib.ExitStack() as stack:
        server.keys = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        thread.start()
        yield server


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_key_of_the_environment_goes_to_the_server_and_a_refusal_is_one_line(refusing, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", "secret")

    with pytest.raises(CtdError, match="401") as caught:
        LabelIndex.open(f"http://127.0.0.1:{refusing.server_port}/labels")

    assert refusing.keys == ["secret"]
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


# --- the model's tool


def test_the_tool_is_told_to_a_model_by_its_name_and_its_two_arguments():
    function = SEARCH_LABELS["function"]
    assert function["name"] == "search_labels"
    assert list(function["parameters"]["properties"]) == ["query", "limit"]
    assert function["parameters"]["required"] == ["query"]


def test_a_models_spare_arguments_cost_it_no_search():
    search = Search.model_validate({"query": " puppies ", "limit": 2, "why": "spare"})
    assert (search.query, search.limit) == ("puppies", 2)


def test_found_names_are_one_line_and_nothing_found_says_so():
    assert found_text(["Dogs", "two\nlines"]) == "Dogs; two lines"
    assert found_text([]) == "nothing found"


def test_a_search_is_logged_with_ranks_from_one(index):
    hits = index.search("opera", 2)

    entry = log_entry("model", 3, "opera", 2, hits)

    assert [(found.rank, found.id, found.score) for found in entry.found] == [
        (1, hits[0].label.id, hits[0].score),
        (2, hits[1].label.id, hits[1].score),
    ]
    assert (entry.turn, entry.query, entry.limit) == (3, "opera", 2)


def test_labels_of_the_same_fused_score_come_in_one_order_also_at_the_cut(tmp_path):
    """Found first by one side and not at all by the other, or the other way round: the same score."""
    catalogue = Path(__file__).parent.parent / "examples" / "debian" / "catalogue.jsonl"
    labels = read_labels(str(catalogue))[::6]
    index = LabelIndex.build(labels, tmp_path / "index", "minilm")  # both sides weigh the same: equals are many
    for label in labels[:40]:
        for limit in (2, 3, 8):
            found = {tuple(ids(index.search(label.name, limit))) for _ in range(10)}
            assert len(found) == 1
            assert len(found.pop()) == limit


def test_one_catalogue_indexed_twice_in_two_orders_answers_alike_in_every_mode(where):
    """Labels of one length that share one word with the query have one BM25 score, here far more than are ranked."""
    labels = [Label(id=f"{n:04}", name=f"kind{n % 7} thing") for n in range(1_500)]
    catalogue = Path(__file__).parent.parent / "examples" / "debian" / "catalogue.jsonl"
    labels += read_labels(str(catalogue))[:200]
    questions = ["thing", "kind3", "a thing of kind5 that works with mail", *(label.name for label in labels[-30:])]

    def answers(seed):
        shuffled = random.Random(seed).sample(labels, len(labels))  # noqa: S311 - an order, no secret
        index = LabelIndex.build(shuffled, where, "static")
        return [index.search(text, 50, mode) for text in questions for mode in ("hybrid", "bm25", "dense")]

    first = answers(seed=1)
    assert answers(seed=2) == first
    for hits in first:
        assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.label.id))


def test_the_mean_length_that_bm25_counts_by_does_not_depend_on_the_catalogues_order():
    labels = [Label(id=str(n), name="word " * (1 + n % 9)) for n in range(SAMPLE + 500)]
    assert mean_tokens(labels) == mean_tokens(labels[::-1])
