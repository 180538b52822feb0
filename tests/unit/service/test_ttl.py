from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.service.ttl import ttl

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("left", "jitter", "expected"),
    [
        (90 * 86_400, 0.0, 3600),
        (90 * 86_400, 0.5, 3570),
        (90 * 86_400, 0.999, 3540),
        (3600, 0.0, 3600),
        (3599, 0.0, 2879),
        (1000, 0.7, 800),
        (60, 0.0, 48),
        (59.9, 0.0, 0),
        (0, 0.0, 0),
        (-5, 0.0, 0),
    ],
)
def test_table(left: float, jitter: float, expected: int) -> None:
    assert ttl(NOW + left, NOW, jitter) == expected


jitters = st.floats(0, 1, exclude_max=True)


@given(st.floats(-1e6, 1e9), jitters)
def test_is_never_negative_nor_over_an_hour_nor_past_expiry(left: float, jitter: float) -> None:
    seconds = ttl(NOW + left, NOW, jitter)
    assert 0 <= seconds <= 3600
    assert seconds <= max(0.0, left)


@given(st.floats(3601, 1e9), jitters)
def test_of_a_long_one_is_an_hour_less_up_to_a_minute(left: float, jitter: float) -> None:
    assert 3540 <= ttl(NOW + left, NOW, jitter) <= 3600


@given(st.integers(60, 3599), jitters)
def test_in_the_last_hour_is_four_fifths_of_what_is_left(left: int, jitter: float) -> None:
    assert ttl(NOW + left, NOW, jitter) == left * 8 // 10


def test_spreads_a_fleet_over_the_whole_minute() -> None:
    assert len({ttl(NOW + 86_400, NOW, step / 1000) for step in range(1000)}) == 61
