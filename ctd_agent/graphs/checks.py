"""Models that do not fit their phase, their sampling or the index are refused before the first document."""

from collections.abc import Iterable

from ctd_agent.agents.engines import Encoder, Model
from ctd_agent.agents.sampling import Sampling
from ctd_agent.errors import UserError
from ctd_agent.graphs.budget import Budget
from ctd_agent.tools.embedding import load_embedder
from ctd_agent.tools.label_search import Searchable


def check_thinking(models: Iterable[Model], sampling: Iterable[Sampling]) -> None:
    """Refuse a thinking budget for a model that cannot be told one."""
    for model, wanted in zip(models, sampling, strict=True):
        if wanted.thinking is not None and model.thinking is None:
            raise UserError(f"{model.spec}: this engine cannot be told how much to think; leave `thinking` out")


def check_shortlister(shortlister: Model, index: Searchable, budget: Budget) -> None:
    """Refuse an encoder that was trained for phase 2, that is given turns, or whose vectors the index has not."""
    if not isinstance(shortlister, Encoder):
        return
    if shortlister.student.target == "select":
        raise UserError(f"{shortlister.spec}: it was trained to select; for phase 1 name one trained to shortlist")
    if budget.turns:
        raise UserError(f"{shortlister.spec}: an encoder makes no searches of its own; leave the turns at 0")
    if index.manifest.embedder != load_embedder(shortlister.embedder).spec:
        raise UserError(
            f"{shortlister.spec}: the index was built with embedder {index.manifest.embedder!r}; "
            f"build it with {shortlister.embedder!r}"
        )
