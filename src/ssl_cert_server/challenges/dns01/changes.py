"""Changes to records, one at a time for each record over all instances."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from ssl_cert_server.challenges.dns01.provider import DnsProvider
from ssl_cert_server.challenges.dns01.records import KeptRecord
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import ChallengeFailed
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.leasing import leased

TURN_DEADLINE = 180.0
"""Seconds for one change, waiting for its turn included."""


class RecordChanges:
    """Has providers change records, and keeps what is in DNS in storage: before it is added, until it is removed."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        # The storage lease alone would do, but those who wait for it look twice a second only.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def add(self, kept: KeptRecord, provider: DnsProvider, lease: Lease) -> None:
        """Add a value under the lease on it.

        :raises ChallengeFailed: the provider refused or can't be reached; it may have added it all the same.
        :raises StorageError: it can't be kept, so it wasn't added.
        """
        await self._storage.put(kept.key, kept.to_json(), lease=lease)
        await self._change(kept, provider.add)

    async def remove(self, kept: KeptRecord, provider: DnsProvider, lease: Lease) -> None:
        """Remove a value under the lease on it.

        :raises ChallengeFailed: the provider refused or can't be reached; the record stays kept.
        :raises StorageError: storage can't be written.
        """
        await self._change(kept, provider.remove)
        await self._storage.delete(kept.key, lease=lease)

    async def _change(self, kept: KeptRecord, change: Callable[[str, str], Awaitable[None]]) -> None:
        turn = self._turns.setdefault(kept.record, asyncio.Lock())
        lease = leased(self._storage, f"dns-01-records/{kept.record}", self._clock)
        try:
            async with asyncio.timeout(TURN_DEADLINE), turn, lease:
                await change(kept.record, kept.value)
        except TimeoutError as error:
            words = f"{kept.record} could not be changed within {TURN_DEADLINE:g} s, waiting for its turn included"
            raise ChallengeFailed(words) from error
