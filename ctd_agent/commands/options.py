"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ctd_agent.errors import UserError

FILES = "txt, csv, tsv, jsonl or parquet; - for standard input"
STDIN = "-"
Embedder = Annotated[
    str | None,
    typer.Option(
        help="minilm, static, sentence-transformers:MODEL or openai:MODEL[@URL]. "
        "Default: minilm up to 20,000 labels, static beyond.",
        show_default=False,
    ),
]
Task = Annotated[
    str | None, typer.Option(help="In a few words, what the labels are: 'ICD-10 codes of the diagnoses made'.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal.")]
Force = Annotated[bool, typer.Option("--force", help="Go on with results and a log of a run that differs.")]
LabelIdColumn = Annotated[str | None, typer.Option(help="The catalogue's column of ids, where not `id`.")]
NameColumn = Annotated[str | None, typer.Option(help="The catalogue's column of names, where not `name`.")]
DescriptionColumn = Annotated[str | None, typer.Option(help="Its column of descriptions, where not `description`.")]
AliasesColumn = Annotated[str | None, typer.Option(help="Its column of other names, where not `aliases`.")]
Index = Annotated[str | None, typer.Option(help="An index that `ctd-agent index` has built, instead of a catalogue.")]
Candidates = Annotated[int | None, typer.Option(min=1, help="Shortlist size. Default: 50; 20 if small, or as taught.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Documents at once. Default: what the engine carries.")]
Selecting = Annotated[
    str | None, typer.Option(help="Way of selecting: listwise, pointwise. Default: the one that fits the model.")
]
Listwise = Annotated[bool | None, typer.Option("--listwise/--pointwise", help="Short for --selecting NAME.")]
MinRecall = Annotated[float, typer.Option(min=0, max=1, help="Shortlist recall that lets a run teach phase 1.")]
MinF1 = Annotated[float, typer.Option(min=0, max=1, help="F1 of the choice that lets a run teach phase 2.")]
Epochs = Annotated[float | None, typer.Option(min=0, help="Passes over the corpus, at most. Default: 3.")]


def given(**options: Any) -> dict[str, Any]:
    """Return the options that the user has given."""
    return {name: value for name, value in options.items() if value not in (None, "")}


def refuse_inputs(option: str, output: Path | None, *inputs: str | Path | None) -> None:
    """Raise UserError where a command would write over a file that it reads, by whatever name or link."""
    if output is None or not output.exists():
        return
    for path in inputs:
        if path is not None and Path(path).exists() and Path(path).samefile(output):
            raise UserError(f"{option} {output}: it is the input {path}; give another file")


def selecting_by(selecting: str | None, listwise: bool | None) -> str | None:
    """Return the way of selecting that the user has named, by either option."""
    if selecting is not None or listwise is None:
        return selecting
    return "listwise" if listwise else "pointwise"
