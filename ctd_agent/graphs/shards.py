"""A shard: one file of many, its documents labelled into files of its own.

In the folder of the results lie, for the shard NAME:

    NAME                      the results. A Parquet file is there once it is whole
    _transitions/NAME.jsonl   the transitions log
    _lines/NAME.jsonl         a Parquet shard's results as they come

Readers of data sets pass over names that begin with an underscore. A process that labels a shard holds the lock of
its results. The next one goes on where it ended.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ctd_agent.errors import UserError
from ctd_agent.files import read_documents
from ctd_agent.files.parquet import write_parquet
from ctd_agent.graphs.batch import Output
from ctd_agent.graphs.job import Labeller
from ctd_agent.graphs.transitions import TransitionLog
from ctd_agent.records import read_records
from ctd_agent.schema import Failure, LabeledDocument, Record

SUFFIXES = (".jsonl", ".ndjson", ".parquet")
WAIT = 180.0  # seconds until the last one's lock is given up for held: NFS takes 90 to miss a dead client


class ShardReport(Record):
    """A shard's state after labelling: its documents, how many failed by kind, and the first of each kind.

    `error` says why it could not be labelled, `users_fault` whether the user can mend that.
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


def label_shard(shard: Path, folder: Path, labeller: Labeller) -> ShardReport:
    """Label the documents of a shard that have no result in `folder` yet, and report how the shard stands.

    Raises UserError where a file cannot be read or written, is another run's, or is still held by another process.
    """
    job = labeller.job
    documents = read_documents(str(shard), job.columns)
    places = _places(shard, folder)
    with Output(places.lines, job.retry_failed, WAIT) as out:
        log = TransitionLog(places.log, job.force)
        todo = out.left(documents, log, job.force)
        if not todo:
            log.check(job.settled)
        else:
            results = labeller.label(todo, log)
            if places.results != places.lines:
                places.results.unlink(missing_ok=True)  # it is no longer what the lines say
            for result in results:
                out.write(result)
        if job.ordered:
            out.sort(documents)
        if not places.results.exists():
            draft = places.lines.with_suffix(".part")
            write_parquet(places.results, draft, LabeledDocument, read_records(places.lines, LabeledDocument))
        return _report(shard.name, places.lines)


def _places(shard: Path, folder: Path) -> _Places:
    name = shard.name if shard.suffix != ".parquet" else f"{shard.name}.jsonl"
    lines = folder / "_lines" / name if shard.suffix == ".parquet" else folder / name
    return _Places(folder / shard.name, lines, folder / "_transitions" / name)


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
