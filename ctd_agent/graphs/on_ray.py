"""Shards of documents over Ray Data: a row is a shard, and every actor labels one at a time.

Ray Data has the actors: as many as the cluster has processors, more where nodes join, again where
one has died. It gives a shard that was under way on a dead node to another actor. That is all it is
asked for: it would write results block by block, and label a whole block again, when here a
document that has its line is done (`shards`).
"""

import logging
import os
import socket
import sys
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from ctd_agent.agents.sampling import GREEDY, Sampling
from ctd_agent.errors import CtdError, UserError, redacted
from ctd_agent.graphs.shards import ShardReport, label_shard
from ctd_agent.schema import Record

KEYS = ("OPENAI_API_KEY", "QDRANT_API_KEY")


class Job(Record):
    """What an actor must know. `keys` are the names of the environment's secrets that it must find where it runs."""

    output: Path
    index: str
    embedder: str | None = None
    shortlister: str
    selector: str
    listwise: bool | None = None
    shortlist_sampling: Sampling = GREEDY
    select_sampling: Sampling = GREEDY
    task: str
    budget: dict[str, float | None] = {}
    columns: dict[str, str] = {}
    concurrency: int | None = None
    ordered: bool = True
    retry_failed: bool = False
    keys: list[str] = []


class Labeller:
    """The index and the models, opened once, for shard after shard."""

    def __init__(self, job: Job) -> None:
        """Raise UserError or CtdError for what is not there, or not reached, where this runs."""
        from ctd_agent.agents.models import load_phases
        from ctd_agent.graphs.budget import Budget
        from ctd_agent.graphs.labeling import build_graph
        from ctd_agent.tools.label_index import LabelIndex

        if missing := [key for key in job.keys if not os.environ.get(key)]:
            raise UserError(f"{missing[0]} is not set here; set it on every node, before `ray start`")
        phase1, phase2 = load_phases(job.shortlister, job.selector, job.listwise)
        self._job = job
        self._concurrency = job.concurrency or min(phase1.slots, phase2.slots)
        self._build = partial(
            build_graph,
            phase1,
            phase2,
            LabelIndex.open(job.index, job.embedder),
            task=job.task,
            budget=Budget.fitting(phase1, phase2, **job.budget),
            shortlist_sampling=job.shortlist_sampling,
            select_sampling=job.select_sampling,
        )

    def label(self, shard: Path) -> ShardReport:
        """Label a shard and report how it stands, or what was wrong with it."""
        job = self._job
        try:
            return label_shard(
                shard,
                job.output,
                lambda log: self._build(log=log),
                columns=job.columns,
                concurrency=self._concurrency,
                ordered=job.ordered,
                retry_failed=job.retry_failed,
            )
        except Exception as error:  # whatever it is, it is this shard's alone
            return ShardReport(shard=shard.name, error=_told(error), users_fault=isinstance(error, UserError))


class Actor:
    """A Labeller in Ray's hands: of an error in an actor's making, Ray's report is a page."""

    def __init__(self, job: Job) -> None:
        self._fault = ""
        try:
            self._labeller = Labeller(job)
        except (UserError, CtdError, OSError) as error:
            self._fault = f"on node {socket.gethostname()}: {error}"

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Label the shard that a row names; return its report as JSON, or what this node lacks."""
        report = "" if self._fault else self._labeller.label(Path(row["shard"])).model_dump_json()
        return {"report": report, "fault": self._fault}


def label_shards(shards: Sequence[Path], job: Job) -> Generator[ShardReport, None, None]:
    """Yield the report of every shard as it is labelled, in any order, by the actors of a Ray cluster.

    The cluster is the one in RAY_ADDRESS, or that of this machine, or one that is started for this run.
    Raises UserError where Ray is not installed, the cluster not there or a node not fit, CtdError where Ray fails.
    """
    ray = _ray()
    try:
        with _connected(ray):
            rows = ray.data.from_items([{"shard": str(shard)} for shard in shards], override_num_blocks=len(shards))
            pool = ray.data.ActorPoolStrategy(min_size=1, max_size=len(shards), max_tasks_in_flight_per_actor=1)
            for row in rows.map(Actor, fn_constructor_args=(job,), compute=pool, num_cpus=1).iter_rows():
                if row["fault"]:
                    raise UserError(row["fault"])
                yield ShardReport.model_validate_json(row["report"])
    except ray.exceptions.RayError as error:
        raise CtdError(f"Ray: {_one_line(error)}") from error


def _ray() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install 'ctd-agent[ray]'") from error
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else each actor's start is told as an error
    for handler in logging.getLogger("ray.data").handlers:
        handler.setLevel(logging.ERROR)
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    try:
        # No secret goes into a runtime_env: Ray writes it to its logs as it is.
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray: {_one_line(error)}") from error
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
        raise UserError(f"RAY_ADDRESS: no Ray cluster answers at {address} ({_one_line(error)})") from error


def _told(error: Exception) -> str:
    if isinstance(error, UserError | CtdError | OSError):
        return redacted(str(error))
    place = traceback.extract_tb(error.__traceback__)[-1]
    return redacted(f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
