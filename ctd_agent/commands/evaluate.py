"""`ctd-agent eval`: score a labelled run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctd_agent.commands.options import Json
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctd_agent.distill.evaluation import Evaluation
    from ctd_agent.graphs.transitions import Transition
    from ctd_agent.schema import LabeledDocument


def evaluate(
    run: Annotated[Path, typer.Argument(help="The results that `ctd-agent label -o RUN` has written.")],
    gold: Annotated[str, typer.Option(help="The right labels: a file of `id`, `labels` and, if any, `filter_labels`.")],
    log: Annotated[Path | None, typer.Option(help="The run's log. Default: RUN.transitions.jsonl.")] = None,
    train: Annotated[
        str | None, typer.Option(help="Training documents with their right labels: PSP@k weighs labels by them.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Another run, to be subtracted from this one.")] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the figures as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    as_json: Json = False,
) -> None:
    """Score a labelled run against right labels, with 95% bootstrap intervals over documents.

    A run that is still going on can be scored. The ranking needs the run's log; without it, it ends with
    the shortlist.
    """
    from ctd_agent.console import note
    from ctd_agent.distill import evaluation
    from ctd_agent.files import read_gold

    right = read_gold(gold)
    weight = evaluation.propensities(read_gold(train)) if train else None
    results, steps = read_run(run, log)
    found = evaluation.evaluate(results, right, steps, weight, seed=seed)
    if compare:
        theirs, their_steps = read_run(compare, None)
        if not (steps and their_steps):  # the longer rankings would win by their length alone
            note(f"{run} less {compare}: of both, rankings end with the shortlist, as one has no log")
            steps, their_steps = {}, {}
        pair = evaluation.scored(results, right, steps), evaluation.scored(theirs, right, their_steps)
        found = found.model_copy(update={"compared": evaluation.compare(*pair, weight, seed=seed)})
    if found.missing:
        note(f"{run}: {found.missing} documents of {gold} have no result; they are left out")
    if out:
        _write(out, found)
    if as_json or not sys.stdout.isatty():
        sys.stdout.write(found.model_dump_json() + "\n")
    else:
        _show(found, compare)


def read_run(run: Path, log: Path | None) -> "tuple[list[LabeledDocument], Mapping[str, list[Transition]]]":
    """Return a run's results, and its steps where its log is there."""
    from ctd_agent.console import note
    from ctd_agent.graphs.transitions import read_transitions
    from ctd_agent.records import read_records
    from ctd_agent.schema import LabeledDocument

    if not run.exists():
        raise UserError(f"{run}: no such run; make it: ctd-agent label DOCUMENTS --labels CATALOGUE -o {run}")
    results = list(read_records(run, LabeledDocument))
    where = log or run.with_name(f"{run.name}.transitions.jsonl")
    if log is None and not where.exists():
        note(f"{run}: without its log ({where}) a ranking ends with the shortlist")
        return results, {}
    return results, read_transitions(where)


def _write(out: Path, found: "Evaluation") -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error


def _show(found: "Evaluation", compare: Path | None) -> None:
    """Print the metrics, the difference from another run beside them, and what each phase cost."""
    from rich.table import Table

    from ctd_agent.console import plain, show_table

    table = Table("", "mean", "95% interval", title=f"{found.documents} documents", title_justify="left")
    if found.compared:
        table.add_column(plain(f"less {compare}"))
    for name, (mean, low, high) in found.metrics.items():
        cells = [name, f"{mean:.3f}", f"[{low:.3f}, {high:.3f}]"]
        if found.compared:
            change = found.compared.differences[name]
            cells.append(f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")
        table.add_row(*cells)
    failed = sum(found.failures.values())
    table.caption = f"{found.empty} empty answers, {failed} failed, {found.truncated} read in part"
    show_table(table)
    cost = Table("a document", "calls", "tokens in", "of them cached", "tokens out", "seconds")
    for phase, one in found.cost.items():
        counts = (one.calls, one.prompt_tokens, one.cached_tokens, one.completion_tokens)
        cost.add_row(phase, *(f"{value:,.1f}" for value in counts), f"{one.seconds:.2f}")
    show_table(cost)
