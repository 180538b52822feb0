"""What the endpoint of ``ask`` permitted, kept for all instances, so that each name is asked about once.

Refusals are each instance's own: strangers bring up names without end, and would fill storage with them.
"""

from __future__ import annotations

from contextlib import suppress

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.passed_over import PassedOver

FOLDER = "_ask"


class SharedVerdicts:
    """Names that are permitted until a time; where storage is away, nothing is known, and nothing is wrong."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    async def allowed_for(self, name: str) -> float:
        """Give the seconds for which a name is still permitted; 0.0 where it isn't, as far as is known."""
        with suppress(StorageError):
            return max(0.0, _until(await self._storage.get(_key(name))) - self._clock.now())
        return 0.0

    async def allow(self, name: str, seconds: float) -> None:
        """Note that a name is permitted."""
        with suppress(StorageError):
            await self._storage.put(_key(name), str(self._clock.now() + seconds).encode())

    async def refuse(self, name: str) -> None:
        """Note that a name isn't permitted any more."""
        with suppress(StorageError):
            if await self._storage.get(_key(name)) is not None:
                await self._storage.delete(_key(name))

    async def sweep(self) -> int:
        """Forget what is over, and give how much that was; what can't be read is passed over.

        :raises StorageError: storage itself can't be read or written.
        """
        swept = 0
        passed = PassedOver()
        async for key in self._storage.list(FOLDER):
            with passed.unreadable():
                if _until(await self._storage.get(key)) <= self._clock.now():
                    await self._storage.delete(key)
                    swept += 1
        passed.tell(FOLDER)
        return swept


def _until(stored: bytes | None) -> float:
    try:
        return float(stored or b"0")
    except ValueError:
        return 0.0


def _key(name: str) -> str:
    return f"{FOLDER}/{name}"
