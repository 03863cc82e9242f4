"""Fixture of the scripted server, for test modules with `pytest_plugins = ["servers"]`."""

from collections.abc import Iterator

import pytest
from server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server
