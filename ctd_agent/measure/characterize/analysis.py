"""Read a study's runs: recall curves, what changed with each arm, the swap matrix, the steps, the errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from ctd_agent.distill.characterization import (
    Characterization,
    CurvePoint,
    ErrorExample,
    Errors,
    Step,
    Swap,
    Variant,
)
from ctd_agent.distill.characterize import ABLATIONS, GIVEN, WHOLE, Neighbourhood, Study
from ctd_agent.distill.evaluation import RANKING, Metric, ranked
from ctd_agent.distill.fates import fate
from ctd_agent.distill.findings import findings
from ctd_agent.distill.metrics import Interval, bootstrap, f1, rank_precision, recall
from ctd_agent.errors import UserError
from ctd_agent.graphs.state import found_by, merge
from ctd_agent.graphs.transitions import Transition, read_transitions
from ctd_agent.records import read_records
from ctd_agent.schema import Candidate, Gold, Label, LabeledDocument
from ctd_agent.tools.label_index import Hit

SIZES = (1, 2, 3, 5, 10, 15, 20, 30, 50, 100)
EXAMPLES = 5  # of each class of errors
ORDER = "retrieval's order"  # the selector that is none


@dataclass(frozen=True)
class Labelled:
    """One document in one arm, without the labels that do not count for it."""

    gold: Gold
    result: LabeledDocument
    steps: Sequence[Transition]

    @property
    def right(self) -> frozenset[str]:
        """Its right labels."""
        return self.gold.labels - self.gold.filtered

    @property
    def ranking(self) -> list[str]:
        """All labels that the arm has ranked, best first."""
        return self._counting(ranked(self.result, self.steps))

    @property
    def chosen(self) -> list[str]:
        """The chosen labels, best first."""
        return self._counting([label.id for label in self.result.labels])

    @property
    def shortlist(self) -> list[str]:
        """The shortlist in its order."""
        return self._counting([entry.id for entry in self.result.shortlist])

    @property
    def found(self) -> list[list[str]]:
        """The candidates in fused order after each search, the document's own first."""
        states: list[list[str]] = []
        candidates: dict[str, Candidate] = {}
        for search in (search for step in self.steps for search in step.searches):
            hits = [Hit(Label(id=one.id, name=one.name), one.score) for one in search.found]
            candidates = merge(candidates, found_by(search.turn, search.query, hits))
            best = sorted(candidates, key=lambda key: -candidates[key].score)
            states.append(self._counting(best))
        return states or [[]]

    def _counting(self, labels: Sequence[str]) -> list[str]:
        return [label for label in labels if label not in self.gold.filtered]


Arm = list[Labelled]  # the same documents in the same order in every arm
RANKED = {name: RANKING[name] for name in ("P@1", "RP@5", "nDCG@5")}
CHOICE: dict[str, Metric] = {
    "F1": f1,
    "precision": lambda chosen, right: len(right & {*chosen}) / max(len(chosen), 1),
    "recall": lambda chosen, right: len(right & {*chosen}) / len(right),
    "labels chosen": lambda chosen, _: float(len(chosen)),
}


def analyse(study: Study, gold: Mapping[str, Gold], out: Path) -> Characterization:
    """Return what the runs in the folder `out` show, over the documents that every arm has done.

    Raises UserError where there is no such document.
    """
    arms = _read(study, gold, out)
    whole = arms[WHOLE]
    interval = partial(bootstrap, seed=study.seed)
    found = Characterization(
        documents=len(whole),
        labels=len(study.labels),
        task=study.task,
        shortlister=study.shortlisters[0].spec,
        selector=study.selectors[0].spec,
        embedder=study.index.manifest.embedder,
        candidates=study.budget.candidates,
        seed=study.seed,
        recall_by_candidates=[
            CurvePoint(at=k, recall=interval([recall(one.found[-1], one.right, k) for one in whole])) for k in SIZES
        ],
        recall_by_searches=_recall_by_searches(whole, interval),
        selection_given=_given(arms, interval),
        ablations=[_variant(name, arms[name], whole, interval) for name in (WHOLE, *ABLATIONS) if name in arms],
        swap=_swap(study, arms, interval),
        steps=_steps(whole, study.near, interval),
        errors=_errors(whole, study.labels),
        findings=[],
    )
    return found.model_copy(update={"findings": findings(found)})


