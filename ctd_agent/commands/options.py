"""Options that several commands share, and the catalogue they name."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ctd_agent.schema import Label

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
Json = Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal.")]
LabelIdColumn = Annotated[str | None, typer.Option(help="The catalogue's column of ids, where not `id`.")]
NameColumn = Annotated[str | None, typer.Option(help="The catalogue's column of names, where not `name`.")]
DescriptionColumn = Annotated[str | None, typer.Option(help="Its column of descriptions, where not `description`.")]
AliasesColumn = Annotated[str | None, typer.Option(help="Its column of other names, where not `aliases`.")]


def read_catalogue(source: str, columns: dict[str, str | None]) -> "list[Label]":
    """Read the catalogue, by the columns that the user has named."""
    from ctd_agent.files import read_labels

    return read_labels(source, {field: column for field, column in columns.items() if column})
