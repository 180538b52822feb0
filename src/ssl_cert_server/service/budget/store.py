"""Where buckets are kept: read and written by one holder at a time over all instances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import Overloaded
from ssl_cert_server.service.budget.buckets import Bucket, LimitKind, Scope, account_folder, folder
from ssl_cert_server.service.budget.limits import CaLimits, Limit
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.leasing import LEASE_SECONDS, leased
from ssl_cert_server.storage.passed_over import PassedOver

_log = structlog.get_logger()

_LEASE_DEADLINE = LEASE_SECONDS + 10.0
"""Seconds; those that wait for an instance that stopped outlast its lease."""

_SWEPT_TOGETHER = 100


class BucketStore:
    """The buckets of all accounts, each under its own key."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}  # as many as there are accounts in the configuration

    @asynccontextmanager
    async def held(self, account: str) -> AsyncIterator[Lease]:
        """Hold an account's buckets alone: against tasks by a lock, which wakes at once, then against instances.

        :raises Overloaded: other instances hold them without end.
        :raises StorageError: the lease can't be asked for, or was lost.
        """
        lock = self._locks.setdefault(account, asyncio.Lock())
        try:
            async with (
                asyncio.timeout(_LEASE_DEADLINE) as waiting,
                lock,
                leased(self._storage, f"budgets/{account_folder(account)}", self._clock) as lease,
            ):
                waiting.reschedule(None)
                yield lease
        except TimeoutError as error:
            raise Overloaded(
                f"{account}: other instances held its budget for {_LEASE_DEADLINE:.0f} s", _LEASE_DEADLINE
            ) from error

    async def read(self, key: str, limit: Limit | None, lease: Lease | None) -> Bucket:
        """Read a bucket; one that makes no sense is empty from now on, and so written where there is a lease.

        It may be corrupt, written by a clock that ran ahead, or under a limit for a longer time than now.

        :raises StorageError: it can't be read or written.
        """
        stored = await self._storage.get(key)
        if stored is None:
            return Bucket()
        now = self._clock.now()
        bucket = _parse(stored)
        if bucket is not None and bucket.plausible(limit, now):
            return bucket
        remedy = "it counts as empty, and refills from now on"
        if bucket is None:
            _log.warning("budget.unreadable", bucket=key, remedy=remedy)
        else:
            _log.warning("budget.implausible", bucket=key, remedy=remedy)
        empty = Bucket() if limit is None else Bucket(full_at=limit.emptied(now))
        if lease is not None:
            await self.write(key, empty, lease)
        return empty

    async def write(self, key: str, bucket: Bucket, lease: Lease) -> None:
        """Write a bucket.

        :raises StorageError: it can't be written.
        """
        await self._storage.put(key, bucket.dump(), lease=lease)

    async def sweep(self, account: str, limits: CaLimits) -> int:
        """Forget an account's buckets that have been full for days, and give their number.

        What can't be read is passed over.

        :raises Overloaded: other instances hold the account's buckets without end.
        :raises StorageError: storage itself can't be read or written.
        """
        swept = 0
        for kind in LimitKind:
            limit = Scope(kind).limit(limits)
            passed = PassedOver()
            candidates: list[str] = []
            async for key in self._storage.list(folder(account, kind)):
                with passed.unreadable():
                    if await self._may_go(key, limit):
                        candidates.append(key)
                if len(candidates) == _SWEPT_TOGETHER:
                    swept += await self._forget(account, limit, candidates)
                    candidates.clear()
            swept += await self._forget(account, limit, candidates)
            passed.tell(folder(account, kind))
        return swept

    async def _may_go(self, key: str, limit: Limit | None) -> bool:
        """Look without a lease; a bucket that isn't sound is a matter for who holds it."""
        stored = await self._storage.get(key)
        now = self._clock.now()
        bucket = _parse(stored) if stored is not None else None
        return bucket is None or bucket.tells_nothing(now) or not bucket.plausible(limit, now)

    async def _forget(self, account: str, limit: Limit | None, keys: Sequence[str]) -> int:
        """Remove what tells nothing still, now that nobody can take from it; what isn't sound is written anew."""
        if not keys:
            return 0
        swept = 0
        async with self.held(account) as lease:
            for key in keys:
                if (await self.read(key, limit, lease)).tells_nothing(self._clock.now()):
                    await self._storage.delete(key, lease=lease)
                    swept += 1
        return swept


def _parse(stored: bytes) -> Bucket | None:
    try:
        return Bucket.parse(stored)
    except ValueError:
        return None
