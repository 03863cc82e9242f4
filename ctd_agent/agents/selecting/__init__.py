"""Phase 2: the ways of selecting from a shortlist, by name.

To add a way: a module with a class as `selector.Selector` describes, and its row here.
"""

from ctd_agent.agents.engines import Model
from ctd_agent.agents.sampling import Sampling
from ctd_agent.agents.selecting.listwise import Listwise
from ctd_agent.agents.selecting.pointwise import Pointwise
from ctd_agent.agents.selecting.scoring import Scoring
from ctd_agent.agents.selecting.selector import Selector, UnusableSelectionError
from ctd_agent.errors import UserError

SELECTING: dict[str, type[Selector]] = {"listwise": Listwise, "pointwise": Pointwise, "scoring": Scoring}

__all__ = ["SELECTING", "Selector", "UnusableSelectionError", "load_selector", "way_named", "way_of"]


def way_named(name: str) -> type[Selector]:
    """Return the way of selecting of this name. Raises UserError where there is none."""
    if name not in SELECTING:
        raise UserError(f"{name!r} is no way of selecting; choose one of {', '.join(SELECTING)}")
    return SELECTING[name]


def way_of(model: Model) -> type[Selector]:
    """Return the model's way of selecting. Raises as `way_named` does."""
    return way_named(model.selects)


def load_selector(model: Model, task: str, sampling: Sampling) -> Selector:
    """Return the model's way of selecting, ready to be asked. Raises UserError where it does not go with the model."""
    return way_of(model)(model, task, sampling)
