"""A corpus's contents: counts for machines, a page for people and for a hub."""

from collections.abc import Sequence
from typing import Any

from pydantic import model_validator

from ctd_agent.agents.manner import Manner
from ctd_agent.distill.corpus.formats import FORMATS
from ctd_agent.schema import Phase, Record


class Counts(Record):
    """A corpus's documents and examples. Tokens are those of a neutral tokenizer (all-MiniLM-L6-v2's).

    `dropped` counts the documents that the gate stopped, by the reason.
    """

    kept: int
    dropped: dict[str, int]
    too_long: int
    over_budget: int
    train: int
    dev: int
    tokens: int


class Card(Record):
    """All that is known of a corpus: its sources, its rules, and its counts.

    `manner` is how its students are asked. `coverage` is the share of the catalogue's labels that are to be found or
    chosen in a training example of a phase.
    """

    version: str
    teachers: list[str]
    task: str
    teacher_prompts: dict[Phase, str]
    student_prompts: dict[str, str]
    catalogue: str
    labels: int
    embedder: str
    licence: str
    gold: bool
    minimum_recall: float
    minimum_f1: float
    format: str
    manner: Manner
    credit: bool
    seed: int
    documents: int
    without_right_labels: int
    repeated: int
    nearly_repeated: int
    coverage: float
    corpora: dict[str, Counts]

    @model_validator(mode="before")
    @classmethod
    def _migrated(cls, card: Any) -> Any:
        """Read a card of version 0.1, where `form` held the manner and the credit."""
        form = card.get("form") if isinstance(card, dict) else None
        if not isinstance(form, dict):
            return card
        manner = {name: form.get(name.removesuffix("_tools")) for name in ("native_tools", "reasons", "candidates")}
        kept = {name: value for name, value in card.items() if name != "form"}
        return kept | {"manner": manner | {"names": True}, "credit": form.get("credit")}


def readme(card: Card, files: Sequence[str]) -> str:
    """Return the corpus's page: YAML that a hub reads, then words. `files` are the paths in its folder."""
    configs = ""
    for name in dict.fromkeys(file.split("/")[0] for file in files):
        configs += f"- config_name: {name}\n  data_files:\n"
        for file in (file for file in files if file.startswith(f"{name}/")):
            split = "train" if "/train." in file else "validation"
            configs += f"  - split: {split}\n    path: {file}\n"
    rows = "\n".join(
        f"| {name} | {n.kept:,} | {sum(n.dropped.values()):,} | {n.train:,} | {n.dev:,} | {n.tokens:,} |"
        for name, n in card.corpora.items()
    )
    right = "gold labels" if card.gold else "the teacher's own selection"
    return f"""---
license: {card.licence}
configs:
{configs}---

# Phase-aligned distillation corpus

Made by ctd-agent {card.version} from what {", ".join(card.teachers)} did with {card.documents:,} documents and a
catalogue of {card.labels:,} labels: {card.task}.

A run teaches searching (`shortlist`) where its shortlist held at least {card.minimum_recall:.0%} of the right labels,
choosing (`select`) where its choice from what was there reached an F1 of {card.minimum_f1:.2f}, and is
`standard` distillation's target where both hold. Right are {right}.
{"Searches and choices that did not help are pruned." if card.credit else "Nothing is pruned."}
`encoder` holds the same for encoders.

| corpus | documents kept | dropped | training examples | of dev | tokens |
|---|---|---|---|---|---|
{rows}

{card.repeated:,} documents that repeat another and {card.nearly_repeated:,} that nearly do were left out;
{card.without_right_labels:,} had no right labels. {card.coverage:.1%} of the catalogue's labels occur.

Format `{card.format}`: {FORMATS[card.format].usage}

All that is counted stands in `card.json`. The documents' texts are in here: their licence ({card.licence}) holds.
"""
