"""The order of what a query finds: the same on every build of an index.

The engine has no order among points of one score, and BM25 gives one score to all labels of equal length that share one
word with the query. So each side's points are put in order first, by score and then by id, and fused afterwards.
"""

from collections.abc import Sequence

from ctd_agent.tools.store import Ranked, Side, Store

# Reciprocal rank fusion, Cormack et al. 2009, weighted as Qdrant does: the sum of
# 1 / (K - 1 + rank / weight) over the sides that found a point, ranks from 1.
RRF_K = 10
DEPTH = 300  # points of each side that are asked for. Those of the last score, of which more may exist, are left out,
LEAST = 150  # unless fewer than this would be left: then
MORE = 4  # times as many are asked for
SPARE = 50  # points more than wanted that the only side of a search is asked for, as ties at the cut


def best(store: Store, sides: Sequence[Side], limit: int, size: int) -> list[Ranked]:
    """Return the best points of a store of `size` points, best first: of the only side, or of the sides fused."""
    if len(sides) == 1:
        return _whole(store, sides, limit + SPARE, limit, size)[0][:limit]
    rankings = _whole(store, sides, max(limit + LEAST, DEPTH), max(limit, LEAST), size)
    return fused(rankings, [side.weight for side in sides])[:limit]


def fused(rankings: Sequence[Sequence[Ranked]], weights: Sequence[float]) -> list[Ranked]:
    """Fuse rankings by reciprocal rank.

    >>> rankings = [[(1, 7.0), (2, 5.0)], [(2, 0.9)]]
    >>> [point for point, score in fused(rankings, [1.0, 1.0])]
    [2, 1]
    """
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, (point, _) in enumerate(ranking, start=1):
            scores[point] = scores.get(point, 0.0) + 1 / (RRF_K - 1 + rank / weight)
    return sorted(scores.items(), key=_place)


def _place(point: Ranked) -> tuple[float, int]:
    return -point[1], point[0]


def _whole(store: Store, sides: Sequence[Side], asked: int, least: int, size: int) -> list[list[Ranked]]:
    """Return each side's points in order, cut between two scores: `least` of them or more, if a side finds so many."""
    whole, left = dict[str, list[Ranked]](), list(sides)
    while left:
        for side, points in zip(left, store.nearest(left, asked), strict=True):
            found = sorted(((point, round(score, side.digits)) for point, score in points), key=_place)
            if asked < size and len(found) == asked:  # more may exist
                last = found[-1][1]
                found = [point for point in found if point[1] > last]
                if len(found) < least:
                    continue
            whole[side.name] = found
        left = [side for side in left if side.name not in whole]
        asked *= MORE
    return [whole[side.name] for side in sides]
