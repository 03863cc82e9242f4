"""Score a labelled run against gold: its ranking, its chosen set, and the cost of each phase."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ctd_agent.errors import UserError
from ctd_agent.measure.metrics import (
    Interval,
    Metric,
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
from ctd_agent.measure.trace import Trace
from ctd_agent.schema import Gold, LabeledDocument, Phase, Record, Usage

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
    """A phase's mean cost a document. `cached_tokens` are the prompt tokens that the engine's cache spared."""

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

    `missing` documents have right labels and no result, `unlabelled` ones a result and no right labels: neither
    counts. A failed document counts. `empty` answers have no label, failures among them. `compared` holds the
    metrics less another run's.
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


def propensities(training: Mapping[str, Gold]) -> Callable[[str], float]:
    """Return the inverse propensity of a label by the gold labels of the training documents (A=0.55, B=1.5)."""
    counts = Counter(label for gold in training.values() for label in gold.labels)
    return lambda label: inverse_propensity(counts[label], len(training))


def evaluate(
    run: Sequence[Trace], gold: Mapping[str, Gold], weight: Callable[[str], float] | None = None, *, seed: int = 0
) -> Evaluation:
    """Return the score of a run over its documents that have right labels; without `weight` there is no PSP@k.

    `gold` holds the right labels of all documents that should be in the run, `weight` the labels' inverse
    propensities. Raises UserError where no document can be scored.

    >>> result = LabeledDocument(id="a", labels=[], shortlist=[ShortlistEntry("J45", 1.0, [])], usage={})
    >>> gold = {"a": Gold(frozenset({"J45"}))}
    >>> evaluate([Trace("a", result=result, gold=gold["a"])], gold).metrics["R@5"].mean
    1.0
    """
    scored = [trace for trace in run if trace.right]
    if not scored:
        raise UserError("no document of the run has right labels: do the ids of run and gold agree?")
    results = [trace.result for trace in scored if trace.result]
    done = {trace.document for trace in run}
    with_gold = {document for document, labels in gold.items() if labels.labels - labels.filtered}
    return Evaluation(
        documents=len(scored),
        missing=len(with_gold - done),
        unlabelled=len(done - with_gold),
        failures=Counter(result.failure.kind for result in results if result.failure),
        empty=sum(not trace.chosen for trace in scored),
        truncated=sum(result.truncated_from is not None for result in results),
        metrics={
            name: bootstrap(metric, len(scored), centred=name in CENTRED, seed=seed)
            for name, metric in statistics(scored, weight).items()
        },
        cost=_costs(results),
        seed=seed,
    )


def compare(
    run: Sequence[Trace], other: Sequence[Trace], weight: Callable[[str], float] | None = None, *, seed: int = 0
) -> Comparison:
    """Return a run's metrics less another's, paired by document. Raises UserError for no document in common."""
    theirs = {trace.document: trace for trace in other}
    both = [(trace, theirs[trace.document]) for trace in run if trace.right and trace.document in theirs]
    if not both:
        raise UserError("the two runs have no scored document in common")
    mine, its = (statistics(side, weight) for side in zip(*both, strict=True))
    return Comparison(
        documents=len(both),
        differences={
            name: bootstrap(mine[name], len(both), less=its[name], centred=name in CENTRED, seed=seed) for name in mine
        },
    )


def statistics(run: Sequence[Trace], weight: Callable[[str], float] | None = None) -> dict[str, Statistic]:
    """Return every metric of a run, by name."""
    gold, rankings, chosen = [t.right for t in run], [t.ranking for t in run], [t.chosen for t in run]
    measured = {
        name: mean_of([metric(ranking, right) for ranking, right in zip(rankings, gold, strict=True)])
        for name, metric in RANKING.items()
    }
    if weight:
        for k in PROPENSITY:
            pairs = [propensity_scored(*ranked, k, weight) for ranked in zip(rankings, gold, strict=True)]
            measured[f"PSP@{k}"] = ratio_of(pairs)
    choices = list(zip(chosen, gold, strict=True))
    return measured | {
        "F1": mean_of([f1(labels, right) for labels, right in choices]),
        "micro F1": ratio_of([(2 * len(right & {*labels}), len(right) + len(labels)) for labels, right in choices]),
        "macro F1": macro_f1(chosen, gold),
        f"coverage@{COVERED}": coverage([ranking[:COVERED] for ranking in rankings], gold),
        "labels chosen": mean_of([len(labels) for labels in chosen]),
    }


def _costs(results: Sequence[LabeledDocument]) -> dict[Phase, Cost]:
    phases: tuple[Phase, ...] = ("search", "shortlist", "select")
    total = {phase: sum((result.usage.get(phase, Usage()) for result in results), Usage()) for phase in phases}
    return {
        phase: Cost(**{name: value / len(results) for name, value in usage.model_dump().items()})
        for phase, usage in total.items()
    }
