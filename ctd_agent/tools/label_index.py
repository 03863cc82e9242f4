"""LabelIndex: the catalogue in a Qdrant engine, embedded in this process or on a server.

Every label is one point: a dense vector, a BM25 sparse vector, and the label itself. Nothing in
ctd-agent but this module, the two stores and `graph` knows Qdrant.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Literal, NamedTuple

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json

from ctd_agent.errors import CtdError, UserError
from ctd_agent.schema import Label, Record
from ctd_agent.tools.embedding import BUILT_IN, Embedder, default_embedder, load_embedder
from ctd_agent.tools.folder_store import FolderStore
from ctd_agent.tools.fusion import best
from ctd_agent.tools.points import mean_tokens, point_id, points, query_words
from ctd_agent.tools.server_store import ServerStore
from ctd_agent.tools.store import Side, Store

Mode = Literal["hybrid", "bm25", "dense"]
Progress = Callable[[int], None]

FORMAT = 2  # of an index; one of another format is rebuilt, never guessed at
SAVE = 30.0  # seconds between saves: what a killed build loses
DRIFT = 1.25  # a mean length that changes by more makes BM25's old weights wrong: see `update`


class Hit(NamedTuple):
    """One search result: the label and its score (fused, BM25 or cosine, by mode)."""

    label: Label
    score: float


class Changes(NamedTuple):
    """How many labels an update wrote and removed."""

    added: int
    changed: int
    removed: int


class Manifest(Record):
    """The settings of an index. Written last: an index without it is incomplete.

    `outside` is the number of labels that no graph covers: search compares them all.
    """

    format: int
    fingerprint: str
    labels: int
    embedder: str
    size: int
    mean_tokens: float
    outside: int


def fingerprint(labels: Iterable[Label]) -> str:
    """Return the sha256 over the labels' JSON, in order: the identity of a catalogue."""
    digest = hashlib.sha256()
    for label in labels:
        try:
            digest.update(label.model_dump_json().encode() + b"\n")
        except PydanticSerializationError as error:
            raise UserError(f"label {label.id!r}: its metadata cannot be written as JSON ({error})") from error
    return digest.hexdigest()


class UnnamedEmbedderError(UserError):
    """An index names an embedder that is not built in, and the user does not."""


