"""One file of many: a shard's documents, labelled into files of its own.

Of the shard NAME, in the folder of the results:

    NAME                      the results; a Parquet file is there once it is whole
    _transitions/NAME.jsonl   the transitions log
    _lines/NAME.jsonl         a Parquet shard's results as they come

Readers of data sets pass over what begins with an underscore. Whoever labels a shard holds the lock
of its results, so nobody else does at that time; whoever comes next goes on where they ended.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ctd_agent.errors import UserError
from ctd_agent.files import read_documents
from ctd_agent.graphs.batch import Output, label_documents
from ctd_agent.graphs.labeling import LabelingGraph
from ctd_agent.parquet import write_parquet
from ctd_agent.records import read_records
from ctd_agent.schema import Document, Failure, LabeledDocument, Record

SUFFIXES = (".jsonl", ".ndjson", ".parquet")
WAIT = 180.0  # seconds until the last one's lock is given up for held: NFS takes 90 to miss a dead client


class ShardReport(Record):
    """How a shard stands once it was labelled: its documents, how many failed by kind, the first of each kind.

    With an `error` it could not be labelled, by the user's fault or not.
    """

    shard: str
    documents: int = 0
    failed: dict[str, int] = {}
    first: dict[str, tuple[str, Failure]] = {}
    error: str | None = None
    users_fault: bool = False


class _Places(NamedTuple):
    results: Path
    lines: Path
    log: Path


def find_shards(source: str) -> list[Path]:
    """Return the shards that `source` is: a JSONL or Parquet file, or a folder of such files, sorted by name.

    Files that begin with `.` or `_` are passed over. Raises UserError where there are none, or another file.
    """
    path = Path(source).resolve()
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and file.name[0] not in "._")
    else:
        raise UserError(f"{source}: no such file or folder")
    if strange := [file for file in found if file.suffix not in SUFFIXES]:
        raise UserError(f"{strange[0]}: not a shard of documents; a shard is one of {', '.join(SUFFIXES)}")
    if not found:
        raise UserError(f"{source}: no shards in it: files of {', '.join(SUFFIXES)}")
    return found


def label_shard(
    shard: Path,
    folder: Path,
    build: Callable[[Path], LabelingGraph],
    *,
    columns: Mapping[str, str] = {},
    concurrency: int = 1,
    ordered: bool = True,
    retry_failed: bool = False,
) -> ShardReport:
    """Label the documents of a shard that have no result in `folder` yet, and report how the shard stands.

    `build` makes the graph that logs to a file; `retry_failed` is Output's.
    Raises UserError where a file cannot be read or written, is another run's, or is still held by another process.
    """
    documents = read_documents(str(shard), columns)
    places = _places(shard, folder)
    with Output(places.lines, retry_failed, WAIT) as out:
        todo = _left(documents, out, places)
        if todo:
            graph = build(places.log)
            if places.results != places.lines:
                places.results.unlink(missing_ok=True)  # it is no longer what the lines say
            for result in label_documents(graph, todo, concurrency=concurrency, ordered=ordered):
                out.write(result)
        if ordered:
            out.sort(documents)
        if not places.results.exists():
            draft = places.lines.with_suffix(".part")
            write_parquet(places.results, draft, LabeledDocument, read_records(places.lines, LabeledDocument))
        return _report(shard.name, places.lines)


def _places(shard: Path, folder: Path) -> _Places:
    name = shard.name if shard.suffix != ".parquet" else f"{shard.name}.jsonl"
    lines = folder / "_lines" / name if shard.suffix == ".parquet" else folder / name
    return _Places(folder / shard.name, lines, folder / "_transitions" / name)


def _left(documents: Sequence[Document], out: Output, places: _Places) -> list[Document]:
    todo = out.left(documents)
    if len(todo) < len(documents) and not places.log.exists():
        raise UserError(f"{places.log}: the log of the results in {places.lines} is not there; bring it back")
    return todo


def _report(name: str, lines: Path) -> ShardReport:
    """Count what the file holds, not what was done now: a shard may be labelled in several goes."""
    documents = 0
    failed: Counter[str] = Counter()
    first: dict[str, tuple[str, Failure]] = {}
    for result in read_records(lines, LabeledDocument):
        documents += 1
        if result.failure is not None:
            failed[result.failure.kind] += 1
            first.setdefault(result.failure.kind, (result.id, result.failure))
    return ShardReport(shard=name, documents=documents, failed=dict(failed), first=first)
