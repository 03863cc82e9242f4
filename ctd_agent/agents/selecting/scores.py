"""Log-odds and a rank to a score in (0, 1)."""

import math

RANK = 1.0  # the weight of a candidate's rank; fitted on training data (docs/results.md)
EXTREME = 36.0  # log-odds beyond which a score would be rounded to 0 or 1


def score_at(odds: float, rank: int) -> float:
    """Return a candidate's score in (0, 1): the logistic of its log-odds less the log of its rank, from 1.

    >>> round(score_at(0.0, rank=1), 2), round(score_at(0.0, rank=3), 2)
    (0.5, 0.25)
    """
    logit = odds - RANK * math.log(rank)
    return 1 / (1 + math.exp(-min(EXTREME, max(-EXTREME, logit))))
