"""A study's runs analysed: recall curves, the change with each arm, the swap matrix, the steps, the errors."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from ctd_agent.errors import UserError
from ctd_agent.graphs.state import found_by, merge
from ctd_agent.measure.characterize.findings import findings
from ctd_agent.measure.characterize.record import (
    Characterization,
    CurvePoint,
    ErrorExample,
    Errors,
    Step,
    Swap,
    Variant,
)
from ctd_agent.measure.characterize.study import ABLATIONS, GIVEN, WHOLE, Study
from ctd_agent.measure.evaluate import RANKING
from ctd_agent.measure.metrics import Interval, Metric, bootstrap, f1, rank_precision, recall
from ctd_agent.measure.trace import Trace, read_traces
from ctd_agent.schema import MODEL, Candidate, Gold, Label
from ctd_agent.tools.label_index import Hit

SIZES = (1, 2, 3, 5, 10, 15, 20, 30, 50, 100)
EXAMPLES = 5  # of each class of errors
ORDER = "retrieval's order"  # the selector that is none


Arm = list[Trace]  # the same documents in the same order in every arm
RANKED = {name: RANKING[name] for name in ("P@1", "RP@5", "nDCG@5")}
CHOICE: dict[str, Metric] = {
    "F1": f1,
    "precision": lambda chosen, right: len({*right} & {*chosen}) / max(len(chosen), 1),
    "recall": lambda chosen, right: len({*right} & {*chosen}) / len(right),
    "labels chosen": lambda chosen, _: float(len(chosen)),
}


def analyse(study: Study, gold: Mapping[str, Gold], out: Path) -> Characterization:
    """Return the characterization by the runs in the folder `out`, over the documents that every arm has done.

    Raises UserError where there is no such document.
    """
    arms = _read(study, gold, out)
    whole = arms[WHOLE]
    interval = partial(bootstrap, seed=study.seed)
    outcome = Characterization(
        documents=len(whole),
        labels=len(study.labels),
        task=study.task,
        shortlister=study.shortlisters[0].spec,
        selector=study.selectors[0].spec,
        embedder=study.index.manifest.embedder,
        candidates=study.budget.candidates,
        seed=study.seed,
        recall_by_candidates=[
            CurvePoint(at=k, recall=interval([recall(found_after(trace)[-1], trace.right, k) for trace in whole]))
            for k in SIZES
        ],
        recall_by_searches=_recall_by_searches(whole, interval),
        selection_given=_given(arms, interval),
        ablations=[
            _compared(name, _values(arms[name]), _values(whole), interval)
            for name in (WHOLE, *ABLATIONS)
            if name in arms
        ],
        swap=_swap(study, arms, interval),
        steps=_steps(whole, study.near, interval),
        errors=_errors(whole, study.labels),
        findings=[],
    )
    return outcome.model_copy(update={"findings": findings(outcome)})


Bootstrap = Callable[[Sequence[float]], Interval]


def found_after(trace: Trace) -> list[list[str]]:
    """Return the candidates in fused order: after all sources, then after each search of the model."""
    states: list[list[str]] = []
    candidates: dict[str, Candidate] = {}
    filtered = trace.gold.filtered if trace.gold else frozenset()
    for search in trace.searches:
        hits = [Hit(Label(id=hit.id, name=hit.name), hit.score) for hit in search.found]
        candidates = merge(candidates, found_by(search.source, search.query, hits))
        order = [key for key in sorted(candidates, key=lambda key: -candidates[key].score) if key not in filtered]
        states = [*states, order] if search.source == MODEL else [order]
    return states or [[]]


def _read(study: Study, gold: Mapping[str, Gold], out: Path) -> dict[str, Arm]:
    right = {document: labels for document, labels in gold.items() if labels.labels - labels.filtered}
    runs = {arm.name: {t.document: t for t in read_traces(out / arm.file, right)} for arm in study.arms}
    common = [key for key in runs[WHOLE] if all(key in done for done in runs.values()) and key in right]
    if not common:
        raise UserError(f"{out}: no document with right labels is done in every run")
    return {name: [done[key] for key in common] for name, done in runs.items()}


def _values(arm: Arm) -> dict[str, list[float]]:
    ranking = {name: [metric(trace.ranking, trace.right) for trace in arm] for name, metric in RANKED.items()}
    return ranking | {name: [metric(trace.chosen, trace.right) for trace in arm] for name, metric in CHOICE.items()}


def _compared(
    name: str, values: Mapping[str, list[float]], base: Mapping[str, list[float]], interval: Bootstrap
) -> Variant:
    pairs = {key: [a - b for a, b in zip(mine, base[key], strict=True)] for key, mine in values.items()}
    return Variant(
        name=name,
        documents=len(next(iter(values.values()))),
        metrics={key: interval(mine) for key, mine in values.items()},
        differences={key: interval(less) for key, less in pairs.items()},
    )


def _given(arms: Mapping[str, Arm], interval: Bootstrap) -> list[Variant]:
    """Return the selector's scores on the real shortlist and on made-up ones, and those of their order alone."""
    base = _values(arms[WHOLE])
    variants = []
    for name in (WHOLE, *GIVEN):
        by_order = {key: [metric(t.shortlist, t.right) for t in arms[name]] for key, metric in RANKED.items()}
        shown = "the real shortlist" if name == WHOLE else name
        variants.append(_compared(shown, _values(arms[name]), base, interval))
        variants.append(_compared(f"{shown}, by {ORDER}", by_order, base, interval))
    return variants


