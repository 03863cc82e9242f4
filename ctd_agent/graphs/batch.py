"""Many documents through one graph: concurrently, in order, each result at once, and on from where it was."""

import json
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

from filelock import FileLock, Timeout
from langsmith import tracing_context

from ctd_agent.errors import CtdError, UserError
from ctd_agent.graphs.faults import internal
from ctd_agent.graphs.labeling import LabelingGraph
from ctd_agent.graphs.transitions import TransitionLog
from ctd_agent.records import append_lines, cut_torn_line, opened, put_in_place, read_records
from ctd_agent.schema import Document, LabeledDocument

RETRIED = ("engine", "internal")  # the kinds of failure that are no fault of the document


def label_documents(
    graph: LabelingGraph,
    documents: Iterable[Document],
    *,
    concurrency: int = 1,
    ordered: bool = True,
    trace: bool = False,
) -> Iterator[LabeledDocument]:
    """Yield the result of every document as it comes: in input order, or as each is done.

    `concurrency` is the number of documents under way at once. No more than twice as many are held. A document that
    makes the graph itself fail has a Failure of its own. Closed early, it begins no other document, and does not wait
    for those under way. LangSmith's variables in the environment are heeded with `trace` only.
    """
    pending: deque[Future[LabeledDocument]] = deque()
    source = iter(documents)
    pool = ThreadPoolExecutor(concurrency)
    try:
        while True:
            while len(pending) < 2 * concurrency and (document := next(source, None)) is not None:
                pending.append(pool.submit(_label, graph, document, trace))
            if not pending:
                return
            done = pending[0] if ordered else next(iter(wait(pending, return_when=FIRST_COMPLETED).done))
            yield done.result()
            pending.remove(done)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _label(graph: LabelingGraph, document: Document, trace: bool) -> LabeledDocument:
    try:
        # The variables of LangSmith may be those of another project: they would send every document away.
        with tracing_context(enabled=None if trace else False):
            result: LabeledDocument = graph.invoke({"document": document})["result"]
    except (CtdError, UserError):  # the log cannot be written, and no other document's could
        raise
    except Exception as error:  # whatever it is, it is this document's alone
        return LabeledDocument(id=document.id, labels=[], shortlist=[], usage={}, failure=internal(error))
    return result


class Done(NamedTuple):
    """A document that has its result: the digest of its text, the run that labelled it, the failure's kind if any."""

    digest: str
    run: str
    failed: str | None


class Output:
    """A file of results that a run appends to, and that the same run goes on with after it was cut.

    A document is done if its id is there with the digest of its text. One that has changed is not done, nor is one that
    an engine failed: it is tried again, and its line dropped. Nothing in the file is touched before the first result
    is written. `changed` counts the documents that have changed.
    """

    def __init__(self, path: Path, retry_failed: bool = False, wait: float = 0.0) -> None:
        """Take the file and note the documents that are done. One process may have it at a time.

        With `retry_failed` no failed document counts as done. `wait` is the seconds to wait for another process to
        let the file go.
        Raises UserError where the file cannot be written, holds anything but results, or is taken.
        """
        self.path = path
        self.changed = 0
        self._retry_failed = retry_failed
        self._file: IO[bytes] | None = None
        self._done: dict[str, Done] = {}  # by id, in the file's order
        self._to_drop = False  # whether the file holds a result of a document that will be labelled again
        self._lock = FileLock(f"{path}.lock", timeout=wait)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise UserError(f"{path}: another run is writing its results here") from error
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def failed(self) -> Counter[str]:
        """How many failures stay, by kind."""
        return Counter(done.failed for done in self._done.values() if done.failed)

    def left(
        self, documents: Sequence[Document], log: TransitionLog | None = None, force: bool = False
    ) -> list[Document]:
        """Return the documents that have no result yet.

        Raises UserError where the file has results of other documents: it is another run's. Also where the `log` has
        not the runs of the results, unless with `force`.
        """
        strangers = self._done.keys() - {document.id for document in documents}
        if strangers:
            raise UserError(
                f"{self.path}: has the result of {min(strangers)!r}, which is not among the documents; "
                f"give another file with --output, or delete this one"
            )
        if log is not None and not force:
            self._check_log(log)
        for document in documents:
            done = self._done.get(document.id)
            if done and done.digest not in ("", document.digest):
                del self._done[document.id]
                self.changed += 1
                self._to_drop = True
        return [document for document in documents if document.id not in self._done]

    def _check_log(self, log: TransitionLog) -> None:
        if self._done and not log.path.exists():
            raise UserError(
                f"{log.path}: the log of the results in {self.path} is not there; "
                f"bring it back (`label --force` goes on all the same)"
            )
        if not log.path.is_file():  # /dev/null keeps no run
            return
        unknown = {done.run for done in self._done.values()} - {"", *(run.run for run in log.runs)}
        if unknown:
            raise UserError(
                f"{self.path}: has results of run {min(unknown)}, which {log.path} has not logged; "
                f"give --log their log, or --output another file (`label --force` goes on all the same)"
            )

    def write(self, result: LabeledDocument) -> None:
        """Append a result. It survives the death of this process. Raises UserError for a full disk."""
        try:
            self._file = self._file or self._open()
            append_lines(self._file, result)
        except OSError as error:
            raise self._unwritable(error) from error
        self._note(result)

    def sort(self, documents: Sequence[Document]) -> None:
        """Bring the results into the documents' order, where failures or an unordered run have broken it."""
        order = [document.id for document in documents if document.id in self._done]
        if order == list(self._done):
            return
        self._close()
        with self.path.open("rb") as file, self._new_draft() as draft:
            starts, start = {}, 0
            for line in file:
                if line.strip():
                    starts[json.loads(line)["id"]] = start
                start += len(line)
            for key in order:
                file.seek(starts[key])
                draft.write(file.readline())
        put_in_place(self._draft, self.path)
        self._done = {key: self._done[key] for key in order}

    def close(self) -> None:
        """Close the file, and let other runs have it."""
        self._close()
        with suppress(OSError):  # while it is held: a process that waits for it finds it unlinked, and makes another
            Path(self._lock.lock_file).unlink()
        self._lock.release()

    @property
    def _draft(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    def _new_draft(self) -> IO[bytes]:
        self._draft.unlink(missing_ok=True)
        return opened(self._draft)

    def _recover(self) -> None:
        try:
            opened(self.path).close()
        except OSError as error:
            raise self._unwritable(error) from error
        for result in read_records(self.path, LabeledDocument):
            if result.failure is not None and (self._retry_failed or result.failure.kind in RETRIED):
                self._to_drop = True
            else:
                self._note(result)
        cut_torn_line(self.path, LabeledDocument, cut=False)

    def _note(self, result: LabeledDocument) -> None:
        failed = result.failure.kind if result.failure else None
        self._done[result.id] = Done(result.digest, sys.intern(result.run), failed)

    def _open(self) -> IO[bytes]:
        cut_torn_line(self.path, LabeledDocument)
        if self._to_drop:
            with self._new_draft() as draft:
                for result in read_records(self.path, LabeledDocument):
                    if result.id in self._done:
                        append_lines(draft, result)
            put_in_place(self._draft, self.path)
            self._to_drop = False
        return opened(self.path)

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.path}: cannot write the results here: {error.strerror}")
