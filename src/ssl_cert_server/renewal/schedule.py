"""When a certificate is renewed: pure."""

from __future__ import annotations

_SHORT_LIVED = 10 * 86_400
_SPREAD = 0.1


def renew_at(not_before: float, not_after: float, jitter: float, renew_before: float | None = None) -> float:
    """Give the time (Unix seconds) from which a certificate should be renewed.

    That is with a third of its lifetime left, or a half where it lives for under ten days. ``renew_before`` (seconds)
    replaces that where it asks for a later time, never an earlier one, or a short-lived certificate would be renewed
    for ever. ``jitter`` in [0, 1) spreads certificates issued together over a tenth of what is left.
    """
    lifetime = not_after - not_before
    margin = lifetime / (2 if lifetime < _SHORT_LIVED else 3)
    if renew_before is not None:
        margin = min(margin, renew_before)
    return not_after - margin * (1 - _SPREAD * jitter)
