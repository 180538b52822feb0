"""What most rooms need under test: a clock that stands still, and storage that breaks on demand."""

from __future__ import annotations

import pytest

from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def storage(clock: ManualClock) -> FaultyStorage:
    return FaultyStorage(clock)