def _recall_by_searches(whole: Arm, interval: Bootstrap) -> list[CurvePoint]:
    """Recall of all that was found. A document that needed fewer searches keeps what it had."""
    found = [found_after(trace) for trace in whole]
    most = max(map(len, found))
    return [
        CurvePoint(
            at=n,
            recall=interval(
                [
                    len(trace.right & {*states[min(n, len(states)) - 1]}) / len(trace.right)
                    for trace, states in zip(whole, found, strict=True)
                ]
            ),
        )
        for n in range(1, most + 1)
    ]


def _swap(study: Study, arms: Mapping[str, Arm], interval: Bootstrap) -> Swap:
    rows = study.shortlister_names
    selectors = [ORDER, *(model.spec for model in study.selectors)]
    values: list[list[list[float]]] = []
    for name in rows:
        paired = [arms[study.swapped(name, number)] for number in range(len(study.selectors))]
        order = [rank_precision(found_after(trace)[-1], trace.right, 5) for trace in paired[0]]
        values.append([order, *([rank_precision(t.ranking, t.right, 5) for t in arm] for arm in paired)])
    retrieval, graph = values[rows.index("hybrid")], values[rows.index(WHOLE)]
    corners = list(zip(retrieval[0], graph[0], retrieval[1], graph[1], strict=True))
    return Swap(
        shortlisters=rows,
        selectors=selectors,
        values=[[interval(cell) for cell in row] for row in values],
        gain=interval([both - none for none, _, _, both in corners]),
        shares={
            "shortlist": interval([((first - none) + (both - last)) / 2 for none, first, last, both in corners]),
            "select": interval([((last - none) + (both - first)) / 2 for none, first, last, both in corners]),
        },
    )


def _steps(whole: Arm, near: Callable[[str], Sequence[Label]], interval: Bootstrap) -> list[Step]:
    """Focus and confusion after the document's search, the model's searches, the cut and the selection."""
    rows: dict[str, tuple[list[float], list[float]]] = {}
    for trace in whole:
        around = {key: [n.id for n in near(key)] for key in trace.right}
        neighbourhood = trace.right.union(*around.values())
        scores, found, cut = trace.scores, found_after(trace), trace.shortlist
        first, last = found[0], found[-1]
        judged = sorted(cut, key=lambda key: -scores.get(key, 0.0))
        orders = {
            "the document's search": (first, dict.fromkeys(first, 1.0)),
            "the model's searches": (last, dict.fromkeys(last, 1.0)),
            "the shortlist": (cut, dict.fromkeys(cut, 1.0)),
            "the selection": (judged, {key: scores.get(key, 0.0) for key in cut}),
        }
        pairs = [
            (key, other)
            for key, others in around.items()
            for other in others
            if other not in trace.right and {key, other} <= {*cut} & {*first}
        ]
        for name, (order, weights) in orders.items():
            focus, confusion = rows.setdefault(name, ([], []))
            total = sum(weights.values())
            focus.append(sum(weights[key] for key in weights if key in neighbourhood) / total if total else 0.0)
            place = {key: rank for rank, key in enumerate(order)}
            if pairs:
                confusion.append(fmean(place[other] < place[key] for key, other in pairs))
    return [Step(name=name, focus=interval(f), confusion=interval(c) if c else None) for name, (f, c) in rows.items()]


def _errors(whole: Arm, labels: Mapping[str, Label]) -> list[Errors]:
    """Every right label that was not chosen, and every chosen one that is wrong, by where it was lost."""
    lost: dict[str, list[tuple[str, str]]] = {
        "never retrieved": [],
        "retrieved and cut": [],
        "shortlisted and not chosen": [],
        "wrongly chosen": [],
    }
    for trace in whole:
        for key, fate in trace.fates().items():
            if fate in lost:
                lost[fate].append((trace.document, key))
        lost["wrongly chosen"] += [(trace.document, key) for key in trace.wrong()]
    right, chosen = sum(len(trace.right) for trace in whole), sum(len(trace.chosen) for trace in whole)
    return [
        Errors(
            name=name,
            count=len(cases),
            share=len(cases) / max(1, chosen if name == "wrongly chosen" else right),
            examples=[
                ErrorExample(document=document, label=key, name=labels[key].name if key in labels else key)
                for document, key in cases[:: max(1, len(cases) // EXAMPLES)][:EXAMPLES]
            ],
        )
        for name, cases in lost.items()
    ]
