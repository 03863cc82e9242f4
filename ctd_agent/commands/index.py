"""`ctd-agent index` and `search`: build an index, and search it as the model does."""

import sys
from typing import Annotated, Literal

import typer

from ctd_agent.commands.options import (
    FILES,
    AliasesColumn,
    DescriptionColumn,
    Embedder,
    Json,
    LabelIdColumn,
    NameColumn,
    read_catalogue,
)


def index(
    catalogue: Annotated[str, typer.Argument(help=f"The catalogue: {FILES}.")],
    out: Annotated[str, typer.Option(help="A folder, or a Qdrant server's http(s)://HOST:6333/COLLECTION.")],
    embedder: Embedder = None,
    label_id_column: LabelIdColumn = None,
    name_column: NameColumn = None,
    description_column: DescriptionColumn = None,
    aliases_column: AliasesColumn = None,
) -> None:
    """Build the index of a catalogue, for `label --index` and `search`."""
    from ctd_agent.console import note, progress
    from ctd_agent.tools.label_index import LabelIndex

    columns = {"id": label_id_column, "name": name_column, "description": description_column, "aliases": aliases_column}
    labels = read_catalogue(catalogue, columns)
    with progress("indexing", len(labels)) as show:
        built = LabelIndex.build(labels, out, embedder, show)
    note(f"{out}: {len(labels):,} labels, embedder {built.manifest.embedder}")


def search(
    index: Annotated[str, typer.Argument(help="An index that `ctd-agent index` has built.")],
    query: Annotated[str, typer.Argument(help="What to search for.")],
    limit: Annotated[int, typer.Option(min=1, help="How many labels to show.")] = 10,
    mode: Annotated[Literal["hybrid", "bm25", "dense"], typer.Option(help="Which side of the search.")] = "hybrid",
    as_json: Json = False,
) -> None:
    """Search an index as the model does."""
    from ctd_agent.console import hits_table, show_table
    from ctd_agent.tools.label_index import LabelIndex
    from ctd_agent.tools.label_search import found_labels

    hits = LabelIndex.open(index).search(query, limit, mode)
    if sys.stdout.isatty() and not as_json:
        show_table(hits_table(hits))
        return
    for found in found_labels(hits):
        sys.stdout.write(found.model_dump_json() + "\n")
