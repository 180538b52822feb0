"""When a name that failed is tried again: pure."""

from __future__ import annotations

# Let's Encrypt's advice to hosting providers: after 1, 10 and 100 minutes, then daily.
_DELAYS = (60.0, 600.0, 6_000.0, 86_400.0)
_SPREAD = 0.1
_LONGEST_OBEYED = 7 * 86_400.0
"""Seconds. No CA's limit counts further back than a week: what asks for more is a mistake, and would cost the name its
certificate."""


def retry_at(failures: int, now: float, jitter: float, retry_after: float | None) -> float:
    """Give the time (Unix seconds) before which a name isn't tried again.

    ``failures`` counts those in a row, the latest included; ``jitter`` in [0, 1) adds up to a tenth, so that names
    that failed together don't come back together; ``retry_after`` is what the CA asked for, and is obeyed for up to
    a week.
    """
    delay = _DELAYS[min(failures, len(_DELAYS)) - 1] * (1 + _SPREAD * jitter)
    return now + max(delay, min(retry_after or 0.0, _LONGEST_OBEYED))
