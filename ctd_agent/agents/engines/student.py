"""What a trained student is and how it is to be asked: `student.json` in its folder."""

from pathlib import Path
from typing import Literal

from ctd_agent.errors import UserError
from ctd_agent.records import validated
from ctd_agent.schema import Record

FILE = "student.json"
Kind = Literal["writer", "bi-encoder", "cross-encoder"]
Target = Literal["both", "shortlist", "select", "standard"]  # what a student learns: a phase, both, the whole at once


class Student(Record):
    """A student's card.

    A `writer` is a language model; it makes tool calls if `native_tools`, gives reasons before its choice if
    `reasons`, and chooses labels by their names if `names`; `candidates` is how many the document's own search brought,
    at most, to the shortlists that it learned from. A `bi-encoder` goes by nearness to labels, to shortlist or to
    select; a `cross-encoder` scores a document with a candidate; as selector either chooses those whose score is above
    `threshold`.
    """

    kind: Kind
    base: str
    target: Target
    teachers: list[str]
    task: str
    catalogue: str
    seed: int
    native_tools: bool = False
    reasons: bool = False
    names: bool = False
    candidates: int | None = None
    threshold: float = 0.5


def read_student(folder: Path) -> Student | None:
    """Return the card in a folder, None where there is none. Raises UserError for one that cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return validated(f"{path}: not a student's card", Student.model_validate_json, text)


def write_student(folder: Path, student: Student) -> None:
    """Write the card into a folder: last, for it says that all is there."""
    (folder / FILE).write_text(student.model_dump_json(indent=1) + "\n", encoding="utf-8")
