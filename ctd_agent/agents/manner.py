"""How a model is asked: common to models, to the students that are trained for it, and to the corpora they learn."""

from ctd_agent.schema import Record


class Manner(Record):
    """How a chat model is asked, and how it answers.

    `native_tools`: it makes tool calls for its searches, else it answers in JSON under a schema. `reasons`: it writes
    its reasons before a listwise choice. `names`: it chooses labels by name, else by number. `candidates`: how many
    candidates of the document's own search it was taught to choose from, None where it was not taught.
    """

    native_tools: bool = True
    reasons: bool = True
    names: bool = False
    candidates: int | None = None
