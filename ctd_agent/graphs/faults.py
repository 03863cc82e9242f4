"""Errors that nothing foresaw: each ends one document, told with its phase and its place in the code."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from traceback import extract_tb
from typing import Any, TypeVar, cast

from ctd_agent.schema import Failure, Phase

AnyNode = TypeVar("AnyNode", bound=Callable[..., Any])


def in_phase(phase: Phase, node: AnyNode) -> AnyNode:
    """Return a node of the graph that marks every error it raises with its phase."""

    @wraps(node)
    def run(state: Any) -> Any:
        try:
            return node(state)
        except Exception as error:
            error.__dict__["phase"] = phase
            raise

    return cast(AnyNode, run)


def internal(error: Exception) -> Failure:
    """Return an error of ours as a document's failure, in the last phase where no node has marked it."""
    return Failure(phase=error.__dict__.get("phase", "select"), kind="internal", message=unforeseen(error))


def unforeseen(error: Exception) -> str:
    """Return an error that nothing foresaw, with the place in the code where it arose."""
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
