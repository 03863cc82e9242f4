"""`ctd-agent distill`: a teacher's log to corpora, corpora to students."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ctd_agent.commands.distill_run import run
from ctd_agent.commands.options import FILES, Epochs, Json, MinF1, MinRecall, refuse_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctd_agent.agents.engines.student import Student
    from ctd_agent.distill.corpus import Card

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Distil smaller agents from a teacher's runs.")


@app.command(
    epilog="Example: ctd-agent distill corpus labelled.jsonl.transitions.jsonl --gold gold.jsonl --out corpus/"
)
def corpus(
    logs: Annotated[
        list[Path], typer.Argument(metavar="LOG...", help="Transitions logs; several are samples: the best run counts.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the corpus.")],
    gold: Annotated[str | None, typer.Option(help="Right labels. Default: the teacher's own choice.")] = None,
    min_recall: MinRecall = 0.1,
    min_f1: MinF1 = 0.1,
    credit: Annotated[bool, typer.Option(help="Prune useless searches and wrong choices.")] = True,
    reasoning: Annotated[bool, typer.Option(help="Keep the teacher's reasoning, if any.")] = True,
    tool_calls: Annotated[
        bool | None, typer.Option("--tool-calls/--json-searches", help="How students search. Default: as the teacher.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Drop examples that are longer.")] = None,
    equal_tokens: Annotated[
        bool, typer.Option("--equal-tokens", help="Cut `standard` and both phases to the same number of tokens.")
    ] = False,
    dev: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the documents that is held out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the order of documents.")] = 0,
    trainer: Annotated[str, typer.Option("--format", help="trl, openai, axolotl or llamafactory.")] = "trl",
    parquet: Annotated[bool, typer.Option("--parquet", help="Parquet instead of JSON lines.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the documents, as a hub names it.")] = "unknown",
    as_json: Json = False,
) -> None:  # long by its options: their list is the command's documentation
    """Make training data of a teacher's runs: for each phase, and for the whole output at once.

    A run teaches a phase that it did well, whatever became of the other.
    """
    from ctd_agent.console import say_json
    from ctd_agent.distill.corpus.lessons import Gates
    from ctd_agent.distill.corpus.make import Recipe, make_corpus
    from ctd_agent.files import read_gold

    recipe = Recipe(
        gates=Gates(recall=min_recall, f1=min_f1, credit=credit),
        seed=seed,
        dev=dev,
        max_tokens=max_tokens,
        equal_tokens=equal_tokens,
        reasoning=reasoning,
        tool_calls=tool_calls,
        format=trainer,
        parquet=parquet,
        licence=licence,
    )
    card = make_corpus(logs, read_gold(gold) if gold else None, recipe, out)
    if as_json or not sys.stdout.isatty():
        say_json(card.model_dump_json())
    else:
        _show(card, out)


@app.command(
    epilog="Example: ctd-agent distill train corpus/ --student sentence-transformers/all-MiniLM-L6-v2 "
    "--labels catalogue.csv --out students/"
)
def train(
    corpus: Annotated[Path, typer.Argument(help="A folder that `ctd-agent distill corpus` has made.")],
    student: Annotated[str, typer.Option(help="Base model: a folder, or a name on the hub.")],
    out: Annotated[Path, typer.Option(help="A folder for what is trained; the same command goes on where it was cut.")],
    labels: Annotated[
        str | None, typer.Option(help=f"The teacher's catalogue, for an encoder that shortlists: {FILES}.")
    ] = None,
    target: Annotated[
        Literal["both", "shortlist", "select", "standard"],
        typer.Option("--phase", help="What it learns; `standard` is the whole output at once, for comparison."),
    ] = "both",
    epochs: Epochs = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, without an early end.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples in memory at once. Default: what fits.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Default: what fits.")] = None,
    max_length: Annotated[int | None, typer.Option(min=8, help="Tokens an encoder reads. Default: 128.")] = None,
    lora: Annotated[bool, typer.Option("--lora/--full", help="Train adapters and merge them, or all weights.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    as_json: Json = False,
) -> None:  # long by its options: their list is the command's documentation
    """Train a student on a corpus: one that takes its place in the graph, by name.

    On several GPUs: accelerate launch -m ctd_agent distill train ...
    """
    from ctd_agent.distill.training.plan import Plan
    from ctd_agent.distill.training.students import train as trained
    from ctd_agent.files import read_labels

    refuse_inputs("--out", out, corpus, student)
    plan = Plan(
        target=target,
        seed=seed,
        epochs=epochs,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        max_length=max_length,
        lora=lora,
    )
    catalogue = read_labels(labels) if labels else None
    _tell(trained(corpus, student, out, plan, catalogue), as_json)


app.command(
    epilog="Example: ctd-agent distill run train.jsonl --labels catalogue.csv --gold train.jsonl --test test.jsonl "
    "--student sentence-transformers/all-MiniLM-L6-v2 --out loop/"
)(run)


def _tell(made: "Mapping[Path, Student]", as_json: bool) -> None:
    """Name the students that were trained, and the option of `label` that takes each."""
    from ctd_agent.console import say, say_json

    if as_json or not sys.stdout.isatty():
        for folder, student in made.items():
            say_json(json.dumps({"folder": str(folder), "student": student.model_dump()}))
        return
    for folder, student in made.items():
        for option, spec in student.specs(folder).items():
            say(f"{student.kind}: ctd-agent label ... --{option} {spec}")
        if not student.specs(folder):
            say(f"{folder}: for comparisons; the graph has no place for an answer that skips the phases")


def _show(card: "Card", out: Path) -> None:
    from rich.table import Table

    from ctd_agent.console import show_table

    table = Table("corpus", "kept", "dropped", "examples", "of dev", "tokens", title=f"{out}", title_justify="left")
    for name, counts in card.corpora.items():
        numbers = (counts.kept, sum(counts.dropped.values()), counts.train, counts.dev, counts.tokens)
        table.add_row(name, *(f"{number:,}" for number in numbers))
    table.caption = (
        f"of {card.documents:,} documents, {card.without_right_labels:,} without right labels, "
        f"{card.repeated + card.nearly_repeated:,} repeated; {card.coverage:.1%} of {card.labels:,} labels occur"
    )
    show_table(table)
