from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.errors import (
    AcmeError,
    CaProblem,
    CaTooSlow,
    CaUnreachable,
    ChallengeFailed,
    InvalidCertificate,
    MalformedResponse,
    OrderFailed,
    PreflightFailed,
    StorageError,
    ValidationFailed,
)
from ssl_cert_server.service.ca_health import CaHealth, is_trouble
from tests.support.clock import ManualClock

ERROR = CaUnreachable("connection refused")


@pytest.fixture
def health(clock: ManualClock) -> CaHealth:
    return CaHealth(clock)


async def test_one_that_never_failed_may_be_asked(health: CaHealth) -> None:
    assert health.closed_for == 0


async def test_it_is_left_alone_longer_each_time(health: CaHealth, clock: ManualClock) -> None:
    pauses = []
    for _ in range(8):
        health.failed(ERROR)
        pauses.append(health.closed_for)
        await clock.advance(health.closed_for)
        assert health.closed_for == 0
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600]


async def test_what_fails_side_by_side_is_one_failure(health: CaHealth, clock: ManualClock) -> None:
    for _ in range(8):
        health.failed(ERROR)
        await clock.advance(1)
    assert health.closed_for == 7
    health.failed(CaUnreachable("busy", retry_after=100))
    assert health.closed_for == 100


@pytest.mark.parametrize("error", [MalformedResponse("what?"), CaTooSlow("not finished")])
async def test_one_that_stumbles_over_an_order_is_asked_for_others(health: CaHealth, error: AcmeError) -> None:
    for expected in (0, 0, 15):
        health.failed(error)
        assert health.closed_for == expected


async def test_the_pause_ends_by_itself(health: CaHealth, clock: ManualClock) -> None:
    health.failed(ERROR)
    await clock.advance(10)
    assert health.closed_for == 5


async def test_success_forgets_everything(health: CaHealth) -> None:
    for _ in range(5):
        health.failed(ERROR)
    health.worked()
    assert health.closed_for == 0
    health.failed(ERROR)
    assert health.closed_for == 15


async def test_instances_do_not_come_back_in_step(health: CaHealth, clock: ManualClock) -> None:
    clock.chance = 0.0
    health.failed(ERROR)
    assert health.closed_for == 15 * 0.75
    clock.chance = 1.0
    health.worked()
    health.failed(ERROR)
    assert health.closed_for == 15 * 1.25


@pytest.mark.parametrize(("asked", "pause"), [(1.0, 15), (100.0, 100), (3600.0, 3600), (1e9, 3600)])
async def test_what_it_asks_for_is_obeyed_up_to_an_hour(health: CaHealth, asked: float, pause: float) -> None:
    health.failed(AcmeError("down", retry_after=asked))
    assert health.closed_for == pause


async def test_a_jump_of_the_wall_clock_changes_nothing(health: CaHealth, clock: ManualClock) -> None:
    health.failed(ERROR)
    clock.jump(-1e6)
    assert health.closed_for == 15


@given(st.lists(st.none() | st.floats(0, 1e12), min_size=1, max_size=50), st.floats(0, 1, exclude_max=True))
def test_whatever_it_says_it_is_asked_again_within_the_hour(waits: list[float | None], chance: float) -> None:
    clock = ManualClock()
    clock.chance = chance
    health = CaHealth(clock)
    for wait in waits:
        health.failed(AcmeError("down", retry_after=wait))
    assert 10 < health.closed_for <= 3600


def test_answers_without_sense_close_it_at_the_third_in_a_row(health: CaHealth) -> None:
    stumble = MalformedResponse("not JSON")
    for _ in range(2):
        health.failed(stumble)
        health.failed(stumble)
        assert health.closed_for == 0
        health.worked()
    for _ in range(3):
        health.failed(stumble)
    assert health.closed_for == 15


def problem(status: int, type: str = "serverInternal") -> CaProblem:
    return CaProblem("no", type=type, status=status)


@pytest.mark.parametrize("error", [ERROR, MalformedResponse("not JSON"), problem(500), problem(503), problem(599)])
def test_what_is_the_cas_own_trouble(error: Exception) -> None:
    assert is_trouble(error)


@pytest.mark.parametrize(
    "error",
    [
        problem(403, "rejectedIdentifier"),
        problem(429, "rateLimited"),
        OrderFailed("invalid"),
        ValidationFailed("nothing there", name="a.com", challenge="http-01", problem="connection"),
        PreflightFailed("CAA"),
        ChallengeFailed("the provider refused"),
        InvalidCertificate("no pair"),
        StorageError("gone"),
        AcmeError("something else"),
        RuntimeError("a bug"),
    ],
)
def test_what_is_not(error: Exception) -> None:
    assert not is_trouble(error)
