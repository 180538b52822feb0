"""Limits: the mathematics of one bucket, what is written in a configuration, and what a name counts under."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.config.values import rate
from ssl_cert_server.service.budget.buckets import Bucket
from ssl_cert_server.service.budget.domains import registered_domain
from ssl_cert_server.service.budget.limits import LETS_ENCRYPT, Limit

NOW = 1_800_000_000.0
FIVE = Limit(5, 3600.0)


def drain(limit: Limit, now: float = NOW) -> float:
    full_at = 0.0
    while not limit.wait(full_at, now):
        full_at = limit.taken(full_at, now)
    return full_at


def test_a_full_bucket_gives_its_count_at_once_and_then_one_per_interval() -> None:
    full_at = 0.0
    for _ in range(5):
        assert FIVE.wait(full_at, NOW) == 0.0
        full_at = FIVE.taken(full_at, NOW)
    assert FIVE.wait(full_at, NOW) == 720.0
    assert FIVE.wait(full_at, NOW + 700) == 20.0
    assert FIVE.wait(full_at, NOW + 720) == 0.0
    assert FIVE.wait(FIVE.taken(full_at, NOW + 720), NOW + 720) == 720.0
    assert full_at == NOW + 3600


def test_a_reserve_is_left_and_costs_the_time_in_which_it_comes_back() -> None:
    full_at = 0.0
    for _ in range(3):
        assert FIVE.wait(full_at, NOW, reserve=2) == 0.0
        full_at = FIVE.taken(full_at, NOW)
    assert FIVE.wait(full_at, NOW, reserve=2) == 720.0
    assert FIVE.wait(full_at, NOW) == 0.0


def test_taking_from_an_empty_bucket_leaves_it_empty() -> None:
    full_at = drain(FIVE)
    assert FIVE.taken(full_at, NOW) == full_at
    assert FIVE.taken(full_at, NOW + 100) == full_at + 100


def test_what_is_given_back_at_once_was_never_taken() -> None:
    full_at = FIVE.taken(FIVE.taken(0.0, NOW), NOW)
    assert FIVE.given_back(full_at, NOW, NOW) == NOW + 720


def test_what_came_back_by_itself_is_not_given_back_again() -> None:
    full_at = FIVE.taken(0.0, NOW)
    assert FIVE.given_back(full_at, NOW, NOW + 500) == pytest.approx(full_at - 220)
    assert FIVE.given_back(full_at, NOW, NOW + 800) == full_at
    assert FIVE.given_back(full_at, NOW, NOW - 50) == full_at - 720, "the clock was set back"


@given(
    limit=st.builds(Limit, st.integers(1, 300), st.floats(1.0, 1e6)),
    gaps=st.lists(st.floats(0, 1e5), min_size=1, max_size=100),
    reserve=st.integers(0, 3),
)
def test_never_more_than_the_count_and_the_refill_in_any_window(limit: Limit, gaps: list[float], reserve: int) -> None:
    reserve = min(reserve, limit.count - 1)
    full_at, now = 0.0, NOW
    taken: list[float] = []
    for gap in gaps:
        now += gap
        while not limit.wait(full_at, now, reserve=reserve) and len(taken) < 2000:
            full_at = limit.taken(full_at, now)
            taken.append(now)
    for first in range(0, len(taken), max(1, len(taken) // 40)):
        for last in range(first, len(taken)):
            in_window = last - first + 1
            slack = 0.01 / limit.interval + 1e-6
            assert in_window <= limit.count - reserve + (taken[last] - taken[first]) / limit.interval + slack


@given(
    limit=st.builds(Limit, st.integers(1, 300), st.floats(1.0, 1e6)),
    reserve=st.integers(0, 3),
    before=st.floats(-1e6, 1e6),
    late=st.floats(0, 1e6),
)
def test_whoever_comes_back_when_told_is_served(limit: Limit, reserve: int, before: float, late: float) -> None:
    reserve = min(reserve, limit.count - 1)
    wait = limit.wait(NOW + before, NOW, reserve=reserve)
    assert limit.wait(NOW + before, NOW + wait, reserve=reserve) == 0.0
    assert limit.wait(NOW + before, NOW + wait + late, reserve=reserve) == 0.0
    if wait > 0.01:
        assert limit.wait(NOW + before, NOW + wait - 0.005, reserve=reserve) > 0.0


@given(limit=st.none() | st.just(FIVE), seconds=st.floats(0.0, 604_800.0), skew=st.floats(0.0, 1e8))
def test_whoever_comes_back_when_a_closed_bucket_opens_is_served(
    limit: Limit | None, seconds: float, skew: float
) -> None:
    now = NOW + skew
    bucket = Bucket().closed(limit, now + seconds, now)
    assert bucket.wait(limit, now + bucket.wait(limit, now, 0), 0) == 0.0


def test_a_rounding_error_keeps_nothing_closed() -> None:
    assert Bucket(closed_until=math.nextafter(NOW, math.inf)).wait(None, NOW, 0) == 0.0
    assert Bucket(closed_until=NOW + 0.01).wait(None, NOW, 0) > 0.0


@given(st.integers(1, 10_000_000), st.integers(1, 366 * 86_400))
def test_a_limit_is_written_as_it_is_read(count: int, seconds: int) -> None:
    assert rate(str(Limit(count, seconds))) == (count, seconds)


def test_the_limits_of_lets_encrypt() -> None:
    written = [LETS_ENCRYPT.new_orders, LETS_ENCRYPT.per_registered_domain, LETS_ENCRYPT.per_exact_set]
    assert [str(limit) for limit in written] == ["300/3h", "50/7d", "5/7d"]
    assert str(LETS_ENCRYPT.failed_authorizations) == "5/1h"
    assert LETS_ENCRYPT.new_orders is not None
    assert LETS_ENCRYPT.new_orders.interval == 36.0


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("*.example.com", "example.com"),
        ("www.example.co.uk", "example.co.uk"),
        ("a.user.github.io", "user.github.io"),
        ("github.io", "github.io"),
        ("co.uk", "co.uk"),
        ("*.github.io", "github.io"),
        ("a.example.unheard-of", "example.unheard-of"),
        ("a.b.www.ck", "www.ck"),
        ("x.xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
        ("localhost", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8::1", "2001:db8::/64"),
    ],
)
def test_what_a_name_counts_under(name: str, domain: str) -> None:
    assert registered_domain(name) == domain
