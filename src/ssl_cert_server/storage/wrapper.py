"""What goes around a storage and changes a part of it: the rest is handed on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ssl_cert_server.storage.base import Changes, Due, Lease, Storage


class StorageWrapper:
    """See :class:`~ssl_cert_server.storage.base.Storage`; everything is ``inner``'s."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner

    async def get(self, key: str) -> bytes | None:
        return await self._inner.get(key)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        await self._inner.put(key, value, lease=lease)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        await self._inner.delete(key, lease=lease)

    def list(self, folder: str = "") -> AsyncIterator[str]:
        return self._inner.list(folder)

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        return await self._inner.acquire(name, seconds)

    async def renew(self, lease: Lease, seconds: float) -> None:
        await self._inner.renew(lease, seconds)

    async def release(self, lease: Lease) -> None:
        await self._inner.release(lease)

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        await self._inner.schedule(queue, entries)

    async def unschedule(self, queue: str, keys: Sequence[str]) -> None:
        await self._inner.unschedule(queue, keys)

    async def scheduled(self, queue: str, key: str) -> Due | None:
        return await self._inner.scheduled(queue, key)

    async def claim(self, queue: str, *, now: float, limit: int, seconds: float) -> Sequence[Due]:
        return await self._inner.claim(queue, now=now, limit=limit, seconds=seconds)

    async def next_due(self, queue: str) -> float | None:
        return await self._inner.next_due(queue)

    def list_due(self, queue: str) -> AsyncIterator[Due]:
        return self._inner.list_due(queue)

    async def index_complete(self) -> bool:
        return await self._inner.index_complete()

    async def mark_index_complete(self) -> None:
        await self._inner.mark_index_complete()

    async def announce(self, keys: Sequence[str]) -> None:
        await self._inner.announce(keys)

    async def changes(self, cursor: str, wait: float) -> Changes:
        return await self._inner.changes(cursor, wait)

    async def check_writable(self) -> None:
        await self._inner.check_writable()

    async def close(self) -> None:
        await self._inner.close()
