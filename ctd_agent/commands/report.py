"""`ctd-agent report`: one HTML page to look at a run and at what was measured of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ctd_agent.distill.report_documents import Case
    from ctd_agent.graphs.transitions import Run

    Model = TypeVar("Model", bound=BaseModel)


def report(
    run: Annotated[Path | None, typer.Argument(help="The results that `ctd-agent label -o RUN` has written.")] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    log: Annotated[Path | None, typer.Option(help="The run's log. Default: RUN.transitions.jsonl, if there.")] = None,
    gold: Annotated[str | None, typer.Option(help="The right labels, as for `eval`.")] = None,
    labels: Annotated[str | None, typer.Option(help="The catalogue, for the names of labels nobody found.")] = None,
    evaluation: Annotated[Path | None, typer.Option("--eval", help="What `eval --out` has written.")] = None,
    characterization: Annotated[Path | None, typer.Option(help="What `characterize` has written.")] = None,
) -> None:
    """Make one self-contained page: the funnel, the score, the phases taken apart, and every document.

    It needs no network and opens from disk. It holds the documents' texts.
    """
    from ctd_agent.console import note
    from ctd_agent.distill.characterization import Characterization
    from ctd_agent.distill.evaluation import Evaluation
    from ctd_agent.distill.report import page
    from ctd_agent.files import read_labels

    if run is None and evaluation is None and characterization is None:
        raise UserError("nothing to report: give a RUN, --eval or --characterization")
    cases, header = _cases(run, log, gold) if run else ([], None)
    text = page(
        cases,
        run=header,
        names={label.id: label.name for label in read_labels(labels)} if labels else {},
        evaluation=_record(evaluation, Evaluation) if evaluation else None,
        characterization=_record(characterization, Characterization) if characterization else None,
    )
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error
    note(f"{out}: open it in a browser")


def _cases(run: Path, log: Path | None, gold: str | None) -> "tuple[list[Case], Run | None]":
    """Return a run's documents, and the header of its log where there is one."""
    from ctd_agent.distill.report_documents import Case
    from ctd_agent.files import read_gold
    from ctd_agent.graphs.transitions import read_runs, read_transitions
    from ctd_agent.records import read_records
    from ctd_agent.schema import LabeledDocument

    right = read_gold(gold) if gold else {}
    where = log or run.with_name(f"{run.name}.transitions.jsonl")
    logged = log is not None or where.exists()
    steps, runs = (read_transitions(where), read_runs(where)) if logged else ({}, [])
    results = list(read_records(run, LabeledDocument))
    if not results:
        raise UserError(f"{run}: no documents in it")
    cases = [Case(one, steps.get(one.id), right.get(one.id)) for one in results]
    return cases, runs[-1] if runs else None


def _record(path: Path, model: "type[Model]") -> "Model":
    from ctd_agent.records import validated

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return validated(f"{path}: not a {model.__name__}", model.model_validate_json, data)
