"""ctd-agent: shortlist labels from a large catalogue, then reason over them, then distil each phase."""

from typing import TYPE_CHECKING, Any

from ctd_agent.errors import CtdError, UserError
from ctd_agent.schema import Document, Failure, Label, LabeledDocument

if TYPE_CHECKING:
    from ctd_agent.agents.sampling import Sampling
    from ctd_agent.graphs.budget import Budget
    from ctd_agent.graphs.job import Job
    from ctd_agent.graphs.labeling import build_graph
    from ctd_agent.tools.label_index import LabelIndex

__all__ = [
    "Budget",
    "CtdError",
    "Document",
    "Failure",
    "Job",
    "Label",
    "LabelIndex",
    "LabeledDocument",
    "Sampling",
    "UserError",
    "build_graph",
]

# Their modules import LangGraph or Qdrant: seconds that `ctd-agent --help` need not pay.
_HEAVY = {
    "Budget": "ctd_agent.graphs.budget",
    "Sampling": "ctd_agent.agents.sampling",
    "Job": "ctd_agent.graphs.job",
    "build_graph": "ctd_agent.graphs.labeling",
    "LabelIndex": "ctd_agent.tools.label_index",
}


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HEAVY[name]), name)
