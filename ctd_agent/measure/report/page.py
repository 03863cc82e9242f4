"""A run, its score and its characterization as one HTML page that needs nothing else.

The page's text is escaped: figures are elements that are written as HTML. Documents are JSON without a "<", and the
page's script shows them as text only.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any
from xml.etree.ElementTree import Element, tostring

from ctd_agent.graphs.transitions import Run
from ctd_agent.measure.characterize.record import Characterization
from ctd_agent.measure.evaluate import Evaluation
from ctd_agent.measure.report.charts import (
    Curve,
    bars,
    curves,
    differences,
    element,
    heat_map,
    interval_text,
    number,
    table,
)
from ctd_agent.measure.report.documents import CLASSES, Names, Stage, Totals, classes, details, funnel, title
from ctd_agent.measure.trace import Trace


def page(
    traces: Iterable[Trace] = (),
    shown: Iterable[Trace] | None = None,
    *,
    names: Mapping[str, str] = {},
    evaluation: Evaluation | None = None,
    characterization: Characterization | None = None,
) -> str:
    """Return the page, with a section for each part that is given.

    `traces` are the documents that count, `shown` those that can be opened, None for the same. `names` are the labels'
    names by id, for labels that the log does not name.
    """
    known = Names(names)
    total = Totals.of(traces)
    run = total.run
    catalogue = run.labels if run else characterization.labels if characterization else None
    sections = [
        *([_funnel(funnel(total, catalogue))] if total.documents else []),
        *([_metrics(evaluation)] if evaluation else []),
        *(_characterization(characterization) if characterization else []),
    ]
    rows, opened = [], []
    for trace in traces if shown is None else shown:
        rows.append([trace.document, title(trace), [CLASSES.index(name) for name in classes(trace)]])
        opened.append(_json(details(trace, known)))
    ours = files("ctd_agent.measure.report")
    return Template(ours.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        style=ours.joinpath("report.css").read_text(encoding="utf-8"),
        script=ours.joinpath("report.js").read_text(encoding="utf-8"),
        about=_html(_about(total.documents, len(rows), run, characterization)),
        sections="\n".join(map(_html, sections)),
        explorer="" if rows else "hidden",
        index=_json({"rows": rows, "classes": CLASSES, "labels": known.table()}),
        details="\n".join(opened),
    )


def _html(made: Element) -> str:
    return tostring(made, encoding="unicode", method="html")


def _json(value: Any) -> str:
    # Neither "</script>" nor "<!--" can stand in it; surrogates that no file can hold neither.
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")


def _about(documents: int, shown: int, run: Run | None, characterization: Characterization | None) -> Element:
    facts = []
    if run:
        models = run.selector if run.shortlister == run.selector else f"{run.shortlister} and {run.selector}"
        facts += [run.task, f"model {models}", f"{run.labels:,} labels", f"run of {run.started[:10]}"]
    elif characterization:
        facts += [characterization.task, f"model {characterization.selector}", f"{characterization.labels:,} labels"]
    facts += [f"{documents:,} documents"] if documents else []
    facts += [f"{shown:,} of them below, drawn at random"] if shown < documents else []
    return element("p", " · ".join(facts), class_="about")


def _section(heading: str, *children: Element) -> Element:
    return element("section", element("h2", heading), *children)


def _note(text: str) -> Element:
    return element("p", text, class_="note")


def _funnel(stages: Sequence[Stage]) -> Element:
    steps = []
    for stage in stages:
        labels = f"{stage.labels:,.0f}" if stage.labels >= 10 else f"{stage.labels:.1f}"
        right = (
            [] if stage.right is None else [element("span", f"{stage.right:.0%} of the right labels", class_="right")]
        )
        width = f"--share:{100 * (1.0 if stage.right is None else stage.right):.1f}%"
        count = element("strong", labels)
        steps.append(element("li", element("span", stage.name, class_="stage"), count, *right, style=width))
    return _section(
        "From catalogue to choice", _note("Labels a document, on average."), element("ol", *steps, class_="funnel")
    )


def _metrics(evaluation: Evaluation) -> Element:
    headings = ["", "mean [95% interval]"]
    rows = [[name, interval_text(value)] for name, value in evaluation.metrics.items()]
    if evaluation.compared:
        headings.append("less the other run")
        for row in rows:
            row.append(interval_text(evaluation.compared.differences[row[0]], signed=True))
    failed = sum(evaluation.failures.values())
    said = f"Over {evaluation.documents:,} documents; {evaluation.empty:,} answers without a label, {failed:,} failed."
    costs = [
        [
            phase,
            *(f"{value:,.1f}" for value in (cost.calls, cost.prompt_tokens, cost.completion_tokens)),
            f"{cost.seconds:.2f}",
        ]
        for phase, cost in evaluation.cost.items()
    ]
    return _section(
        "Score",
        _note(said),
        table(headings, rows),
        table(["a document", "calls", "tokens in", "tokens out", "seconds"], costs),
    )


def _characterization(study: Characterization) -> Iterator[Element]:
    yield _section(
        "What was found", element("ul", *(element("li", finding) for finding in study.findings), class_="findings")
    )
    yield _section("Isolate: the shortlist", *_recalls(study))
    given = [(variant.name, variant.metrics["P@1"]) for variant in study.selection_given]
    yield _section(
        "Isolate: the selector",
        _note("P@1 on the real shortlist and on made-up ones; beside each, what their order alone would have scored."),
        bars(given),
    )
    changed = [(variant.name, variant.differences["RP@5"]) for variant in study.ablations[1:]]
    yield _section("Ablate", _note("RP@5 with one thing changed, less that of the whole graph."), differences(changed))
    yield _swap(study)
    yield _steps(study)
    yield _errors(study)


def _recalls(study: Characterization) -> Iterator[Element]:
    kept, searched = study.recall_by_candidates, study.recall_by_searches
    by_size = Curve("recall", [point.recall for point in kept])
    yield curves([by_size], [str(point.at) for point in kept], "candidates kept", "recall")
    by_search = Curve("recall", [point.recall for point in searched])
    yield curves([by_search], [str(point.at) for point in searched], "searches, the document's own first", "recall")


def _swap(study: Characterization) -> Element:
    swap = study.swap
    parts = [("shortlisting", swap.shares["shortlist"]), ("selecting", swap.shares["select"]), ("both", swap.gain)]
    return _section(
        "Swap",
        _note("RP@5 of every shortlister with every selector."),
        heat_map(swap.shortlisters, swap.selectors, swap.values, "shortlister"),
        _note("What each phase adds to hybrid retrieval in its own order (Shapley shares)."),
        differences(parts),
    )


def _steps(study: Characterization) -> Element:
    lines = [Curve("focus", [step.focus for step in study.steps])]
    confusion = [step.confusion for step in study.steps if step.confusion]
    if len(confusion) == len(study.steps):
        lines.append(Curve("confusion", confusion))
    places = [step.name.removeprefix("the ").replace("'s ", " ") for step in study.steps]
    said = "Focus: candidates' weight near right labels. Confusion: how often a near-miss outranks its right label."
    return _section("Follow", _note(said), curves(lines, places, "after", "share"))


def _errors(study: Characterization) -> Element:
    rows = [
        [
            error.name,
            f"{error.count:,}",
            number(error.share),
            "; ".join(f"{example.name} ({example.document})" for example in error.examples),
        ]
        for error in study.errors
    ]
    said = "Shares are of all right labels; of the wrongly chosen, of all chosen."
    section = _section("Errors", _note(said), table(["class", "labels", "share", "examples"], rows))
    section.set("class", "wide")
    return section
