"""A student's training: its plan, its corpus and base model, its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctd_agent.agents.engines.student import Kind, Student, Target
from ctd_agent.distill.corpus import Card
from ctd_agent.records import read_record

TARGETS: dict[Target, tuple[str, ...]] = {
    "both": ("shortlist", "select"),
    "shortlist": ("shortlist",),
    "select": ("select",),
    "standard": ("standard",),
}


@dataclass(frozen=True)
class Plan:
    """How a student is trained. None stands for the setting that fits it.

    `target` names what it learns: a phase, both, or the whole output. `epochs` bounds the passes over the corpus,
    `steps` the optimiser's steps. An encoder reads `max_length` tokens of a text. `lora`: a language model's adapters
    are trained and merged, else all its weights.
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
    advice = f"; this folder is no corpus; make one: ctd-agent distill corpus LOG --out {corpus}"
    return read_record(corpus / "card.json", Card, "a corpus's card", advice)


@dataclass(frozen=True)
class Training:
    """One student's training: its corpus and base model, and the student's folder.

    `start` is a folder of weights to begin with, None for the base's own.
    """

    corpus: Path
    card: Card
    base: str
    out: Path
    plan: Plan
    start: Path | None = None

    def student(self, kind: Kind, target: Target, **known: Any) -> Student:
        """Return the trained student's card."""
        return Student(
            kind=kind,
            base=self.base,
            target=target,
            teachers=self.card.teachers,
            task=self.card.task,
            catalogue=self.card.catalogue,
            seed=self.plan.seed,
            **known,
        )
