"""How long a client may keep an answer before it asks again: pure."""

from __future__ import annotations

_LONGEST = 3600
_SPREAD = 60
_LAST_MINUTE = 60


def ttl(not_after: float, now: float, jitter: float) -> int:
    """Give seconds until the client asks again.

    At most an hour, less a random part of up to a minute (``jitter`` in [0, 1)) so that a fleet doesn't ask in step;
    with under an hour left 80 % of what is left; 0 within the last minute.
    """
    left = not_after - now
    if left < _LAST_MINUTE:
        return 0
    if left < _LONGEST:
        return int(left * 0.8)
    return _LONGEST - int(jitter * (_SPREAD + 1))
