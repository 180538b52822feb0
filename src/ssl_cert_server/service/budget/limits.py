"""Limits as token buckets: pure.

A limit of ``count`` per ``seconds`` is a bucket that holds ``count`` tokens and refills evenly, one token per
``interval = seconds / count``. Let's Encrypt's limits are such buckets.

All that is kept of a bucket is one number, the time ``full_at`` at which it will be full again if nothing more is
taken (GCRA calls it the theoretical arrival time). From it follows everything:

- tokens now: ``count - max(0, full_at - now) / interval``;
- a token may be taken while one is there, that is while ``max(full_at, now) + interval <= now + seconds``;
- taking it: ``full_at = max(full_at, now) + interval``, because refilling one token more takes one interval more;
- a bucket with ``full_at <= now`` is full, and needs no memory at all.

So from t until t + w at most ``count + w / interval`` tokens can be taken, whatever happened before.
"""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

_TOLERANCE = 0.001
"""Seconds. Who comes back at the very time that was promised must not fail by a rounding error; as this shortens no
interval for good, no bucket gives more for it."""


def seconds_until(at: float, now: float) -> float:
    """Give the seconds that are left until a time; 0.0 where it has come, give or take a rounding error."""
    left = at - now
    return left if left > _TOLERANCE else 0.0


@dataclass(frozen=True, slots=True)
class Limit:
    """``count`` per ``seconds``, in a bucket that refills evenly. ``full_at`` and ``now`` are Unix seconds."""

    count: int
    seconds: float

    @property
    def interval(self) -> float:
        """Seconds in which one token comes back."""
        return self.seconds / self.count

    def wait(self, full_at: float, now: float, *, reserve: int = 0) -> float:
        """Give the seconds until a token may be taken that leaves ``reserve`` of them; 0.0 where one may be now."""
        return seconds_until(max(full_at, now) + (1 + reserve) * self.interval - self.seconds, now)

    def taken(self, full_at: float, now: float) -> float:
        """Give the bucket after a token was taken; one that was empty stays empty."""
        return max(full_at, min(max(full_at, now) + self.interval, self.emptied(now)))

    def given_back(self, full_at: float, taken_at: float, now: float) -> float:
        """Give the bucket after a token taken at ``taken_at`` was put back.

        What came back by itself since then isn't put back again: the bucket might have been full without the taking,
        and would then hold a token that the CA never had.
        """
        return full_at - max(0.0, self.interval - max(0.0, now - taken_at))

    def emptied(self, now: float) -> float:
        """Give an empty bucket."""
        return now + self.seconds

    def one_at(self, at: float) -> float:
        """Give the bucket that holds its first token at a time."""
        return at + self.seconds - self.interval

    def part(self, of: int) -> Limit:
        """Give the limit that allows one of so many, and at least one at all."""
        return Limit(max(1, self.count // of), self.seconds)

    def __str__(self) -> str:
        """Write it as it is configured (``300/3h``); fractions of a second are lost."""
        seconds = round(self.seconds)
        unit, length = next((unit, length) for unit, length in _UNITS.items() if seconds % length == 0)
        return f"{self.count}/{seconds // length}{unit}"


@dataclass(frozen=True, slots=True)
class CaLimits:
    """What one CA allows; None where there is no limit.

    ``new_orders`` is per account, ``per_registered_domain`` and ``per_exact_set`` count certificates (for a domain
    right below a public suffix, an IPv4 address or an IPv6 /64; for one set of names), ``failed_authorizations`` is
    per name and account.
    """

    new_orders: Limit | None
    per_registered_domain: Limit | None
    per_exact_set: Limit | None
    failed_authorizations: Limit | None


LETS_ENCRYPT = CaLimits(
    new_orders=Limit(300, 3 * 3_600),
    per_registered_domain=Limit(50, 7 * 86_400),
    per_exact_set=Limit(5, 7 * 86_400),
    failed_authorizations=Limit(5, 3_600),
)

NO_LIMITS = CaLimits(None, None, None, None)
