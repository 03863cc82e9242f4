"""Ranking metrics, to the digit of their sources, and bootstrap intervals.

A ranking is a sequence of label ids, best first. Of a duplicate the first counts. A ranking shorter than k has misses
for what it lacks. Gold is a non-empty set of label ids: a document without gold has no score, and ValueError says so.
"""

import math
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 2**18  # draws held at once: what a processor's cache holds
SAMPLES = 10_000  # of a bootstrap,
DRAWS = 20_000_000  # of documents in all of them at most,
LEAST = 1_000  # but never fewer samples than this
LEVEL = 0.95

Metric = Callable[[Sequence[str], Collection[str]], float]


class Interval(NamedTuple):
    """A mean and its bootstrap percentile interval.

    >>> f"{Interval(0.5, 0.25, 0.75):.2f}"
    '0.50 [0.25, 0.75]'
    """

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        mean, low, high = (format(value, spec or ".3f") for value in self)
        return f"{mean} [{low}, {high}]"


def hits(ranking: Sequence[str], gold: Collection[str], k: int) -> list[bool]:
    """Return which of the first k distinct labels are right. Raises ValueError for empty gold."""
    if not gold:
        raise ValueError("a document without gold labels has no score")
    right = frozenset(gold)
    return [label in right for label in list(dict.fromkeys(ranking))[:k]]


def precision(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    """P@k: right labels among the first k, over k (extreme classification repository).

    >>> precision(["a", "b"], {"a", "c"}, k=2)
    0.5
    """
    return sum(hits(ranking, gold, k)) / k


def recall(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    """R@k: right labels among the first k, over all right labels."""
    return sum(hits(ranking, gold, k)) / len(set(gold))


def rank_precision(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    """RP@k: right labels among the first k, over min(k, right labels) (Infer-Retrieve-Rank, arXiv 2401.12178)."""
    return sum(hits(ranking, gold, k)) / min(k, len(set(gold)))


def ndcg(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    """nDCG@k with binary gains and a log2 discount, over the ideal ranking's (Järvelin and Kekäläinen 2002)."""
    gain = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(hits(ranking, gold, k), start=1) if hit)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(set(gold))) + 1))


def f1(chosen: Collection[str], gold: Collection[str]) -> float:
    """F1 of a chosen set against gold, 0 for an empty choice."""
    right = sum(hits(list(chosen), gold, len(set(chosen))))
    return 2 * right / (len(set(chosen)) + len(set(gold)))


def inverse_propensity(count: int, documents: int, a: float = 0.55, b: float = 1.5) -> float:
    """Return the weight of a right label in PSP@k: higher for rarer labels (Jain et al. 2016, KDD).

    1 + C (count + b)^-a with C = (ln documents - 1)(b + 1)^a, where `count` of the training documents have
    the label. `a` and `b` are the extreme classification repository's. For Wikipedia's data it takes
    0.5 and 0.4, for Amazon's 0.6 and 2.6. Raises ValueError for no training documents.
    """
    if documents < 1:
        raise ValueError("propensities need training documents")
    return float(1 + (math.log(documents) - 1) * (b + 1) ** a * (count + b) ** -a)


def propensity_scored(
    ranking: Sequence[str], gold: Collection[str], k: int, weight: Callable[[str], float]
) -> tuple[float, float]:
    """Return the weight of the right labels among the first k, and that of the heaviest k that are right.

    PSP@k is the ratio of their sums over all documents (extreme classification repository).
    """
    first = list(dict.fromkeys(ranking))[:k]
    gained = sum(weight(label) for label, hit in zip(first, hits(ranking, gold, k), strict=True) if hit)
    return gained, sum(sorted(map(weight, set(gold)), reverse=True)[:k])


# A statistic takes weights, (samples, documents): how often each document was drawn. It returns one value a sample.
Weights = NDArray[np.float64]
Statistic = Callable[[Weights], NDArray[np.float64]]


def mean_of(values: Sequence[float] | NDArray[np.float64]) -> Statistic:
    """Return the mean over documents."""
    array = np.asarray(values, dtype=np.float64)
    return lambda weights: weights @ array / weights.sum(axis=1)


def ratio_of(pairs: Sequence[tuple[float, float]] | NDArray[np.float64]) -> Statistic:
    """Return the ratio of two sums over documents, as micro F1 and PSP@k are; 0 where the lower sum is 0."""
    above, below = np.asarray(pairs, dtype=np.float64).T
    return lambda weights: _divided(weights @ above, weights @ below)


