"""The records that cross ctd-agent's edges: labels and documents in, labelled documents out."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ctd_agent.errors import redacted
from ctd_agent.lengths import ID, Name

Phase = Literal["search", "shortlist", "select"]
Redacted = Annotated[str, AfterValidator(redacted)]  # what may quote a key, or a URL with a password
MODEL = "model"  # the source of what the shortlister's own searches find; the other sources are those of tools.sources


class Record(BaseModel):
    """A record read from or written to a file: unknown fields are errors, not surprises."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _source_of(turn: int) -> str:
    """Return the source of a hit of version 0.1, which told it by the model's turn: 0 was the document's own search."""
    return MODEL if turn else "labels"


class Label(Record):
    """One entry of the catalogue. Identity is the id; names may repeat.

    >>> Label(id="J45", name="Asthma", aliases=["bronchial asthma"]).text.splitlines()
    ['Asthma', 'bronchial asthma']
    """

    id: str = Field(min_length=1, max_length=ID)
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
        """The text that search reads: name, aliases and description, one a line."""
        return "\n".join(part for part in (self.name, *self.aliases, self.description) if part)


class Document(Record):
    """A text to label. An empty text is valid: that document fails alone.

    >>> Document(id="1", text="The central bank raised rates.").id
    '1'
    """

    id: str = Field(min_length=1, max_length=ID)
    text: str

    @property
    def digest(self) -> str:
        """The digest of its text: a result has that of the text that it is about."""
        return blake2b(self.text.encode(errors="replace"), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Gold:
    """The right labels of one document, by id.

    `filtered` are labels that are neither right nor wrong for it, and are taken out of every ranking
    (`filter_labels` of the extreme classification repository): a package, say, does not suggest itself.
    """

    labels: frozenset[str]
    filtered: frozenset[str] = frozenset()


# A document has hundreds of the dataclasses below: they are checked where a file is read, not where they are made.


@dataclass(frozen=True, slots=True)
class Finding:
    """One hit that brought a candidate.

    `source` is where it was found: the name of one of the sources, or `model` for a search that the shortlister
    asked for. `query` holds that search's words, "" for a source that was given the document. Ranks start at 1.
    """

    source: str
    query: str
    rank: int
    score: float


class FoundLabel(Record):
    """A hit of a search as the log keeps it: ranks start at 1."""

    id: str
    name: Name
    rank: int
    score: float


class SearchResult(Record):
    """One search that ran, and its hits. `turn` is the model's turn that asked for it, 0 for a source's own."""

    source: str
    turn: int
    query: str
    limit: int
    found: list[FoundLabel]

    @model_validator(mode="before")
    @classmethod
    def _migrated(cls, search: Any) -> Any:
        if isinstance(search, dict) and "source" not in search and "turn" in search:
            return search | {"source": _source_of(search["turn"])}
        return search

    @property
    def key(self) -> str:
        """Equal keys are the same search."""
        return _search_key(self.query)


QUERY = 300  # characters of a model's search


class Search(BaseModel):
    """The arguments of search_labels, as a model gives them."""

    # A model's spare arguments are no reason to lose its search.
    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    query: str = Field(min_length=1, max_length=QUERY, description="a few words: a label's name or topic")
    limit: int = Field(default=10, ge=1, le=50, description="how many labels to return")

    @property
    def key(self) -> str:
        """Equal keys are the same search."""
        return _search_key(self.query)


def _search_key(query: str) -> str:
    return " ".join(query.casefold().split())


@dataclass(frozen=True, slots=True)
class Candidate:
    """A label that at least one search found, with every finding. `score` is the fused one."""

    label: Label
    score: float
    found_by: list[Finding]


class ShownCandidate(Record):
    """A candidate of the shortlist as the selector was shown it."""

    id: str
    text: str


class ChosenLabel(Record):
    """A label of the final selection: ranks start at 1, scores are the selector's, in [0, 1]."""

    id: str
    name: Name
    rank: int
    score: float
    reason: str = ""


class Selection(Record):
    """The outcome of phase 2: the chosen labels, best first, and the score of every candidate that was judged."""

    labels: list[ChosenLabel]
    scores: dict[str, float]


def _finding(found: Any) -> Any:
    if isinstance(found, dict) and "turn" in found:  # of version 0.1
        return {name: value for name, value in found.items() if name != "turn"} | {"source": _source_of(found["turn"])}
    return found


@dataclass(frozen=True, slots=True)
class ShortlistEntry:
    """A candidate as the result reports it: without the label's texts."""

    id: str
    score: float
    found_by: list[Annotated[Finding, BeforeValidator(_finding)]]


class Failure(Record):
    """The reason why a phase could not do its work for a document.

    >>> Failure(phase="select", kind="engine", message="no answer").kind
    'engine'
    """

    phase: Phase
    kind: Literal["empty_document", "invalid_output", "engine", "budget", "internal"]
    message: Redacted


class Usage(Record):
    """The cost of a phase: model calls, tokens, and seconds of wall time.

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
    """The result of a document: one JSON line.

    `truncated_from` is the document's length in characters when only its beginning was read, else null. `failure` is
    null when every phase did its work; an empty `labels` without a failure is a valid answer. `run` is the run that
    made it and `digest` that of the document's text, both "" in results of version 0.1.

    >>> LabeledDocument.model_validate_json('{"id": "1", "labels": [], "shortlist": [], "usage": {}}').failure is None
    True
    """

    id: str
    labels: list[ChosenLabel]
    shortlist: list[ShortlistEntry]
    usage: dict[Phase, Usage]
    truncated_from: int | None = None
    failure: Failure | None = None
    run: str = ""
    digest: str = ""


class Reply(Record):
    """A model's answer to one prompt.

    `logprobs` are those of the first answer token's likeliest alternatives, where asked for. `score` is an
    encoder's answer, in log-odds.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = []
    logprobs: dict[str, float] = {}
    score: float | None = None
    usage: Usage = Usage()


class Exchange(Record):
    """One step's conversation with a model: the prompts exactly as sent, and the replies.

    With no `questions` there was one prompt: `messages`. With questions there was one prompt per question: `messages`
    with the question appended to the last message, so that the prompts share a prefix the engine can cache, then, in
    the same way, one per baseline question behind `baseline`, the same prompt about an empty document. `replies` has
    one entry per prompt, fewer where the engine failed or the budget was spent.
    """

    messages: list[dict[str, Any]]
    questions: list[str] = []
    baseline: list[dict[str, Any]] = []
    baseline_questions: list[str] = []
    options: dict[str, Any] = {}
    replies: list[Reply] = []

    @property
    def usage(self) -> Usage:
        """The cost of all its calls."""
        return sum((reply.usage for reply in self.replies), Usage())

    @property
    def prompts(self) -> list[list[dict[str, Any]]]:
        """Every prompt of this exchange, in OpenAI's message format."""
        if not self.questions:
            return [self.messages]
        return _asked(self.messages, self.questions) + _asked(self.baseline, self.baseline_questions)


def _asked(messages: list[dict[str, Any]], questions: list[str]) -> list[list[dict[str, Any]]]:
    return [[*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + question}] for question in questions]
