from __future__ import annotations

import pytest

from ssl_cert_server.service.breaker import Breaker
from tests.support.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock()
    clock.chance = 0.0
    return clock


def _fail(breaker: Breaker, *names: str, answered: bool = False) -> list[bool]:
    return [breaker.failed(breaker.admit(), name, answered=answered) for name in names]


async def test_no_answer_opens_it_at_once_and_each_failed_probe_for_twice_as_long(clock: ManualClock) -> None:
    breaker = Breaker(clock, probe=2)
    assert breaker.pause == 0
    assert _fail(breaker, "a.com") == [True]
    pauses = []
    for _ in range(7):
        pauses.append(breaker.pause)
        await clock.advance(breaker.pause)
        assert breaker.pause == 0
        assert _fail(breaker, "a.com") == [False]
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


async def test_a_probes_answer_closes_it(clock: ManualClock) -> None:
    breaker = Breaker(clock, probe=2)
    _fail(breaker, "a.com")
    await clock.advance(1)
    assert breaker.worked(breaker.admit())
    assert breaker.pause == 0
    assert not breaker.worked(breaker.admit())
    _fail(breaker, "a.com")
    assert breaker.pause == 1


async def test_one_probe_at_a_time_and_another_where_it_is_never_heard_of(clock: ManualClock) -> None:
    breaker = Breaker(clock, probe=2)
    _fail(breaker, "a.com")
    await clock.advance(1)
    breaker.admit()
    assert breaker.pause == 2
    await clock.advance(2)
    assert breaker.pause == 0


async def test_what_was_under_way_when_it_opened_neither_prolongs_nor_ends_the_pause(clock: ManualClock) -> None:
    breaker = Breaker(clock, probe=2)
    admitted = [breaker.admit() for _ in range(64)]
    assert [breaker.failed(one, f"{n}.com", answered=False) for n, one in enumerate(admitted[:63])] == [True] + [
        False
    ] * 62
    assert breaker.pause == 1
    assert not breaker.worked(admitted[63])
    assert breaker.pause == 1


def test_answers_without_a_verdict_open_it_at_the_third_name(clock: ManualClock) -> None:
    breaker = Breaker(clock, probe=2)
    assert _fail(breaker, *["bad.com"] * 50, "b.com", answered=True) == [False] * 51
    assert breaker.pause == 0
    assert _fail(breaker, "c.com", answered=True) == [True]
    assert breaker.pause == 1


def test_a_verdict_in_between_starts_the_count_anew(clock: ManualClock) -> None:
    breaker = Breaker(clock, probe=2)
    for name in ("a.com", "b.com", "c.com", "d.com"):
        assert _fail(breaker, name, answered=True) == [False]
        assert not breaker.worked(breaker.admit())
    assert breaker.pause == 0


def test_pauses_are_spread(clock: ManualClock) -> None:
    breaker = Breaker(clock, probe=2)
    clock.chance = 0.8
    _fail(breaker, "a.com")
    assert breaker.pause == 0.8
