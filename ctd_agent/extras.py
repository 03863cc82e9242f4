"""Libraries that an extra installs: imported where they are used, named where they are missing."""

from importlib import import_module
from typing import Any

from ctd_agent.errors import UserError


def library(name: str, extra: str, need: str) -> Any:
    """Import a library of an extra for the `need` named. Raises UserError, with the way to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"{need}: pip install 'ctd-agent[{extra}]' first") from error


def sentence_transformers(need: str) -> Any:
    """Import sentence-transformers, its progress bars off: ctd-agent shows its own. Raises as `library` does."""
    found = library("sentence_transformers", "sentence-transformers", need)
    import_module("transformers.utils.logging").disable_progress_bar()
    return found
