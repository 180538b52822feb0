"""What most rooms need under test: a clock that stands still, and storage that breaks on demand."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage

# What an example takes depends on what else the machine does.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def storage(clock: ManualClock) -> FaultyStorage:
    return FaultyStorage(clock)
