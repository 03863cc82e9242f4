"""The two roots of every error: the user's fault, and ours. None shows a secret."""

import os
import re


class UserError(Exception):
    """Something the user gave is wrong; the message says what, where, and what to do. Exit code 2."""


class CtdError(Exception):
    """Something of ours, or an engine under us, failed. Exit code 1."""


def redacted(text: str) -> str:
    """Return a text with *** for the environment's API keys and for the credentials in its URLs."""
    for name, key in os.environ.items():
        if name.endswith("_API_KEY") and len(key) >= 8:  # what is shorter is a placeholder, and perhaps a word
            text = text.replace(key, "***")
    return re.sub(r"://[^/\s]+@", "://***@", text)
