"""Where ctd-agent keeps what it can make or fetch again: weights and indexes."""

import os
from contextlib import suppress
from pathlib import Path
from time import time

from platformdirs import user_cache_path

DAYS = 30  # that the log of a run lies in the cache
SIZE = 10**9  # bytes of all of them


def cache_folder() -> Path:
    """Return the platform's cache folder for ctd-agent, or what CTD_AGENT_CACHE names instead."""
    named = os.environ.get("CTD_AGENT_CACHE")
    return Path(named).expanduser() if named else user_cache_path("ctd-agent")


def prune(folder: Path) -> int:
    """Delete the files of a folder that are older than DAYS or, the newest counted first, beyond SIZE. Return how many.

    One that another process has deleted meanwhile, or that cannot be, is left out of the count.
    """
    gone, size, oldest = 0, 0, time() - DAYS * 24 * 3600
    try:
        files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.iterdir() if file.is_file())
    except OSError:
        return 0
    for changed, length, file in reversed(files):
        size += length
        if changed < oldest or size > SIZE:
            with suppress(OSError):
                file.unlink()
                gone += 1
    return gone
