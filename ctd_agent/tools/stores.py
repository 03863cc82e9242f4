"""Where a label index lives: a folder, in Qdrant's engine in this process, or a Qdrant server."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit

import qdrant_edge as edge

from ctd_agent.errors import CtdError, UserError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

# Reciprocal rank fusion, Cormack et al. 2009, weighted as Qdrant does: the sum of
# 1 / (K - 1 + rank / weight) over the sides that found a label, ranks from 1.
RRF_K = 10
DEPTH = 300  # results of each side that enter the fusion
BUILD = "ctd-index-"  # then a number: the folder of one build
MANIFEST = "manifest.json"  # in that folder
METADATA = "ctd_agent"  # the key of the manifest in a collection's metadata, empty until it is finished
SERVER = (1, 17)  # the first Qdrant with weighted fusion
TIMEOUT = 60  # seconds, of a request to a server


class Sparse(NamedTuple):
    """A sparse vector: distinct token ids and their weights."""

    indices: list[int]
    values: list[float]


class Point(NamedTuple):
    """A label as the engine stores it; `label` is its JSON, which keeps what the engine's numbers would not."""

    id: str
    dense: list[float]
    bm25: Sparse
    label: str


class Side(NamedTuple):
    """One side of a query: the name of the vector it searches, its own vector, its weight in the fusion."""

    name: str
    vector: list[float] | Sparse
    weight: float


class Store(Protocol):
    """The few calls that the embedded engine and a server both answer."""

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; a point whose id is there is replaced."""

    def search(self, sides: Sequence[Side], limit: int, fused: bool) -> list[tuple[str, float]]:
        """Return (label, score) of the best points, best first: of the only side, or of the sides fused."""

    def count(self) -> int:
        """Return the number of points."""

    def finish(self, manifest: str) -> None:
        """Make all writes durable, then record the manifest."""


def create_store(where: str, size: int) -> Store:
    """Return an empty store for vectors of one size; until it is finished, `open_store` refuses it."""
    return _Server.create(where, size) if "://" in where else _Embedded.create(Path(where), size)


def open_store(where: str) -> tuple[Store, str]:
    """Return a finished store and its manifest."""
    return _Server.open(where) if "://" in where else _Embedded.open(Path(where))


class _Embedded:
    """Qdrant Edge: Qdrant's own engine in this process, over a folder.

    Every build has a numbered folder of its own and ends with writing the manifest there. The newest
    finished build is the index, so an index answers until the next one is done, and a build that is
    cut changes nothing. Without a write-ahead log any number of processes may read one index.
    """

    def __init__(self, folder: Path, shard: edge.EdgeShard) -> None:
        self._folder = folder
        self._shard = shard

    @classmethod
    def create(cls, where: Path, size: int) -> "_Embedded":
        config = edge.EdgeConfig(
            vectors={"dense": edge.EdgeVectorParams(size=size, distance=edge.Distance.Cosine)},
            sparse_vectors={"bm25": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
            wal_enabled=False,
        )
        builds = _builds(where)
        folder = where / f"{BUILD}{_number(builds[-1]) + 1 if builds else 1}"
        try:
            if not builds and where.exists() and any(where.iterdir()):
                raise UserError(f"{where}: exists and is no ctd-agent index; choose another folder")
            (folder / "shard").mkdir(parents=True)
        except OSError as error:
            raise UserError(f"{where}: cannot write the index here: {error.strerror}") from error
        with _one_line(f"{where}: Qdrant cannot write the index"):
            return cls(folder, edge.EdgeShard.create(str(folder / "shard"), config))

    @classmethod
    def open(cls, where: Path) -> tuple["_Embedded", str]:
        finished = [build for build in _builds(where) if (build / MANIFEST).is_file()]
        if not finished:
            raise UserError(
                f"{where}: no finished index here; build one with `ctd-agent index CATALOGUE --out {where}`"
            )
        with _one_line(f"{where}: Qdrant cannot open the index; make its folder writable, or build it again"):
            manifest = (finished[-1] / MANIFEST).read_text(encoding="utf-8")
            return cls(finished[-1], edge.EdgeShard.load(str(finished[-1] / "shard"))), manifest

    def upsert(self, points: Sequence[Point]) -> None:
        batch = [
            edge.Point(p.id, {"dense": p.dense, "bm25": edge.SparseVector(*p.bm25)}, {"label": p.label}) for p in points
        ]
        with _one_line(f"{self._folder}: Qdrant cannot write"):
            self._shard.update(edge.UpdateOperation.upsert_points(batch))

    def search(self, sides: Sequence[Side], limit: int, fused: bool) -> list[tuple[str, float]]:
        # Exact: on an index without a graph it is what the engine does anyway, and it never
        # returns fewer hits than there are.
        exact = edge.SearchParams(exact=True)
        queries = [
            edge.Query.Nearest(edge.SparseVector(*vector) if isinstance(vector, Sparse) else vector, using=name)
            for name, vector, _ in sides
        ]
        if fused:
            depth = max(limit, DEPTH)
            request = edge.QueryRequest(
                limit=limit,
                prefetches=[edge.Prefetch(limit=depth, query=query, params=exact) for query in queries],
                # The stub does not say that Fusion.Rrf is a Fusion; it is.
                query=edge.Fusion.Rrf(k=RRF_K, weights=[side.weight for side in sides]),  # type: ignore[arg-type]
                with_payload=True,
            )
        else:
            request = edge.QueryRequest(limit=limit, query=queries[0], params=exact, with_payload=True)
        with _one_line(f"{self._folder}: Qdrant cannot search"):
            return [((point.payload or {})["label"], point.score) for point in self._shard.query(request)]

    def count(self) -> int:
        return self._shard.info().points_count

    def finish(self, manifest: str) -> None:
        with _one_line(f"{self._folder}: Qdrant cannot write"):
            self._shard.flush()
            part = self._folder / f"{MANIFEST}.part"
            part.write_text(manifest, encoding="utf-8")
            part.replace(self._folder / MANIFEST)
        for build in _builds(self._folder.parent):
            if _number(build) < _number(self._folder):
                shutil.rmtree(build, ignore_errors=True)


class _Server:
    """A Qdrant server or cluster, by the URL of a collection; the manifest is in its metadata.

    Building again empties the collection first, and it does not open until the build is done.
    The server's key is in QDRANT_API_KEY.
    """

    def __init__(self, client: "QdrantClient", where: str) -> None:
        self._client = client
        self._where = where
        self._collection = where.rpartition("/")[2]

    @classmethod
    def create(cls, where: str, size: int) -> "_Server":
        from qdrant_client import models

        store = cls(_connect(where), where)
        client, name = store._client, store._collection
        metadata = store._metadata()
        if metadata is not None and METADATA not in metadata:
            raise UserError(f"{where}: exists and is no ctd-agent index; choose another name")
        with _one_line(f"{where}: Qdrant failed"):
            client.delete_collection(name)
            client.create_collection(
                name,
                vectors_config={"dense": models.VectorParams(size=size, distance=models.Distance.COSINE)},
                sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
                metadata={METADATA: ""},
            )
        return store

    @classmethod
    def open(cls, where: str) -> tuple["_Server", str]:
        store = cls(_connect(where), where)
        metadata = store._metadata()
        if metadata is None:
            raise UserError(f"{where}: no such collection; build it with `ctd-agent index CATALOGUE --out {where}`")
        if not metadata.get(METADATA):
            raise UserError(f"{where}: this collection is no finished ctd-agent index; build it, or choose another")
        return store, metadata[METADATA]

    def upsert(self, points: Sequence[Point]) -> None:
        from qdrant_client import models

        batch = [
            models.PointStruct(
                id=p.id,
                vector={"dense": p.dense, "bm25": models.SparseVector(**p.bm25._asdict())},
                payload={"label": p.label},
            )
            for p in points
        ]
        with _one_line(f"{self._where}: Qdrant failed"):
            self._client.upsert(self._collection, batch, wait=True)

    def search(self, sides: Sequence[Side], limit: int, fused: bool) -> list[tuple[str, float]]:
        from qdrant_client import models

        queries = [
            models.Prefetch(
                query=models.SparseVector(**vector._asdict()) if isinstance(vector, Sparse) else vector,
                using=name,
                limit=max(limit, DEPTH) if fused else limit,
            )
            for name, vector, _ in sides
        ]
        with _one_line(f"{self._where}: Qdrant failed"):
            if fused:
                rrf = models.RrfQuery(rrf=models.Rrf(k=RRF_K, weights=[side.weight for side in sides]))
                response = self._client.query_points(self._collection, prefetch=queries, query=rrf, limit=limit)
            else:
                (only,) = queries
                response = self._client.query_points(self._collection, only.query, using=only.using, limit=limit)
            return [((point.payload or {})["label"], point.score) for point in response.points]

    def count(self) -> int:
        with _one_line(f"{self._where}: Qdrant failed"):
            return self._client.count(self._collection).count

    def finish(self, manifest: str) -> None:
        with _one_line(f"{self._where}: Qdrant failed"):
            self._client.update_collection(self._collection, metadata={METADATA: manifest})

    def _metadata(self) -> dict[str, str] | None:
        """Return the collection's metadata, or None where there is no such collection."""
        with _one_line(f"{self._where}: Qdrant failed"):
            if not self._client.collection_exists(self._collection):
                return None
            return self._client.get_collection(self._collection).config.metadata or {}


