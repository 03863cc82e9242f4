"""`ctd-agent label`: the main job."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ctd_agent.commands.options import (
    FILES,
    STDIN,
    AliasesColumn,
    Candidates,
    Concurrency,
    DescriptionColumn,
    Embedder,
    Force,
    Index,
    Json,
    LabelIdColumn,
    Listwise,
    NameColumn,
    Selecting,
    Task,
    given,
    refuse_inputs,
    selecting_by,
)
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from ctd_agent.schema import Document

Sampled = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...",
        help="Sampling of that phase's model: temperature, seed, max_tokens, thinking (tokens; 0 for none).",
        show_default=False,
    ),
]


def label(
    documents: Annotated[str | None, typer.Argument(help=f"Documents: {FILES}.")] = None,
    text: Annotated[str | None, typer.Option(help="One document, instead of a file.")] = None,
    labels: Annotated[str | None, typer.Option(help=f"The catalogue: {FILES}. Its index is cached.")] = None,
    index: Index = None,
    model: Annotated[str, typer.Option(help="Model of both phases; see `ctd-agent models`.")] = "local",
    shortlister: Annotated[str | None, typer.Option(help="Another model for phase 1.")] = None,
    selector: Annotated[str | None, typer.Option(help="Another model for phase 2.")] = None,
    shortlist_sampling: Sampled = None,
    select_sampling: Sampled = None,
    selecting: Selecting = None,
    listwise: Listwise = None,
    task: Task = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for results; the same command goes on where it was cut.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Retry all failed documents.")] = False,
    force: Force = False,
    log: Annotated[Path | None, typer.Option(help="Log. Default: OUTPUT.transitions.jsonl, or in the cache.")] = None,
    embedder: Embedder = None,
    candidates: Candidates = None,
    turns: Annotated[int | None, typer.Option(min=0, help="Model turns in phase 1. Default: 3; 0 if small.")] = None,
    searches: Annotated[int | None, typer.Option(min=0, help="Model searches in phase 1. Default: 16.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a document may cost. Default: 50,000.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Seconds a document may take. Default: 600.")] = None,
    concurrency: Concurrency = None,
    on: Annotated[Literal["here", "ray"], typer.Option(help="Where: here, or files on a Ray cluster.")] = "here",
    engine: Annotated[str | None, typer.Option(hidden=True)] = None,
    unordered: Annotated[bool, typer.Option("--unordered", help="Write each result when it is done.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Send traces to LangSmith, as its variables say.")] = False,
    as_json: Json = False,
    id_column: Annotated[str | None, typer.Option(help="The documents' column of ids, where not `id`.")] = None,
    text_column: Annotated[str | None, typer.Option(help="The documents' column of texts, where not `text`.")] = None,
    label_id_column: LabelIdColumn = None,
    name_column: NameColumn = None,
    description_column: DescriptionColumn = None,
    aliases_column: AliasesColumn = None,
) -> None:  # long by its options: their list is the command's documentation
    """Label documents: the model shortlists candidates from the catalogue, then chooses.

    The exit code is 1 if any document has failed, 2 if what was given is wrong, 130 after Ctrl-C, 143 after SIGTERM.
    """
    from ctd_agent.agents.prompts import DEFAULT_TASK
    from ctd_agent.agents.sampling import Sampling
    from ctd_agent.commands.outcome import end, label_each, label_into, tell_untraced
    from ctd_agent.console import print_json, print_table
    from ctd_agent.graphs.job import Job
    from ctd_agent.graphs.transitions import log_of

    if engine is not None:
        raise UserError("--engine is now --on: say --on ray for a Ray cluster, and leave it out to run here")
    if documents == labels == STDIN:
        raise UserError("documents and --labels: only one of them can be standard input")
    columns = given(id=label_id_column, name=name_column, description=description_column, aliases=aliases_column)
    budget = given(candidates=candidates, turns=turns, searches=searches, tokens=max_tokens, seconds=max_seconds)
    job = Job(
        labels=labels,
        label_columns=columns,
        index=index,
        embedder=embedder,
        shortlister=shortlister or model,
        selector=selector or model,
        selecting=selecting_by(selecting, listwise),
        shortlist_sampling=Sampling.parse(shortlist_sampling or ""),
        select_sampling=Sampling.parse(select_sampling or ""),
        task=task or DEFAULT_TASK,
        budget=budget,
        columns=given(id=id_column, text=text_column),
        concurrency=concurrency,
        ordered=not unordered,
        retry_failed=retry_failed,
        trace=trace,
        force=force,
    )
    tell_untraced(job)
    if on == "ray":
        from ctd_agent.commands.label_on_ray import label_on_ray

        return label_on_ray(job, documents, output, unfit={"--text": text, "--labels": labels, "--log": log})
    refuse_inputs("--output", output, documents, labels)
    refuse_inputs("--log", log, documents, labels)
    if retry_failed and not output:
        raise UserError("--retry-failed: name the file of results to go on with by --output")
    texts = _documents(documents, text, job.columns)
    if output:
        return end(label_into(job, texts, output, log or log_of(output)))
    write = print_json if as_json or not sys.stdout.isatty() else print_table
    return end(label_each(job, texts, write, log or _cached_log()))


def _documents(source: str | None, text: str | None, columns: dict[str, str]) -> "list[Document]":
    from ctd_agent.files import read_documents
    from ctd_agent.schema import Document

    if (source is None) == (text is None):
        raise UserError("give either a file of documents or --text")
    if text is not None:
        return [Document(id="text", text=text)]
    return read_documents(str(source), columns)


def _cached_log() -> Path:
    from ctd_agent.cache import cache_folder, prune
    from ctd_agent.console import note

    runs = cache_folder() / "runs"
    if gone := prune(runs):
        note(f"{runs}: {gone} logs of runs without --output were deleted, older than 30 days or beyond 1 GB in all")
    return runs / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.jsonl"
