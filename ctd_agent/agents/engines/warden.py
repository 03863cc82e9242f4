"""Runs a command for another process, and ends it with that process, however that one dies.

python -m ctd_agent.agents.engines.warden COMMAND...

The other process holds the writing end of this one's standard input. When it closes it, or is
killed, the input ends: then the command and all its children are ended.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from time import sleep

GRACE = 10.0  # seconds between asking the command to end and ending it


def main(command: list[str]) -> int:
    """Run the command until it ends or standard input does. Return its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - vllm's
    threading.Thread(target=_end_with_input, args=(process.pid,), daemon=True).start()
    try:
        return process.wait()
    finally:
        _signal(process.pid, signal.SIGKILL)  # children outlive the command now and then


def _end_with_input(group: int) -> None:
    sys.stdin.buffer.read()
    _signal(group, signal.SIGTERM)
    sleep(GRACE)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
