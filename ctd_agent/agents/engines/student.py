"""A trained student's card, `student.json` in its folder: what it learned, and how it is asked."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from ctd_agent.agents.manner import Manner
from ctd_agent.records import read_record, write_text
from ctd_agent.schema import Record

FILE = "student.json"
Kind = Literal["language-model", "bi-encoder", "cross-encoder"]
Target = Literal["both", "shortlist", "select", "standard"]  # what a student learns: a phase, both, the whole at once
SILENT = Manner(native_tools=False, reasons=False)  # of an encoder: it answers with scores


class Student(Record):
    """A student's card.

    A `bi-encoder` scores by nearness, to shortlist or to select. A `cross-encoder` scores a document with a candidate.
    As a selector either chooses the candidates that score above `threshold`.
    """

    kind: Kind
    base: str
    target: Target
    teachers: list[str]
    task: str
    catalogue: str
    seed: int
    manner: Manner = SILENT
    threshold: float = 0.5

    @model_validator(mode="before")
    @classmethod
    def _migrated(cls, card: Any) -> Any:
        """Read a card of version 0.1, which had the manner's fields in its own, and called language models writers."""
        if not isinstance(card, dict) or "manner" in card:
            return card
        manner = {name: card[name] for name in Manner.model_fields if name in card}
        kept = {name: value for name, value in card.items() if name not in manner}
        renamed = {"kind": "language-model"} if card.get("kind") == "writer" else {}
        return kept | renamed | {"manner": SILENT.model_dump() | manner}

    def specs(self, folder: Path) -> dict[str, str]:
        """Return the student's model specs by the option of `label` that takes each.

        A language model that learned the whole output at once has none: the graph has no place for such an answer.
        """
        if self.target == "standard" and self.kind == "language-model":
            return {}
        options = {"select": "selector", "both": "model"}
        option = options.get(self.target, "shortlister")
        return {option: f"vllm:{folder}" if self.kind == "language-model" else f"encoder:{folder}"}


def read_student(folder: Path) -> Student | None:
    """Return the card in a folder, None where there is none. Raises UserError for one that cannot be read."""
    path = folder / FILE
    return read_record(path, Student, "a student's card") if path.is_file() else None


def write_student(folder: Path, student: Student) -> None:
    """Write the card into a folder: last, so that a folder with a card is whole."""
    write_text(folder / FILE, student.model_dump_json(indent=1) + "\n")
