"""`ctd-agent label`: the main job."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ctd_agent.commands.options import (
    FILES,
    STDIN,
    AliasesColumn,
    DescriptionColumn,
    Embedder,
    Json,
    LabelIdColumn,
    NameColumn,
    Task,
    open_index,
)
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from collections import Counter

    from ctd_agent.graphs.batch import Output
    from ctd_agent.schema import Document

Sampled = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...",
        help="Of that phase's model: temperature, seed, max_tokens, thinking (tokens; 0 for none).",
        show_default=False,
    ),
]


def label(
    documents: Annotated[str | None, typer.Argument(help=f"Documents: {FILES}.")] = None,
    text: Annotated[str | None, typer.Option(help="One document, instead of a file.")] = None,
    labels: Annotated[str | None, typer.Option(help=f"The catalogue: {FILES}. Its index is cached.")] = None,
    index: Annotated[
        str | None, typer.Option(help="An index that `ctd-agent index` has built, instead of a catalogue.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="local, gguf:FILE, openai:MODEL[@URL], vllm:MODEL[@URL], or one of LangChain's names.")
    ] = "local",
    shortlister: Annotated[str | None, typer.Option(help="Another model for phase 1.")] = None,
    selector: Annotated[str | None, typer.Option(help="Another model for phase 2.")] = None,
    shortlist_sampling: Sampled = None,
    select_sampling: Sampled = None,
    listwise: Annotated[
        bool | None,
        typer.Option(
            "--listwise/--pointwise",
            help="Phase 2 reasons over the whole shortlist, or asks about each candidate. Default: what fits it.",
            show_default=False,
        ),
    ] = None,
    task: Task = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file for the results; the same command goes on where it was cut. Ids tell what is done.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Label those again too that have failed by their own fault.")
    ] = False,
    log: Annotated[
        Path | None, typer.Option(help="The transitions log. Default: OUTPUT.transitions.jsonl, or in the cache.")
    ] = None,
    embedder: Embedder = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Labels on the shortlist. Default: 50; 20 if small; a student's own.")
    ] = None,
    turns: Annotated[
        int | None, typer.Option(min=0, help="Model turns in phase 1. Default: 3; 0 if small and not taught to search.")
    ] = None,
    searches: Annotated[int | None, typer.Option(min=0, help="Model searches in phase 1. Default: 16.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a document may cost. Default: 50,000.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Seconds a document may take. Default: 600.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Documents at once. Default: what the engine carries.", show_default=False)
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Who labels: this process; or a Ray cluster's actors, files of documents into a folder."),
    ] = "local",
    unordered: Annotated[bool, typer.Option("--unordered", help="Write each result when it is done.")] = False,
    as_json: Json = False,
    id_column: Annotated[str | None, typer.Option(help="The documents' column of ids, where not `id`.")] = None,
    text_column: Annotated[str | None, typer.Option(help="The documents' column of texts, where not `text`.")] = None,
    label_id_column: LabelIdColumn = None,
    name_column: NameColumn = None,
    description_column: DescriptionColumn = None,
    aliases_column: AliasesColumn = None,
) -> None:  # long by its options: their list is the command's documentation
    """Label documents: the model shortlists candidates from the catalogue, then chooses.

    The exit code is 1 if any document has failed, 2 if what was given is wrong, 130 after Ctrl-C.
    """
    from ctd_agent.agents.models import load_phases
    from ctd_agent.agents.prompts import DEFAULT_TASK
    from ctd_agent.agents.sampling import Sampling
    from ctd_agent.console import print_json, print_table, report, tell_failed
    from ctd_agent.graphs.batch import label_documents
    from ctd_agent.graphs.budget import Budget
    from ctd_agent.graphs.labeling import build_graph

    if documents == labels == STDIN:
        raise UserError("documents and --labels: only one of them can be standard input")
    where = log or _default_log(output)
    columns = {"id": label_id_column, "name": name_column, "description": description_column, "aliases": aliases_column}
    asked = {
        "candidates": candidates,
        "turns": turns,
        "searches": searches,
        "tokens": max_tokens,
        "seconds": max_seconds,
    }
    text_columns = {"id": id_column, "text": text_column}
    if engine == "ray":
        from ctd_agent.commands.cluster import label_on_ray

        return label_on_ray(
            documents,
            output,
            index=index,
            models=(shortlister or model, selector or model),
            columns=text_columns,
            unfit={"--text": text, "--labels": labels, "--log": log},
            embedder=embedder,
            listwise=listwise,
            shortlist_sampling=Sampling.parse(shortlist_sampling or ""),
            select_sampling=Sampling.parse(select_sampling or ""),
            task=task or DEFAULT_TASK,
            budget=asked,
            concurrency=concurrency,
            ordered=not unordered,
            retry_failed=retry_failed,
        )
    texts = _documents(documents, text, text_columns)
    with _open(output, retry_failed) as out:
        todo = _left(texts, out, where)
        if out and not todo:
            tell_failed(out.failed, len(texts))
            return _end(out.failed, out, [] if unordered else texts)
        catalogue = open_index(labels, index, embedder, columns, shortlister or model)
        phase1, phase2 = load_phases(shortlister or model, selector or model, listwise)
        graph = build_graph(
            phase1,
            phase2,
            catalogue,
            task=task or DEFAULT_TASK,
            budget=Budget.fitting(phase1, phase2, **asked),
            shortlist_sampling=Sampling.parse(shortlist_sampling or ""),
            select_sampling=Sampling.parse(select_sampling or ""),
            log=where,
        )
        results = label_documents(
            graph, todo, concurrency=concurrency or min(phase1.slots, phase2.slots), ordered=not unordered
        )
        write = out.write if out else print_json if as_json or not sys.stdout.isatty() else print_table
        with _places(out, where):
            failed = report(results, write, len(texts), len(texts) - len(todo), out.failed if out else {})
        return _end(failed, out, [] if unordered else texts)


def _open(output: Path | None, retry_failed: bool) -> "Output | nullcontext[None]":
    from ctd_agent.graphs.batch import Output

    if output:
        return Output(output, retry_failed)
    if retry_failed:
        raise UserError("--retry-failed: name the file of results to go on with by --output")
    return nullcontext()


@contextmanager
def _places(out: "Output | None", log: Path) -> Iterator[None]:
    """Say at the end of a run, whatever ends it, where its files are."""
    from ctd_agent.console import note

    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends at once
        if out:
            note("the same command goes on from here")
        raise
    finally:
        if out:
            note(f"results: {out.path}")
        note(f"transitions log: {log}")


def _end(failed: "Counter[str]", out: "Output | None", order: "list[Document]") -> None:
    """Bring the results into order, and end by what has failed."""
    if out and order:
        out.sort(order)
    end(failed, resumable=out is not None)


def end(failed: "Counter[str]", resumable: bool) -> None:
    """Say what can be done about failures, and exit with 1 where there are any."""
    from ctd_agent.console import note
    from ctd_agent.graphs.batch import RETRIED

    if not failed:
        return
    if resumable and any(failed[kind] for kind in RETRIED):
        note("the same command tries again those that failed by no fault of their own")
    if resumable and failed.keys() - {*RETRIED}:
        note("the same command with --retry-failed tries all again that failed")
    raise typer.Exit(1)


def _documents(source: str | None, text: str | None, columns: dict[str, str | None]) -> "list[Document]":
    from ctd_agent.files import read_documents
    from ctd_agent.schema import Document

    if (source is None) == (text is None):
        raise UserError("give either a file of documents or --text")
    if text is not None:
        return [Document(id="text", text=text)]
    return read_documents(str(source), {field: column for field, column in columns.items() if column})


def _default_log(output: Path | None) -> Path:
    if output is not None:
        return output.with_name(output.name + ".transitions.jsonl")
    from ctd_agent.cache import cache_folder

    return cache_folder() / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.jsonl"


def _left(texts: "list[Document]", out: "Output | None", log: Path) -> "list[Document]":
    """Return the documents that are still to be labelled."""
    from ctd_agent.console import note

    if out is None:
        return texts
    if log.resolve() == out.path.resolve():
        raise UserError(f"{log}: cannot be both the results and the log; give --log another file")
    todo = out.left(texts)
    if done := len(texts) - len(todo):
        if not log.exists():
            raise UserError(f"{log}: the log of the results in {out.path} is not there; say where with --log")
        note(f"{out.path}: {done} of {len(texts)} documents are done" + (", going on" if todo else ", nothing to do"))
    return todo
