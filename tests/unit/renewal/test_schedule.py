from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.renewal.schedule import advised_at, expiring_from, renew_at, warned_again

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


@pytest.mark.parametrize(
    ("days", "drawn", "expected"),
    [(90, 55, 55), (90, -5, -5), (90, 75, 75), (90, 80, 75), (90, 200, 75), (6, 3, 3), (6, 5, 4.5), (6, 5.9, 4.5)],
)
def test_advice_is_followed_unless_it_leaves_no_time_for_another_try(
    days: float, drawn: float, expected: float
) -> None:
    at = advised_at(START + drawn * DAY, START, START + days * DAY)
    assert (at - START) / DAY == pytest.approx(expected)


@given(st.floats(START - 4000 * DAY, START + 4000 * DAY), lifetimes)
def test_advised_times_leave_a_sixth_of_life_or_more(drawn: float, lifetime: float) -> None:
    end = START + lifetime
    assert advised_at(drawn, START, end) <= min(drawn, end - lifetime / 6 + 1)


@pytest.mark.parametrize(
    ("days", "renew_before", "expected"), [(90, None, 80), (6, None, 5), (90, 30, 80), (90, 6, 88), (6, 30, 5)]
)
def test_renewal_becomes_pressing_with_little_time_left(
    days: float, renew_before: float | None, expected: float
) -> None:
    seconds = renew_before * DAY if renew_before is not None else None
    assert expiring_from(START, START + days * DAY, seconds) == pytest.approx(START + expected * DAY)


def test_jitter_spreads_over_a_tenth_of_what_is_left_and_only_to_later() -> None:
    times = [renew_at(START, START + 90 * DAY, step / 100, None) for step in range(100)]
    assert times == sorted(times)
    assert times[0] == START + 60 * DAY
    assert START + 62.9 * DAY < times[-1] < START + 63 * DAY


@given(lifetimes)
def test_it_becomes_pressing_after_it_was_due_and_before_it_is_too_late(lifetime: float) -> None:
    end = START + lifetime
    assert renew_at(START, end, 0.0) < expiring_from(START, end) < end


@pytest.mark.parametrize(
    ("left", "pause"), [(40, 1), (2, 1), (1, 0.5), (0.5, 0.25), (0.25, 0.25), (0.1, 0.1), (0, None), (-3, None)]
)
def test_warnings_are_daily_more_frequent_on_the_last_day_and_end_when_it_expires(
    left: float, pause: float | None
) -> None:
    assert warned_again(START - left * DAY, START) == (None if pause is None else START + (pause - left) * DAY)
