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


def best(store: Store, sides: Sequence[Side], limit: int, size: int) -> list[Ranked]:
    """Return the best points of a store of `size` points, best first: of the only side, or of the sides fused."""
    rankings = _whole(store, sides, limit, size)
    return (rankings[0] if len(rankings) == 1 else fused(rankings, [side.weight for side in sides]))[:limit]


def fused(rankings: Sequence[Sequence[Ranked]], weights: Sequence[float]) -> list[Ranked]:
    """Fuse rankings by reciprocal rank.

    >>> rankings = [[Ranked("a", 7.0), Ranked("b", 5.0)], [Ranked("b", 0.9)]]
    >>> [point.id for point in fused(rankings, [1.0, 1.0])]
    ['b', 'a']
    """
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, point in enumerate(ranking, start=1):
            scores[point.id] = scores.get(point.id, 0.0) + 1 / (RRF_K - 1 + rank / weight)
    return _in_order([Ranked(key, score) for key, score in scores.items()])


def _in_order(points: Sequence[Ranked]) -> list[Ranked]:
    return sorted(points, key=lambda point: (-point.score, point.id))


def _whole(store: Store, sides: Sequence[Side], limit: int, size: int) -> list[list[Ranked]]:
    """Return each side's points in order, cut between two scores: `limit` of them at least, if a side finds so many."""
    asked, whole, left = max(limit + LEAST, DEPTH), dict[str, list[Ranked]](), list(sides)
    while left:
        for side, points in zip(left, store.nearest(left, asked), strict=True):
            found = _in_order([Ranked(point.id, round(point.score, side.digits)) for point in points])
            if asked < size and len(found) == asked:  # more may exist
                found = [point for point in found if point.score > found[-1].score]
                if len(found) < max(limit, LEAST):
                    continue
            whole[side.name] = found
        left = [side for side in left if side.name not in whole]
        asked *= MORE
    return [whole[side.name] for side in sides]
