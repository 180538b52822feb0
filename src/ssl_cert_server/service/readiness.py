"""Readiness: whether this instance can store what an order for a certificate needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError

_KEEP = 2.0
"""Seconds for which a result is cached: each check writes durably."""

_DEADLINE = 10.0
"""Seconds after which storage counts as unreachable, so that a probe of an orchestrator gets an answer."""


class OrderRehearsal(Protocol):
    """Storage that can write what an order needs."""

    async def rehearse_order(self) -> None:
        """Write, and remove, what an order needs.

        :raises StorageError: it can't be written.
        """


Check = Callable[[], Awaitable[None]]
"""Raises ``StorageError`` where an order is not possible."""


class Readiness:
    """Checks, at most every two seconds, that storage accepts the writes an order needs, and what ``also`` checks."""

    def __init__(self, storage: OrderRehearsal, clock: Clock, also: Check | None = None) -> None:
        self._storage = storage
        self._clock = clock
        self._also = also
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")
        self._reason: str | None = None

    async def trouble(self) -> str | None:
        """Return the reason why this instance is not ready, in one line, or None."""
        async with self._checking:
            if self._clock.monotonic() - self._checked_at >= _KEEP:
                self._reason = await self._check()
                self._checked_at = self._clock.monotonic()
            return self._reason

    async def _check(self) -> str | None:
        try:
            async with asyncio.timeout(_DEADLINE):
                await self._storage.rehearse_order()
                if self._also is not None:
                    await self._also()
        except TimeoutError:
            return f"storage did not write what an order needs within {_DEADLINE:.0f} s"
        except StorageError as error:
            return str(error)
        return None
