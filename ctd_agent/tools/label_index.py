"""LabelIndex: the catalogue in a Qdrant engine, embedded in this process or on a server.

Every label is one point: a dense vector, a BM25 sparse vector, and the label itself as payload.
Nothing else in ctd-agent knows Qdrant.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import qdrant_edge as edge
from pydantic import ValidationError

from ctd_agent.errors import CtdError, UserError
from ctd_agent.schema import Label, Record
from ctd_agent.tools.embedding import Embedder, default_embedder, load_embedder

Mode = Literal["hybrid", "bm25", "dense"]

FORMAT = 1  # of the index folder; a folder of another format is rebuilt, never guessed at
BATCH = 1_000  # labels a write
# Reciprocal rank fusion, Cormack et al. 2009: sum of weight / (k + rank). BM25 weighs 1, the dense
# side what its embedder earned on training data (docs/results.md).
RRF_K = 10
DEPTH = 300  # results of each side that enter the fusion


class Hit(NamedTuple):
    """One search result: the label and its score (fused, BM25 or cosine, by mode)."""

    label: Label
    score: float


class Manifest(Record):
    """What an index was built from. Written last: an index without it is unfinished."""

    format: int
    fingerprint: str
    labels: int
    embedder: str
    size: int
    mean_tokens: float


class Sparse(NamedTuple):
    """A sparse vector: distinct token ids and their weights."""

    indices: list[int]
    values: list[float]


class Point(NamedTuple):
    """A label as the engine stores it."""

    id: str
    dense: list[float]
    sparse: Sparse
    payload: dict[str, Any]


class Query(NamedTuple):
    """A query's two vectors, and the dense one's weight in the fusion."""

    dense: list[float]
    sparse: Sparse
    weight: float


class Store(Protocol):
    """The few calls that the embedded engine and a server both answer."""

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; a point whose id is there is replaced."""

    def search(self, query: Query, limit: int, mode: Mode) -> list[tuple[Any, float]]:
        """Return (payload, score) of the best points, best first."""

    def finish(self, manifest: Manifest) -> None:
        """Make all writes durable, then record the manifest."""


