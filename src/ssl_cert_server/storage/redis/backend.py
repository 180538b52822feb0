"""The backend: the storage contract, on Redis."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage.base import Changes, Due, Lease
from ssl_cert_server.storage.redis.changes import News
from ssl_cert_server.storage.redis.client import Client
from ssl_cert_server.storage.redis.due import DueIndex
from ssl_cert_server.storage.redis.given_up import GivenUp
from ssl_cert_server.storage.redis.keys import Keys
from ssl_cert_server.storage.redis.leases import Leases
from ssl_cert_server.storage.redis.settings import RedisSettings
from ssl_cert_server.storage.redis.values import Values


class RedisStorage:
    """See :class:`~ssl_cert_server.storage.base.Storage`. Redis 6.2 or later, or Valkey.

    What a failover can lose is said in docs/redis.md.
    """

    def __init__(self, settings: RedisSettings, clock: Clock) -> None:
        """Connect to nothing yet.

        :raises StorageError: the settings make no sense.
        """
        instance = uuid.uuid4().hex
        keys = Keys(settings.prefix)
        given_up = GivenUp(instance)
        self._client = Client(settings, clock, keys.touched)
        self._values = Values(self._client, keys, given_up)
        self._leases = Leases(self._client, keys, instance)
        self._due = DueIndex(self._client, keys, given_up, clock, settings.timeout)
        self._news = News(self._client, keys, clock)
        self._closed = False

    async def get(self, key: str) -> bytes | None:
        return await self._values.get(key)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        await self._values.put(key, value, lease)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        await self._values.delete(key, lease)

    def list(self, folder: str = "") -> AsyncIterator[str]:
        return self._values.list(folder)

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        return await self._leases.acquire(name, seconds)

    async def renew(self, lease: Lease, seconds: float) -> None:
        await self._leases.renew(lease, seconds)

    async def release(self, lease: Lease) -> None:
        await self._leases.release(lease)

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        await self._due.schedule(queue, entries)

    async def unschedule(self, queue: str, keys: Sequence[str]) -> None:
        await self._due.unschedule(queue, keys)

    async def scheduled(self, queue: str, key: str) -> Due | None:
        return await self._due.scheduled(queue, key)

    async def claim(self, queue: str, *, now: float, limit: int, seconds: float) -> Sequence[Due]:
        return await self._due.claim(queue, now, limit, seconds)

    async def next_due(self, queue: str) -> float | None:
        return await self._due.next_due(queue)

    def list_due(self, queue: str) -> AsyncIterator[Due]:
        return self._due.list_due(queue)

    async def index_complete(self) -> bool:
        return await self._due.complete()

    async def mark_index_complete(self) -> None:
        await self._due.mark_complete()

    async def announce(self, keys: Sequence[str]) -> None:
        await self._news.announce(keys)

    async def changes(self, cursor: str, wait: float) -> Changes:
        return await self._news.changes(cursor, wait)

    async def check_writable(self) -> None:
        await self._values.check_writable()

    async def close(self) -> None:
        """Give this instance's leases back, as far as Redis answers, and close all connections."""
        if not self._closed:
            self._closed = True
            await self._leases.release_all()
            await self._client.close()
