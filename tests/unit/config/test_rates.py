"""Limits as they are written: so many in a period."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.config.values import rate

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
YEAR = 366 * 86_400


@given(st.integers(1, 10_000_000), st.integers(1, 366), st.sampled_from(sorted(UNITS)))
def test_a_count_and_a_period(count: int, number: int, unit: str) -> None:
    assert rate(f"{count}/{number}{unit}") == (count, number * UNITS[unit])


def test_off_is_none() -> None:
    assert rate("off") is None


@given(st.text() | st.from_regex(r"[0-9]{1,12}/[0-9]{1,12}[smhd]", fullmatch=True) | st.none() | st.lists(st.text()))
def test_anything_else_is_refused_in_our_words(written: object) -> None:
    try:
        found = rate(written)
    except ValueError as error:
        message = str(error)
    else:
        assert found is not None or written == "off"
        assert found is None or (0 < found[0] <= 10_000_000 and 0 < found[1] <= YEAR)
        return
    assert message.startswith("must be")


@pytest.mark.parametrize(
    "written",
    [
        "",
        "5",
        "5/h",
        "/1h",
        "5/1w",
        "5/1H",
        "-5/1h",
        "5/ 1h",
        "5.5/1h",
        "\u0665/1h",
        "5/1h\n",
        "Off",
        "5/1h30m",
        "300/3",
        "5/1h\n6/1h",
        "9" * 5000 + "/1h",
    ],
)
def test_other_spellings(written: str) -> None:
    with pytest.raises(ValueError, match="like 300/3h, or off"):
        rate(written)


@pytest.mark.parametrize("written", ["0/1h", "5/0h", "10000001/1h", "5/367d", "999999999/999999999d"])
def test_numbers_without_sense(written: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 10000000 in a period of 1s to 366d"):
        rate(written)
