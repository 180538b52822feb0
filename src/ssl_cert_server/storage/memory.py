"""Storage in the memory of one process: for tests, and the shortest statement of the contract in code."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import LeaseLost
from ssl_cert_server.storage.base import CHANGES_KEPT, Changes, Due, Lease, check_key, check_value, never_asked
from ssl_cert_server.storage.memory_index import MemoryQueue


class MemoryStorage:
    """See :class:`~ssl_cert_server.storage.base.Storage`; nothing survives the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._values: dict[str, bytes] = {}
        self._leases: dict[str, tuple[int, float]] = {}
        self._last_token = 0
        self._queues: defaultdict[str, MemoryQueue] = defaultdict(MemoryQueue)
        self._index_complete = False
        self._asked = False
        self._announced: list[str] = []
        self._forgotten = 0
        self._news = asyncio.Event()

    async def get(self, key: str) -> bytes | None:
        check_key(key)
        return self._values.get(key)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        check_key(key)
        check_value(key, value)
        self._check_lease(lease)
        self._values[key] = value

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        check_key(key)
        self._check_lease(lease)
        self._values.pop(key, None)

    async def list(self, folder: str = "") -> AsyncIterator[str]:
        depth = len(check_key(folder)) if folder else 0
        prefix = f"{folder}/" if folder else ""
        for key in [*self._values]:
            if key.startswith(prefix) and key.count("/") == depth:
                yield key

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        check_key(name)
        now = self._clock.monotonic()
        if name in self._leases and self._leases[name][1] > now:
            return None
        self._last_token += 1
        self._leases[name] = (self._last_token, now + seconds)
        return Lease(name, self._last_token)

    async def renew(self, lease: Lease, seconds: float) -> None:
        self._check_lease(lease)
        self._leases[lease.name] = (lease.token, self._clock.monotonic() + seconds)

    async def release(self, lease: Lease) -> None:
        if self._leases.get(lease.name, (0, 0.0))[0] == lease.token:
            del self._leases[lease.name]

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        for entry in entries:
            check_key(entry.key)
        for entry in entries:
            self._queues[queue].put(entry)

    async def unschedule(self, queue: str, keys: Sequence[str]) -> None:
        for key in keys:
            self._queues[queue].remove(key)

    async def scheduled(self, queue: str, key: str) -> Due | None:
        return self._queues[queue].get(key)

    async def claim(self, queue: str, *, now: float, limit: int, seconds: float) -> Sequence[Due]:
        return self._queues[queue].claim(now, limit, seconds)

    async def next_due(self, queue: str) -> float | None:
        return self._queues[queue].next()

    async def list_due(self, queue: str) -> AsyncIterator[Due]:
        for entry in self._queues[queue]:
            yield entry

    async def index_complete(self) -> bool:
        self._asked = True
        return self._index_complete

    async def mark_index_complete(self) -> None:
        if not self._asked:
            raise never_asked()
        self._index_complete = True

    async def announce(self, keys: Sequence[str]) -> None:
        self._announced += keys
        surplus = len(self._announced) - 2 * CHANGES_KEPT
        if surplus > 0:
            del self._announced[: surplus + CHANGES_KEPT]
            self._forgotten += surplus + CHANGES_KEPT
        self._news.set()

    async def changes(self, cursor: str, wait: float) -> Changes:
        if cursor == self._cursor:
            self._news.clear()
            await self._wait_for_news(wait)
        if not cursor:
            return Changes(self._cursor)
        since = int(cursor) - self._forgotten if cursor.isdecimal() else -1
        if not 0 <= since <= len(self._announced):
            return Changes(self._cursor, reset=True)
        return Changes(self._cursor, tuple(dict.fromkeys(self._announced[since:])))

    @property
    def _cursor(self) -> str:
        return str(self._forgotten + len(self._announced))

    async def _wait_for_news(self, wait: float) -> None:
        waits = [asyncio.ensure_future(work) for work in (self._clock.sleep(wait), self._news.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()

    async def check_writable(self) -> None:
        """Memory always is."""

    async def close(self) -> None:
        """Nothing is held."""

    def _check_lease(self, lease: Lease | None) -> None:
        if lease is not None and self._leases.get(lease.name, (0, 0.0))[0] != lease.token:
            raise LeaseLost(f"the lease {lease.name} was taken over by another instance")
