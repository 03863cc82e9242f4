"""Build and search indexes of 10^4, 10^5 and 10^6 labels, with ctd-agent and in three other ways.

    python examples/debian/make.py              # once: documents, and 63,666 packages as labels
    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb /tmp/wordnet      # 117,659 synsets
    pip install usearch
    python benchmarks/index_scale.py --sizes 10000 100000 1000000 --wordnet /tmp/wordnet/usr/share/wordnet --out OUT

Finished steps are kept in OUT: a cut run goes on, `--sizes` and `--systems` take it piece by piece. Every step
runs in a process of its own. Labels are Debian's packages, then WordNet's synsets, both shuffled by the seed.
Beyond these 181,325 they are copies of random ones in which a random quarter of the words is replaced by words
of random others. Queries are 200 documents, the first 100 of both Debian sets' *dev* split, as the graph reads
them. A query's time is the best of three, or of fewer where these take more than a tenth of a second: other
work on the machine makes searches slower, never faster.

Recall@50 of vectors is the share of the 50 hits that are as near as the 50th of an exact search, numpy's.
Recall@50 of hybrid search is the share of the right 50, which are those of numpy's and BM25's first 300, fused.
(BM25's search is exact.) RAM is that of the whole process, its touched files and labels included, of a build the peak.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from scale_labels import catalogue, queries
from script import command_line, in_own_process, print_table, run

from ctd_agent.tools.embedding import Vectors, load_embedder
from ctd_agent.tools.folder_store import EF
from ctd_agent.tools.fusion import DEPTH, RRF_K
from ctd_agent.tools.hnsw import EDGES, EF_CONSTRUCT
from ctd_agent.tools.label_index import LabelIndex

DATA = Path(__file__).parent.parent / "examples/debian/full"
BEST = 3  # times a query is asked,
ENOUGH = 0.1  # but not beyond these seconds
BATCH = 1024
TOP = 50  # results a query
Row = dict[str, Any]


def main() -> None:
    """Take the steps that are left, each in a process of its own, then print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--systems", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--embedder", default="static")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--debian", type=Path, default=DATA, help="what examples/debian/make.py has made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # a step's own process
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.here:
        (size,), (system,) = options.sizes, options.systems
        print(json.dumps({"size": size, "system": system, **STEPS[system](size, options)}))
        return
    results = options.out / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["size"], row["system"]) for row in rows}
    for size, system in product(options.sizes, options.systems):
        if (size, system) not in done:
            rows.append(step(size, system))
            with results.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print_steps(sorted(rows, key=lambda row: row["size"]))


def step(size: int, system: str) -> Row:
    """Take one step in a process of its own, so that its memory is its own."""
    row: Row = in_own_process("--sizes", str(size), "--systems", system, "--here")
    print(row, file=sys.stderr)
    return row


# --- the systems


def build(size: int, options: argparse.Namespace) -> Row:
    """Embed the labels alone, then build the index of them."""
    labels = catalogue(size, options.seed, options.debian, options.wordnet)
    embedder = load_embedder(options.embedder)
    vectors = np.zeros((size, embedder.size), dtype=np.float32)
    embedder.embed([label.text for label in labels[:BATCH]])  # warm
    started = perf_counter()
    for start in range(0, size, BATCH):
        vectors[start : start + BATCH] = embedder.embed([label.text for label in labels[start : start + BATCH]])
    raw = size / (perf_counter() - started)
    np.save(options.out / f"vectors-{size}.npy", vectors)
    (options.out / f"ids-{size}.json").write_text(json.dumps([label.id for label in labels]))
    del vectors
    started = perf_counter()
    LabelIndex.build(labels, options.out / f"exact-{size}", options.embedder)
    seconds = perf_counter() - started
    return {"rate": size / seconds, "raw": raw, "ram_mb": memory("VmHWM")}


def exact(size: int, options: argparse.Namespace) -> Row:
    """Search the index as it is after the build: every label is compared."""
    return searched("exact", size, options)