def _builds(where: Path) -> list[Path]:
    """Return the folders of the builds there, oldest first."""
    return sorted((path for path in where.glob(f"{BUILD}*") if path.name.removeprefix(BUILD).isdecimal()), key=_number)


def _number(build: Path) -> int:
    return int(build.name.removeprefix(BUILD))


def _connect(where: str) -> "QdrantClient":
    from qdrant_client import QdrantClient

    address, _, collection = where.rpartition("/")
    try:
        url = urlsplit(address)
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0 and collection
    except ValueError:  # a port that is no number
        valid = False
    if not valid:
        raise UserError(f"{where}: an index on a server is http(s)://HOST:PORT/COLLECTION")
    with _one_line(f"{address}: no Qdrant server answers"):
        key = os.environ.get("QDRANT_API_KEY")
        client = QdrantClient(url=address, api_key=key, timeout=TIMEOUT, check_compatibility=False)
        version = client.info().version
        old = tuple(map(int, version.split(".")[:2])) < SERVER
    if old:
        raise UserError(f"{address}: Qdrant {version}; ctd-agent needs {'.'.join(map(str, SERVER))} or newer")
    return client


@contextmanager
def _one_line(message: str) -> Iterator[None]:
    """Raise what Qdrant raises, which is of no one type, as a CtdError of one line."""
    try:
        yield
    except Exception as error:
        raise CtdError(f"{message} ({' '.join(str(error).split())})") from error
