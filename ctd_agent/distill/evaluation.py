"""Score a labelled run against gold: its ranking, its chosen set, and what each phase cost."""

from collections.abc import Sequence

from ctd_agent.graphs.transitions import Transition
from ctd_agent.schema import LabeledDocument


def ranked(result: LabeledDocument, steps: Sequence[Transition] = ()) -> list[str]:
    """Return a document's labels by id, best first: what a run says of their order.

    The chosen ones come first, then the rest that the selector judged, by its score, then the
    shortlist's, by the fused one, and last what was found and cut. The selector's scores and what was cut
    stand in the log only: without `steps` the ranking is the chosen and the shortlist.
    """
    chosen = [label.id for label in result.labels]
    judged = [key for step in steps if step.selection for key in step.selection.scores]
    shortlist = [entry.id for entry in result.shortlist]
    return list(dict.fromkeys([*chosen, *judged, *shortlist, *(new for step in steps for new in step.added)]))