class LabelIndex:
    """Hybrid search over a catalogue: BM25 and dense vectors, fused by reciprocal rank.

    >>> labels = [Label(id="1", name="Interest rates"), Label(id="2", name="Football")]
    >>> index = LabelIndex.build(labels, "my-index", embedder="static")
    >>> [hit.label.name for hit in index.search("central banks raise rates", limit=1)]
    ['Interest rates']
    """

    def __init__(self, where: str, store: Store, manifest: Manifest, embedder: Embedder) -> None:
        self.manifest = manifest
        self._where = where
        self._store = store
        self._embedder = embedder

    @classmethod
    def build(
        cls,
        labels: Sequence[Label],
        where: str | Path,
        embedder: str | None = None,
        progress: Progress = lambda _: None,
    ) -> "LabelIndex":
        """Index the labels at `where` (a folder or a server's collection URL), replacing what is there.

        A build or an update of the same labels with the same embedder that was cut goes on where it was. A folder's old
        index answers until the new one is done. `progress` is called with the number of labels done after every batch.
        Raises UserError for an empty catalogue, an id that is there twice, or a place that is not ours or cannot be
        written.
        """
        _check(labels)
        model = load_embedder(embedder or default_embedder(len(labels)))
        manifest = Manifest(
            format=FORMAT,
            fingerprint=fingerprint(labels),
            labels=len(labels),
            embedder=model.spec,
            size=model.size,
            mean_tokens=mean_tokens(labels),
            outside=len(labels),
        )
        if (cut := _resumed(str(where), manifest)) is not None:
            store, manifest = cut
        else:
            store = _kind(str(where)).create(str(where), model.size)
            store.aim(manifest.model_dump_json())
        return cls(str(where), store, manifest, model)._write(labels, _difference(store, labels), progress)

    @classmethod
    def open(cls, where: str | Path, embedder: str | None = None) -> "LabelIndex":
        """Open a finished index.

        A built-in embedder follows from the index. Any other must be given: a stranger's index could name a server that
        gets the texts and the key. Raises UserError for no index or another embedder, UnnamedEmbedderError for none.
        """
        store, text = _kind(str(where)).open(str(where))
        manifest = _manifest(text, where)
        if embedder is None and manifest.embedder not in BUILT_IN:
            raise UnnamedEmbedderError(
                f"{where}: built with embedder {manifest.embedder!r}, which gets what is searched for; "
                f"if you trust it, name it: --embedder {manifest.embedder}"
            )
        if embedder is not None and load_embedder(embedder).spec != manifest.embedder:
            raise UserError(
                f"{where}: built with embedder {manifest.embedder!r}, not {embedder!r}; "
                f"leave --embedder out, or build the index again"
            )
        if (points := store.count()) != manifest.labels:
            raise CtdError(f"{where}: holds {points} labels of {manifest.labels}; build the index again")
        model = load_embedder(embedder or manifest.embedder)
        if model.size != manifest.size:
            raise UserError(
                f"{where}: vectors of {manifest.size} dimensions, but {model.spec!r} makes {model.size}; "
                f"build the index again"
            )
        return cls(str(where), store, manifest, model)

    def update(self, labels: Sequence[Label], progress: Progress = lambda _: None) -> Changes:
        """Make this the index of these labels: write those that are new or changed, remove those not among them.

        The others keep their vectors, whose BM25 weights know the labels' mean length as it was. Where
        that has changed by more than a quarter, all are written again. Cut, a folder still holds the
        old index, a server's collection does not open. The same update or build then goes on.
        Raises UserError as `build` does.
        """
        _check(labels)
        mean, old = mean_tokens(labels), self.manifest.mean_tokens
        if max(mean / old, old / mean) > DRIFT:
            change = _difference(self._store, labels)
            self._become(LabelIndex.build(labels, self._where, self.manifest.embedder, progress))
            return change.counts
        target = self.manifest.model_copy(update={"fingerprint": fingerprint(labels), "labels": len(labels)})
        if target == self.manifest:
            return Changes(0, 0, 0)
        if (cut := _resumed(self._where, target)) is not None:
            store, target = cut
            change = _difference(store, labels)
        else:
            store = _kind(self._where).revise(self._where)
            change = _difference(store, labels)
            target = target.model_copy(update={"outside": target.outside + len(change.write)})
            store.aim(target.model_dump_json())
        self._become(LabelIndex(self._where, store, target, self._embedder)._write(labels, change, progress))
        return change.counts

    def _become(self, new: "LabelIndex") -> None:
        self._store, self.manifest = new._store, new.manifest

    def _write(self, labels: Sequence[Label], change: "_Change", progress: Progress) -> "LabelIndex":
        """Bring the store from what it holds to the labels, then finish it. Return the index."""
        done, saved = len(labels) - len(change.write), monotonic()
        try:
            self._store.delete([point_id(label_id) for label_id in change.remove])
            for batch in points(change.write, self._embedder, self.manifest.mean_tokens):
                self._store.upsert(batch)
                done += len(batch)
                progress(done)
                if monotonic() - saved > SAVE:
                    self._store.save()
                    saved = monotonic()
        except BaseException:
            self._store.leave()
            raise
        self._store.finish()
        return self

    def labels(self) -> Iterator[Label]:
        """Yield every label, in no order."""
        return map(Label.model_validate_json, self._store.stored())

    def search(self, query: str, limit: int, mode: Mode = "hybrid") -> list[Hit]:
        """Return the `limit` labels nearest to the query, best first, all of them where there are fewer.

        BM25 reaches only labels that share a word with the query. A side that can read nothing in
        the query has no say. A query that no side can read, or an empty one, finds nothing.
        """
        limit = min(limit, self.manifest.labels)
        if limit < 1 or not query.strip():
            return []
        sides: list[Side] = []
        if mode != "dense" and (words := query_words(query)).indices:
            sides.append(Side("bm25", words, weight=1.0, digits=3))
        if mode != "bm25" and (vector := self._embedder.embed([query])[0]).any():
            # Its weight is what the embedder earned on training data (docs/results.md).
            sides.append(Side("dense", vector.tolist(), self._embedder.weight, digits=6))
        if not sides:
            return []
        found = best(self._store, sides, limit, self.manifest.labels)
        texts = self._store.read([point for point, _ in found])
        hits = [Hit(_label(texts[point]), score) for point, score in found if point in texts]
        return sorted(hits, key=lambda hit: (-hit.score, hit.label.id))


@lru_cache(maxsize=2**14)  # documents find the same labels over and over
def _label(text: str) -> Label:
    return Label.model_validate_json(text)


class _Change(NamedTuple):
    """The writes that turn a store's labels into those of a catalogue."""

    write: list[Label]
    remove: list[str]
    counts: Changes


def _difference(store: Store, labels: Sequence[Label]) -> _Change:
    wanted = {label.id: label for label in labels}
    same: set[str] = set()
    remove: list[str] = []
    changed = 0
    for text in store.stored():
        label = wanted.get(label_id := from_json(text)["id"])
        if label is None:
            remove.append(label_id)
        elif label.model_dump_json() == text:
            same.add(label.id)
        else:
            changed += 1
    write = [label for label in labels if label.id not in same]
    return _Change(write, remove, Changes(len(write) - changed, changed, len(remove)))


def _kind(where: str) -> type[FolderStore] | type[ServerStore]:
    return ServerStore if "://" in where else FolderStore


def _resumed(where: str, wanted: Manifest) -> tuple[Store, Manifest] | None:
    """Return a store that was cut on its way to the same labels by the same embedder, and its manifest."""
    if (cut := _kind(where).resume(where)) is None:
        return None
    store, text = cut
    with suppress(UserError):  # of another version
        manifest = _manifest(text, where)
        if wanted == manifest.model_copy(update={"mean_tokens": wanted.mean_tokens, "outside": wanted.outside}):
            return store, manifest
    store.leave()
    return None


def _manifest(text: str, where: str | Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{where}: not an index of this version of ctd-agent; build it again") from error
    if manifest.format != FORMAT:
        raise UserError(f"{where}: index format {manifest.format}, this version reads {FORMAT}; build it again")
    return manifest


def _check(labels: Sequence[Label]) -> None:
    if not labels:
        raise UserError("the catalogue has no labels: nothing to index")
    ((label_id, times),) = Counter(label.id for label in labels).most_common(1)
    if times > 1:
        raise UserError(f"label id {label_id!r} is there {times} times; ids must be unique")
