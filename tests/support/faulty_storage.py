"""Storage that breaks when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Changes, Due, Lease
from ssl_cert_server.storage.memory import MemoryStorage

Fault = Callable[[str, str], bool]


def _none(operation: str, key: str) -> bool:
    return False


class FaultyStorage(MemoryStorage):
    """Memory, in which ``broken`` decides for an operation (a method's name) and its key whether it fails."""

    broken: Fault = staticmethod(_none)
    hanging = 0
    """Reads that wait for an answer now."""
    _answering: asyncio.Future[None] | None = None

    def hang(self) -> asyncio.Future[None]:
        """Give reads no answer until the future that is given has a result."""
        self._answering = asyncio.get_running_loop().create_future()
        return self._answering

    def break_down(self, *operations: str, key: str = "", times: int = 1_000_000, after: int = 0) -> None:
        """Fail the next ``times`` calls of these operations, on that key where one is given, but for the first few."""
        left, spared = times, after

        def broken(operation: str, on_key: str) -> bool:
            nonlocal left, spared
            if operation not in operations or (key and on_key != key) or not left:
                return False
            if spared:
                spared -= 1
                return False
            left -= 1
            return True

        self.broken = broken

    def repair(self) -> None:
        """Everything works again."""
        self.broken = _none

    def steal(self, name: str) -> None:
        """Have another instance take over a lease that is held."""
        self._last_token += 1
        self._leases[name] = (self._last_token, float("inf"))

    async def get(self, key: str) -> bytes | None:
        await self._wait_for_an_answer()
        self._check("get", key)
        return await super().get(key)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        self._check("put", key)
        await super().put(key, value, lease=lease)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        self._check("delete", key)
        await super().delete(key, lease=lease)

    async def list(self, folder: str = "") -> AsyncIterator[str]:
        async for key in super().list(folder):
            self._check("list", folder)
            yield key

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        self._check("acquire", name)
        return await super().acquire(name, seconds)

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        self._check("schedule", queue)
        await super().schedule(queue, entries)

    async def claim(self, queue: str, *, now: float, limit: int, seconds: float) -> Sequence[Due]:
        self._check("claim", queue)
        return await super().claim(queue, now=now, limit=limit, seconds=seconds)

    async def announce(self, keys: Sequence[str]) -> None:
        self._check("announce", "")
        await super().announce(keys)

    async def changes(self, cursor: str, wait: float) -> Changes:
        self._check("changes", cursor)
        return await super().changes(cursor, wait)

    async def check_writable(self) -> None:
        self._check("check_writable", "")

    async def _wait_for_an_answer(self) -> None:
        if self._answering is not None:
            self.hanging += 1
            try:
                await asyncio.shield(self._answering)
            finally:
                self.hanging -= 1

    def _check(self, operation: str, key: str) -> None:
        if self.broken(operation, key):
            raise StorageError(f"can't {operation} {key}: the disk is gone")
