"""Whether this instance can do its work: storage takes what it is given."""

from __future__ import annotations

import asyncio

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Storage

# Each check writes to disk; whoever asks more often gets the last result.
_KEEP = 2.0


class Readiness:
    """Checks storage, at most every two seconds."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")
        self._reason: str | None = None

    async def trouble(self) -> str | None:
        """Give what keeps this instance from its work in one line, or None."""
        async with self._checking:
            if self._clock.monotonic() - self._checked_at >= _KEEP:
                self._reason = await self._check()
                self._checked_at = self._clock.monotonic()
            return self._reason

    async def _check(self) -> str | None:
        try:
            await self._storage.check_writable()
        except StorageError as error:
            return str(error)
        return None
