"""Hearing from other instances, and from commands, that certificates were replaced or removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.service.news import NameChanges, News
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_WAIT = 25.0
_AFTER_ERROR = (1.0, 30.0)


class ChangeWatch:
    """Awaits ``on_change`` with each key that was announced since it began, ``on_reset`` where any may have been.

    ``on_change`` gives the names it is about: clients hear of them by ``news``, once it was done.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        *,
        news: News,
        on_change: Callable[[str], Awaitable[Collection[str]]],
        on_reset: Callable[[], Awaitable[None]],
    ) -> None:
        self._storage = storage
        self._news = news
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
        names: dict[str, None] = {}
        for key in changes.keys:
            names.update(dict.fromkeys(await self._on_change(key)))
        self._cursor = changes.cursor  # only now: what failed is heard again
        self._news.tell(NameChanges(changes.cursor, tuple(names), reset=changes.reset))
