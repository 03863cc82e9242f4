"""A student from a corpus: what is common to students that write and to encoders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctd_agent.agents.student import Student
from ctd_agent.distill.card import Card
from ctd_agent.errors import UserError
from ctd_agent.records import validated

Target = Literal["both", "shortlist", "select", "standard"]
TARGETS: dict[Target, tuple[str, ...]] = {
    "both": ("shortlist", "select"),
    "shortlist": ("shortlist",),
    "select": ("select",),
    "standard": ("standard",),
}


@dataclass(frozen=True)
class Plan:
    """How a student is trained; None is what fits it.

    `target` is what it learns: a phase, both, or the whole output. `epochs` bounds the passes over the corpus,
    `steps` the optimiser's steps. An encoder reads `max_length` tokens of a text. `lora`: of a model that writes
    adapters are trained and merged, else all weights.
    """

    target: Target = "both"
    seed: int = 0
    epochs: float | None = None
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    max_length: int | None = None
    lora: bool | None = None


def read_card(corpus: Path) -> Card:
    """Return a corpus's card. Raises UserError where the folder is no corpus."""
    try:
        text = (corpus / "card.json").read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{corpus}: no corpus; make one: ctd-agent distill corpus LOG --out {corpus} ({error.strerror})"
        ) from error
    return validated(f"{corpus / 'card.json'}: not a corpus's card", Card.model_validate_json, text)


@dataclass(frozen=True)
class Course:
    """One student's training: from which corpus and base model, into which folder."""

    corpus: Path
    card: Card
    base: str
    out: Path
    plan: Plan

    def student(self, kind: Literal["writer", "bi-encoder", "cross-encoder"], corpus: str, **known: Any) -> Student:
        """Return the trained student's card."""
        return Student(
            kind=kind,
            base=Path(self.base).name,
            corpus=corpus,
            teachers=self.card.teachers,
            task=self.card.task,
            catalogue=self.card.catalogue,
            seed=self.plan.seed,
            **known,
        )
