"""The score above which an encoder chooses."""

from collections.abc import Sequence

from ctd_agent.agents.selecting.selector import score_at
from ctd_agent.measure.metrics import f1

LEVELS = 100  # thresholds to try, about

Scores = dict[str, tuple[float, int]]  # log-odds and rank, by label


def fitted(judged: Sequence[tuple[Scores, set[str]]]) -> float:
    """Return the threshold with the best mean F1 on held-out documents, 0.5 without any.

    `judged` has, for each document, its candidates' scores and its right labels.
    """
    scored = [({key: score_at(*ranked) for key, ranked in scores.items()}, right) for scores, right in judged if right]
    levels = sorted({round(score, 3) for scores, _ in scored for score in scores.values()})

    def reached(threshold: float) -> float:
        return sum(f1([key for key, score in scores.items() if score > threshold], right) for scores, right in scored)

    return max(levels[:: max(1, len(levels) // LEVELS)], key=reached, default=0.5)
