"""Scoring selection: a trained encoder scores every candidate."""

from collections.abc import Sequence

from ctd_agent.agents.engines import Encoder, Model
from ctd_agent.agents.prompts import VERSIONS
from ctd_agent.agents.sampling import Sampling
from ctd_agent.agents.selecting.selector import Selector, Within, above, score_at
from ctd_agent.errors import UserError
from ctd_agent.lengths import WHOLE, cut
from ctd_agent.schema import Candidate, Exchange, Label, Selection


class Scoring(Selector):
    """Candidates that score above the encoder's own threshold are chosen."""

    prompt = VERSIONS["scoring"]
    model: Encoder

    def __init__(self, model: Model, task: str, sampling: Sampling) -> None:
        if not isinstance(model, Encoder):
            raise UserError(f"{model.spec}: only a trained encoder selects by scoring")
        super().__init__(model, task, sampling)
        self._student = model.student

    def show(self, label: Label) -> str:
        """Return the label as in the encoder's training: as a selector shows it, or as the index holds it."""
        return super().show(label) if self._student.target == "select" else cut(label.text, WHOLE)

    def ask(self, text: str, shortlist: Sequence[Candidate], shown: Sequence[str], within: Within) -> Exchange:
        """Have all candidates scored at once."""
        return self.model.ask(Exchange(messages=[{"role": "user", "content": text}], questions=list(shown)), within)

    def read(self, exchange: Exchange, shortlist: Sequence[Candidate]) -> Selection:
        """Rank the candidates by score, and choose those above the threshold."""
        scores = {
            candidate.label.id: score_at(reply.score or 0.0, rank)
            for rank, (candidate, reply) in enumerate(zip(shortlist, exchange.replies, strict=True), start=1)
        }
        return above(scores, self._student.threshold, shortlist)