def macro_f1(chosen: Sequence[Collection[str]], gold: Sequence[Collection[str]]) -> Statistic:
    """Return the mean of each label's F1, over the labels that are right for a document or chosen for one.

    A resample has fewer labels than the whole, and so scores lower, as in `coverage`: bootstrap both `centred`.
    """
    known = {label: place for place, label in enumerate(sorted(set().union(*chosen, *gold)))}
    hit, picked, wanted = (_by_label(sets, known) for sets in (_both(chosen, gold), chosen, gold))

    def statistic(weights: Weights) -> NDArray[np.float64]:
        all_of = picked(weights) + wanted(weights)
        return _divided(_divided(2 * hit(weights), all_of).sum(axis=0), (all_of > 0).sum(axis=0))

    return statistic


def coverage(found: Sequence[Collection[str]], gold: Sequence[Collection[str]]) -> Statistic:
    """Return the share of all labels that are right for some document which are found for one they are right for."""
    known = {label: place for place, label in enumerate(sorted(set().union(*gold)))}
    hit, wanted = _by_label(_both(found, gold), known), _by_label(gold, known)
    return lambda weights: _divided((hit(weights) > 0).sum(axis=0), (wanted(weights) > 0).sum(axis=0))


def _both(found: Sequence[Collection[str]], gold: Sequence[Collection[str]]) -> Iterator[set[str]]:
    return (set(labels) & set(right) for labels, right in zip(found, gold, strict=True))


def _by_label(sets: Iterable[Collection[str]], known: Mapping[str, int]) -> Statistic:
    """Return how often each label was drawn, (labels, samples)."""
    drawn, places = array("i"), array("i")
    for place, labels in enumerate(sets):
        for label in set(labels):
            drawn.append(known[label])
            places.append(place)
    order = np.lexsort((places, drawn))
    of_label, of_document = np.asarray(drawn, dtype=np.int32)[order], np.asarray(places, dtype=np.int32)[order]
    rows, starts = np.unique(of_label, return_index=True)

    def statistic(weights: Weights) -> NDArray[np.float64]:
        counts = np.zeros((len(known), len(weights)))
        if len(rows):
            by_document = np.ascontiguousarray(weights.T)  # whole rows are gathered and added: many times faster
            counts[rows] = np.add.reduceat(by_document[of_document], starts, axis=0)
        return counts

    return statistic


def _divided(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    quotient = np.zeros(np.shape(below))
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


def bootstrap(
    statistic: Statistic | Sequence[float],
    documents: int | None = None,
    *,
    less: Statistic | None = None,
    centred: bool = False,
    seed: int = 0,
) -> Interval:
    """Return a statistic over documents with its 95% percentile bootstrap interval (Efron 1979).

    A sequence stands for its mean. `documents` is the number of documents of any other statistic. With `less` the
    interval is that of the difference of the two, over the same draws. A share that is lower in a resample than in
    the whole is `centred`: its interval is moved by that bias, to 1 at most. Raises ValueError for no documents.

    >>> f"{bootstrap([0.0, 1.0, 1.0, 1.0]):.2f}"
    '0.75 [0.25, 1.00]'
    """
    if not callable(statistic):
        documents, statistic = len(statistic), mean_of(statistic)
    lesser = {"": less} if less else {}
    return bootstrap_all({"": statistic}, documents or 0, lesser, [""] if centred else [], seed)[""]


def bootstrap_all(
    statistics: Mapping[str, Statistic],
    documents: int,
    less: Mapping[str, Statistic] = {},
    centred: Collection[str] = (),
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the intervals of statistics over the same documents, as `bootstrap` does, all on the same draws.

    There are 10,000 samples up to 2,000 documents, and fewer of more documents, 1,000 at least.
    """
    if not documents:
        raise ValueError("no values to resample")
    rng = np.random.default_rng(seed)

    def values(weights: Weights) -> NDArray[np.float64]:
        """Return (statistics, samples)."""
        return np.stack([of(weights) - (less[name](weights) if less else 0) for name, of in statistics.items()])

    samples, at_once = min(SAMPLES, max(LEAST, DRAWS // documents)), max(1, CHUNK // documents)
    drawn = np.concatenate(
        [
            values(_weights(rng.integers(0, documents, size=(min(at_once, samples - done), documents))))
            for done in range(0, samples, at_once)
        ],
        axis=1,
    )
    wholes = values(np.ones((1, documents)))[:, 0].tolist()
    return {
        name: _interval(whole, row, name in centred) for name, whole, row in zip(statistics, wholes, drawn, strict=True)
    }


def _interval(whole: float, drawn: NDArray[np.float64], centred: bool) -> Interval:
    if centred:
        drawn = np.minimum(drawn + (whole - drawn.mean()), 1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(whole, float(low), float(high))


def _weights(rows: NDArray[np.int64]) -> Weights:
    samples, documents = rows.shape
    cells = rows + documents * np.arange(samples)[:, None]
    return np.bincount(cells.ravel(), minlength=samples * documents).reshape(samples, documents).astype(np.float64)
