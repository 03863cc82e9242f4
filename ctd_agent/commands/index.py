"""`ctd-agent index` and `search`: build an index, and search it as the model does."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ctd_agent.commands.options import (
    FILES,
    AliasesColumn,
    DescriptionColumn,
    Embedder,
    Json,
    LabelIdColumn,
    NameColumn,
    given,
    refuse_inputs,
)
from ctd_agent.errors import CtdError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ctd_agent.console import Show
    from ctd_agent.schema import Label
    from ctd_agent.tools.label_index import Changes, Hit, LabelIndex, Manifest


def index(
    catalogue: Annotated[str, typer.Argument(help=f"The catalogue: {FILES}.")],
    out: Annotated[str, typer.Option(help="A folder, or a Qdrant server's http(s)://HOST:6333/COLLECTION.")],
    embedder: Embedder = None,
    label_id_column: LabelIdColumn = None,
    name_column: NameColumn = None,
    description_column: DescriptionColumn = None,
    aliases_column: AliasesColumn = None,
) -> None:
    """Build the index of a catalogue, for `label --index` and `search`, or bring it up to date."""
    from ctd_agent.console import note, progress
    from ctd_agent.files import read_labels

    refuse_inputs("--out", Path(out), catalogue)
    columns = given(id=label_id_column, name=name_column, description=description_column, aliases=aliases_column)
    labels = read_labels(catalogue, columns)
    with progress("indexing", len(labels)) as show:
        built, changes = _built_or_updated(labels, out, embedder, show)
    news = f"; {changes.added:,} added, {changes.changed:,} changed, {changes.removed:,} removed" if changes else ""
    note(f"{out}: {len(labels):,} labels, embedder {built.manifest.embedder}{news}")
    _wait_for_graph(out, built.manifest)


def _built_or_updated(
    labels: "Sequence[Label]", out: str, embedder: str | None, show: "Show"
) -> "tuple[LabelIndex, Changes | None]":
    """Update the index that is there, where it is whole and of the embedder asked for, else build one."""
    from ctd_agent.tools.label_index import LabelIndex, UnnamedEmbedderError

    try:
        there = LabelIndex.open(out, embedder)
    except UnnamedEmbedderError:  # built anew, it would lose its vectors
        raise
    except (UserError, CtdError):
        return LabelIndex.build(labels, out, embedder, show), None
    return there, there.update(labels, show)


def _wait_for_graph(out: str, manifest: "Manifest") -> None:
    from ctd_agent.console import note
    from ctd_agent.tools.hnsw import LABELS_A_SECOND, start_graph

    if (process := start_graph(out, manifest)) is None:
        return
    minutes = manifest.labels / LABELS_A_SECOND / 60
    note(f"{out}: ready for use; a graph that makes its search faster takes {minutes:.0f} more minutes or so")
    try:
        if process.wait():
            raise CtdError(f"{out}: no graph could be made; search goes on without")
    finally:
        process.kill()  # where Ctrl-C has ended the wait: the index serves as it is


def search(
    index: Annotated[str, typer.Argument(help="An index that `ctd-agent index` has built.")],
    query: Annotated[str, typer.Argument(help="What to search for.")],
    limit: Annotated[int, typer.Option(min=1, help="How many labels to show.")] = 10,
    mode: Annotated[Literal["hybrid", "bm25", "dense"], typer.Option(help="Which side of the search.")] = "hybrid",
    embedder: Embedder = None,
    as_json: Json = False,
) -> None:
    """Search an index as the model does."""
    from ctd_agent.console import say_json, show_table
    from ctd_agent.tools.label_index import LabelIndex
    from ctd_agent.tools.label_search import found_labels

    hits = LabelIndex.open(index, embedder).search(query, limit, mode)
    if sys.stdout.isatty() and not as_json:
        show_table(_table(hits))
        return
    for found in found_labels(hits):
        say_json(found.model_dump_json())


def _table(hits: "Sequence[Hit]") -> "Table":
    from rich.table import Table

    from ctd_agent.console import plain

    table = Table("#", "id", "name", "score", "description")
    for rank, hit in enumerate(hits, start=1):
        description = " ".join(hit.label.description.split())[:80]
        table.add_row(*map(plain, (str(rank), hit.label.id, hit.label.name, f"{hit.score:.4f}", description)))
    return table
