from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.errors import (
    AccountRefused,
    AcmeError,
    AnswerRepeated,
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
        health.failed(ERROR, "a.com")
        pauses.append(health.closed_for)
        await clock.advance(health.closed_for)
        assert health.closed_for == 0
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600]


async def test_what_fails_side_by_side_is_one_failure(health: CaHealth, clock: ManualClock) -> None:
    for _ in range(8):
        health.failed(ERROR, "a.com")
        await clock.advance(1)
    assert health.closed_for == 7
    health.failed(CaUnreachable("busy", retry_after=100), "a.com")
    assert health.closed_for == 100


def problem(status: int, type: str = "serverInternal", *, retry_after: float | None = None) -> CaProblem:
    return CaProblem("no", type=type, status=status, retry_after=retry_after)


STUMBLES = [
    MalformedResponse("what?"),
    AnswerRepeated("an earlier one's"),
    CaTooSlow("not finished"),
    problem(500),
    problem(500, retry_after=60),
    problem(503),
    problem(504, "about:blank"),
]


@pytest.mark.parametrize("error", STUMBLES)
async def test_one_name_that_it_stumbles_over_does_not_close_it_for_others(health: CaHealth, error: AcmeError) -> None:
    for _ in range(10):
        health.failed(error, "a.com")
        health.failed(error, "b.com")
        assert health.closed_for == 0
    health.failed(error, "c.com")
    assert health.closed_for == max(15, error.retry_after or 0)


async def test_while_nothing_works_any_name_closes_it_again(health: CaHealth, clock: ManualClock) -> None:
    for name in ("a.com", "b.com", "c.com"):
        health.failed(STUMBLES[0], name)
    await clock.advance(15)
    health.failed(STUMBLES[0], "a.com")
    assert health.closed_for == 30


class TestProbe:
    """After a pause one goes first, and the others wait to see what becomes of it."""

    async def pause(self, health: CaHealth, clock: ManualClock) -> None:
        health.failed(ERROR, "a.com")
        await clock.advance(15)

    async def test_while_it_works_there_is_none(self, health: CaHealth) -> None:
        health.failed(STUMBLES[0], "a.com")
        assert not health.admit()
        assert health.closed_for == 0

    async def test_others_wait_for_half_a_minute(self, health: CaHealth, clock: ManualClock) -> None:
        await self.pause(health, clock)
        assert health.admit()
        assert health.closed_for == 30
        await clock.advance(30)
        assert health.closed_for == 0

    async def test_where_it_fails_the_next_pause_is_longer(self, health: CaHealth, clock: ManualClock) -> None:
        await self.pause(health, clock)
        health.admit()
        for _ in range(2):  # what else was under way fails beside it
            health.failed(ERROR, "a.com")
            health.undecided()
            assert health.closed_for == 30
        await clock.advance(30)
        health.admit()
        health.failed(ERROR, "a.com")
        assert health.closed_for == 60

    async def test_where_it_works_all_may_come(self, health: CaHealth, clock: ManualClock) -> None:
        await self.pause(health, clock)
        health.admit()
        health.worked()
        health.undecided()
        assert health.closed_for == 0
        assert not health.admit()

    async def test_where_it_tells_nothing_another_one_may_be_made(self, health: CaHealth, clock: ManualClock) -> None:
        await self.pause(health, clock)
        health.admit()
        health.undecided()
        assert health.closed_for == 0
        assert health.admit()


@pytest.mark.parametrize(
    "error",
    [
        ERROR,
        AccountRefused("no account"),
        problem(503, retry_after=20),
        CaProblem("the directory", type="about:blank", status=500, everyone=True),
        CaProblem("a nonce", type="about:blank", status=403, everyone=True),
        problem(429, "about:blank"),
        problem(429, "about:blank", retry_after=600),
    ],
)
async def test_what_concerns_no_name_closes_it_at_once(health: CaHealth, error: AcmeError) -> None:
    assert is_trouble(error)
    health.failed(error, "a.com")
    assert health.closed_for == max(15, error.retry_after or 0)


async def test_the_pause_ends_by_itself(health: CaHealth, clock: ManualClock) -> None:
    health.failed(ERROR, "a.com")
    await clock.advance(10)
    assert health.closed_for == 5


async def test_success_forgets_everything(health: CaHealth) -> None:
    for _ in range(5):
        health.failed(ERROR, "a.com")
    health.worked()
    assert health.closed_for == 0
    health.failed(ERROR, "a.com")
    assert health.closed_for == 15


async def test_instances_do_not_come_back_in_step(health: CaHealth, clock: ManualClock) -> None:
    clock.chance = 0.0
    health.failed(ERROR, "a.com")
    assert health.closed_for == 15 * 0.75
    clock.chance = 1.0
    health.worked()
    health.failed(ERROR, "a.com")
    assert health.closed_for == 15 * 1.25


@pytest.mark.parametrize(("asked", "pause"), [(1.0, 15), (100.0, 100), (3600.0, 3600), (1e9, 3600)])
async def test_what_it_asks_for_is_obeyed_up_to_an_hour(health: CaHealth, asked: float, pause: float) -> None:
    health.failed(AcmeError("down", retry_after=asked), "a.com")
    assert health.closed_for == pause


async def test_a_jump_of_the_wall_clock_changes_nothing(health: CaHealth, clock: ManualClock) -> None:
    health.failed(ERROR, "a.com")
    clock.jump(-1e6)
    assert health.closed_for == 15


@given(st.lists(st.none() | st.floats(0, 1e12), min_size=1, max_size=50), st.floats(0, 1, exclude_max=True))
def test_whatever_it_says_it_is_asked_again_within_the_hour(waits: list[float | None], chance: float) -> None:
    clock = ManualClock()
    clock.chance = chance
    health = CaHealth(clock)
    for wait in waits:
        health.failed(AcmeError("down", retry_after=wait), "a.com")
    assert 10 < health.closed_for <= 3600


def test_names_between_which_it_worked_close_nothing(health: CaHealth) -> None:
    for name in ("a.com", "c.com"):
        health.failed(STUMBLES[0], name)
        health.failed(STUMBLES[0], "b.com")
        health.worked()
    assert health.closed_for == 0


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
