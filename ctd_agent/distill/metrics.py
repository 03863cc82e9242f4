"""Ranking metrics, to the digit of their sources, and bootstrap intervals.

A ranking is a sequence of label ids, best first; of a duplicate the first counts. A ranking
shorter than k has misses for what it lacks. Gold is a non-empty set of label ids: a document
without gold has no score, and ValueError says so.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

Metric = Callable[[Sequence[str], Collection[str]], float]


class Interval(NamedTuple):
    """A mean and its bootstrap percentile interval."""

    mean: float
    low: float
    high: float


def hits(ranking: Sequence[str], gold: Collection[str], k: int) -> list[bool]:
    """Return which of the first k distinct labels are right. Raises ValueError for empty gold."""
    if not gold:
        raise ValueError("a document without gold labels has no score")
    right = frozenset(gold)
    return [label in right for label in list(dict.fromkeys(ranking))[:k]]


def precision(ranking: Sequence[str], gold: Collection[str], k: int) -> float:
    """P@k: right labels among the first k, over k (extreme classification repository)."""
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
    """F1 of a chosen set against gold; 0 for an empty choice."""
    right = sum(hits(list(chosen), gold, len(set(chosen))))
    return 2 * right / (len(set(chosen)) + len(set(gold)))


def bootstrap(values: Sequence[float], *, seed: int = 0, samples: int = 10_000, level: float = 0.95) -> Interval:
    """Return the mean of per-document values with its percentile bootstrap interval (Efron 1979).

    Give paired differences for the interval of a difference. Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values to resample")
    array = np.asarray(values, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(0, len(array), size=(samples, len(array)))
    means = array[rows].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high))
