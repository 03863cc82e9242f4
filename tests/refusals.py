"""Files that are hard to read, and the message that a user gets for one that cannot be."""

from pathlib import Path

import pytest

from ctd_agent.errors import UserError

NASTY = [
    'He said "no", twice; then | and \t left.',
    "first line\nsecond line\r\n\r\nlast line\rreally",
    "😀 👩‍👩‍👧 e\u0301 𝒳",
    "שלום עולם مرحبا \u202eabc\u202c",
    "line\u2028separator \u0085next \x0b\x0c page \x1c file",
    " spaces kept  ",
    '"',
    "\\n \\u0041 {[]} '' --",
    "long " * 60_000,
]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refusal(read, *args) -> str:
    """The message that a user gets, which is always one line."""
    with pytest.raises(UserError) as caught:
        read(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message
