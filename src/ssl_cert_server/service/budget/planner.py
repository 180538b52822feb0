"""The budget: who may place an order now, over all instances.

Mirrors what a CA counts, so that its limits are never run into; and holds back a part of what it allows for those who
need it more. The same buckets limit what is issued on demand.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import BudgetSpent, CaProblem, StorageError
from ssl_cert_server.service.budget.buckets import (
    ACCOUNT_WIDE,
    COUNTS_CERTIFICATES,
    LONGEST_CLOSED,
    Bucket,
    LimitKind,
    Scope,
)
from ssl_cert_server.service.budget.limits import CaLimits, Limit
from ssl_cert_server.service.budget.refusals import refused_for, refused_scopes
from ssl_cert_server.service.budget.store import BucketStore
from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()

_NEW_ORDERS = Scope(LimitKind.NEW_ORDERS)
_SUSPECTS = Scope(LimitKind.SUSPECTS)
_PLENTY = 0.5
"""The share of new orders that is left while those who ask have enough of them."""

_SUSPECTS_REST = 3_600.0
"""Seconds. Thousands may be after the few orders there are for them; each asking every minute is work for nothing."""

_UNKNOWN_REFUSALS = 3
_UNKNOWN_WAIT = 300.0


class OrderKind(enum.Enum):
    """What a CA takes an order for; the less it is new, the fewer limits hold (Let's Encrypt's exemptions)."""

    NEW = enum.auto()
    """All limits hold."""
    RENEWAL = enum.auto()
    """The very set of names of an earlier certificate: neither new orders nor registered domains are counted."""
    ARI = enum.auto()
    """It ``replaces`` a certificate within its suggested window: failed authorizations alone can refuse it."""


class Priority(enum.IntEnum):
    """Who goes first; the lower the sooner."""

    EXPIRING = 0
    HANDSHAKE = 1
    PRELOAD = 2
    RENEWAL = 3


# The share of a bucket that is left to those who go before. A renewal comes weeks before it must, and most are exempt
# from these limits anyway. A preload can wait for hours; a visitor can't, and what handshakes leave over saves
# certificates that are about to expire: six orders every three hours at Let's Encrypt, and the refill.
_RESERVED = {Priority.EXPIRING: 0.0, Priority.HANDSHAKE: 0.02, Priority.PRELOAD: 0.1, Priority.RENEWAL: 0.2}
_HAS_RESERVE = frozenset({LimitKind.NEW_ORDERS, LimitKind.REGISTERED_DOMAIN})


class _Use(enum.Enum):
    """What an order does to a bucket."""

    LOOK = enum.auto()
    TAKE = enum.auto()
    COUNT = enum.auto()
    """The CA counts it, and never refuses for it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Tokens that were taken together, at a time (Unix seconds), to be given back where they went unused."""

    account: str
    at: float
    charges: tuple[tuple[Scope, Limit], ...]


class Budget:
    """The buckets of all accounts; ``account`` is any label, one per account at a CA.

    Each call reads and writes under the account's lease. Where storage fails half-way, or the caller is cancelled,
    tokens may be gone that nobody used: less is ordered for a while, never more.

    :raises Overloaded: by each coroutine, where other instances hold the account's buckets without end.
    :raises StorageError: by each coroutine, where the buckets can't be read or written.
    """

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._store = BucketStore(storage, clock)
        self._clock = clock
        self._unknown_refusals: dict[str, set[Scope]] = {}
        self._unreadable: set[str] = set()
        """Keys of account-wide buckets that could not be read, at most one of each kind and account."""

    async def take(
        self, account: str, limits: CaLimits, names: Sequence[str], kind: OrderKind, priority: Priority
    ) -> Taken:
        """Take what an order for ``names`` needs, all of it or nothing.

        While new orders are short, all names together that fail day after day have a quarter of them.

        :raises BudgetSpent: a bucket is empty, or closed; after ``retry_after`` there is room again, if nobody else
            took it.
        """
        uses = _uses(names, kind)
        if all(scope.limit(limits) is None for scope in uses):
            # Nothing to write: only what the CA closed counts.
            self._check(await self._read(account, uses, limits, None), uses, limits, names, priority)
            return Taken(account, self._clock.now(), ())
        async with self._store.held(account) as lease:
            buckets = await self._read(account, uses, limits, lease)
            if self._is_burden(buckets, limits):
                uses[_SUSPECTS] = _Use.TAKE
                buckets |= await self._read(account, [_SUSPECTS], limits, lease)
            self._check(buckets, uses, limits, names, priority)
            return await self._charge(account, buckets, uses, limits, lease)

    async def give_back(self, taken: Taken) -> None:
        """Put everything back: the order never reached the CA."""
        await self._give_back(taken, taken.charges)

    async def order_failed(self, taken: Taken) -> None:
        """Put back what counts certificates: the CA took the order, and none will come of it."""
        await self._give_back(taken, [charge for charge in taken.charges if charge[0].kind in COUNTS_CERTIFICATES])

    async def authorization_failed(self, account: str, limits: CaLimits, name: str) -> None:
        """Note that the CA found no proof of control over ``name`` (as it was ordered)."""
        limit = limits.failed_authorizations
        if limit is None:
            return
        key = Scope(LimitKind.FAILED_AUTHORIZATIONS, name).key(account)
        async with self._store.held(account) as lease:
            bucket = await self._store.read(key, limit, lease)
            await self._store.write(key, bucket.failed(limit, self._clock.now()), lease)

    def succeeded(self, account: str) -> None:
        """Note that the CA issued: what it refused before in unknown words was not about the whole account."""
        self._unknown_refusals.pop(account, None)

    async def close(self, account: str, limits: CaLimits, scope: Scope, seconds: float) -> None:
        """Have nothing taken from a bucket for ``seconds``, at most a week: the CA said when to come back."""
        limit, key = scope.limit(limits), scope.key(account)
        async with self._store.held(account) as lease:
            bucket = await self._store.read(key, limit, lease)
            now = self._clock.now()
            closed = bucket.closed(limit, now + min(seconds, LONGEST_CLOSED), now)
            await self._store.write(key, closed, lease)

    async def refused(self, account: str, limits: CaLimits, names: Sequence[str], problem: CaProblem) -> None:
        """Close what the CA says is spent, after it refused an order for ``names``; other problems say nothing.

        Words that aren't known close nothing, for they may be about these names alone. Only where three different
        orders met such without a success in between, the whole account rests, for five minutes at most. It does so at
        once for a 429 that isn't the CA's own.
        """
        seconds = refused_for(problem)
        scopes = refused_scopes(problem, names)
        if not scopes and problem.type == "rateLimited" and self._is_one_too_many(account, names):
            scopes, seconds = [Scope(LimitKind.ACCOUNT)], min(seconds, _UNKNOWN_WAIT)
        for scope in scopes:
            await self.close(account, limits, scope, seconds)
            _log.warning("budget.closed", account=account, bucket=str(scope), seconds=int(seconds), reason=str(problem))

    async def sweep(self, account: str, limits: CaLimits) -> int:
        """Forget an account's buckets that have been full for days, and give their number; once a day is enough."""
        return await self._store.sweep(account, limits)

    async def check_readable(self) -> None:
        """Read the buckets again that no order can do without, and that could not be read.

        :raises StorageError: one of them still can't be read.
        """
        for key in [*self._unreadable]:
            await self._store.read(key, None, None)
            self._unreadable.discard(key)

    async def _read(
        self, account: str, scopes: Iterable[Scope], limits: CaLimits, lease: Lease | None
    ) -> dict[Scope, Bucket]:
        return {scope: await self._bucket(account, scope, limits, lease) for scope in scopes}

    async def _bucket(self, account: str, scope: Scope, limits: CaLimits, lease: Lease | None) -> Bucket:
        key = scope.key(account)
        try:
            bucket = await self._store.read(key, scope.limit(limits), lease)
        except StorageError:
            if scope.kind in ACCOUNT_WIDE:
                self._unreadable.add(key)
            raise
        self._unreadable.discard(key)
        return bucket

    def _is_burden(self, buckets: Mapping[Scope, Bucket], limits: CaLimits) -> bool:
        """Tell whether an order for names that fail day after day may be in others' way."""
        if _NEW_ORDERS not in buckets or limits.new_orders is None:
            return False
        now = self._clock.now()
        failures = [bucket for scope, bucket in buckets.items() if scope.kind is LimitKind.FAILED_AUTHORIZATIONS]
        plenty = int(limits.new_orders.count * _PLENTY)
        return any(bucket.suspect(now) for bucket in failures) and bool(
            buckets[_NEW_ORDERS].wait(limits.new_orders, now, plenty)
        )

    def _check(
        self,
        buckets: Mapping[Scope, Bucket],
        uses: Mapping[Scope, _Use],
        limits: CaLimits,
        names: Sequence[str],
        priority: Priority,
    ) -> None:
        """Raise for the bucket that keeps the order waiting longest."""
        now = self._clock.now()
        waits = {
            scope: bucket.wait(scope.limit(limits), now, _reserve(scope, limits, priority))
            for scope, bucket in buckets.items()
            if uses[scope] is not _Use.COUNT
        }
        if waits.get(_SUSPECTS):
            waits[_SUSPECTS] = max(waits[_SUSPECTS], _SUSPECTS_REST)
        scope = max(waits, key=waits.__getitem__)
        if not waits[scope]:
            return
        limit = scope.limit(limits)
        why = "the CA takes none" if buckets[scope].closed_until > now else f"the limit is {limit}"
        raise BudgetSpent(
            f"{min(names)}: no room for more {scope}: {why}; again in {waits[scope]:.0f} s",
            waits[scope],
            everyone=scope.kind in ACCOUNT_WIDE,
        )

    async def _charge(
        self,
        account: str,
        buckets: Mapping[Scope, Bucket],
        uses: Mapping[Scope, _Use],
        limits: CaLimits,
        lease: Lease,
    ) -> Taken:
        now = self._clock.now()
        charges = []
        for scope, bucket in buckets.items():
            limit = scope.limit(limits)
            if limit is None or uses[scope] is _Use.LOOK:
                continue
            if not limit.wait(bucket.full_at, now):  # less than a token that was counted can't be given back as one
                charges.append((scope, limit))
            await self._store.write(scope.key(account), bucket.taken(limit, now), lease)
        return Taken(account, now, tuple(charges))

    async def _give_back(self, taken: Taken, charges: Sequence[tuple[Scope, Limit]]) -> None:
        if not charges:
            return
        async with self._store.held(taken.account) as lease:
            for scope, limit in charges:
                key = scope.key(taken.account)
                bucket = await self._store.read(key, limit, lease)
                put_back = bucket.given_back(limit, taken.at, self._clock.now())
                if put_back != bucket:
                    await self._store.write(key, put_back, lease)

    def _is_one_too_many(self, account: str, names: Sequence[str]) -> bool:
        """Remember an order that was refused in unknown words; where it is one too many, start counting anew."""
        met = self._unknown_refusals.setdefault(account, set())
        met.add(Scope.exact_set(names))
        if len(met) < _UNKNOWN_REFUSALS:
            return False
        met.clear()
        return True


def _uses(names: Sequence[str], kind: OrderKind) -> dict[Scope, _Use]:
    """Tell what an order does to which buckets."""
    uses = {Scope(LimitKind.ACCOUNT): _Use.LOOK}
    uses |= dict.fromkeys(Scope.failures(names), _Use.LOOK)
    # Boulder counts every certificate in its exact set, even one that was exempt from being refused for it.
    uses[Scope.exact_set(names)] = _Use.COUNT if kind is OrderKind.ARI else _Use.TAKE
    if kind is OrderKind.NEW:
        uses[_NEW_ORDERS] = _Use.TAKE
        uses |= dict.fromkeys(Scope.domains(names), _Use.TAKE)
    return uses


def _reserve(scope: Scope, limits: CaLimits, priority: Priority) -> int:
    """Give the tokens that an order of this priority has to leave in a bucket."""
    limit = scope.limit(limits)
    if limit is None or scope.kind not in _HAS_RESERVE:
        return 0
    return int(limit.count * _RESERVED[priority])
