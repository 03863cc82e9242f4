"""A label index in a folder: Qdrant Edge, Qdrant's own engine in this process."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import qdrant_edge as edge
from filelock import FileLock, Timeout

from ctd_agent.errors import CtdError, UserError
from ctd_agent.records import put_in_place
from ctd_agent.tools.seal import MANIFEST, DamagedError, sealed, unsealed
from ctd_agent.tools.store import Point, Ranked, Side, one_line

BUILD = "ctd-index-"  # then a number: the folder of one build
GRAPH = ".graph"  # after that: a folder in which a copy is given a graph
AIM = "manifest.json.part"  # in a build's folder until it is finished: then it has its manifest
PAGE = 10_000  # points a read
EF = 768  # points that the search of a graph keeps in view (docs/index.md)


class FolderStore:
    """A numbered folder in the index's folder.

    Every build has one of its own, an update begins with a copy of the last, and the newest finished
    one is the index. So an index answers until the next one is done, and a build that is cut changes
    nothing. Without a write-ahead log any number of processes may read one index.
    """

    def __init__(self, folder: Path, shard: edge.EdgeShard, lock: FileLock | None = None) -> None:
        self.folder = folder
        self._shard = shard
        self._lock = lock  # held while the store is written, by this process only

    @classmethod
    def create(cls, where: str, size: int) -> "FolderStore":
        """Return an empty store in a new folder."""
        config = edge.EdgeConfig(
            vectors={"dense": edge.EdgeVectorParams(size=size, distance=edge.Distance.Cosine)},
            sparse_vectors={"bm25": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
            wal_enabled=False,
        )
        folder, lock = _new_build(Path(where))
        (folder / "shard").mkdir()
        with one_line(f"{where}: Qdrant cannot write the index"):
            return cls(folder, edge.EdgeShard.create(str(folder / "shard"), config), lock)

    @classmethod
    def revise(cls, where: str) -> "FolderStore":
        """Return a copy of the newest finished build in a new folder."""
        last = newest_build(Path(where))
        manifest_of(last)  # a copy of a damaged one would be sealed as it is
        folder, lock = _new_build(Path(where))
        copy_shard(last, folder)
        return cls._load(folder, lock)

    @classmethod
    def resume(cls, where: str) -> tuple["FolderStore", str] | None:
        """Return the newest build where it is unfinished, and what it was aimed at."""
        build = next(reversed(_builds(Path(where))), None)
        if build is None or (build / MANIFEST).is_file() or not (build / AIM).is_file():
            return None
        lock = locked(build)
        try:
            return cls._load(build, lock), (build / AIM).read_text(encoding="utf-8")
        except CtdError:  # cut before anything was saved: nothing to go on with
            lock.release()
            return None

    @classmethod
    def open(cls, where: str) -> tuple["FolderStore", str]:
        """Return the newest finished build and its manifest. Raises DamagedError where it is not what was written."""
        build = newest_build(Path(where))
        try:
            manifest = manifest_of(build)
            return cls._load(build), manifest
        except (CtdError, DamagedError):
            if newest_build(Path(where)) == build:
                raise
            return cls.open(where)  # a newer one took its place meanwhile

    @classmethod
    def _load(cls, build: Path, lock: FileLock | None = None) -> "FolderStore":
        return cls(build, _loaded(build), lock)

    def aim(self, manifest: str) -> None:
        """Record what the writes that follow lead to."""
        self.save()
        write_durably(self.folder / AIM, manifest)

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, durable once saved."""
        self._update(
            edge.UpdateOperation.upsert_points(
                [edge.Point(p.id, {"dense": p.dense, "bm25": p.bm25}, {"label": p.label}) for p in points]
            )
        )

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points, durable once saved."""
        self._update(edge.UpdateOperation.delete_points(list(ids)))

    def _update(self, operation: edge.UpdateOperation) -> None:
        with one_line(f"{self.folder}: Qdrant cannot write"):
            self._shard.update(operation)

    def save(self) -> None:
        """Flush what the engine holds in memory."""
        with one_line(f"{self.folder}: Qdrant cannot write"):
            self._shard.flush()

    def finish(self) -> None:
        """Save, make the manifest valid, and remove the older builds."""
        self.save()
        self._shard.close()
        self._shard = finish_build(self.folder, (self.folder / AIM).read_text(encoding="utf-8"))
        (self.folder / AIM).unlink()
        self._unlock()
        remove_older(self.folder)

    def leave(self) -> None:
        """Save, and let another process go on."""
        try:
            self.save()
            self._shard.close()
        finally:
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def count(self) -> int:
        """Return the number of points."""
        with one_line(f"{self.folder}: Qdrant cannot read"):
            return self._shard.info().points_count

    def stored(self) -> Iterator[str]:
        """Yield the label of every point."""
        offset = None
        while True:
            request = edge.ScrollRequest(offset=offset, limit=PAGE, with_payload=["label"], with_vector=False)
            with one_line(f"{self.folder}: Qdrant cannot read"):
                records, offset = self._shard.scroll(request)
                labels = [(record.payload or {})["label"] for record in records]
            yield from labels
            if offset is None:
                return

    def nearest(self, sides: Sequence[Side], limit: int) -> list[list[Ranked]]:
        """Search in the engine. On a side with a graph, approximately."""
        # Where there is no graph these parameters mean nothing: every point is compared in full.
        params = edge.SearchParams(
            hnsw_ef=max(EF, limit), quantization=edge.QuantizationSearchParams(rescore=True, oversampling=1.0)
        )
        requests = [
            edge.QueryRequest(limit=limit, query=edge.Query.Nearest(side.vector, using=side.name), params=params)
            for side in sides
        ]
        with one_line(f"{self.folder}: Qdrant cannot search"):
            found = self._shard.query_batch(edge.QueryBatchRequest(requests))
        return [[(_number(point.id), point.score) for point in points] for points in found]

    def read(self, ids: Sequence[int]) -> dict[int, str]:
        """Read points of the engine."""
        with one_line(f"{self.folder}: Qdrant cannot read"):
            records = self._shard.retrieve([UUID(int=key) for key in ids], with_payload=["label"], with_vector=False)
            return {_number(record.id): (record.payload or {})["label"] for record in records}


def newest_build(where: Path) -> Path:
    """Return the folder of the newest finished build. Raises UserError where there is none."""
    finished = [build for build in _builds(where) if (build / MANIFEST).is_file()]
    if not finished:
        raise UserError(f"{where}: no finished index here; build one with `ctd-agent index CATALOGUE --out {where}`")
    return finished[-1]


def manifest_of(build: Path) -> str:
    """Return the manifest of a finished build whose files are what was written.

    Raises DamagedError where they are not, CtdError where one cannot be read.
    """
    try:
        return unsealed(build)
    except OSError as error:
        raise CtdError(f"{build.parent}: the index cannot be read ({error})") from error


def finish_build(build: Path, manifest: str) -> edge.EdgeShard:
    """Seal a build whose shard is closed, and give it its manifest. Return the shard, opened.

    The first opening writes into the files, so it comes before they are sealed.
    """
    shard = _loaded(build)
    write_durably(build / MANIFEST, sealed(build, manifest))
    return shard


def copy_shard(build: Path, to: Path) -> None:
    """Copy the points of a finished build. Raises UserError where there is no room."""
    try:
        shutil.copytree(build / "shard", to / "shard")
    except (OSError, shutil.Error) as error:
        raise UserError(f"{to.parent}: cannot write the index here: {error}") from error


def remove_older(folder: Path) -> None:
    """Remove the builds older than this one, and graphs that came too late for it."""
    for path in folder.parent.glob(f"{BUILD}*"):
        name = path.name.removesuffix(GRAPH)
        if path != folder and _is_build(name) and number(name) <= number(folder.name):
            shutil.rmtree(path, ignore_errors=True)


def number(name: str) -> int:
    """Return the number in the name of a build's folder."""
    return int(name.removeprefix(BUILD))


