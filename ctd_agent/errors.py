"""The two roots of every error: the user's fault, and ours."""

import os
import re

SHORT = 6  # characters: a shorter value of a key's variable is a placeholder, and may be a word of the message


def redacted(text: str) -> str:
    """Return a text without the keys in this process's environment, and without passwords in URLs and headers."""
    for name, value in os.environ.items():
        if name.endswith(("_API_KEY", "_TOKEN")) and len(value) > SHORT:
            text = text.replace(value, "***")
    text = re.sub(r"\b(Basic|Bearer) [\w.~+/=-]+", r"\1 ***", text)
    return re.sub(r"(?<=://)[^/\s]+@", "***@", text)  # a password may hold an @


class CtdAgentError(Exception):
    """What both roots share: no message holds a secret, whatever a server has put into its answer."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class UserError(CtdAgentError):
    """Something the user gave is wrong; the message says what, where, and what to do. Exit code 2."""


class CtdError(CtdAgentError):
    """Something of ours, or an engine under us, failed. Exit code 1."""
