"""A label index on a Qdrant server or cluster, by the URL of a collection."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

from qdrant_edge import SparseVector

from ctd_agent.errors import UserError
from ctd_agent.tools.store import Point, Ranked, Side, one_line

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import SparseVector as RemoteSparse

# Keys of a collection's metadata. At any time one of them has a manifest and the other has nothing.
METADATA = "ctd_agent"  # the manifest once the index is finished
AIM = "ctd_agent_aim"  # until then
OLDEST = (1, 17)  # the first Qdrant with weighted fusion
TIMEOUT = 60  # seconds, of a request
REQUEST = 256  # points a write: a server takes 32 MB at once, and wide vectors are long in JSON
PAGE = 1_000  # points a read


class ServerStore:
    """A collection. The manifest is in its metadata. The server's key is in QDRANT_API_KEY.

    Building again empties the collection first and updating changes it in place, so the index does
    not open until that is done.
    """

    def __init__(self, where: str) -> None:
        self._client = _connect(where)
        self._where = where
        self._collection = where.rpartition("/")[2]
        self._aim = ""

    @classmethod
    def create(cls, where: str, size: int) -> "ServerStore":
        """Empty the collection, or make it."""
        from qdrant_client import models

        store = cls(where)
        client, name = store._client, store._collection
        metadata = store._metadata()
        if metadata is not None and METADATA not in metadata:
            raise UserError(f"{where}: exists and is no ctd-agent index; choose another name")
        with one_line(f"{where}: Qdrant failed"):
            client.delete_collection(name)
            client.create_collection(
                name,
                vectors_config={"dense": models.VectorParams(size=size, distance=models.Distance.COSINE)},
                sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
                metadata={METADATA: "", AIM: ""},
            )
        return store

    @classmethod
    def revise(cls, where: str) -> "ServerStore":
        """Return the finished collection, to be changed in place."""
        return cls.open(where)[0]

    @classmethod
    def resume(cls, where: str) -> tuple["ServerStore", str] | None:
        """Return the collection where it is unfinished, and what it was aimed at."""
        store = cls(where)
        store._aim = (store._metadata() or {}).get(AIM, "")
        return (store, store._aim) if store._aim else None

    @classmethod
    def open(cls, where: str) -> tuple["ServerStore", str]:
        """Return the finished collection and its manifest."""
        store = cls(where)
        metadata = store._metadata()
        if metadata is None:
            raise UserError(f"{where}: no such collection; build it with `ctd-agent index CATALOGUE --out {where}`")
        if not metadata.get(METADATA):
            raise UserError(f"{where}: this collection is no finished ctd-agent index; build it, or choose another")
        return store, metadata[METADATA]

    def aim(self, manifest: str) -> None:
        """Say in the metadata what the writes that follow lead to. Until they are done the index does not open."""
        self._aim = manifest
        self._describe({METADATA: "", AIM: manifest})

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, and wait until the server has them."""
        from qdrant_client import models

        rows = [
            models.PointStruct(id=p.id, vector={"dense": p.dense, "bm25": _remote(p.bm25)}, payload={"label": p.label})
            for p in points
        ]
        with one_line(f"{self._where}: Qdrant failed"):
            for start in range(0, len(rows), REQUEST):
                self._client.upsert(self._collection, rows[start : start + REQUEST], wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points, and wait until the server has done so."""
        with one_line(f"{self._where}: Qdrant failed"):
            for start in range(0, len(ids), PAGE):
                self._client.delete(self._collection, list(ids[start : start + PAGE]), wait=True)

    def save(self) -> None:
        """Do nothing: the server keeps what it has acknowledged."""

    def leave(self) -> None:
        """Do nothing: the server keeps what it has acknowledged."""

    def finish(self) -> None:
        """Say in the metadata that the index is whole."""
        self._describe({METADATA: self._aim, AIM: ""})

    def count(self) -> int:
        """Return the number of points."""
        with one_line(f"{self._where}: Qdrant failed"):
            return self._client.count(self._collection).count

    def stored(self) -> Iterator[str]:
        """Yield the label of every point."""
        offset: Any = None
        while True:
            with one_line(f"{self._where}: Qdrant failed"):
                records, offset = self._client.scroll(self._collection, limit=PAGE, offset=offset, with_payload=True)
            yield from ((record.payload or {})["label"] for record in records)
            if offset is None:
                return

    def nearest(self, sides: Sequence[Side], limit: int) -> list[list[Ranked]]:
        """Search on the server, in one request."""
        from qdrant_client import models

        requests = [
            models.QueryRequest(
                query=_remote(side.vector) if isinstance(side.vector, SparseVector) else side.vector,
                using=side.name,
                limit=limit,
            )
            for side in sides
        ]
        with one_line(f"{self._where}: Qdrant failed"):
            responses = self._client.query_batch_points(self._collection, requests)
        return [[(UUID(str(point.id)).int, point.score) for point in response.points] for response in responses]

    def read(self, ids: Sequence[int]) -> dict[int, str]:
        """Read points of the collection."""
        keys = [str(UUID(int=key)) for key in ids]
        with one_line(f"{self._where}: Qdrant failed"):
            records = self._client.retrieve(self._collection, keys, with_payload=["label"])
        return {UUID(str(record.id)).int: (record.payload or {})["label"] for record in records}

    def _describe(self, metadata: dict[str, str]) -> None:
        with one_line(f"{self._where}: Qdrant failed"):
            self._client.update_collection(self._collection, metadata=metadata)

    def _metadata(self) -> dict[str, str] | None:
        """Return the collection's metadata, or None where there is no such collection."""
        with one_line(f"{self._where}: Qdrant failed"):
            if not self._client.collection_exists(self._collection):
                return None
            return self._client.get_collection(self._collection).config.metadata or {}


def _remote(vector: SparseVector) -> "RemoteSparse":
    from qdrant_client.models import SparseVector as RemoteSparse

    return RemoteSparse(indices=vector.indices, values=vector.values)


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
    with one_line(f"{address}: no Qdrant server answers"):
        key = os.environ.get("QDRANT_API_KEY")
        client = QdrantClient(url=address, api_key=key, timeout=TIMEOUT, check_compatibility=False)
        version = client.info().version
        old = tuple(map(int, version.split(".")[:2])) < OLDEST
    if old:
        raise UserError(f"{address}: Qdrant {version}; ctd-agent needs {'.'.join(map(str, OLDEST))} or newer")
    return client
