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


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, cut; its type where it has none."""
    return " ".join(str(error).split())[:500] or type(error).__name__


class CtdAgentError(Exception):
    """The base of both roots: no message holds a secret, not even one that quotes a server's answer."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class UserError(CtdAgentError):
    """The user's input is wrong; the message says where, and what to do. Exit code 2.

    >>> str(UserError("http://me:secret@host: no such server"))
    'http://***@host: no such server'
    """


class CtdError(CtdAgentError):
    """A part of ours, or an engine under us, failed. Exit code 1.

    >>> issubclass(CtdError, UserError)
    False
    """
