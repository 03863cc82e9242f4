"""Phase 2: the choice from the shortlist, validated against it. Neither way can invent a label."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctd_agent.agents.chat_model import ChatModel
from ctd_agent.agents.encoders import Encoder
from ctd_agent.agents.models import Model
from ctd_agent.agents.prompts import VERSIONS, described, listwise_prompt, names_of, pointwise_prompt
from ctd_agent.agents.sampling import Sampling
from ctd_agent.schema import Candidate, ChosenLabel, Exchange, Reply, Selection, Usage

ANSWER_TOKENS = 4_096  # of a listwise answer, its reasoning included
FLOOR = 1e-6  # of probability: log-odds stay finite
EXTREME = 36.0  # log-odds beyond which a score would be rounded to 0 or 1
THRESHOLD = 0.2  # of the score: what it costs in precision it more than wins in recall
# Of `fused`; fitted, as the threshold, on documents of the two training splits (docs/results.md).
ODDS, BASELINE, RANK, CONSTANT = 1.3, 1.0, 1.0, -0.9

Within = Callable[[Usage], bool]  # whether the budget admits another call, given what this phase has spent


class UnusableSelectionError(ValueError):
    """The model's answer cannot be read as a choice from the shortlist."""


class Selector(Protocol):
    """A way to choose from a shortlist."""

    prompt: str

    @property
    def model(self) -> Model:
        """What it asks."""
        ...

    def ask(self, text: str, shortlist: Sequence[Candidate], within: Within) -> Exchange:
        """Ask the model about the shortlist. Raises EngineError when the engine fails."""
        ...

    def read(self, exchange: Exchange, shortlist: Sequence[Candidate]) -> Selection:
        """Return the selection an exchange amounts to. Raises UnusableSelectionError where it is garbage."""
        ...


def load_selector(model: Model, task: str, sampling: Sampling) -> Selector:
    """Return the way to choose that fits the model's strength."""
    if isinstance(model, Encoder):
        return Scoring(model)
    return Listwise(model, task, sampling) if model.listwise else Pointwise(model, task, sampling)


class _Choice(BaseModel):
    model_config = ConfigDict(extra="ignore")

    score: float = Field(default=1.0, allow_inf_nan=False)
    reason: str = ""


class _Numbered(_Choice):
    number: int


class _Named(_Choice):
    label: str


class _Numbers(BaseModel):
    labels: list[_Numbered]


class _Names(BaseModel):
    labels: list[_Named]


class Listwise:
    """The model sees the numbered shortlist, reasons (unless told not to), and chooses under a JSON schema.

    It gives numbers, or, as students do, names: of numbers they had learned nothing (docs/distillation.md).
    """

    def __init__(self, model: ChatModel, task: str, sampling: Sampling) -> None:
        self.model = model
        form = "naming" if model.names else "listwise"
        self.prompt = VERSIONS[form if model.reasons else f"{form}-direct"]
        self._task = task
        self._sampling = sampling

    def ask(self, text: str, shortlist: Sequence[Candidate], within: Within) -> Exchange:
        """Ask once about the whole shortlist."""
        model = self.model
        schema = {"name": "selection", "schema": _schema(shortlist, model.reasons, model.names), "strict": True}
        answer = {"type": "json_schema", "json_schema": schema}
        options = self._sampling.options(ANSWER_TOKENS) | {"response_format": answer}
        messages = listwise_prompt(text, self._task, shortlist, reasons=model.reasons, names=model.names)
        return self.model.ask(Exchange(messages=messages, options=options), within)

    def read(self, exchange: Exchange, shortlist: Sequence[Candidate]) -> Selection:
        """Keep each label on the shortlist once, best first; what is off it is dropped."""
        content = exchange.replies[-1].content
        try:
            choices = list(self._choices(unfenced(content), shortlist))
        except ValidationError as error:
            raise UnusableSelectionError(f"no selection in the model's answer: {content[:80]!r}") from error
        valid: dict[int, _Choice] = {}
        for number, choice in choices:
            if 1 <= number <= len(shortlist):
                valid.setdefault(number, choice)
        if choices and not valid:
            raise UnusableSelectionError(f"every chosen label is off the shortlist of {len(shortlist)}")
        labels = [
            _chosen(shortlist[number - 1], rank, min(1.0, max(0.0, choice.score)), choice.reason)
            for rank, (number, choice) in enumerate(valid.items(), start=1)
        ]
        return Selection(labels=labels, scores={label.id: label.score for label in labels})

    def _choices(self, answer: str, shortlist: Sequence[Candidate]) -> Iterator[tuple[int, _Choice]]:
        """Yield what an answer chooses, by its number on the shortlist, 0 for a name that is not there."""
        if self.model.names:
            numbers = {name: number for number, name in enumerate(names_of(shortlist), start=1)}
            for named in _Names.model_validate_json(answer).labels:
                yield numbers.get(named.label, 0), named
        else:
            for numbered in _Numbers.model_validate_json(answer).labels:
                yield numbered.number, numbered


