"""LabelIndex: the catalogue in a Qdrant engine, embedded in this process or on a server.

Every label is one point: a dense vector, a BM25 sparse vector, and the label itself. Nothing in
ctd-agent but this module and `stores` knows Qdrant.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import qdrant_edge as edge
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from ctd_agent.errors import CtdError, UserError
from ctd_agent.schema import Label, Record
from ctd_agent.tools.embedding import Embedder, Vectors, default_embedder, load_embedder
from ctd_agent.tools.stores import Point, Side, Sparse, Store, create_store, open_store

Mode = Literal["hybrid", "bm25", "dense"]

FORMAT = 1  # of an index; one of another format is rebuilt, never guessed at
BATCH = 256  # labels a write: a server takes 32 MB at once, and wide vectors are long in JSON


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


def fingerprint(labels: Iterable[Label]) -> str:
    """Return the sha256 over the labels' JSON, in order: the identity of a catalogue."""
    digest = hashlib.sha256()
    for label in labels:
        try:
            digest.update(label.model_dump_json().encode() + b"\n")
        except PydanticSerializationError as error:
            raise UserError(f"label {label.id!r}: its metadata cannot be written as JSON ({error})") from error
    return digest.hexdigest()


class LabelIndex:
    """Hybrid search over a catalogue: BM25 and dense vectors, fused by reciprocal rank."""

    def __init__(self, store: Store, manifest: Manifest, embedder: Embedder) -> None:
        self.manifest = manifest
        self._store = store
        self._embedder = embedder

    @classmethod
    def build(
        cls,
        labels: Sequence[Label],
        where: str | Path,
        embedder: str | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> "LabelIndex":
        """Index the labels at `where` (a folder or a server's collection URL), replacing what is there.

        A folder's old index answers until the new one is done. `progress` is called with the number
        of labels done after every batch.
        Raises UserError for an empty catalogue, an id that is there twice, or a place that is not ours
        or cannot be written.
        """
        _check(labels)
        model = load_embedder(embedder or default_embedder(len(labels)))
        manifest = Manifest(
            format=FORMAT,
            fingerprint=fingerprint(labels),
            labels=len(labels),
            embedder=model.spec,
            size=model.size,
            mean_tokens=_mean_tokens(labels),
        )
        store = create_store(str(where), model.size)
        for start in range(0, len(labels), BATCH):
            batch = labels[start : start + BATCH]
            store.upsert(_points(batch, model.embed([label.text for label in batch]), manifest.mean_tokens))
            progress(start + len(batch))
        store.finish(manifest.model_dump_json())
        return cls(store, manifest, model)

    @classmethod
    def open(cls, where: str | Path, embedder: str | None = None) -> "LabelIndex":
        """Open a finished index.

        Raises UserError where there is none, or it was built with another embedder than the one asked for.
        """
        store, text = open_store(str(where))
        manifest = _manifest(text, where)
        if embedder is not None and embedder != manifest.embedder:
            raise UserError(
                f"{where}: built with embedder {manifest.embedder!r}, not {embedder!r}; "
                f"leave --embedder out, or build the index again"
            )
        if (points := store.count()) != manifest.labels:
            raise CtdError(f"{where}: holds {points} labels of {manifest.labels}; build the index again")
        model = load_embedder(manifest.embedder)
        if model.size != manifest.size:
            raise UserError(
                f"{where}: vectors of {manifest.size} dimensions, but {model.spec!r} makes {model.size}; "
                f"build the index again"
            )
        return cls(store, manifest, model)

    def search(self, query: str, limit: int, mode: Mode = "hybrid") -> list[Hit]:
        """Return the `limit` labels nearest to the query, best first; all of them where there are fewer.

        BM25 reaches only labels that share a word with the query. A side that can read nothing in
        the query has no say; a query that no side can read, or an empty one, finds nothing.
        """
        limit = min(limit, self.manifest.labels)
        if limit < 1 or not query.strip():
            return []
        sides: list[Side] = []
        if mode != "dense" and (counts := _COUNT.embed_document(query)).indices:
            # A document is a long query: what it repeats is what it is about.
            sides.append(Side("bm25", Sparse(counts.indices, [1 + math.log(count) for count in counts.values]), 1.0))
        if mode != "bm25" and (vector := self._embedder.embed([query])[0]).any():
            # Its weight is what the embedder earned on training data (docs/results.md).
            sides.append(Side("dense", vector.tolist(), self._embedder.weight))
        if not sides:
            return []
        found = self._store.search(sides, limit, fused=mode == "hybrid")
        return [Hit(Label.model_validate_json(label), score) for label, score in found]


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


# With b=0 and a huge k, a token's BM25 weight is its count.
_COUNT = edge.Bm25(edge.Bm25Config(k=1e6, b=0.0, language="english", ascii_folding=True))


def _mean_tokens(labels: Sequence[Label]) -> float:
    return max(1.0, sum(sum(_COUNT.embed_document(label.text).values) for label in labels) / len(labels))


def _points(labels: Sequence[Label], vectors: Vectors, mean_tokens: float) -> list[Point]:
    # Qdrant's own BM25 assumes documents of 256 words; labels are short, so their mean is measured.
    bm25 = edge.Bm25(edge.Bm25Config(avg_len=mean_tokens, language="english", ascii_folding=True))
    points = []
    for label, vector in zip(labels, vectors, strict=True):
        words = bm25.embed_document(label.text)
        point_id = str(uuid5(NAMESPACE_URL, label.id))
        points.append(Point(point_id, vector.tolist(), Sparse(words.indices, words.values), label.model_dump_json()))
    return points
