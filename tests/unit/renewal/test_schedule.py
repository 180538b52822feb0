from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.renewal.schedule import renew_at

DAY = 86_400.0
START = 1_800_000_000.0

lifetimes = st.floats(60, 4000 * DAY)
jitters = st.floats(0, 1, exclude_max=True)
margins = st.none() | st.floats(0, 40_000 * DAY)


@pytest.mark.parametrize(
    ("days", "renew_before", "expected"),
    [
        (90, None, 60),
        (45, None, 30),
        (398, None, 398 * 2 / 3),
        (10, None, 10 * 2 / 3),
        (9, None, 4.5),
        (6, None, 3),
        (90, 30, 60),
        (90, 10, 80),
        (90, 45, 60),
        (6, 30, 3),
        (6, 1, 5),
        (1, 365, 0.5),
    ],
)
def test_table(days: float, renew_before: float | None, expected: float) -> None:
    seconds = renew_before * DAY if renew_before is not None else None
    assert (renew_at(START, START + days * DAY, 0.0, seconds) - START) / DAY == pytest.approx(expected)


@given(lifetimes, jitters, margins)
def test_is_always_in_the_last_half_of_life_and_before_expiry(
    lifetime: float, jitter: float, renew_before: float | None
) -> None:
    at = renew_at(START, START + lifetime, jitter, renew_before)
    assert START + lifetime / 2 - 1 <= at <= START + lifetime


@given(lifetimes, jitters, st.none() | st.floats(DAY, 40_000 * DAY))
def test_is_never_at_expiry_where_a_day_or_more_was_asked_for(
    lifetime: float, jitter: float, renew_before: float | None
) -> None:
    assert renew_at(START, START + lifetime, jitter, renew_before) < START + lifetime


@given(lifetimes, jitters, st.floats(0, 40_000 * DAY))
def test_renew_before_never_makes_it_earlier(lifetime: float, jitter: float, renew_before: float) -> None:
    end = START + lifetime
    assert renew_at(START, end, jitter, renew_before) >= renew_at(START, end, jitter)


def test_jitter_spreads_over_a_tenth_of_what_is_left_and_only_to_later() -> None:
    times = [renew_at(START, START + 90 * DAY, step / 100, None) for step in range(100)]
    assert times == sorted(times)
    assert times[0] == START + 60 * DAY
    assert START + 62.9 * DAY < times[-1] < START + 63 * DAY
