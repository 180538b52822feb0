"""Buckets as they are kept in storage, where all instances find them."""

from __future__ import annotations

import enum
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from ssl_cert_server.service.budget.domains import registered_domain
from ssl_cert_server.service.budget.limits import CaLimits, Limit, seconds_until

_DAY = 86_400.0

LONGEST_CLOSED = 7 * _DAY
"""Seconds. No CA's limit counts further back than a week, so whatever asks for more is a mistake."""

_CLOCKS_DIFFER = 60.0
"""Seconds by which clocks of healthy machines may differ."""

_SUSPECTS_PART = 4
"""Of this many new orders one may be for a name that fails day after day, where there are none to spare: five thousand
such names, tried daily, would else take every order that Let's Encrypt allows."""

_SHOWN = 200
"""Characters of a set of names that a message holds."""


class LimitKind(enum.StrEnum):
    """What a bucket stands for, and the folder that it is kept in."""

    ACCOUNT = "account"
    """Everything the account does. It has no limit, but the CA may close it."""
    NEW_ORDERS = "new_orders"
    SUSPECTS = "suspects"
    """A limit of our own: the new orders for names that fail day after day."""
    REGISTERED_DOMAIN = "registered_domain"
    EXACT_SET = "exact_set"
    FAILED_AUTHORIZATIONS = "failed_authorizations"


_WORDS = {
    LimitKind.ACCOUNT: "orders of this account",
    LimitKind.NEW_ORDERS: "new orders of this account",
    LimitKind.SUSPECTS: "new orders for names that fail day after day",
    LimitKind.REGISTERED_DOMAIN: "certificates for {} and the names below it",
    LimitKind.EXACT_SET: "certificates for exactly {}",
    LimitKind.FAILED_AUTHORIZATIONS: "failed authorizations of {}",
}

ACCOUNT_WIDE = frozenset({LimitKind.ACCOUNT, LimitKind.NEW_ORDERS})
COUNTS_CERTIFICATES = frozenset({LimitKind.REGISTERED_DOMAIN, LimitKind.EXACT_SET})
"""A CA counts these when it issues, not when it is asked."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which bucket: of an account, of one kind, for a ``subject`` (a registered domain, a set of names, a name)."""

    kind: LimitKind
    subject: str = "all"

    @classmethod
    def exact_set(cls, names: Sequence[str]) -> Scope:
        """Give the scope of a set of names, in whatever order."""
        return cls(LimitKind.EXACT_SET, ",".join(sorted({*names})))

    @classmethod
    def domains(cls, names: Sequence[str]) -> list[Scope]:
        """Give the scope of each registered domain that the names belong to."""
        return [cls(LimitKind.REGISTERED_DOMAIN, domain) for domain in sorted({*map(registered_domain, names)})]

    @classmethod
    def failures(cls, names: Sequence[str]) -> list[Scope]:
        """Give the scope of each name's failed authorizations."""
        return [cls(LimitKind.FAILED_AUTHORIZATIONS, name) for name in sorted({*names})]

    def limit(self, limits: CaLimits) -> Limit | None:
        """Give what a CA allows here."""
        match self.kind:
            case LimitKind.ACCOUNT:
                return None
            case LimitKind.NEW_ORDERS:
                return limits.new_orders
            case LimitKind.SUSPECTS:
                return limits.new_orders and limits.new_orders.part(_SUSPECTS_PART)
            case LimitKind.REGISTERED_DOMAIN:
                return limits.per_registered_domain
            case LimitKind.EXACT_SET:
                return limits.per_exact_set
            case LimitKind.FAILED_AUTHORIZATIONS:
                return limits.failed_authorizations

    def key(self, account: str) -> str:
        """Give the storage key; several names of a set become their hash, the slash of a /64 an underscore."""
        name = _digest(self.subject, 64) if "," in self.subject else self.subject.replace("/", "_")
        return f"{folder(account, self.kind)}/{name}"

    def __str__(self) -> str:
        """Say what is counted."""
        subject = self.subject if len(self.subject) <= _SHOWN else f"{self.subject[:_SHOWN]}…"
        return _WORDS[self.kind].format(subject)


