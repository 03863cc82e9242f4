"""Pointwise selection: one yes/no question a candidate, for models too small to reason over a shortlist."""

import math
from collections.abc import Sequence

from ctd_agent.agents.engines import ChatModel
from ctd_agent.agents.prompts import VERSIONS, pointwise_prompt
from ctd_agent.agents.sampling import Sampling
from ctd_agent.agents.selecting.selector import Selector, UnusableSelectionError, Within, above, score_at
from ctd_agent.schema import Candidate, Exchange, Reply, Selection

FLOOR = 1e-6  # of a probability: log-odds stay finite
THRESHOLD = 0.2  # minimum score: recall gains more than precision loses
# Weights in `fused`; fitted, as the threshold, on documents of the two training splits (docs/results.md).
ODDS, BASELINE, CONSTANT = 1.3, 1.0, -0.9


class Pointwise(Selector):
    """Candidates are ranked by the probability of yes.

    Small models say yes to some labels whatever the document is. So each question is also asked about an empty
    document, once a label, and the answer there counts against it (contextual calibration, Zhao et al. 2021,
    arXiv 2102.09690).
    """

    candidates = 20  # a question a candidate is dear
    prompt = VERSIONS["pointwise"]
    model: ChatModel

    def __init__(self, model: ChatModel, task: str, sampling: Sampling) -> None:
        super().__init__(model, task, sampling)
        self._baseline: dict[str, float | None] = {}  # by question: the log-odds of yes with no document

    def ask(self, text: str, shortlist: Sequence[Candidate], shown: Sequence[str], within: Within) -> Exchange:
        """Ask about every candidate in turn, then about those never asked about without a document."""
        exchange = Exchange(
            messages=pointwise_prompt(text, self._task),
            questions=list(shown),
            baseline=pointwise_prompt("", self._task),
            baseline_questions=[question for question in dict.fromkeys(shown) if question not in self._baseline],
            # The one token is the answer: a thought must not take its place.
            options=self._sampling.options(1) | {"max_tokens": 1, "thinking": 0, "logprobs": True, "top_logprobs": 20},
        )
        return self.model.ask(exchange, within)

    def read(self, exchange: Exchange, shortlist: Sequence[Candidate]) -> Selection:
        """Rank the candidates that were asked about, and choose those above the threshold."""
        return judge(exchange, shortlist, self._baseline)


def judge(exchange: Exchange, shortlist: Sequence[Candidate], baseline: dict[str, float | None]) -> Selection:
    """Return the selection in a pointwise exchange, ranked by `fused`.

    `baseline` holds the log-odds of yes with no document, by question. Those of this exchange are added to it.
    Raises UnusableSelectionError where no answer is a yes or a no.
    """
    asked = len(exchange.questions)
    odds = [yes(reply) for reply in exchange.replies[:asked]]
    if all(value is None for value in odds):
        raise UnusableSelectionError("no answer to any question is a yes or a no")
    baseline |= zip(exchange.baseline_questions, map(yes, exchange.replies[asked:]), strict=False)
    # Where the budget has cut the baseline short, calibrating some candidates alone would favour the others.
    known = all(question in baseline for question in exchange.questions)
    scores = {
        candidate.label.id: fused(value, baseline[question] if known else None, rank) if value is not None else 0.0
        for rank, (candidate, question, value) in enumerate(
            zip(shortlist, exchange.questions, odds, strict=False), start=1
        )
    }
    return above(scores, THRESHOLD, shortlist)


def yes(reply: Reply) -> float | None:
    """Return the log-odds of yes against no in a reply's first token, None where it has neither.

    An engine that gives no log-probabilities is taken at its word.
    """
    logprobs = reply.logprobs or {reply.content: 0.0}
    mass = {"yes": FLOOR, "no": FLOOR}
    for token, logprob in logprobs.items():
        word = token.strip().strip(".").lower()
        if word in mass:
            mass[word] += math.exp(min(logprob, 0.0))
    if max(mass.values()) == FLOOR:
        return None
    return math.log(mass["yes"] / mass["no"])


def fused(odds: float, baseline: float | None, rank: int) -> float:
    """Return a candidate's score in (0, 1): a logistic of the model's log-odds of yes, calibrated, and its rank.

    `baseline` are the log-odds without a document, None where unknown. `rank` is that on the
    shortlist, from 1. The coefficients are fitted on training data (docs/results.md): the model
    alone forgets what retrieval knows, and retrieval what the model knows.
    """
    return score_at(ODDS * odds - BASELINE * (baseline or 0.0) + CONSTANT, rank)