def graph(size: int, options: argparse.Namespace) -> Row:
    """Give a copy of the index a graph, in another process, and search it."""
    where, kept = options.out / f"graph-{size}", options.out / f"graph-{size}.json"
    if not kept.exists():
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(options.out / f"exact-{size}", where)
        started = perf_counter()
        subprocess.run([sys.executable, "-m", "ctd_agent.tools.hnsw", str(where)], check=True)  # noqa: S603 - a module of ours
        kept.write_text(json.dumps(perf_counter() - started))
    row = {"graph_s": json.loads(kept.read_text()), **searched("graph", size, options)}
    texts, index = queries(options.debian), LabelIndex.open(where)
    rows = {label_id: row for row, label_id in enumerate(json.loads((options.out / f"ids-{size}.json").read_text()))}

    def ranked(mode: str, limit: int) -> list[list[int]]:
        return [[rows[hit.label.id] for hit in index.search(text, limit, mode)] for text in texts]

    row["dense_recall"] = recall(size, options, ranked("dense", TOP))
    nearest = json.loads((options.out / f"numpy-{size}.json").read_text())
    truth = [fused(words, vectors, index) for words, vectors in zip(ranked("bm25", DEPTH), nearest, strict=True)]
    shares = [len({*got} & {*right}) / TOP for got, right in zip(ranked("hybrid", TOP), truth, strict=True)]
    return {**row, "hybrid_recall": float(np.mean(shares))}


def searched(name: str, size: int, options: argparse.Namespace) -> Row:
    """Search an index from all sides by the queries' texts."""
    load_embedder(options.embedder).embed(["warm"])
    texts, where = queries(options.debian), options.out / f"{name}-{size}"
    index, opened = opening(lambda: LabelIndex.open(where))
    row: Row = {"open_s": opened, "disk_mb": disk(where)}
    for mode in ("dense", "bm25", "hybrid"):
        _, row[mode] = timed(texts, partial(index.search, limit=TOP, mode=mode))
    return {**row, "ram_mb": memory("VmRSS")}


def fused(words: list[int], nearest: list[int], index: LabelIndex) -> list[int]:
    """Return the first of BM25's and the exact vector search's labels, fused as the index does."""
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking, weight in ((words, 1.0), (nearest, load_embedder(index.manifest.embedder).weight)):
        for rank, label in enumerate(ranking, start=1):
            scores[label] += 1 / (RRF_K - 1 + rank / weight)
    return sorted(scores, key=lambda label: -scores[label])[:TOP]


def numpy_exact(size: int, options: argparse.Namespace) -> Row:
    """Compare the query with all vectors in memory: one matrix product."""
    vectors, opened = opening(lambda: np.load(options.out / f"vectors-{size}.npy"))

    def search(vector: Vectors) -> list[int]:
        scores = vectors @ vector
        best = np.argpartition(-scores, DEPTH)[:DEPTH]
        return [int(row) for row in best[np.argsort(-scores[best])]]

    row, rankings = by_vector(options, search)
    (options.out / f"numpy-{size}.json").write_text(json.dumps(rankings))
    return {"open_s": opened, "disk_mb": vectors.nbytes / 1e6, **row}


def usearch(size: int, options: argparse.Namespace) -> Row:
    """Walk an HNSW graph of 8-bit vectors, with as many edges and as wide as ours."""
    from usearch.index import Index

    path = options.out / f"usearch-{size}.index"
    vectors = np.load(options.out / f"vectors-{size}.npy")
    made = Index(ndim=vectors.shape[1], metric="cos", dtype="i8", connectivity=EDGES, expansion_add=EF_CONSTRUCT)
    started = perf_counter()
    made.add(np.arange(size), vectors)
    seconds = perf_counter() - started
    made.save(path)
    del vectors, made
    index, opened = opening(lambda: Index.restore(path))
    index.expansion_search = EF
    row, rankings = by_vector(options, lambda vector: [int(key) for key in index.search(vector, TOP).keys])
    row |= {"graph_s": seconds, "open_s": opened, "disk_mb": disk(path)}
    return {**row, "dense_recall": recall(size, options, rankings)}


def qdrant_local(size: int, options: argparse.Namespace) -> Row:
    """qdrant-client without a server: Python, and every vector is compared."""
    from qdrant_client import QdrantClient, models

    path = str(options.out / f"local-{size}")
    shutil.rmtree(path, ignore_errors=True)
    client = QdrantClient(path=path)
    vectors = np.load(options.out / f"vectors-{size}.npy")
    client.create_collection("labels", models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE))
    started = perf_counter()
    for start in range(0, size, BATCH):
        rows = vectors[start : start + BATCH]
        client.upsert("labels", models.Batch(ids=list(range(start, start + len(rows))), vectors=rows.tolist()))
    seconds = perf_counter() - started
    client.close()
    client, opened = opening(lambda: QdrantClient(path=path))

    def search(vector: Vectors) -> list[int]:
        return [int(point.id) for point in client.query_points("labels", vector.tolist(), limit=TOP).points]

    row, rankings = by_vector(options, search)
    row |= {"graph_s": seconds, "open_s": opened, "disk_mb": disk(Path(path))}
    return {**row, "dense_recall": recall(size, options, rankings)}