def write_durably(path: Path, text: str) -> None:
    """Write a small file such that a power cut leaves no half of it."""
    part = path.with_name(f"{path.name}.new")
    part.write_text(text, encoding="utf-8")
    put_in_place(part, path)


def locked(build: Path) -> FileLock:
    """Return the lock of a build, held by this process. Raises UserError where another process holds it."""
    lock = FileLock(build / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{build.parent}: another process is building this index; wait for it, or end it") from error
    return lock


def _number(key: object) -> int:
    return key.int if isinstance(key, UUID) else UUID(str(key)).int


def _loaded(build: Path) -> edge.EdgeShard:
    with one_line(f"{build.parent}: Qdrant cannot open the index; make its folder writable, or build it again"):
        return edge.EdgeShard.load(str(build / "shard"))


def _is_build(name: str) -> bool:
    return name.removeprefix(BUILD).isdecimal()


def _builds(where: Path) -> list[Path]:
    """Return the folders of the builds there, oldest first."""
    builds = [path for path in where.glob(f"{BUILD}*") if _is_build(path.name)]
    return sorted(builds, key=lambda build: number(build.name))


def _new_build(where: Path) -> tuple[Path, FileLock]:
    """Return a new folder for a build, locked.

    Raises UserError for a place that is not ours, cannot be written, or is being written.
    """
    builds = _builds(where)
    try:
        if not builds and where.exists() and any(where.iterdir()):
            raise UserError(f"{where}: exists and is no ctd-agent index; choose another folder")
        if builds and not (builds[-1] / MANIFEST).is_file():
            locked(builds[-1]).release()
        folder = where / f"{BUILD}{number(builds[-1].name) + 1 if builds else 1}"
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{where}: cannot write the index here: {error.strerror}") from error
    return folder, locked(folder)
