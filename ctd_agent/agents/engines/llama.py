"""llama.cpp in this process: one server a weights file, on a free loopback port."""

import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

from ctd_agent.errors import CtdError

CONTEXT = 12_288  # tokens a conversation may hold

_starting = threading.Lock()


def llama_server(weights: Path) -> str:
    """Return the base URL of llama.cpp's server on these weights, started once a process.

    Raises CtdError for weights that it cannot load.
    """
    with _starting:  # the cache alone would let two threads load the same weights twice
        return f"{_start(weights.resolve())[1]}/v1"


@cache
def _start(weights: Path) -> tuple[Any, str]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.n_ctx = CONTEXT
    params.n_parallel = 1  # one slot: the next prompt finds this document's prefix in its cache
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _processors()
    try:
        server = xllamacpp.Server(params)
    except Exception as error:
        raise CtdError(f"{weights}: llama.cpp cannot load it; damaged, or too large? ({error})") from error
    return server, server.listening_address


def _processors() -> int:
    # Those this process may use; macOS cannot tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
