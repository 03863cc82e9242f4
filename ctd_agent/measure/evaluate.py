"""Score a labelled run against gold: its ranking, its chosen set, and what each phase cost."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ctd_agent.distill.metrics import (
    Interval,
    Statistic,
    bootstrap,
    coverage,
    f1,
    inverse_propensity,
    macro_f1,
    mean_of,
    ndcg,
    precision,
    propensity_scored,
    rank_precision,
    ratio_of,
    recall,
)
from ctd_agent.errors import UserError
from ctd_agent.graphs.transitions import Transition
from ctd_agent.schema import Gold, LabeledDocument, Phase, Record, Usage

Metric = Callable[[Sequence[str], frozenset[str]], float]
RANKING: dict[str, Metric] = {
    **{f"P@{k}": partial(precision, k=k) for k in (1, 3, 5)},
    **{f"R@{k}": partial(recall, k=k) for k in (5, 10, 50)},
    "RP@5": partial(rank_precision, k=5),
    "nDCG@5": partial(ndcg, k=5),
}
PROPENSITY = (1, 3, 5)
COVERED = 5  # of a ranking, its first, count as found
CENTRED = ("macro F1", f"coverage@{COVERED}")  # count labels, of which a resample has fewer


class Cost(Record):
    """What a phase cost a document, on average; `cached_tokens` of the prompts' the engine's cache spared."""

    calls: float
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    seconds: float


class Comparison(Record):
    """One run less another, over the documents that both have: paired differences."""

    documents: int
    differences: dict[str, Interval]


class Evaluation(Record):
    """A run's score, over the documents that have right labels and a result.

    `missing` have right labels and no result, `unlabelled` a result and no right labels: neither counts.
    A failed document counts, with what it has. `empty` are answers without a label, failures among them.
    `compared` is what is left of the metrics less another run's.
    """

    documents: int
    missing: int
    unlabelled: int
    failures: dict[str, int]
    empty: int
    truncated: int
    metrics: dict[str, Interval]
    cost: dict[Phase, Cost]
    seed: int
    compared: Comparison | None = None


@dataclass(frozen=True)
class Scored:
    """A document's result without the labels that do not count for it, and its right labels."""

    result: LabeledDocument
    ranking: list[str]
    chosen: list[str]
    right: frozenset[str]


def ranked(result: LabeledDocument, steps: Sequence[Transition] = ()) -> list[str]:
    """Return a document's labels by id, best first: what a run says of their order.

    The chosen ones come first, then the rest that the selector judged, by its score, then the
    shortlist's, by the fused one, and last what was found and cut. The selector's scores and what was cut
    stand in the log only: without `steps` the ranking is the chosen and the shortlist.
    """
    chosen = [label.id for label in result.labels]
    judged = [key for step in steps if step.selection for key in step.selection.scores]
    shortlist = [entry.id for entry in result.shortlist]
    return list(dict.fromkeys([*chosen, *judged, *shortlist, *(new for step in steps for new in step.added)]))


def scored(
    results: Iterable[LabeledDocument], gold: Mapping[str, Gold], log: Mapping[str, Sequence[Transition]] = {}
) -> list[Scored]:
    """Return what can be scored: every result whose document has right labels."""
    found = []
    for result in results:
        known = gold.get(result.id, Gold(frozenset()))
        if right := known.labels - known.filtered:
            ranking = [key for key in ranked(result, log.get(result.id, ())) if key not in known.filtered]
            chosen = [label.id for label in result.labels if label.id not in known.filtered]
            found.append(Scored(result, ranking, chosen, right))
    return found


def propensities(training: Mapping[str, Gold]) -> Callable[[str], float]:
    """Return the inverse propensity of a label by the gold labels of the training documents (A=0.55, B=1.5)."""
    counts = Counter(label for one in training.values() for label in one.labels)
    return lambda label: inverse_propensity(counts[label], len(training))


def evaluate(
    results: Sequence[LabeledDocument],
    gold: Mapping[str, Gold],
    log: Mapping[str, Sequence[Transition]] = {},
    weight: Callable[[str], float] | None = None,
    *,
    seed: int = 0,
) -> Evaluation:
    """Return the score of a run; `log` are its transitions by document, `weight` the labels' inverse propensities.

    Without `weight` there is no PSP@k. Raises UserError where no document can be scored.
    """
    run = scored(results, gold, log)
    if not run:
        raise UserError("no document of the run has right labels: do the ids of run and gold agree?")
    done = {result.id for result in results}
    with_gold = {key for key, one in gold.items() if one.labels - one.filtered}
    return Evaluation(
        documents=len(run),
        missing=len(with_gold - done),
        unlabelled=len(done - with_gold),
        failures=Counter(one.result.failure.kind for one in run if one.result.failure),
        empty=sum(not one.chosen for one in run),
        truncated=sum(one.result.truncated_from is not None for one in run),
        metrics={
            name: bootstrap(one, len(run), centred=name in CENTRED, seed=seed)
            for name, one in statistics(run, weight).items()
        },
        cost=_costs([one.result for one in run]),
        seed=seed,
    )


def compare(
    run: Sequence[Scored],
    other: Sequence[Scored],
    weight: Callable[[str], float] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """Return a run's metrics less another's, paired by document. Raises UserError for no document in common."""
    theirs = {one.result.id: one for one in other}
    both = [(one, theirs[one.result.id]) for one in run if one.result.id in theirs]
    if not both:
        raise UserError("the two runs have no scored document in common")
    mine, its = (statistics(side, weight) for side in zip(*both, strict=True))
    return Comparison(
        documents=len(both),
        differences={
            name: bootstrap(mine[name], len(both), less=its[name], centred=name in CENTRED, seed=seed) for name in mine
        },
    )


def statistics(run: Sequence[Scored], weight: Callable[[str], float] | None = None) -> dict[str, Statistic]:
    """Return every metric of a run, by name."""
    gold = [one.right for one in run]
    found = {name: mean_of([metric(one.ranking, one.right) for one in run]) for name, metric in RANKING.items()}
    if weight:
        for k in PROPENSITY:
            found[f"PSP@{k}"] = ratio_of([propensity_scored(one.ranking, one.right, k, weight) for one in run])
    hits = [len(one.right & {*one.chosen}) for one in run]
    sizes = [len(one.right) + len(one.chosen) for one in run]
    return found | {
        "F1": mean_of([f1(one.chosen, one.right) for one in run]),
        "micro F1": ratio_of([(2 * hit, size) for hit, size in zip(hits, sizes, strict=True)]),
        "macro F1": macro_f1([one.chosen for one in run], gold),
        f"coverage@{COVERED}": coverage([one.ranking[:COVERED] for one in run], gold),
        "labels chosen": mean_of([len(one.chosen) for one in run]),
    }


def _costs(results: Sequence[LabeledDocument]) -> dict[Phase, Cost]:
    phases: tuple[Phase, ...] = ("search", "shortlist", "select")
    total = {phase: sum((one.usage.get(phase, Usage()) for one in results), Usage()) for phase in phases}
    return {
        phase: Cost(**{name: value / len(results) for name, value in usage.model_dump().items()})
        for phase, usage in total.items()
    }
