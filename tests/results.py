"""Documents and their results, as a run of a few has them."""

from pathlib import Path

from ctd_agent.records import read_records
from ctd_agent.schema import Document, Failure, LabeledDocument

COUNT = 16
ALL = [f"doc-{number}" for number in range(COUNT)]


def documents(count: int) -> list[Document]:
    return [Document(id=f"doc-{number}", text=f"Serve and volley, set {number:02}") for number in range(count)]


def labelled(key: str, failure: str | None = None) -> LabeledDocument:
    fault = Failure(phase="select", kind=failure, message="") if failure else None  # type: ignore[arg-type]
    return LabeledDocument(id=key, labels=[], shortlist=[], usage={}, failure=fault)


def ids(path: Path) -> list[str]:
    return [result.id for result in read_records(path, LabeledDocument)]
