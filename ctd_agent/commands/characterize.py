"""`ctd-agent characterize`: the two phases taken apart, on one's own catalogue, model and gold set."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctd_agent.commands.options import (
    FILES,
    Candidates,
    Concurrency,
    Embedder,
    Index,
    Json,
    Listwise,
    Selecting,
    Task,
    given,
    refuse_inputs,
    selecting_by,
)
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from ctd_agent.measure.characterize.record import Characterization

Models = Annotated[
    list[str] | None,
    typer.Option(help="Another model for that phase, set beside the first's; may be repeated.", show_default=False),
]


def characterize(
    documents: Annotated[str, typer.Argument(help=f"Documents with their right labels in `labels`: {FILES}.")],
    out: Annotated[Path, typer.Option(help="A folder for the runs; the same command goes on where it was cut.")],
    labels: Annotated[str | None, typer.Option(help=f"The catalogue: {FILES}. Its index is cached.")] = None,
    index: Index = None,
    gold: Annotated[str | None, typer.Option(help="A file of `id` and `labels`, where not the documents'.")] = None,
    model: Annotated[str, typer.Option(help="The model of both phases: see `ctd-agent models`.")] = "local",
    shortlister: Models = None,
    selector: Models = None,
    selecting: Selecting = None,
    listwise: Listwise = None,
    task: Task = None,
    embedder: Embedder = None,
    candidates: Candidates = None,
    turns: Annotated[int | None, typer.Option(min=1, help="Model turns in phase 1. Default: 3; 1 if small.")] = None,
    searches: Annotated[int | None, typer.Option(min=1, help="Model searches in phase 1. Default: 16.")] = None,
    replay: Annotated[list[Path] | None, typer.Option(help="Log to answer from; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random labels, orders and intervals.")] = 0,
    concurrency: Concurrency = None,
    as_json: Json = False,
) -> None:  # long by its options: their list is the command's documentation
    """Take the two phases apart: isolate, ablate, swap and follow them. Write OUT/characterization.json.

    The graph runs whole, then with one thing changed at a time: some twelve runs, of which a model
    is asked only what it has not been asked before. `ctd-agent report` shows the outcome as a page.
    """
    from ctd_agent.agents.engines import load_phases
    from ctd_agent.agents.prompts import DEFAULT_TASK
    from ctd_agent.console import note, progress, say_json
    from ctd_agent.files import read_documents, read_gold
    from ctd_agent.graphs.job import Job
    from ctd_agent.graphs.replay import Memory
    from ctd_agent.measure.characterize.analysis import analyse
    from ctd_agent.measure.characterize.study import Study, run
    from ctd_agent.records import write_text

    refuse_inputs("--out", out / "characterization.json", documents, gold, labels, *(replay or []))
    texts = read_documents(documents)
    right = read_gold(gold or documents)
    counting = {key for key, labels in right.items() if labels.labels - labels.filtered}
    if unknown := [document.id for document in texts if document.id not in counting]:
        raise UserError(
            f"{gold or documents}: no right labels for document {unknown[0]!r} ({len(unknown)} such in all)"
        )
    way = selecting_by(selecting, listwise)
    job = Job(
        labels=labels,
        index=index,
        embedder=embedder,
        shortlister=model,
        selector=model,
        selecting=way,
        task=task or DEFAULT_TASK,
        budget=given(candidates=candidates, searches=searches, turns=turns),
    )
    first = job.open()
    models = [[first.shortlister], [first.selector]]
    for phase, others in enumerate((shortlister, selector)):
        models[phase] += [load_phases(spec, spec, way)[phase] for spec in others or []]
    budget = first.budget.model_copy(update={"turns": first.budget.turns or 1})
    study = Study(first.index, *models, task=job.task, budget=budget, seed=seed)
    memory = Memory.of([*(replay or []), *sorted(out.glob("*.transitions.jsonl"))])
    at_once = concurrency or min(model.slots for phase in models for model in phase)
    try:
        with progress("documents through all runs", len(texts)) as show:
            run(study, texts, right, out, memory=memory, concurrency=at_once, progress=show)
    except KeyboardInterrupt:
        note("the same command goes on from here")
        raise
    finally:
        note(f"{memory.asked:,} prompts were asked, {memory.replayed:,} answered from logs")
    outcome = analyse(study, {document.id: right[document.id] for document in texts}, out)
    write_text(out / "characterization.json", outcome.model_dump_json(indent=1))
    note(f"{out / 'characterization.json'}: the figures; `ctd-agent report` shows them")
    if as_json or not sys.stdout.isatty():
        say_json(outcome.model_dump_json())
    else:
        _show(outcome)


def _show(outcome: "Characterization") -> None:
    """Print the findings, the swap matrix and the ablations."""
    from rich.table import Table

    from ctd_agent.console import plain, say, show_table

    for finding in outcome.findings:
        say(f"- {finding}")
    swap = Table(
        "RP@5",
        *(plain(name).plain for name in outcome.swap.selectors),
        title="Shortlister x selector",
        title_justify="left",
    )
    for name, row in zip(outcome.swap.shortlisters, outcome.swap.values, strict=True):
        swap.add_row(plain(name), *(f"{cell:.3f}" for cell in row))
    changed = Table("", "RP@5", "difference", title="With one thing changed", title_justify="left")
    for variant in outcome.ablations:
        value, change = variant.metrics["RP@5"], variant.differences["RP@5"]
        changed.add_row(plain(variant.name), f"{value.mean:.3f}", f"{change:+.3f}")
    show_table(swap)
    show_table(changed)
