"""Shards of documents over Ray Data: a row is a shard, and every actor labels one at a time.

Ray Data keeps the actors: as many as the cluster has processors, more where nodes join, new ones for those that died.
It gives the shard of a dead node to another actor. Results are not written by Ray Data: it would write them block by
block and label a whole block again, while here a document that has its line is done (`shards`).
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from ctd_agent.errors import CtdError, UserError, one_line, redacted
from ctd_agent.extras import library
from ctd_agent.graphs.faults import unforeseen
from ctd_agent.graphs.job import Job
from ctd_agent.graphs.shards import ShardReport, label_shard

KEYS = ("OPENAI_API_KEY", "CTD_AGENT_API_KEY", "QDRANT_API_KEY")


class Actor:
    """An opened job in Ray's hands. It reports its own errors in a line, where Ray's report is a page.

    `keys` are the names of the secrets that it must find in the environment of its node.
    """

    def __init__(self, job: Job, output: Path, keys: Sequence[str]) -> None:
        self._output = output
        self._fault = ""
        try:
            if missing := [key for key in keys if not os.environ.get(key)]:
                raise UserError(f"{missing[0]} is not set here; set it on every node, before `ray start`")
            self._labeller = job.open()
        except (UserError, CtdError, OSError) as error:
            self._fault = f"on node {socket.gethostname()}: {error}"

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Label the shard that a row names. Return its report as JSON, or the fault of this node."""
        report = "" if self._fault else self.label(Path(row["shard"])).model_dump_json()
        return {"report": report, "fault": self._fault}

    def label(self, shard: Path) -> ShardReport:
        """Label a shard and report its state, or the error that stopped it."""
        try:
            return label_shard(shard, self._output, self._labeller)
        except Exception as error:  # whatever it is, it is this shard's alone
            return ShardReport(shard=shard.name, error=_told(error), users_fault=isinstance(error, UserError))


def label_shards(shards: Sequence[Path], job: Job, output: Path) -> Generator[ShardReport, None, None]:
    """Yield the report of every shard as it is labelled into `output`, in any order, by a Ray cluster's actors.

    The cluster is the one in RAY_ADDRESS, or that of this machine, or one that is started for this run.
    Raises UserError where Ray is not installed, the cluster not there or a node not fit, CtdError where Ray fails.
    """
    ray = _ray()
    keys = [key for key in KEYS if os.environ.get(key)]
    try:
        with _connected(ray):
            rows = ray.data.from_items([{"shard": str(shard)} for shard in shards], override_num_blocks=len(shards))
            pool = ray.data.ActorPoolStrategy(min_size=1, max_size=len(shards), max_tasks_in_flight_per_actor=1)
            arguments = (_anywhere(job), output.resolve(), keys)
            for row in rows.map(Actor, fn_constructor_args=arguments, compute=pool, num_cpus=1).iter_rows():
                if row["fault"]:
                    raise UserError(row["fault"])
                yield ShardReport.model_validate_json(row["report"])
    except ray.exceptions.RayError as error:
        raise CtdError(f"Ray: {one_line(error)}") from error


def _anywhere(job: Job) -> Job:
    """Return the job as any node understands it: its index by a whole path."""
    index = str(job.index)
    return job if "://" in index else job.model_copy(update={"index": str(Path(index).resolve())})


def _ray() -> Any:
    library("ray.data", "ray", "--on ray needs Ray")
    return library("ray", "ray", "--on ray needs Ray")


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else each actor's start is told as an error
    for handler in logging.getLogger("ray.data").handlers:
        handler.setLevel(logging.ERROR)
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    try:
        # No secret goes into a runtime_env: Ray writes it to its logs as it is.
        heed = signal.getsignal(signal.SIGTERM)
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heed)  # Ray has taken it
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray: {one_line(error)}") from error
    try:
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # another actor once all have work
        # What Ray has to say, a dead node for one, it says on stdout.
        with ray.data.DataContext.current(context), redirect_stdout(sys.stderr):
            yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    # Ray itself waits for minutes.
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "://" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS: no Ray cluster answers at {address} ({one_line(error)})") from error


def _told(error: Exception) -> str:
    if isinstance(error, UserError | CtdError | OSError):
        return redacted(str(error))
    return redacted(unforeseen(error))
