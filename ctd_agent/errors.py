"""The two roots of every error: the user's fault, and ours. None shows a secret."""

import os
import re


def redacted(text: str) -> str:
    """Return a text with *** for the environment's API keys, and for credentials in URLs and headers."""
    for name, key in os.environ.items():
        if name.endswith("_API_KEY") and len(key) >= 8:  # what is shorter is a placeholder, and perhaps a word
            text = text.replace(key, "***")
    text = re.sub(r"\b(Basic|Bearer) [\w.~+/=-]+", r"\1 ***", text)
    return re.sub(r"://[^/\s]+@", "://***@", text)


class _Error(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class UserError(_Error):
    """Something the user gave is wrong; the message says what, where, and what to do. Exit code 2."""


class CtdError(_Error):
    """Something of ours, or an engine under us, failed. Exit code 1."""
