"""`ctd-agent label --on ray`: a folder of shards, by the actors of a Ray cluster."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ctd_agent.commands.outcome import end, name_retries
from ctd_agent.errors import CtdError, UserError

if TYPE_CHECKING:
    from ctd_agent.graphs.job import Job
    from ctd_agent.graphs.shards import ShardReport

SHOWN = 10  # shards that could not be labelled: a thousand of them are likely to share the fault


def label_on_ray(job: "Job", documents: str | None, output: Path | None, unfit: Mapping[str, object]) -> None:
    """Label the shards that `documents` names into the folder `output`, and report on them.

    `unfit` are the options that do not go with Ray, by name. Raises UserError, CtdError or typer.Exit as `label` does.
    """
    from ctd_agent.agents.engines.table import engine_of
    from ctd_agent.graphs.on_ray import label_shards
    from ctd_agent.graphs.shards import find_shards

    if given := [option for option, value in unfit.items() if value]:
        raise UserError(f"{given[0]} does not go with --on ray; give files of documents, --index and -o FOLDER")
    if documents is None or output is None or job.index is None:
        raise UserError("--on ray needs files of documents, --index INDEX and -o FOLDER")
    for spec in (job.shortlister, job.selector):
        if engine_of(spec).local:
            raise UserError(f"{spec}: every actor would load its own weights; start a server, and name it by a URL")
    shards = find_shards(documents)
    if output.resolve() == shards[0].parent:
        raise UserError(f"{output}: the documents are there; give the results another folder")
    job.open()  # a fault in the options is told before a cluster is troubled with it
    with closing(label_shards(shards, job, output)) as reports:
        _sum_up(reports, len(shards), output.resolve())


def _sum_up(reports: "Iterable[ShardReport]", total: int, output: Path) -> None:
    """Show progress, tell failures, sum up. Raise the error or exit that ends the command."""
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
    note(f"{output}: {documents:,} documents in {total - len(faults)} of {total} shards")
    tell_failed(failed, documents)
    note(f"transitions logs: {output / '_transitions'}")
    if faults:
        fault = UserError if any(report.users_fault for report in faults) else CtdError
        raise fault(f"{len(faults)} of {total} shards could not be labelled, the first {faults[0].shard}")
    name_retries(failed)
    end(failed)


def _tell(report: "ShardReport", failed: Counter[str], faults: int) -> None:
    """Tell the first failure of each kind, and the error of a shard that could not be labelled."""
    from ctd_agent.console import failure_text, inline, note

    for kind, (document, failure) in report.first.items():
        if kind not in failed:
            note(f"{report.shard}: {inline(document)}: {failure_text(failure)}")
    if report.error is not None and faults < SHOWN:
        note(f"{report.shard}: {report.error}")