STEPS: dict[str, Callable[[int, argparse.Namespace], Row]] = {
    "build": build,
    "numpy": numpy_exact,
    "exact": exact,
    "graph": graph,
    "usearch": usearch,
    "qdrant-client": qdrant_local,
}


# --- measuring


def by_vector(options: argparse.Namespace, search: Callable[[Vectors], list[int]]) -> tuple[Row, list[list[int]]]:
    """Search by the queries' vectors, embedded beforehand."""
    rankings, times = timed(load_embedder(options.embedder).embed(queries(options.debian)), search)
    return {"dense": times, "ram_mb": memory("VmRSS")}, rankings


def timed(queries: Iterable[Any], search: Callable[[Any], list[Any]]) -> tuple[list[list[Any]], list[float]]:
    """Return the hits of each query, and the 50th and 95th percentile of its best time, in ms."""
    rankings, times = [], []
    for query in queries:
        tries: list[float] = []
        while len(tries) < BEST and sum(tries) < ENOUGH:
            started = perf_counter()
            hits = search(query)
            tries.append(perf_counter() - started)
        rankings.append(hits)
        times.append(min(tries) * 1000)
    return rankings, [float(np.percentile(times, share)) for share in (50, 95)]


def opening(read: Callable[[], Any]) -> tuple[Any, float]:
    """Return the object that is read, and the seconds that took."""
    started = perf_counter()
    return read(), perf_counter() - started


def recall(size: int, options: argparse.Namespace, rankings: list[list[int]]) -> float:
    """Return the share of the hits that are as near as the exact search's last hit, or nearer."""
    vectors = np.load(options.out / f"vectors-{size}.npy", mmap_mode="r")
    nearest = json.loads((options.out / f"numpy-{size}.json").read_text())
    embedded = load_embedder(options.embedder).embed(queries(options.debian))
    near = [
        (vectors[got] @ query >= vectors[right[TOP - 1]] @ query - 1e-6).sum() / TOP
        for query, got, right in zip(embedded, rankings, nearest, strict=True)
    ]
    return float(np.mean(near))


def memory(field: str) -> float:
    """Return this process's memory in MB, from Linux's /proc: VmRSS now, VmHWM at most."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000


def disk(path: Path) -> float:
    """Return the MB that a file or folder takes on disk."""
    files = (file for file in (path, *path.rglob("*")) if file.is_file())
    return sum(file.stat().st_blocks * 512 for file in files) / 1e6


def print_steps(steps: list[Row]) -> None:
    """Print a row a step. A cell that a system does not have stays empty."""
    header = ["labels", "system", "labels/s", "of the embedder's", "graph or load, s", "RAM, MB", "disk, MB", "open, s"]
    sides = ["vectors: p50, p95, ms", "recall@50", "BM25: p50, p95, ms", "hybrid: p50, p95, ms", "recall@50"]
    print_table([*header, *sides], map(cells, steps), "rl")


def cells(row: Row) -> list[str]:
    """Return a step's cells."""
    share = f"{row['rate'] / row['raw']:.2f} of {row['raw']:,.0f}" if "rate" in row else ""
    first = [f"{row['size']:,}", row["system"], number(row, "rate"), share]
    first += [*(number(row, key) for key in ("graph_s", "ram_mb", "disk_mb")), number(row, "open_s", 2)]
    times = {mode: "{:.1f}, {:.1f}".format(*row[mode]) if mode in row else "" for mode in ("dense", "bm25", "hybrid")}
    dense, hybrid = number(row, "dense_recall", 3), number(row, "hybrid_recall", 3)
    return [*first, times["dense"], dense, times["bm25"], times["hybrid"], hybrid]


def number(row: Row, key: str, digits: int = 0) -> str:
    """Return a cell."""
    return f"{row[key]:,.{digits}f}" if key in row else ""


if __name__ == "__main__":
    run(main)
