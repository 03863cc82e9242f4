"""Options that several commands share, and the catalogue they name."""

from typing import TYPE_CHECKING, Annotated

import typer

from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from ctd_agent.schema import Label
    from ctd_agent.tools.label_index import LabelIndex

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
LabelIdColumn = Annotated[str | None, typer.Option(help="The catalogue's column of ids, where not `id`.")]
NameColumn = Annotated[str | None, typer.Option(help="The catalogue's column of names, where not `name`.")]
DescriptionColumn = Annotated[str | None, typer.Option(help="Its column of descriptions, where not `description`.")]
AliasesColumn = Annotated[str | None, typer.Option(help="Its column of other names, where not `aliases`.")]


def read_catalogue(source: str, columns: dict[str, str | None]) -> "list[Label]":
    """Read the catalogue, by the columns that the user has named."""
    from ctd_agent.files import read_labels

    return read_labels(source, {field: column for field, column in columns.items() if column})


def open_index(
    labels: str | None,
    index: str | None,
    embedder: str | None,
    columns: dict[str, str | None] | None = None,
    shortlister: str = "",
) -> "LabelIndex":
    """Open the index that the user has named, or make that of the catalogue.

    It is the one that the shortlister needs, where that is an encoder. Raises UserError for both or neither, and for
    an embedder that does not fit.
    """
    from ctd_agent.agents.encoders import embedder_of
    from ctd_agent.console import progress
    from ctd_agent.tools.index_cache import cached_index
    from ctd_agent.tools.label_index import LabelIndex

    if (labels is None) == (index is None):
        raise UserError("give either --labels CATALOGUE or --index INDEX")
    if needed := embedder_of(shortlister):
        if embedder not in (None, needed):
            raise UserError(f"--embedder {embedder}: {shortlister} shortlists by its own vectors; leave --embedder out")
        embedder = needed
    if index is not None:
        return LabelIndex.open(index, embedder)
    catalogue = read_catalogue(str(labels), columns or {})
    with progress("indexing", len(catalogue)) as show:
        return cached_index(catalogue, embedder, show)
