from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.service.backoff import retry_at

NOW = 1_800_000_000.0
MINUTE = 60.0


@pytest.mark.parametrize(
    ("failures", "minutes"), [(1, 1), (2, 10), (3, 100), (4, 24 * 60), (5, 24 * 60), (1000, 24 * 60)]
)
def test_waits_longer_after_each_failure_and_then_daily(failures: int, minutes: int) -> None:
    assert retry_at(failures, NOW, 0.0, None) - NOW == minutes * MINUTE


def test_jitter_adds_up_to_a_tenth() -> None:
    assert retry_at(2, NOW, 0.5, None) - NOW == pytest.approx(10 * MINUTE * 1.05)


@pytest.mark.parametrize(("asked", "waited"), [(7200.0, 7200.0), (10.0, MINUTE), (0.0, MINUTE), (-5.0, MINUTE)])
def test_obeys_retry_after_where_it_asks_for_more(asked: float, waited: float) -> None:
    assert retry_at(1, NOW, 0.0, asked) - NOW == waited


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 1e6))
def test_never_comes_back_before_a_minute_nor_before_the_ca_said(
    failures: int, jitter: float, retry_after: float | None
) -> None:
    at = retry_at(failures, NOW, jitter, retry_after)
    assert at >= NOW + MINUTE
    assert at >= NOW + min(retry_after or 0, 7 * 86_400)
    assert at <= NOW + 7 * 86_400
