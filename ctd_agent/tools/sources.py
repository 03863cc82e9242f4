"""Sources: what brings candidates for a document without a model.

To add a source: a module with a class as `Source` describes, and its row in `SOURCES`.
"""

from collections.abc import Callable
from typing import Protocol

from ctd_agent.tools.label_index import Hit
from ctd_agent.tools.label_search import Searchable

DOCUMENT_HITS = 100  # labels that the document's own search brings


class Source(Protocol):
    """Brings candidates for a document. Every hit becomes a finding, under the source's name in `SOURCES`."""

    limit: int  # hits at most

    def find(self, text: str) -> list[Hit]:
        """Return labels that may apply to a text, best first."""
        ...


class LabelSource:
    """The label index, searched for the document itself."""

    limit = DOCUMENT_HITS

    def __init__(self, index: Searchable) -> None:
        self._index = index

    def find(self, text: str) -> list[Hit]:
        """Return the labels nearest to the text."""
        return self._index.search(text, self.limit)


SOURCES: dict[str, Callable[[Searchable], Source]] = {"labels": LabelSource}
