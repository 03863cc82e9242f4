"""The command as a process among others: the signals that end it, and standard streams that may be closed."""

import os
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper
from types import FrameType


def heed_signals() -> list[int]:
    """Make SIGTERM what Ctrl-C is, a KeyboardInterrupt. Return the list where the signal that came will stand.

    A second Ctrl-C ends the process at once. A second SIGTERM does nothing: `timeout` for one sends two. A signal that
    the process was started to ignore is ignored.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append(number)
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)  # also as the first process of a container, which has no default
    return came


def mend_streams() -> None:
    """Make standard streams of those that are closed, before a file takes their place.

    What is said on stderr is dropped from now on where nobody can read it. What is written on a closed stdout is an
    error: it may be results.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = _Notes(open(os.devnull, "wb"))  # noqa: SIM115 - as above
    elif isinstance(sys.stderr, TextIOWrapper):
        sys.stderr = _Notes(sys.stderr.buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


class _Notes(TextIOWrapper):
    """A stderr whose reader may go."""

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is held back, or drop it."""
        with suppress(OSError):
            super().flush()
