"""Where ctd-agent keeps what it can make or fetch again: weights and indexes."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Return the platform's cache folder for ctd-agent, or what CTD_AGENT_CACHE names instead."""
    named = os.environ.get("CTD_AGENT_CACHE")
    return Path(named).expanduser() if named else user_cache_path("ctd-agent")