@dataclass(frozen=True, slots=True)
class Bucket:
    """``full_at``: see :mod:`~ssl_cert_server.service.budget.limits`; nothing may be taken before ``closed_until``.

    ``overtaken_at`` is when a token was last counted that wasn't there: the CA may have counted one that was taken here
    before for nothing. One of failed authorizations tells since when the name has been ``failing``, day after day.
    ``closed_at`` is when the bucket was closed; earlier versions did not store it. All are Unix seconds, and 0.0 in a
    bucket that nothing was taken from.
    """

    full_at: float = 0.0
    closed_until: float = 0.0
    overtaken_at: float = 0.0
    failing: float = 0.0
    closed_at: float = 0.0

    @classmethod
    def parse(cls, stored: bytes) -> Bucket:
        """Read a bucket.

        :raises ValueError: it isn't one.
        """
        try:
            fields = json.loads(stored)
            times = [float(fields[name]) for name in ("full_at", "closed_until", "overtaken_at", "failing")]
            times.append(float(fields.get("closed_at", 0.0)))
        except (TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError("not an object with four times") from error
        if not all(map(math.isfinite, times)):
            raise ValueError("not a time")
        return cls(*times)

    def dump(self) -> bytes:
        """Write it down."""
        return json.dumps(asdict(self)).encode()

    def tells_nothing(self, now: float) -> bool:
        """Tell whether it is as good as none: open, and full for so long that no failure it may count is recent."""
        return self.closed_until <= now and not self._used_lately(now)

    def suspect(self, now: float) -> bool:
        """Tell whether a name has been failing for more than a day, and still does."""
        return self._used_lately(now) and 0.0 < self.failing <= now - _DAY

    def _used_lately(self, now: float) -> bool:
        """Tell whether the last use is recent; names that fail are tried daily."""
        return self.full_at > now - 2 * _DAY

    def plausible(self, limit: Limit | None, now: float) -> bool:
        """Tell whether it can have been written by a clock that was right."""
        if self.closed_until > now + LONGEST_CLOSED + _CLOCKS_DIFFER or self.closed_at > now + _CLOCKS_DIFFER:
            return False
        return limit is None or self.full_at <= limit.emptied(max(now, self.closed_until)) + _CLOCKS_DIFFER

    def wait(self, limit: Limit | None, now: float, reserve: int) -> float:
        """Give the seconds until a token that leaves ``reserve`` may be taken; 0.0 where one may be now."""
        closed_for = seconds_until(self.closed_until, now)
        return closed_for if limit is None else max(closed_for, limit.wait(self.full_at, now, reserve=reserve))

    def taken(self, limit: Limit, now: float) -> Bucket:
        """Give it after a token was taken; one that was empty stays empty."""
        overtaken_at = now if limit.wait(self.full_at, now) else self.overtaken_at
        return replace(self, full_at=limit.taken(self.full_at, now), overtaken_at=overtaken_at)

    def failed(self, limit: Limit, now: float) -> Bucket:
        """Give it after an authorization failed."""
        since = self.failing if self.failing and self._used_lately(now) else now
        return replace(self.taken(limit, now), failing=since)

    def given_back(self, limit: Limit, taken_at: float, now: float) -> Bucket:
        """Give it after a token was put back; what the CA closed stays as empty as the CA said it was.

        A token taken before the bucket was overtaken isn't put back: the CA has counted something else for it.
        """
        if taken_at <= self.overtaken_at:
            return self
        full_at = limit.given_back(self.full_at, taken_at, now)
        if self.closed_until > now:
            full_at = max(full_at, min(self.full_at, limit.one_at(self.closed_until)))
        return replace(self, full_at=full_at)

    def closed(self, limit: Limit | None, until: float, now: float) -> Bucket:
        """Give it closed till then. It holds one token when it opens: the CA just said that it had none."""
        full_at = self.full_at if limit is None else max(self.full_at, limit.one_at(until))
        return replace(self, full_at=full_at, closed_until=max(self.closed_until, until), closed_at=now)


def folder(account: str, kind: LimitKind) -> str:
    """Give the folder that an account's buckets of one kind are kept in."""
    return f"_budgets/{account_folder(account)}/{kind}"


@lru_cache
def account_folder(account: str) -> str:
    """Turn an account's label, whatever stands in it, into one segment of a key that still can be recognised."""
    recognisable = re.sub(r"[^a-z0-9.-]+", "-", account.lower()).strip("-.")[:60]
    return f"{recognisable}-{_digest(account, 8)}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