def fingerprint(labels: Iterable[Label]) -> str:
    """Return the sha256 over the labels' JSON, in order: the identity of a catalogue."""
    digest = hashlib.sha256()
    for label in labels:
        digest.update(label.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


class LabelIndex:
    """Hybrid search over a catalogue: BM25 and dense vectors, fused by reciprocal rank."""

    def __init__(self, store: Store, manifest: Manifest, embedder: Embedder) -> None:
        self.manifest = manifest
        self._store = store
        self._embedder = embedder
        self._bm25 = _bm25(manifest.mean_tokens)

    @classmethod
    def build(
        cls,
        labels: Sequence[Label],
        where: str | Path,
        embedder: str | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> "LabelIndex":
        """Index the labels at `where` (a folder or a server's collection URL), replacing what is there.

        `progress` is called with the number of labels done after every batch.
        Raises UserError for an empty catalogue or a place that cannot be written.
        """
        if not labels:
            raise UserError("the catalogue has no labels: nothing to index")
        model = load_embedder(embedder or default_embedder(len(labels)))
        manifest = Manifest(
            format=FORMAT,
            fingerprint=fingerprint(labels),
            labels=len(labels),
            embedder=model.spec,
            size=model.size,
            mean_tokens=_mean_tokens(labels),
        )
        bm25 = _bm25(manifest.mean_tokens)
        store = _create(str(where), model.size)
        for start in range(0, len(labels), BATCH):
            batch = labels[start : start + BATCH]
            vectors = model.embed([label.text for label in batch])
            store.upsert([_point(label, vector, bm25) for label, vector in zip(batch, vectors, strict=True)])
            progress(start + len(batch))
        store.finish(manifest)
        return cls(store, manifest, model)

    @classmethod
    def open(cls, where: str | Path, embedder: str | None = None) -> "LabelIndex":
        """Open a finished index.

        Raises UserError where there is none, or it was built with another embedder than the one asked for.
        """
        store, manifest = _open(str(where))
        if embedder is not None and embedder != manifest.embedder:
            raise UserError(
                f"{where}: built with embedder {manifest.embedder!r}, not {embedder!r}; "
                f"leave --embedder out, or build the index again"
            )
        model = load_embedder(manifest.embedder)
        if model.size != manifest.size:
            raise UserError(
                f"{where}: vectors of {manifest.size} dimensions, but {model.spec!r} makes {model.size}; "
                f"build the index again"
            )
        return cls(store, manifest, model)

    def search(self, query: str, limit: int, mode: Mode = "hybrid") -> list[Hit]:
        """Return at most `limit` labels nearest to the query, best first.

        A query without a single indexable word has no BM25 side; an empty one finds nothing.
        """
        if not query.strip() or limit < 1:
            return []
        dense = self._embedder.embed([query])[0].tolist()
        counts = _COUNT.embed_document(query)
        # A document is a long query: what it repeats is what it is about.
        sparse = Sparse(counts.indices, [1 + math.log(count) for count in counts.values])
        found = self._store.search(Query(dense, sparse, self._embedder.weight), limit, mode)
        return [Hit(Label.model_validate(payload), score) for payload, score in found]


def _bm25(mean_tokens: float) -> edge.Bm25:
    # Qdrant's own BM25 assumes documents of 256 words; labels are short, so their mean is measured.
    return edge.Bm25(edge.Bm25Config(avg_len=mean_tokens, language="english", ascii_folding=True))


# With b=0 and a huge k, a token's BM25 weight is its count.
_COUNT = edge.Bm25(edge.Bm25Config(k=1e6, b=0.0, language="english", ascii_folding=True))


def _mean_tokens(labels: Sequence[Label]) -> float:
    return max(1.0, sum(sum(_COUNT.embed_document(label.text).values) for label in labels) / len(labels))


def _point(label: Label, vector: "np.ndarray[Any, Any]", bm25: edge.Bm25) -> Point:
    sparse = bm25.embed_document(label.text)
    payload = label.model_dump(mode="json")
    return Point(str(uuid5(NAMESPACE_URL, label.id)), vector.tolist(), Sparse(sparse.indices, sparse.values), payload)


def _create(where: str, size: int) -> Store:
    return _Server.create(where, size) if "://" in where else _Embedded.create(Path(where), size)


def _open(where: str) -> tuple[Store, Manifest]:
    return _Server.open(where) if "://" in where else _Embedded.open(Path(where))


def _manifest(text: str, where: str) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{where}: not an index of this version of ctd-agent; build it again") from error
    if manifest.format != FORMAT:
        raise UserError(f"{where}: index format {manifest.format}, this version reads {FORMAT}; build it again")
    return manifest


class _Embedded:
    """Qdrant Edge: Qdrant's own engine in this process, over a folder.

    Without a write-ahead log any number of processes may read one index; the manifest, written
    after the flush, tells a finished index from one whose building was cut.
    """

    def __init__(self, folder: Path, shard: edge.EdgeShard) -> None:
        self._folder = folder
        self._shard = shard

    @classmethod
    def create(cls, folder: Path, size: int) -> "_Embedded":
        if folder.exists() and any(folder.iterdir()) and not (folder / "shard").is_dir():
            raise UserError(f"{folder}: exists and is no ctd-agent index; choose another folder")
        config = edge.EdgeConfig(
            vectors={"dense": edge.EdgeVectorParams(size=size, distance=edge.Distance.Cosine)},
            sparse_vectors={"bm25": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
            wal_enabled=False,
        )
        try:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "shard").mkdir(parents=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot write the index here: {error.strerror}") from error
        return cls(folder, edge.EdgeShard.create(str(folder / "shard"), config))

    @classmethod
    def open(cls, folder: Path) -> tuple["_Embedded", Manifest]:
        if not (folder / "manifest.json").is_file():
            raise UserError(
                f"{folder}: no finished index here; build one with `ctd-agent index CATALOGUE --out {folder}`"
            )
        manifest = _manifest((folder / "manifest.json").read_text(), str(folder))
        try:
            shard = edge.EdgeShard.load(str(folder / "shard"))
        except Exception as error:  # the engine raises nothing narrower
            raise CtdError(f"{folder}: Qdrant cannot open the index ({error}); build it again") from error
        return cls(folder, shard), manifest

    def upsert(self, points: Sequence[Point]) -> None:
        self._shard.update(
            edge.UpdateOperation.upsert_points(
                [edge.Point(p.id, {"dense": p.dense, "bm25": edge.SparseVector(*p.sparse)}, p.payload) for p in points]
            )
        )

    def search(self, query: Query, limit: int, mode: Mode) -> list[tuple[Any, float]]:
        # Exact: on an index without a graph it is what the engine does anyway, and it never
        # returns fewer hits than there are.
        exact = edge.SearchParams(exact=True)
        sides = {
            "bm25": edge.Query.Nearest(edge.SparseVector(*query.sparse), using="bm25"),
            "dense": edge.Query.Nearest(query.dense, using="dense"),
        }
        if mode == "hybrid":
            depth = max(limit, DEPTH)
            request = edge.QueryRequest(
                limit=limit,
                prefetches=[edge.Prefetch(limit=depth, query=side, params=exact) for side in sides.values()],
                query=edge.Fusion.Rrf(k=RRF_K, weights=[1.0, query.weight]),
                with_payload=True,
            )
        else:
            request = edge.QueryRequest(limit=limit, query=sides[mode], params=exact, with_payload=True)
        return [(point.payload, point.score) for point in self._shard.query(request)]

    def finish(self, manifest: Manifest) -> None:
        self._shard.flush()
        (self._folder / "manifest.json").write_text(manifest.model_dump_json())


class _Server:
    """A Qdrant server or cluster, by the URL of a collection; the manifest is its metadata."""

    def __init__(self, client: Any, collection: str) -> None:
        self._client = client
        self._collection = collection

    @classmethod
    def connect(cls, where: str) -> "_Server":
        from qdrant_client import QdrantClient

        url, _, collection = where.rpartition("/")
        if not collection or url.endswith(("/", ":")):
            raise UserError(f"{where}: an index on a server is http(s)://HOST:PORT/COLLECTION")
        try:
            client = QdrantClient(url=url)
            client.get_collections()
        except Exception as error:  # transport errors of several libraries
            raise CtdError(f"{url}: no Qdrant server answers ({error})") from error
        return cls(client, collection)

    @classmethod
    def create(cls, where: str, size: int) -> "_Server":
        from qdrant_client import models

        server = cls.connect(where)
        server._client.delete_collection(server._collection)
        server._client.create_collection(
            server._collection,
            vectors_config={"dense": models.VectorParams(size=size, distance=models.Distance.COSINE)},
            sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        )
        return server

    @classmethod
    def open(cls, where: str) -> tuple["_Server", Manifest]:
        server = cls.connect(where)
        if not server._client.collection_exists(server._collection):
            raise UserError(f"{where}: no such collection; build it with `ctd-agent index CATALOGUE --out {where}`")
        metadata = server._client.get_collection(server._collection).config.metadata
        return server, _manifest(json.dumps(metadata), where)

    def upsert(self, points: Sequence[Point]) -> None:
        from qdrant_client import models

        self._client.upsert(
            self._collection,
            [
                models.PointStruct(
                    id=p.id,
                    vector={
                        "dense": p.dense,
                        "bm25": models.SparseVector(indices=p.sparse.indices, values=p.sparse.values),
                    },
                    payload=p.payload,
                )
                for p in points
            ],
            wait=True,
        )

    def search(self, query: Query, limit: int, mode: Mode) -> list[tuple[Any, float]]:
        from qdrant_client import models

        sides: dict[str, Any] = {
            "bm25": models.SparseVector(indices=query.sparse.indices, values=query.sparse.values),
            "dense": query.dense,
        }
        if mode == "hybrid":
            depth = max(limit, DEPTH)
            response = self._client.query_points(
                self._collection,
                prefetch=[models.Prefetch(query=vector, using=side, limit=depth) for side, vector in sides.items()],
                query=models.RrfQuery(rrf=models.Rrf(k=RRF_K, weights=[1.0, query.weight])),
                limit=limit,
            )
        else:
            response = self._client.query_points(self._collection, query=sides[mode], using=mode, limit=limit)
        return [(point.payload, point.score) for point in response.points]

    def finish(self, manifest: Manifest) -> None:
        self._client.update_collection(self._collection, metadata=manifest.model_dump(mode="json"))
