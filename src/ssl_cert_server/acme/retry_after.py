"""The Retry-After header (RFC 9110 section 10.2.3)."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]{1,10}")
_MAX_DATE = 64
"""No HTTP date is longer; longer input isn't given to the lenient parser at all."""


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait from ``now`` (Unix seconds), 0 for a date that has passed, None for no header or nonsense.

    The result isn't bounded: only the caller knows how long is sane.
    """
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    date = _date(text)
    return None if date is None else max(0.0, date - now)


def _date(text: str) -> float | None:
    if len(text) > _MAX_DATE:
        return None
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
