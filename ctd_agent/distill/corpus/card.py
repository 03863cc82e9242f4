"""What is in a corpus: counts for machines, a page for people and for a hub."""

from collections.abc import Sequence

from ctd_agent.distill.examples import Form
from ctd_agent.distill.formats import Format
from ctd_agent.schema import Phase, Record

TRAINERS: dict[Format, str] = {
    "trl": "`SFTTrainer` takes the files as they are: it learns completions only.",
    "openai": "Earlier turns of the assistant have weight 0; only the last of a row is learned.",
    "axolotl": "`type: chat_template`, `field_messages: messages`, `message_field_training: train`, "
    "`field_tools: tools`, `roles_to_train: []`.",
    "llamafactory": "`dataset_dir` is this folder, the datasets' names are in `dataset_info.json`; "
    "set `mask_history: true`.",
}


class Counts(Record):
    """One corpus's documents and examples; tokens are those of a neutral tokenizer (all-MiniLM-L6-v2's).

    `dropped` counts documents that the gate let not through, by the reason. `coverage` is the share of the
    catalogue's labels that are to be found or chosen in a training example of a phase.
    """

    kept: int
    dropped: dict[str, int]
    too_long: int
    over_budget: int
    train: int
    dev: int
    tokens: int


class Card(Record):
    """All that is known of a corpus: what it was made from, by which rules, and what came of it."""

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
    format: Format
    form: Form
    seed: int
    documents: int
    without_right_labels: int
    repeated: int
    nearly_repeated: int
    coverage: float
    corpora: dict[str, Counts]


def readme(card: Card, files: Sequence[str]) -> str:
    """Return the corpus's page: YAML that a hub reads, then words. `files` are the paths in its folder."""
    configs = ""
    for name in dict.fromkeys(file.split("/")[0] for file in files):
        configs += f"- config_name: {name}\n  data_files:\n"
        for file in (file for file in files if file.startswith(f"{name}/")):
            split = "train" if "/train." in file else "validation"
            configs += f"  - split: {split}\n    path: {file}\n"
    rows = "\n".join(
        f"| {name} | {one.kept:,} | {sum(one.dropped.values()):,} | {one.train:,} | {one.dev:,} | {one.tokens:,} |"
        for name, one in card.corpora.items()
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
{"Searches and choices that did not help are pruned." if card.form.credit else "Nothing is pruned."}
`encoder` holds the same for encoders.

| corpus | documents kept | dropped | training examples | of dev | tokens |
|---|---|---|---|---|---|
{rows}

{card.repeated:,} documents that repeat another and {card.nearly_repeated:,} that nearly do were left out;
{card.without_right_labels:,} had no right labels. {card.coverage:.1%} of the catalogue's labels occur.

Format `{card.format}`: {TRAINERS[card.format]}

All that is counted stands in `card.json`. The documents' texts are in here: their licence ({card.licence}) holds.
"""
