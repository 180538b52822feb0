"""Storage in PostgreSQL, for fleets whose every acknowledged write must survive a failover."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Changes, Due, Lease
from ssl_cert_server.storage.postgres.changes import ChangeLog
from ssl_cert_server.storage.postgres.connections import Connections
from ssl_cert_server.storage.postgres.due import DueIndex
from ssl_cert_server.storage.postgres.leases import Leases
from ssl_cert_server.storage.postgres.settings import PostgresSettings
from ssl_cert_server.storage.postgres.values import Values

_PROBE = "SELECT probe(%(value)b)"
_PROBE_BYTES = 16 * 1024


class PostgresStorage:
    """See :class:`~ssl_cert_server.storage.base.Storage`.

    Every call is one transaction on the server, or several where it is about many keys. Leases are timed by the
    server's clock. An instance that was killed leaves leases that lapse by themselves.
    """

    def __init__(self, settings: PostgresSettings, clock: Clock, *, create: bool = True) -> None:
        """Connect to nothing yet. With ``create`` off, calls fail where the schema is missing.

        :raises StorageError: the settings make no sense.
        """
        self._connections = Connections(settings, clock, create=create)
        self._values = Values(self._connections)
        self._leases = Leases(self._connections)
        self._due = DueIndex(self._connections, clock)
        self._changes = ChangeLog(self._connections, clock)
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
        return self._due.list(queue)

    async def index_complete(self) -> bool:
        return await self._due.is_complete()

    async def mark_index_complete(self) -> None:
        await self._due.mark_complete()

    async def announce(self, keys: Sequence[str]) -> None:
        await self._changes.announce(keys)

    async def changes(self, cursor: str, wait: float) -> Changes:
        return await self._changes.changes(cursor, wait)

    async def check_writable(self) -> None:
        # Noise, for the server compresses anything else.
        await self._connections.fetch("write a probe", _PROBE, {"value": os.urandom(_PROBE_BYTES)})

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._changes.close()
        with suppress(StorageError):  # they lapse by themselves
            await self._leases.release_all()
        await self._connections.close()
