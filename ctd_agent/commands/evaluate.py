"""`ctd-agent eval`: score a labelled run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctd_agent.commands.options import Json, refuse_inputs
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctd_agent.measure.evaluate import Evaluation
    from ctd_agent.measure.trace import Traces
    from ctd_agent.schema import Gold


def evaluate(
    run: Annotated[Path, typer.Argument(help="The results that `ctd-agent label -o RUN` has written.")],
    gold: Annotated[str, typer.Option(help="The right labels: a file of `id`, `labels` and, if any, `filter_labels`.")],
    log: Annotated[Path | None, typer.Option(help="The run's log. Default: RUN.transitions.jsonl.")] = None,
    train: Annotated[
        str | None, typer.Option(help="Training documents with their right labels: PSP@k weighs labels by them.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Another run, to be subtracted from this one.")] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the figures as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 0,
    as_json: Json = False,
) -> None:  # long by its options: their list is the command's documentation
    """Score a labelled run against right labels, with 95% bootstrap intervals over documents.

    A run that is still going on can be scored. The ranking needs the run's log: without one it ends with the shortlist.
    """
    from ctd_agent.console import note, say_json
    from ctd_agent.files import read_gold
    from ctd_agent.measure import evaluate as scores
    from ctd_agent.records import write_text

    refuse_inputs("--out", out, run, gold, log, train, compare)
    right = read_gold(gold)
    weight = scores.propensities(read_gold(train)) if train else None
    traces = read_run(run, right, log).outlined()
    evaluation = scores.evaluate(traces, right, weight, seed=seed)
    if compare:
        theirs = read_run(compare, right).outlined()
        if not (traces.logged and theirs.logged):  # the longer rankings would win by their length alone
            note(f"{run} less {compare}: of both, rankings end with the shortlist, as one has no log")
            traces, theirs = traces.without_log(), theirs.without_log()
        compared = scores.compare(traces, theirs, weight, seed=seed)
        evaluation = evaluation.model_copy(update={"compared": compared})
    if evaluation.missing:
        note(f"{run}: {evaluation.missing} documents of {gold} have no result; they are left out")
    if out:
        write_text(out, evaluation.model_dump_json(indent=1) + "\n")
    if as_json or not sys.stdout.isatty():
        say_json(evaluation.model_dump_json())
    else:
        _show(evaluation, compare)


def read_run(run: Path, gold: "Mapping[str, Gold]", log: Path | None = None) -> "Traces":
    """Return a run with its log where that is there. Raises UserError where there is no such run."""
    from ctd_agent.console import note
    from ctd_agent.graphs.transitions import log_of
    from ctd_agent.measure.trace import read_traces

    if not run.exists():
        raise UserError(f"{run}: no such run; make it: ctd-agent label DOCUMENTS --labels CATALOGUE -o {run}")
    if log is None and not log_of(run).exists():
        note(f"{run}: without its log ({log_of(run)}) a ranking ends with the shortlist")
    return read_traces(run, gold, log)


def _show(evaluation: "Evaluation", compare: Path | None) -> None:
    """Print the metrics, the difference from another run beside them, and the cost of each phase."""
    from rich.table import Table

    from ctd_agent.console import plain, show_table

    table = Table("", "mean", "95% interval", title=f"{evaluation.documents} documents", title_justify="left")
    if evaluation.compared:
        table.add_column(plain(f"less {compare}"))
    for name, (mean, low, high) in evaluation.metrics.items():
        cells = [name, f"{mean:.3f}", f"[{low:.3f}, {high:.3f}]"]
        if evaluation.compared:
            cells.append(f"{evaluation.compared.differences[name]:+.3f}")
        table.add_row(*cells)
    failed = sum(evaluation.failures.values())
    table.caption = f"{evaluation.empty} empty answers, {failed} failed, {evaluation.truncated} read in part"
    show_table(table)
    cost = Table("a document", "calls", "tokens in", "of them cached", "tokens out", "seconds")
    for phase, spent in evaluation.cost.items():
        counts = (spent.calls, spent.prompt_tokens, spent.cached_tokens, spent.completion_tokens)
        cost.add_row(phase, *(f"{value:,.1f}" for value in counts), f"{spent.seconds:.2f}")
    show_table(cost)
