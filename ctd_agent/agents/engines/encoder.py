"""Trained encoders as models of the graph: a bi-encoder goes by nearness, a cross-encoder scores a pair.

They write nothing: a question about a candidate is answered with log-odds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from ctd_agent.agents.engines.student import SILENT, Student, read_student
from ctd_agent.agents.manner import Manner
from ctd_agent.errors import UserError
from ctd_agent.extras import sentence_transformers
from ctd_agent.schema import Exchange, Reply, Usage

SPEC = "encoder:"
# A cosine to log-odds. Any increasing function would do, since the threshold is fitted to it.
SCALE, MIDDLE = 10.0, 0.5


@dataclass(frozen=True)
class Encoder:
    """A trained encoder as one of the graph's models. `student` is its card."""

    spec: str
    student: Student
    folder: Path
    manner: Manner = SILENT
    searches: bool = False
    selects: str = "scoring"
    slots: int = 1
    thinking: None = None

    @property
    def embedder(self) -> str:
        """The embedder spec of the index that a shortlister needs."""
        return _embedder(self.folder)

    def ask(self, exchange: Exchange, within: Callable[[Usage], bool] = lambda _: True) -> Exchange:
        """Return the exchange with a reply a question: the log-odds that the label is right."""
        if not exchange.questions or not within(exchange.usage):
            return exchange
        started = perf_counter()
        text = str(exchange.messages[-1]["content"])
        odds, tokens = _model(self.student.kind, str(self.folder)).score(text, exchange.questions)
        usage = Usage(calls=1, prompt_tokens=tokens, seconds=perf_counter() - started)  # one pass for all of them
        replies = [Reply(score=score, usage=usage if not at else Usage()) for at, score in enumerate(odds)]
        return exchange.model_copy(update={"replies": replies})


def embedder_of(spec: str) -> str | None:
    """Return the embedder spec of the index that an encoder shortlists by, None for any other model."""
    return _embedder(_folder(spec)) if spec.startswith(SPEC) else None


def _folder(spec: str) -> Path:
    return Path(spec.removeprefix(SPEC)).expanduser().resolve()


def _embedder(folder: Path) -> str:
    return f"sentence-transformers:{folder}"


def load_encoder(spec: str, name: str) -> Encoder:
    """Return the encoder that `encoder:FOLDER` names.

    Raises UserError where there is none, or the library that runs it is missing.
    """
    folder = _folder(spec)
    student = read_student(folder)
    if student is None or student.kind == "language-model":
        inside = ", ".join(f"{SPEC}{card.parent}" for card in sorted(folder.glob("*/student.json")))
        raise UserError(f"{spec}: no trained encoder in this folder" + (f"; did you mean {inside}?" if inside else ""))
    _model(student.kind, str(folder))  # an encoder that cannot be loaded fails now, not at the first document
    return Encoder(spec, student, folder)


class _CrossEncoder:
    def __init__(self, folder: str) -> None:
        self._model = sentence_transformers(f"{SPEC}{folder}").CrossEncoder(folder)

    def score(self, text: str, labels: Sequence[str]) -> tuple[list[float], int]:
        from torch.nn import Identity

        pairs = [(text, label) for label in labels]
        odds = self._model.predict(pairs, activation_fn=Identity(), show_progress_bar=False, batch_size=len(pairs))
        read = self._model.tokenizer(pairs, truncation=True, max_length=self._model.max_seq_length)["input_ids"]
        return [float(score) for score in odds], sum(map(len, read))


class _BiEncoder:
    def __init__(self, folder: str) -> None:
        self._model = sentence_transformers(f"{SPEC}{folder}").SentenceTransformer(folder)
        self._known: dict[str, Any] = {}  # labels come again and again

    def score(self, text: str, labels: Sequence[str]) -> tuple[list[float], int]:
        new = [label for label in dict.fromkeys(labels) if label not in self._known]
        document, *vectors = self._encode([text, *new])
        self._known.update(zip(new, vectors, strict=True))
        odds = [odds_of(float(document @ self._known[label])) for label in labels]
        read = self._model.tokenizer(text, truncation=True, max_length=self._model.max_seq_length)["input_ids"]
        return odds, len(read)

    def _encode(self, texts: list[str]) -> Any:
        return self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


@cache
def _model(kind: str, folder: str) -> _CrossEncoder | _BiEncoder:
    try:
        return _CrossEncoder(folder) if kind == "cross-encoder" else _BiEncoder(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{SPEC}{folder}: cannot be loaded ({error})") from error


def odds_of(cosine: float) -> float:
    """Return a cosine on the scale of log-odds."""
    return SCALE * (cosine - MIDDLE)
