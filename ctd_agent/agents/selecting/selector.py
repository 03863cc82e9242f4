"""A way of selecting: how a model is asked about a shortlist, and how its answer is read."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ctd_agent.agents.prompts import described
from ctd_agent.agents.sampling import Sampling
from ctd_agent.schema import Candidate, ChosenLabel, Exchange, Label, Selection, Usage

RANK = 1.0  # the weight of a candidate's rank; fitted on training data (docs/results.md)
EXTREME = 36.0  # log-odds beyond which a score would be rounded to 0 or 1
Within = Callable[[Usage], bool]  # whether the budget admits another call, given the cost of this phase so far


class UnusableSelectionError(ValueError):
    """The model's answer cannot be read as a choice from the shortlist."""


class Selector(ABC):
    """A way of selecting, with its model. No way can choose a label that is not on the shortlist.

    `candidates` bounds the shortlist that the way pays for, None without a bound of its own. `reasons`: it can write
    down its reasons. `prompt` is the version of its prompt.
    """

    candidates: ClassVar[int | None] = None
    reasons: ClassVar[bool] = False
    prompt: str

    def __init__(self, model: Any, task: str, sampling: Sampling) -> None:
        """Raise UserError for a model that cannot select in this way."""
        self.model = model
        self._task = task
        self._sampling = sampling

    def show(self, label: Label) -> str:
        """Return a candidate's text as the model reads it."""
        return described(label)

    @abstractmethod
    def ask(self, text: str, shortlist: Sequence[Candidate], shown: Sequence[str], within: Within) -> Exchange:
        """Ask the model about the shortlist, its candidates' texts in `shown`. Raises EngineError."""

    @abstractmethod
    def read(self, exchange: Exchange, shortlist: Sequence[Candidate]) -> Selection:
        """Return the selection in an exchange. Raises UnusableSelectionError where there is none."""


def above(scores: Mapping[str, float], threshold: float, shortlist: Sequence[Candidate]) -> Selection:
    """Return the selection of the candidates that score above a threshold, best first."""
    by_id = {candidate.label.id: candidate for candidate in shortlist}
    best = sorted(scores, key=lambda key: -scores[key])
    chosen = [key for key in best if scores[key] > threshold]
    labels = [choose(by_id[key], rank, scores[key]) for rank, key in enumerate(chosen, start=1)]
    return Selection(labels=labels, scores={key: scores[key] for key in best})


def choose(candidate: Candidate, rank: int, score: float, reason: str = "") -> ChosenLabel:
    """Return a candidate as a chosen label."""
    return ChosenLabel(id=candidate.label.id, name=candidate.label.name, rank=rank, score=score, reason=reason)


def score_at(odds: float, rank: int) -> float:
    """Return a candidate's score in (0, 1): the logistic of its log-odds less the log of its rank, from 1.

    >>> round(score_at(0.0, rank=1), 2), round(score_at(0.0, rank=3), 2)
    (0.5, 0.25)
    """
    logit = odds - RANK * math.log(rank)
    return 1 / (1 + math.exp(-min(EXTREME, max(-EXTREME, logit))))
