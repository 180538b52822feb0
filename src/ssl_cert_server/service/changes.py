"""Hearing from other instances, and from commands, that certificates were replaced or removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_WAIT = 25.0
_AFTER_ERROR = (1.0, 30.0)


class ChangeWatch:
    """Awaits ``on_change`` with each key that was announced since it began, ``on_reset`` where any may have been."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        *,
        on_change: Callable[[str], Awaitable[None]],
        on_reset: Callable[[], Awaitable[None]],
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._on_change = on_change
        self._on_reset = on_reset
        self._cursor = ""

    async def run(self) -> None:
        """Listen, for ever."""
        pause, longest = _AFTER_ERROR
        while True:
            try:
                await self._hear()
                pause = _AFTER_ERROR[0]
            except StorageError as error:
                _log.warning("changes.unreadable", again_in=pause, reason=str(error))
                await self._clock.sleep(pause * (1 + self._clock.random()))
                pause = min(pause * 2, longest)

    async def _hear(self) -> None:
        changes = await self._storage.changes(self._cursor, _WAIT)
        if changes.reset:
            await self._on_reset()
        for key in changes.keys:
            await self._on_change(key)
        self._cursor = changes.cursor  # only now: what failed is heard again
