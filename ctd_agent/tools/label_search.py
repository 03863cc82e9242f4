"""The search_labels tool: its definition for a model, and what the model reads of a search."""

from collections.abc import Sequence
from typing import Protocol

from langchain_core.tools import StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from ctd_agent.lengths import cut
from ctd_agent.schema import FoundLabel, Search, SearchResult
from ctd_agent.tools.label_index import Hit, Manifest

# The tool as a model is told of it, in OpenAI's form. The graph runs the searches itself, within its budget.
SEARCH_LABELS = convert_to_openai_tool(
    StructuredTool(
        name="search_labels",
        description="Search the catalogue of labels by words and by meaning. Returns the names of the nearest labels.",
        args_schema=Search,
    )
)


class Searchable(Protocol):
    """A LabelIndex, or a stand-in for one."""

    manifest: Manifest

    def search(self, query: str, limit: int, /) -> list[Hit]:
        """Return up to `limit` labels, best first."""
        ...


def found_text(names: Sequence[str]) -> str:
    """Return a search's hits as a model reads them: the names on one line and cut, best first."""
    return "; ".join(" ".join(cut(name).split()) for name in names) or "nothing found"


def found_labels(hits: Sequence[Hit]) -> list[FoundLabel]:
    """Return hits as they are logged and printed: without the label's texts."""
    return [
        FoundLabel(id=hit.label.id, name=hit.label.name, rank=rank, score=hit.score)
        for rank, hit in enumerate(hits, start=1)
    ]


def log_entry(source: str, turn: int, query: str, limit: int, hits: Sequence[Hit]) -> SearchResult:
    """Return a search as the transitions log keeps it."""
    return SearchResult(source=source, turn=turn, query=query, limit=limit, found=found_labels(hits))