class Pointwise:
    """One yes/no question a candidate behind a shared prefix, ranked by the probability of yes.

    Small models say yes to some labels whatever the document is. So each question is asked about
    an empty document too, once a label, and what it is answered there counts against it
    (contextual calibration, Zhao et al. 2021, arXiv 2102.09690).
    """

    prompt = VERSIONS["pointwise"]

    def __init__(self, model: ChatModel, task: str, sampling: Sampling) -> None:
        self.model = model
        self._task = task
        self._sampling = sampling
        self._baseline: dict[str, float | None] = {}  # by question: the log-odds of yes with no document

    def ask(self, text: str, shortlist: Sequence[Candidate], within: Within) -> Exchange:
        """Ask about every candidate in turn, then about those never asked about without a document."""
        questions = [described(candidate.label) for candidate in shortlist]
        exchange = Exchange(
            messages=pointwise_prompt(text, self._task),
            questions=questions,
            baseline=pointwise_prompt("", self._task),
            baseline_questions=[q for q in dict.fromkeys(questions) if q not in self._baseline],
            # The one token is the answer: a thought must not take its place.
            options=self._sampling.options(1) | {"max_tokens": 1, "thinking": 0, "logprobs": True, "top_logprobs": 20},
        )
        return self.model.ask(exchange, within)

    def read(self, exchange: Exchange, shortlist: Sequence[Candidate]) -> Selection:
        """Rank the candidates that were asked about, and choose those above the threshold."""
        return judge(exchange, shortlist, self._baseline)


class Scoring:
    """A trained encoder scores every candidate; those above the threshold that it was trained with are chosen."""

    prompt = VERSIONS["scoring"]

    def __init__(self, model: Encoder) -> None:
        self.model = model
        self._student = model.student

    def ask(self, text: str, shortlist: Sequence[Candidate], within: Within) -> Exchange:
        """Have all candidates scored at once."""
        # What it was trained on: to select, candidates as they are shown; to shortlist, labels as the index holds them.
        shown = self._student.target == "select"
        questions = [described(candidate.label) if shown else candidate.label.text for candidate in shortlist]
        return self.model.ask(Exchange(messages=[{"role": "user", "content": text}], questions=questions), within)

    def read(self, exchange: Exchange, shortlist: Sequence[Candidate]) -> Selection:
        """Rank the candidates by score, and choose those above the threshold."""
        scores = {
            candidate.label.id: score_at(float(reply.content), rank)
            for rank, (candidate, reply) in enumerate(zip(shortlist, exchange.replies, strict=True), start=1)
        }
        return _above(scores, self._student.threshold, shortlist)


def judge(exchange: Exchange, shortlist: Sequence[Candidate], baseline: dict[str, float | None]) -> Selection:
    """Return the selection that a pointwise exchange amounts to, ranked by `fused`.

    `baseline` holds the log-odds of yes with no document, by question, and gets those of this exchange.
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
    return _above(scores, THRESHOLD, shortlist)


def _above(scores: dict[str, float], threshold: float, shortlist: Sequence[Candidate]) -> Selection:
    """Return the selection of those candidates, best first, whose score is above a threshold."""
    by_id = {candidate.label.id: candidate for candidate in shortlist}
    best = sorted(scores, key=lambda key: -scores[key])
    chosen = [key for key in best if scores[key] > threshold]
    labels = [_chosen(by_id[key], rank, scores[key]) for rank, key in enumerate(chosen, start=1)]
    return Selection(labels=labels, scores={key: scores[key] for key in best})


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

    `baseline` are the log-odds without a document, None where unknown; `rank` is that on the
    shortlist, from 1. The coefficients are fitted on training data (docs/results.md): the model
    alone forgets what retrieval knows, and the other way round.
    """
    return score_at(ODDS * odds - BASELINE * (baseline or 0.0) + CONSTANT, rank)


def score_at(odds: float, rank: int) -> float:
    """Return a candidate's score in (0, 1): the logistic of log-odds, less what its rank from 1 takes."""
    logit = odds - RANK * math.log(rank)
    return 1 / (1 + math.exp(-min(EXTREME, max(-EXTREME, logit))))


def _chosen(candidate: Candidate, rank: int, score: float, reason: str = "") -> ChosenLabel:
    return ChosenLabel(id=candidate.label.id, name=candidate.label.name, rank=rank, score=score, reason=reason)


def _schema(shortlist: Sequence[Candidate], reasons: bool, names: bool) -> dict[str, Any]:
    size = len(shortlist)
    which: dict[str, Any] = {"number": {"type": "integer", "enum": list(range(1, size + 1))}}
    if names:
        which = {"label": {"type": "string", "enum": names_of(shortlist)}}
    choice = _object(which | {"score": {"type": "number"}} | ({"reason": {"type": "string"}} if reasons else {}))
    # No more than there is to choose from: a small model repeats itself until its tokens are spent.
    labels = {"labels": {"type": "array", "items": choice, "maxItems": size}}
    return _object({"reasoning": {"type": "string"}} | labels if reasons else labels)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def unfenced(content: str) -> str:
    """Return the JSON of an answer that an engine without constrained decoding put into a code block."""
    return content.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
