"""The records that cross ctd-agent's edges: labels and documents in, labelled documents out."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from ctd_agent.errors import redacted

Phase = Literal["search", "shortlist", "select"]
Redacted = Annotated[str, AfterValidator(redacted)]  # what may quote a key, or a URL with a password


class Record(BaseModel):
    """A record read from or written to a file: unknown fields are errors, not surprises."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(Record):
    """One entry of the catalogue. Identity is the id; names may repeat."""

    id: str = Field(min_length=1)
    name: str
    description: str = ""
    aliases: list[str] = []
    metadata: dict[str, Any] = {}

    @field_validator("id", "name")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be blank")
        return value

    @property
    def text(self) -> str:
        """What search reads of a label: name, aliases and description, one a line."""
        return "\n".join(part for part in (self.name, *self.aliases, self.description) if part)


class Document(Record):
    """A text to label. An empty text is allowed here: it fails alone, not the run."""

    id: str = Field(min_length=1)
    text: str


@dataclass(frozen=True, slots=True)
class Gold:
    """The right labels of one document, by id.

    `filtered` are labels that are neither right nor wrong for it, and are taken out of every ranking
    (`filter_labels` of the extreme classification repository): a package, say, does not suggest itself.
    """

    labels: frozenset[str]
    filtered: frozenset[str] = frozenset()


# There are hundreds of these a document: they are checked where a file is read, not where they are made.


@dataclass(frozen=True, slots=True)
class Finding:
    """One search hit of one candidate: which turn and query found it, at what rank and score.

    Turn 0 is the search for the document itself; ranks start at 1.
    """

    turn: int
    query: str
    rank: int
    score: float


class FoundLabel(Record):
    """A hit of a search as the log keeps it: ranks start at 1."""

    id: str
    name: str
    rank: int
    score: float


class SearchResult(Record):
    """One search that ran, and what it found."""

    turn: int
    query: str
    limit: int
    found: list[FoundLabel]

    @property
    def key(self) -> str:
        """What makes two searches the same: the query, case and spacing apart."""
        return " ".join(self.query.casefold().split())


@dataclass(frozen=True, slots=True)
class Candidate:
    """A label that at least one search found, with every finding; `score` is the fused one."""

    label: Label
    score: float
    found_by: list[Finding]


class ChosenLabel(Record):
    """A label of the final selection. Rank starts at 1; score is the selector's, in [0, 1]."""

    id: str
    name: str
    rank: int
    score: float
    reason: str = ""


class Selection(Record):
    """Phase 2's outcome: the chosen labels, best first, and the score of every candidate it judged."""

    labels: list[ChosenLabel]
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class ShortlistEntry:
    """A candidate as the result reports it: without the label's texts."""

    id: str
    score: float
    found_by: list[Finding]


class Failure(Record):
    """Why a phase could not do its work for one document."""

    phase: Phase
    kind: Literal["empty_document", "invalid_output", "engine", "budget", "internal"]
    message: Redacted


class Usage(Record):
    """What a phase cost: model calls, tokens, and seconds of wall time.

    `cached_tokens` are the prompt tokens that the engine's prefix cache spared.
    """

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            seconds=self.seconds + other.seconds,
        )


class LabeledDocument(Record):
    """The result for one document: one JSON line.

    `truncated_from` is the document's length in characters when only its beginning was read,
    else null. `failure` is null when every phase did its work; an empty `labels` without a
    failure is a valid answer.
    """

    id: str
    labels: list[ChosenLabel]
    shortlist: list[ShortlistEntry]
    usage: dict[Phase, Usage]
    truncated_from: int | None = None
    failure: Failure | None = None


class Reply(Record):
    """What a model answered to one prompt.

    `logprobs` are those of the first answer token's likeliest alternatives, where asked for.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = []
    logprobs: dict[str, float] = {}
    usage: Usage = Usage()


class Exchange(Record):
    """One step's conversation with a model, exactly as sent, and what came back.

    With no `questions` there was one prompt: `messages`. With questions there was one prompt per
    question: `messages` with the question appended to the last message, so that the prompts share
    a prefix the engine can cache; then, in the same way, one per baseline question behind
    `baseline`, the same prompt about an empty document. `replies` has one entry per prompt, fewer
    where the engine failed or the budget was spent.
    """

    messages: list[dict[str, Any]]
    questions: list[str] = []
    baseline: list[dict[str, Any]] = []
    baseline_questions: list[str] = []
    options: dict[str, Any] = {}
    replies: list[Reply] = []

    @property
    def usage(self) -> Usage:
        """What all its calls cost."""
        return sum((reply.usage for reply in self.replies), Usage())

    @property
    def prompts(self) -> list[list[dict[str, Any]]]:
        """Every prompt of this exchange, in OpenAI's message format."""
        if not self.questions:
            return [self.messages]
        return _asked(self.messages, self.questions) + _asked(self.baseline, self.baseline_questions)


def _asked(messages: list[dict[str, Any]], questions: list[str]) -> list[list[dict[str, Any]]]:
    return [[*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + question}] for question in questions]
