"""Score a labelled run against gold: its ranking, its chosen set, and the cost of each phase."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from sys import intern

import numpy as np

from ctd_agent.errors import UserError
from ctd_agent.measure.metrics import (
    Interval,
    Metric,
    Statistic,
    bootstrap_all,
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
LONGEST = 50  # labels of a ranking that any metric reads
PHASES: tuple[Phase, ...] = ("search", "shortlist", "select")
NAMES = (  # of all metrics, in the order that they are shown
    *RANKING,
    *(f"PSP@{k}" for k in PROPENSITY),
    "F1",
    "micro F1",
    "macro F1",
    f"coverage@{COVERED}",
    "labels chosen",
)
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
    run: Iterable[Trace], gold: Mapping[str, Gold], weight: Callable[[str], float] | None = None, *, seed: int = 0
) -> Evaluation:
    """Return the score of a run over its documents that have right labels; without `weight` there is no PSP@k.

    `gold` holds the right labels of all documents that should be in the run, `weight` the labels' inverse
    propensities. Raises UserError where no document can be scored.

    >>> result = LabeledDocument(id="a", labels=[], shortlist=[ShortlistEntry("J45", 1.0, [])], usage={})
    >>> gold = {"a": Gold(frozenset({"J45"}))}
    >>> evaluate([Trace("a", result=result, gold=gold["a"])], gold).metrics["R@5"].mean
    1.0
    """
    scored = _Scored.of(run, weight)
    if not scored.documents:
        raise UserError("no document of the run has right labels: do the ids of run and gold agree?")
    documents = len(scored.documents)
    with_gold = sum(1 for labels in gold.values() if labels.labels - labels.filtered)
    return Evaluation(
        documents=documents,
        missing=with_gold - documents,
        unlabelled=scored.unlabelled,
        failures=scored.failures,
        empty=sum(not chosen for chosen in scored.chosen),
        truncated=scored.truncated,
        metrics=bootstrap_all(scored.statistics(), documents, centred=CENTRED, seed=seed),
        cost=scored.costs(),
        seed=seed,
    )


def compare(
    run: Iterable[Trace], other: Iterable[Trace], weight: Callable[[str], float] | None = None, *, seed: int = 0
) -> Comparison:
    """Return a run's metrics less another's, paired by document. Raises UserError for no document in common."""
    mine, its = _Scored.of(run, weight), _Scored.of(other, weight)
    theirs = {document: place for place, document in enumerate(its.documents)}
    pairs = [(place, theirs[document]) for place, document in enumerate(mine.documents) if document in theirs]
    if not pairs:
        raise UserError("the two runs have no scored document in common")
    places, other_places = zip(*pairs, strict=True)
    differences = bootstrap_all(
        mine.statistics(places), len(pairs), its.statistics(other_places), centred=CENTRED, seed=seed
    )
    return Comparison(documents=len(pairs), differences=differences)


def _two() -> tuple["array[float]", "array[float]"]:
    return array("d"), array("d")


@dataclass
class _Scored:
    """What counts of a run's documents that have right labels, in its order: numbers, and the first labels of each.

    `values` are metrics by name, `shares` the two sums of a ratio.
    """

    documents: list[str] = field(default_factory=list)
    right: list[frozenset[str]] = field(default_factory=list)
    chosen: list[tuple[str, ...]] = field(default_factory=list)
    first: list[tuple[str, ...]] = field(default_factory=list)
    values: dict[str, "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    shares: dict[str, tuple["array[float]", "array[float]"]] = field(default_factory=lambda: defaultdict(_two))
    usage: dict[Phase, Usage] = field(default_factory=lambda: dict.fromkeys(PHASES, Usage()))
    failures: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    unlabelled: int = 0

    @classmethod
    def of(cls, run: Iterable[Trace], weight: Callable[[str], float] | None) -> "_Scored":
        """Return what counts of a run."""
        scored = cls()
        for trace in run:
            if not trace.right:
                scored.unlabelled += 1
                continue
            scored._add(trace, weight)
            if trace.result:
                scored._count(trace.result)
        return scored

    def _add(self, trace: Trace, weight: Callable[[str], float] | None) -> None:
        right, ranking = trace.right, trace.ranking[:LONGEST]
        chosen = tuple(map(intern, trace.chosen))
        self.documents.append(trace.document)
        self.right.append(right)
        self.chosen.append(chosen)
        self.first.append(tuple(map(intern, ranking[:COVERED])))
        for name, metric in RANKING.items():
            self.values[name].append(metric(ranking, right))
        if weight:
            for k in PROPENSITY:
                self._share(f"PSP@{k}", *propensity_scored(ranking, right, k, weight))
        self.values["F1"].append(f1(chosen, right))
        self._share("micro F1", 2 * len(right & {*chosen}), len(right) + len(chosen))
        self.values["labels chosen"].append(len(chosen))

    def _share(self, name: str, above: float, below: float) -> None:
        for sums, value in zip(self.shares[name], (above, below), strict=True):
            sums.append(value)

    def _count(self, result: LabeledDocument) -> None:
        self.failures.update([result.failure.kind] if result.failure else [])
        self.truncated += result.truncated_from is not None
        for phase in PHASES:
            self.usage[phase] += result.usage.get(phase, Usage())

    def statistics(self, places: Sequence[int] | None = None) -> dict[str, Statistic]:
        """Return every metric by name, over all documents or those at `places`."""
        at = np.arange(len(self.documents)) if places is None else np.asarray(places)
        right, chosen, first = ([of[place] for place in at] for of in (self.right, self.chosen, self.first))
        means = {name: mean_of(np.asarray(values)[at]) for name, values in self.values.items()}
        ratios = {name: ratio_of(np.asarray(sums).T[at]) for name, sums in self.shares.items()}
        macro, covered = macro_f1(chosen, right), coverage(first, right)
        measured = means | ratios | {"macro F1": macro, f"coverage@{COVERED}": covered}
        return {name: measured[name] for name in NAMES if name in measured}

    def costs(self) -> dict[Phase, Cost]:
        """Return the mean cost of each phase."""
        return {
            phase: Cost(**{name: value / len(self.documents) for name, value in usage.model_dump().items()})
            for phase, usage in self.usage.items()
        }
