"""What the integration tests share: free ports, and certificate authorities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.ask_endpoint import AskEndpoint
from tests.support.pebble import Pebble
from tests.support.ports import free_port


class StartPebble(Protocol):
    """Starts another Pebble; the options are Pebble's own."""

    def __call__(self, *, http_port: int, **options: Any) -> Pebble: ...


@pytest.fixture
def http_port() -> int:
    """Where ``pebble`` sends its http-01 validations: a test's server listens here."""
    return free_port()


@pytest.fixture
def start_pebble(tmp_path: Path) -> Iterator[StartPebble]:
    """For tests that need a CA with options of their own, or several."""
    with ExitStack() as running:
        started = 0

        def start(*, http_port: int, **options: Any) -> Pebble:
            nonlocal started
            started += 1
            return running.enter_context(Pebble(tmp_path / f"pebble-{started}", http_port=http_port, **options))

        yield start


@pytest.fixture
def ask_endpoint() -> Iterator[AskEndpoint]:
    """An operator's endpoint that permits nothing until it is told to."""
    endpoint = AskEndpoint()
    endpoint.start()
    yield endpoint
    endpoint.stop()


@pytest.fixture
def pebble(start_pebble: StartPebble, http_port: int) -> Pebble:
    """A CA as it comes: 5 % of nonces refused, no authorization reused, no waiting."""
    return start_pebble(http_port=http_port)
