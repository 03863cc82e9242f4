"""Many documents through one graph: concurrently, in order, each result at once, and on from where it was."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from ctd_agent.errors import UserError
from ctd_agent.files import append_line, cut_torn_line, read_records
from ctd_agent.graphs.labeling import LabelingGraph
from ctd_agent.schema import Document, Failure, LabeledDocument


def label_documents(
    graph: LabelingGraph, documents: Iterable[Document], *, concurrency: int = 1, ordered: bool = True
) -> Iterator[LabeledDocument]:
    """Yield the result of every document as it comes: in input order, or as each is done.

    `concurrency` is the number of documents under way at once; no more than twice as many are
    held. A document that makes the graph itself fail has a Failure of its own.
    """
    pending: deque[Future[LabeledDocument]] = deque()
    source = iter(documents)
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            while True:
                while len(pending) < 2 * concurrency and (document := next(source, None)) is not None:
                    pending.append(pool.submit(_label, graph, document))
                if not pending:
                    return
                done = pending[0] if ordered else next(iter(wait(pending, return_when=FIRST_COMPLETED).done))
                yield done.result()
                pending.remove(done)
        finally:  # the reader has gone, or a key was pressed: begin no other document
            pool.shutdown(wait=False, cancel_futures=True)


def _label(graph: LabelingGraph, document: Document) -> LabeledDocument:
    try:
        result: LabeledDocument = graph.invoke({"document": document})["result"]
    except Exception as error:  # whatever it is, it is this document's alone
        failure = Failure(phase="select", kind="internal", message=f"{type(error).__name__}: {error}")
        return LabeledDocument(id=document.id, labels=[], shortlist=[], usage={}, failure=failure)
    return result


class Output:
    """A file of results that a run appends to, and that the same run goes on with after it was cut.

    A document whose engine failed does not count as done: its line is dropped, and it is tried again.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, behind the results that are there.

        Raises UserError where it cannot be written or holds anything but results.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.done = self._recover() if path.exists() else {}
            self._file = path.open("ab")
        except OSError as error:
            raise UserError(f"{path}: cannot write the results here: {error.strerror}") from error

    def left(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents that have no result yet.

        Raises UserError where the file has results of other documents: it is another run's.
        """
        strangers = self.done.keys() - {document.id for document in documents}
        if strangers:
            raise UserError(
                f"{self.path}: has the result of {min(strangers)!r}, which is not among the documents; "
                f"give another file with --output, or delete this one"
            )
        return [document for document in documents if document.id not in self.done]

    def write(self, result: LabeledDocument) -> None:
        """Append a result; it survives the death of this process."""
        append_line(self._file, result)
        self.done[result.id] = result

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _recover(self) -> dict[str, LabeledDocument]:
        cut_torn_line(self.path)
        results = list(read_records(self.path, LabeledDocument))
        kept = [result for result in results if not (result.failure and result.failure.kind == "engine")]
        if len(kept) < len(results):
            draft = self.path.with_name(self.path.name + ".part")
            with draft.open("wb") as file:
                for result in kept:
                    append_line(file, result)
            os.replace(draft, self.path)
        return {result.id: result for result in kept}
