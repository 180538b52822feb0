"""When a certificate is renewed, and how urgently: pure. Times are Unix seconds."""

from __future__ import annotations

_SHORT_LIVED = 10 * 86_400
_SPREAD = 0.1
_EXPIRING_PART = 3
_LATEST_PART = 2

WARNED_EVERY = 86_400.0
_WARNED_MOST_OFTEN = 6 * 3600.0

LONGEST_WAIT = 86_400.0
"""Seconds that a CA or a responder may ask to be left alone for, and that a new certificate rests."""

CLOCKS_DIFFER = 3600.0
"""Seconds by which instances' clocks may differ; what was planned by one that is further ahead is not believed."""


def renew_at(not_before: float, not_after: float, jitter: float, renew_before: float | None = None) -> float:
    """Give the time (Unix seconds) from which a certificate should be renewed.

    That is with a third of its lifetime left, or a half where it lives for under ten days. ``renew_before`` (seconds)
    replaces that where it asks for a later time, never an earlier one, or a short-lived certificate would be renewed
    for ever. ``jitter`` in [0, 1) spreads certificates issued together over a tenth of what is left.
    """
    return not_after - _margin(not_before, not_after, renew_before) * (1 - _SPREAD * jitter)


def advised_at(drawn: float, not_before: float, not_after: float) -> float:
    """Give when a certificate is renewed whose CA's window gave the time ``drawn``.

    The window is advice: where it lies so late that little time is left for trying again, it isn't followed.
    """
    latest = not_after - _margin(not_before, not_after) / _LATEST_PART
    return min(drawn, latest)


def expiring_from(not_before: float, not_after: float, renew_before: float | None = None) -> float:
    """Give when the renewal of a certificate becomes pressing: with a third left of the time that it is meant to have.

    With a ``renew_before`` that asks for a later time, that is later, too.
    """
    return not_after - _margin(not_before, not_after, renew_before) / _EXPIRING_PART


def warned_again(now: float, not_after: float) -> float | None:
    """Give when to warn again: daily, more often on the last day, and when it expires; None where that was it."""
    left = not_after - now
    if left <= 0:
        return None
    return min(now + min(max(left / 2, _WARNED_MOST_OFTEN), WARNED_EVERY), not_after)


def believed(until: float, now: float) -> float:
    """Give the time until which something waits, or 0 where no right clock can have said it (Unix seconds)."""
    return until if until <= now + LONGEST_WAIT + CLOCKS_DIFFER else 0.0


def _margin(not_before: float, not_after: float, renew_before: float | None = None) -> float:
    lifetime = not_after - not_before
    usual = lifetime / (2 if lifetime < _SHORT_LIVED else 3)
    return usual if renew_before is None else min(usual, renew_before)
