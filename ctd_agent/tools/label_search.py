"""The search_labels tool: what a model asks of the label index, and what it is told."""

from collections.abc import Sequence
from typing import Protocol

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, ConfigDict, Field

from ctd_agent.schema import FoundLabel, SearchResult
from ctd_agent.tools.label_index import Hit, Manifest

LIMIT = 10  # labels a search brings unless it asks for another number
QUERY = 300  # characters


class Searchable(Protocol):
    """What is searched for labels: a LabelIndex, or what stands in for one."""

    manifest: Manifest

    def search(self, query: str, limit: int, /) -> list[Hit]:
        """Return up to `limit` labels, best first."""
        ...


class Search(BaseModel):
    """The arguments of search_labels, as a model gives them."""

    # A model's spare arguments are no reason to lose its search.
    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    query: str = Field(min_length=1, max_length=QUERY, description="a few words: a label's name or topic")
    limit: int = Field(default=LIMIT, ge=1, le=50, description="how many labels to return")

    @property
    def key(self) -> str:
        """What makes two searches the same: the query, case and spacing apart."""
        return " ".join(self.query.casefold().split())


def search_labels_tool(index: Searchable) -> BaseTool:
    """Return search_labels over an index: what the model reads as content, the hits as artifact."""

    def search_labels(query: str, limit: int = LIMIT) -> tuple[str, list[Hit]]:
        hits = index.search(query, limit)
        return found_text([hit.label.name for hit in hits]), hits

    return StructuredTool.from_function(
        search_labels,
        description="Search the catalogue of labels by words and by meaning. Returns the names of the nearest labels.",
        args_schema=Search,
        response_format="content_and_artifact",
    )


def found_text(names: Sequence[str]) -> str:
    """Return what a model reads of a search: the names on one line, best first."""
    return "; ".join(" ".join(name.split()) for name in names) or "nothing found"


def found_labels(hits: Sequence[Hit]) -> list[FoundLabel]:
    """Return hits as they are logged and printed: without the label's texts."""
    return [
        FoundLabel(id=hit.label.id, name=hit.label.name, rank=rank, score=hit.score)
        for rank, hit in enumerate(hits, start=1)
    ]


def log_entry(turn: int, query: str, limit: int, hits: Sequence[Hit]) -> SearchResult:
    """Return a search as the transitions log keeps it."""
    return SearchResult(turn=turn, query=query, limit=limit, found=found_labels(hits))
