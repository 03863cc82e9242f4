"""The lengths that ids may have, and that a catalogue's texts are cut to where they leave it."""

from typing import Annotated

from pydantic import AfterValidator

ID = 1_000  # characters of a label's or a document's id
NAME = 300  # characters of a label's name in prompts, logs and results
WHOLE = 4_000  # characters of a label's whole text, as an encoder reads it: more than its window holds


def cut(text: str, limit: int = NAME) -> str:
    """Return a text of at most so many characters, an ellipsis at the end where it was longer.

    >>> cut("Asthma, allergic", 8)
    'Asthma,…'
    """
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


Name = Annotated[str, AfterValidator(cut)]
