"""`ctd-agent label --engine ray`: a folder of shards, by the actors of a Ray cluster."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ctd_agent.commands.label import end
from ctd_agent.errors import CtdError, UserError

if TYPE_CHECKING:
    from ctd_agent.graphs.cluster import Job
    from ctd_agent.graphs.shards import ShardReport

LOCAL_ENGINES = ("local", "gguf")
SHOWN = 10  # shards that could not be labelled: what is wrong with a thousand is likely the same


def label_on_ray(
    documents: str | None,
    output: Path | None,
    *,
    index: str | None,
    models: tuple[str, str],
    columns: Mapping[str, str | None],
    unfit: Mapping[str, object],
    **job: object,
) -> None:
    """Label the shards that `documents` names into the folder `output`, print what became of them.

    `models` are the specs of the two phases; `unfit` are options that do not go with Ray, by name;
    `job` are fields of a `Job`. Raises UserError, CtdError or typer.Exit as `label` does.
    """
    from ctd_agent.graphs.cluster import Labeller, label_shards
    from ctd_agent.graphs.shards import find_shards

    if given := [option for option, value in unfit.items() if value]:
        raise UserError(f"{given[0]} does not go with --engine ray; give files of documents, --index and -o FOLDER")
    if documents is None or output is None or index is None:
        raise UserError("--engine ray needs files of documents, --index INDEX and -o FOLDER")
    for model in models:
        _check_served(model)
    shards = find_shards(documents)
    if output.resolve() == shards[0].parent:
        raise UserError(f"{output}: the documents are there; give the results another folder")
    order = _order(output, index, models, columns, job)
    Labeller(order)  # what is wrong with the options is told before a cluster is troubled with it
    with closing(label_shards(shards, order)) as reports:
        _sum_up(reports, len(shards), order)


def _order(
    output: Path, index: str, models: tuple[str, str], columns: Mapping[str, str | None], more: Mapping[str, object]
) -> "Job":
    """Return the job as an actor on any node understands it: paths whole, secrets by name only."""
    from ctd_agent.graphs.cluster import KEYS, Job

    return Job.model_validate(
        {
            "output": output.resolve(),
            "index": index if "://" in index else str(Path(index).resolve()),
            "shortlister": models[0],
            "selector": models[1],
            "columns": {field: column for field, column in columns.items() if column},
            "keys": [key for key in KEYS if os.environ.get(key)],
            **more,
        }
    )


def _check_served(model: str) -> None:
    engine, _, name = model.partition(":")
    if engine in LOCAL_ENGINES or (engine == "vllm" and "@" not in name):
        raise UserError(
            f"{model}: every actor would load its own weights; start a server, and name it vllm:MODEL@http://HOST:PORT"
        )


def _sum_up(reports: "Iterable[ShardReport]", total: int, job: "Job") -> None:
    """Show progress, tell what went wrong, sum up; raise what ends the command with its exit code."""
    from ctd_agent.console import note, progress, tell_failed

    documents, failed = 0, Counter[str]()
    faults: list[ShardReport] = []
    with progress("labelling shards", total) as show:
        for now, report in enumerate(reports, start=1):
            show(now)
            _tell(report, failed, len(faults))
            documents += report.documents
            failed.update(report.failed)
            faults += [report] if report.error is not None else []
    note(f"{job.output}: {documents:,} documents in {total - len(faults)} of {total} shards")
    tell_failed(failed, documents)
    note(f"transitions logs: {job.output / '_transitions'}")
    if faults:
        fault = UserError if any(report.users_fault for report in faults) else CtdError
        raise fault(f"{len(faults)} of {total} shards could not be labelled, the first {faults[0].shard}")
    end(failed, resumable=True)


def _tell(report: "ShardReport", failed: Counter[str], faults: int) -> None:
    """Tell the first failure of a kind that there was none of before, and what was wrong with a shard."""
    from ctd_agent.console import failure_text, note

    for kind, (document, failure) in report.first.items():
        if kind not in failed:
            note(f"{report.shard}: {document}: {failure_text(failure)}")
    if report.error is not None and faults < SHOWN:
        note(f"{report.shard}: {report.error}")
