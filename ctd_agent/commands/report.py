"""`ctd-agent report`: one HTML page to look at a run and its measurements."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctd_agent.commands.options import refuse_inputs
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from ctd_agent.measure.characterize.record import Characterization

SHOWN = 2_000  # documents that can be opened on the page: more, and no browser opens it


def report(
    run: Annotated[Path | None, typer.Argument(help="The results that `ctd-agent label -o RUN` has written.")] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    log: Annotated[Path | None, typer.Option(help="The run's log. Default: RUN.transitions.jsonl, if there.")] = None,
    gold: Annotated[str | None, typer.Option(help="The right labels, as for `eval`.")] = None,
    labels: Annotated[str | None, typer.Option(help="The catalogue, for the names of labels nobody found.")] = None,
    evaluation: Annotated[Path | None, typer.Option("--eval", help="What `eval --out` has written.")] = None,
    characterization: Annotated[Path | None, typer.Option(help="What `characterize` has written.")] = None,
) -> None:
    """Make one self-contained page: the funnel, the score, the phases taken apart, and the documents.

    It needs no network and opens from disk. It holds the texts of 2,000 documents at most: of more, some are drawn.
    """
    from ctd_agent.console import note
    from ctd_agent.files import read_gold, read_labels
    from ctd_agent.measure.evaluate import Evaluation
    from ctd_agent.measure.report.page import page
    from ctd_agent.measure.trace import read_traces
    from ctd_agent.records import read_record, write_text

    if run is None and evaluation is None and characterization is None:
        raise UserError("nothing to report: give a RUN, --eval or --characterization")
    refuse_inputs("--out", out, run, log, gold, labels, evaluation, characterization)
    if not out.parent.is_dir():
        raise UserError(f"{out}: cannot be written: there is no such folder")
    traces = read_traces(run, read_gold(gold) if gold else {}, log) if run else None
    shown = traces.sample(SHOWN) if traces else ()
    if run and not any(True for _ in shown):
        raise UserError(f"{run}: no documents in it")
    text = page(
        traces.outlined() if traces else (),
        shown,
        names={label.id: label.name for label in read_labels(labels)} if labels else {},
        evaluation=read_record(evaluation, Evaluation, "an evaluation") if evaluation else None,
        characterization=_characterization(characterization) if characterization else None,
    )
    write_text(out, text)
    note(f"{out}: open it in a browser")


def _characterization(path: Path) -> "Characterization":
    from ctd_agent.measure.characterize.record import Characterization
    from ctd_agent.records import read_record

    return read_record(path, Characterization, "a characterization")
