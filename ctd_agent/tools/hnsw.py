"""A graph over a large index's vectors, so that a search need not compare its query with every label.

HNSW (Malkov and Yashunin 2016), walked on vectors of 8 bits. What it finds is compared in full. Making
it takes minutes and the processor, so a child process makes it, in a copy of the newest build, which
then takes that build's place. Until then search compares every label. A Qdrant server makes its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import qdrant_edge as edge

from ctd_agent.errors import CtdError, UserError
from ctd_agent.tools.folder_store import (
    BUILD,
    GRAPH,
    copy_shard,
    finish_build,
    locked,
    manifest_of,
    newest_build,
    number,
    remove_older,
)
from ctd_agent.tools.label_index import Manifest
from ctd_agent.tools.store import one_line

PAYS = 100_000  # labels without a graph from which on one pays (docs/index.md)
LABELS_A_SECOND = 3_000  # on two cores
EDGES = 20  # of a label; twice as many on the lowest level
EF_CONSTRUCT = 128
WHOLE = 1_000_000_000  # KB of a segment at most: there is to be one


def start_graph(where: str | Path, manifest: Manifest) -> subprocess.Popen[bytes] | None:
    """Start the process that gives an index a graph, and return it, None where a graph would not pay."""
    if "://" in str(where) or manifest.outside < PAYS:
        return None
    # In a session of its own it may outlive the run that starts it.
    return subprocess.Popen(  # noqa: S603 - this module
        [sys.executable, "-m", __name__, str(where)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def add_graph(where: Path) -> None:
    """Give the newest build a graph, nothing becomes of it where another build came in between.

    Raises UserError where another process is at it, or the build is damaged.
    """
    build = newest_build(where)
    manifest = Manifest.model_validate_json(manifest_of(build))
    draft = where / f"{BUILD}{number(build.name) + 1}{GRAPH}"
    draft.mkdir(exist_ok=True)
    lock = locked(draft)
    shutil.rmtree(draft / "shard", ignore_errors=True)  # another's, killed
    copy_shard(build, draft)
    with one_line(f"{where}: Qdrant cannot make a graph"):
        shard = edge.EdgeShard.load(str(draft / "shard"), _config(manifest.size))
        shard.optimize()
        shard.flush()
        shard.close()
    finish_build(draft, manifest.model_copy(update={"outside": 0}).model_dump_json()).close()
    lock.release()
    try:
        done = draft.rename(where / draft.name.removesuffix(GRAPH))
    except OSError:  # another build has this number
        shutil.rmtree(draft, ignore_errors=True)
    else:
        remove_older(done)


def _config(size: int) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        vectors={
            "dense": edge.EdgeVectorParams(
                size=size,
                distance=edge.Distance.Cosine,
                memory=edge.Memory.Cold,  # read for the few that the graph finds
                quantization_config=edge.ScalarQuantizationConfig(edge.ScalarType.Int8, memory=edge.Memory.Cached),
            )
        },
        sparse_vectors={"bm25": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf, memory=edge.Memory.Cached)},
        hnsw_config=edge.HnswIndexConfig(
            m=EDGES, ef_construct=EF_CONSTRUCT, full_scan_threshold=1, memory=edge.Memory.Cached
        ),
        optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, max_segment_size=WHOLE, indexing_threshold=1),
        wal_enabled=False,
    )


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)
    try:
        add_graph(Path(sys.argv[1]))
    except (UserError, CtdError) as error:
        sys.exit(str(error))
