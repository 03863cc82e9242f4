"""`ctd-agent characterize`: the two phases taken apart, on one's own catalogue, model and gold set."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctd_agent.commands.options import FILES, Embedder, Json, Task, open_index
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from ctd_agent.distill.characterization import Characterization

Models = Annotated[
    list[str] | None,
    typer.Option(help="Another model for that phase, set beside the first's; may be repeated.", show_default=False),
]


def characterize(
    documents: Annotated[str, typer.Argument(help=f"Documents with their right labels in `labels`: {FILES}.")],
    out: Annotated[Path, typer.Option(help="A folder for the runs; the same command goes on where it was cut.")],
    labels: Annotated[str | None, typer.Option(help=f"The catalogue: {FILES}. Its index is cached.")] = None,
    index: Annotated[
        str | None, typer.Option(help="An index that `ctd-agent index` has built, instead of a catalogue.")
    ] = None,
    gold: Annotated[str | None, typer.Option(help="A file of `id` and `labels`, where not the documents'.")] = None,
    model: Annotated[str, typer.Option(help="The model of both phases: see `ctd-agent models`.")] = "local",
    shortlister: Models = None,
    selector: Models = None,
    listwise: Annotated[
        bool | None,
        typer.Option("--listwise/--pointwise", help="As in `label`. Default: what fits the model.", show_default=False),
    ] = None,
    task: Task = None,
    embedder: Embedder = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Labels on the shortlist. Default: 50; 20 if small; a student's own.")
    ] = None,
    turns: Annotated[int | None, typer.Option(min=1, help="Model turns in phase 1. Default: 3; 1 if small.")] = None,
    searches: Annotated[int | None, typer.Option(min=1, help="Model searches in phase 1. Default: 16.")] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(help="A transitions log: what a model answered in it is not asked again; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random labels, orders and intervals.")] = 0,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Documents at once. Default: what the engine carries.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:  # long by its options: their list is the command's documentation
    """Take the two phases apart: isolate, ablate, swap and follow them; write OUT/characterization.json.

    The graph runs whole, then with one thing changed at a time: some twelve runs, of which a model
    is asked only what it has not been asked before. `ctd-agent report` shows the outcome as a page.
    """
    from ctd_agent.agents.models import load_phases
    from ctd_agent.agents.prompts import DEFAULT_TASK
    from ctd_agent.console import note, progress
    from ctd_agent.distill.analysis import analyse
    from ctd_agent.distill.characterize import Study, run
    from ctd_agent.files import read_documents, read_gold
    from ctd_agent.graphs.budget import Budget
    from ctd_agent.graphs.replay import Memory

    texts = read_documents(documents)
    right = read_gold(gold or documents)
    counting = {key for key, one in right.items() if one.labels - one.filtered}
    if unknown := [one.id for one in texts if one.id not in counting]:
        raise UserError(
            f"{gold or documents}: no right labels for document {unknown[0]!r} ({len(unknown)} such in all)"
        )
    catalogue = open_index(labels, index, embedder)
    first = load_phases(model, model, listwise)
    models = [[first[0]], [first[1]]]
    for phase, others in enumerate((shortlister, selector)):
        models[phase] += [load_phases(spec, spec, listwise)[phase] for spec in others or []]
    fitting = Budget.fitting(*first, candidates=candidates, searches=searches)
    budget = replace(fitting, turns=turns or fitting.turns or 1)
    study = Study(catalogue, *models, task=task or DEFAULT_TASK, budget=budget, seed=seed)
    memory = Memory.of([*(replay or []), *sorted(out.glob("*.transitions.jsonl"))])
    at_once = concurrency or min(one.slots for phase in models for one in phase)
    try:
        with progress("documents through all runs", len(texts)) as show:
            run(study, texts, right, out, memory=memory, concurrency=at_once, progress=show)
    except KeyboardInterrupt:
        note("the same command goes on from here")
        raise
    finally:
        note(f"{memory.asked:,} prompts were asked, {memory.replayed:,} answered from logs")
    found = analyse(study, {one.id: right[one.id] for one in texts}, out)
    (out / "characterization.json").write_text(found.model_dump_json(indent=1), encoding="utf-8")
    note(f"{out / 'characterization.json'}: the figures; `ctd-agent report` shows them")
    if as_json or not sys.stdout.isatty():
        sys.stdout.write(found.model_dump_json() + "\n")
    else:
        _show(found)


def _show(found: "Characterization") -> None:
    """Print the findings, the swap matrix and the ablations."""
    from rich.table import Table

    from ctd_agent.console import plain, say, show_table

    for finding in found.findings:
        say(f"- {finding}")
    swap = Table(
        "RP@5",
        *(plain(name).plain for name in found.swap.selectors),
        title="Shortlister x selector",
        title_justify="left",
    )
    for name, row in zip(found.swap.shortlisters, found.swap.values, strict=True):
        swap.add_row(plain(name), *(f"{cell.mean:.3f} [{cell.low:.3f}, {cell.high:.3f}]" for cell in row))
    changed = Table("", "RP@5", "difference", title="With one thing changed", title_justify="left")
    for one in found.ablations:
        value, change = one.metrics["RP@5"], one.differences["RP@5"]
        changed.add_row(
            plain(one.name), f"{value.mean:.3f}", f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
        )
    show_table(swap)
    show_table(changed)
