"""`ctd-agent distill`: a teacher's log to corpora, corpora to students."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ctd_agent.commands.options import Json

if TYPE_CHECKING:
    from ctd_agent.distill.card import Card

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Distil smaller agents from a teacher's runs.")


@app.command(
    epilog="Example: ctd-agent distill corpus labelled.jsonl.transitions.jsonl --gold gold.jsonl --out corpus/"
)
def corpus(
    logs: Annotated[
        list[Path], typer.Argument(metavar="LOG...", help="Transitions logs; several are samples: the best run counts.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the corpus.")],
    gold: Annotated[
        str | None, typer.Option(help="Right labels, as for `eval`. Default: what the teacher has chosen.")
    ] = None,
    min_recall: Annotated[
        float, typer.Option(min=0, max=1, help="Of a shortlist, for its run to teach phase 1.")
    ] = 0.5,
    min_f1: Annotated[
        float, typer.Option(min=0, max=1, help="Of a choice from what was there, for its run to teach phase 2.")
    ] = 0.5,
    credit: Annotated[
        bool, typer.Option(help="Prune searches that surfaced no right label, and choices that are wrong.")
    ] = True,
    reasoning: Annotated[bool, typer.Option(help="Keep the teacher's reasoning, if any.")] = True,
    tool_calls: Annotated[
        bool | None,
        typer.Option(
            "--tool-calls/--json-searches",
            help="How students search. Default: as the teacher did.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an example; longer ones are dropped.")] = None,
    equal_tokens: Annotated[
        bool,
        typer.Option("--equal-tokens", help="As many tokens for `standard` as for both phases: a fair comparison."),
    ] = False,
    dev: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the documents that is held out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the order, of documents and of candidates.")] = 0,
    trainer: Annotated[
        Literal["trl", "openai", "axolotl", "llamafactory"],
        typer.Option("--format", help="Whose: trl, openai (Unsloth reads it too), axolotl or llamafactory."),
    ] = "trl",
    parquet: Annotated[bool, typer.Option("--parquet", help="Parquet instead of JSON lines.")] = False,
    licence: Annotated[
        str, typer.Option(help="Of the documents, as a hub names it: apache-2.0, cc-by-4.0.")
    ] = "unknown",
    as_json: Json = False,
) -> None:  # long by its options: their list is the command's documentation
    """Make training data of a teacher's runs: for each phase, and for the whole output at once.

    A run teaches a phase that it did well, whatever became of the other.
    """
    from ctd_agent.distill.corpora import Recipe, make_corpus
    from ctd_agent.distill.supervision import Gates
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
        sys.stdout.write(card.model_dump_json() + "\n")
    else:
        _show(card, out)


def _show(card: "Card", out: Path) -> None:
    from rich.table import Table

    from ctd_agent.console import show_table

    table = Table("corpus", "kept", "dropped", "examples", "of dev", "tokens", title=f"{out}", title_justify="left")
    for name, one in card.corpora.items():
        numbers = (one.kept, sum(one.dropped.values()), one.train, one.dev, one.tokens)
        table.add_row(name, *(f"{number:,}" for number in numbers))
    table.caption = (
        f"of {card.documents:,} documents, {card.without_right_labels:,} without right labels, "
        f"{card.repeated + card.nearly_repeated:,} repeated; {card.coverage:.1%} of {card.labels:,} labels occur"
    )
    show_table(table)
