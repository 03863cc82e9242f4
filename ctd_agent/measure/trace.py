"""What became of a right label: where the graph lost it, or that it was chosen."""

from collections.abc import Container
from typing import Literal

Fate = Literal["never retrieved", "retrieved and cut", "not on the shortlist", "shortlisted and not chosen", "chosen"]


def fate(label: str, chosen: Container[str], shortlist: Container[str], retrieved: Container[str] | None) -> Fate:
    """Return what became of a label that is right for a document.

    `retrieved` is all that any search brought, None where that is not known: what is not on the shortlist was
    then never retrieved, or cut.
    """
    if label in chosen:
        return "chosen"
    if label in shortlist:
        return "shortlisted and not chosen"
    if retrieved is None:
        return "not on the shortlist"
    return "retrieved and cut" if label in retrieved else "never retrieved"