Bootstrap = Callable[[Sequence[float]], Interval]


def _read(study: Study, gold: Mapping[str, Gold], out: Path) -> dict[str, Arm]:
    results = {arm.name: {one.id: one for one in read_records(out / arm.file, LabeledDocument)} for arm in study.arms}
    common = [key for key in results[WHOLE] if all(key in done for done in results.values()) and key in gold]
    common = [key for key in common if gold[key].labels - gold[key].filtered]
    if not common:
        raise UserError(f"{out}: no document with right labels is done in every run")
    logs = {arm.name: read_transitions(out / f"{arm.file}.transitions.jsonl") for arm in study.arms}
    return {
        name: [Labelled(gold[key], done[key], logs[name].get(key, ())) for key in common]
        for name, done in results.items()
    }


def _values(arm: Arm) -> dict[str, list[float]]:
    ranking = {name: [metric(one.ranking, one.right) for one in arm] for name, metric in RANKED.items()}
    return ranking | {name: [metric(one.chosen, one.right) for one in arm] for name, metric in CHOICE.items()}


def _variant(name: str, arm: Arm, whole: Arm, interval: Bootstrap) -> Variant:
    return _compared(name, _values(arm), _values(whole), interval)


def _compared(
    name: str, values: Mapping[str, list[float]], base: Mapping[str, list[float]], interval: Bootstrap
) -> Variant:
    pairs = {key: [a - b for a, b in zip(of_one, base[key], strict=True)] for key, of_one in values.items()}
    return Variant(
        name=name,
        documents=len(next(iter(values.values()))),
        metrics={key: interval(of_one) for key, of_one in values.items()},
        differences={key: interval(of_one) for key, of_one in pairs.items()},
    )


def _given(arms: Mapping[str, Arm], interval: Bootstrap) -> list[Variant]:
    """What the selector makes of the real shortlist and of made-up ones, and what their order alone would have."""
    base = _values(arms[WHOLE])
    variants = []
    for name in (WHOLE, *GIVEN):
        by_order = {key: [metric(one.shortlist, one.right) for one in arms[name]] for key, metric in RANKED.items()}
        shown = "the real shortlist" if name == WHOLE else name
        variants.append(_compared(shown, _values(arms[name]), base, interval))
        variants.append(_compared(f"{shown}, by {ORDER}", by_order, base, interval))
    return variants


def _recall_by_searches(whole: Arm, interval: Bootstrap) -> list[CurvePoint]:
    """Recall of all that was found; a document that needed fewer searches keeps what it had."""
    found = [one.found for one in whole]
    most = max(map(len, found))
    return [
        CurvePoint(
            at=n,
            recall=interval(
                [
                    len(one.right & {*states[min(n, len(states)) - 1]}) / len(one.right)
                    for one, states in zip(whole, found, strict=True)
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
        order = [rank_precision(one.found[-1], one.right, 5) for one in paired[0]]
        values.append([order, *([rank_precision(one.ranking, one.right, 5) for one in arm] for arm in paired)])
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


def _steps(whole: Arm, near: Neighbourhood, interval: Bootstrap) -> list[Step]:
    """Focus and confusion after the document's search, the model's searches, the cut and the selection."""
    rows: dict[str, tuple[list[float], list[float]]] = {}
    for one in whole:
        around = {key: [n.id for n in near[key]] for key in one.right}
        neighbourhood = one.right.union(*around.values())
        scores = next((step.selection.scores for step in one.steps if step.selection), {})
        first, last, cut = one.found[0], one.found[-1], one.shortlist
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
            if other not in one.right and {key, other} <= {*cut} & {*first}
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
    for one in whole:
        for key in sorted(one.right):
            became = fate(key, one.chosen, one.shortlist, one.found[-1])
            if became in lost:
                lost[became].append((one.result.id, key))
        lost["wrongly chosen"] += [(one.result.id, key) for key in one.chosen if key not in one.right]
    right, chosen = sum(len(one.right) for one in whole), sum(len(one.chosen) for one in whole)
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
