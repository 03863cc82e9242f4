"""Labels and queries as Qdrant reads them: BM25 weights, dense vectors, one point a label."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from heapq import nsmallest
from itertools import islice

import qdrant_edge as edge

from ctd_agent.schema import Label
from ctd_agent.tools.embedding import Embedder
from ctd_agent.tools.store import Point

BATCH = 512  # labels a write: fewer leave the embedder idle between them, more make progress jerky
SAMPLE = 10_000  # labels whose mean length stands for all

# With b=0 and a huge k, a token's BM25 weight is its count.
_COUNT = edge.Bm25(edge.Bm25Config(k=1e6, b=0.0, language="english", ascii_folding=True))


def mean_tokens(labels: Sequence[Label]) -> float:
    """Return the mean number of tokens in a label's text, measured on labels that a hash of their ids draws."""
    sample = labels if len(labels) <= SAMPLE else nsmallest(SAMPLE, labels, key=lambda label: point_id(label.id))
    return max(1.0, sum(sum(_COUNT.embed_document(label.text).values) for label in sample) / len(sample))


def query_words(query: str) -> edge.SparseVector:
    """Return the query's tokens, weighted: a document is a long query, and what it repeats is what it is about."""
    counts = _COUNT.embed_document(query)
    return edge.SparseVector(counts.indices, [1 + math.log(count) for count in counts.values])


def points(labels: Sequence[Label], embedder: Embedder, mean: float) -> Iterator[list[Point]]:
    """Yield the labels' points in batches. The next batch is embedded while the caller writes one."""
    # Qdrant's own BM25 assumes documents of 256 words; labels are short, so their mean is measured.
    bm25 = edge.Bm25(edge.Bm25Config(avg_len=mean, language="english", ascii_folding=True))
    batches = [labels[start : start + BATCH] for start in range(0, len(labels), BATCH)]
    with ThreadPoolExecutor(1) as thread:
        tasks = (thread.submit(embedder.embed, [label.text for label in batch]) for batch in batches)
        following = deque(islice(tasks, 1))
        for batch in batches:
            embedding = following.popleft()
            following.extend(islice(tasks, 1))
            yield [
                Point(point_id(label.id), vector, bm25.embed_document(label.text), label.model_dump_json())
                for label, vector in zip(batch, embedding.result().tolist(), strict=True)
            ]


def point_id(label_id: str) -> str:
    """Return the UUID of a label's point: engines know points by numbers or UUIDs only."""
    return blake2b(label_id.encode(), digest_size=16).hexdigest()
