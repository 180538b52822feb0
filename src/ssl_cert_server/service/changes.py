"""Hearing from other instances, and from commands, that certificates were replaced or removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.service.news import NameChanges, News
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.passed_over import PassedOver

_log = structlog.get_logger()

_WAIT = 25.0
_AFTER_ERROR = (1.0, 30.0)
_AFTER_UNREAD = (1.0, 300.0)
_MOST_UNREAD = 10_000


class ChangeWatch:
    """Awaits ``on_change`` with each key that was announced since it began, and of ``everything`` where any may have.

    ``on_change`` gives the names it is about: clients hear of them by ``news``, once it was done. A single value that
    can't be read holds up no other: it is tried again, and announced again when it could be read.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        *,
        news: News,
        on_change: Callable[[str], Awaitable[Collection[str]]],
        everything: Callable[[], Collection[str]],
    ) -> None:
        self._storage = storage
        self._news = news
        self._clock = clock
        self._on_change = on_change
        self._everything = everything
        self._cursor = ""
        self._unread: dict[str, None] = {}
        """In the order in which they are tried again."""
        self._put_aside: set[str] = set()
        """Those of what is just being heard, which may take several attempts."""
        self._again_at = 0.0
        self._again_in = _AFTER_UNREAD[0]

    async def run(self) -> None:
        """Listen, for ever."""
        pause, longest = _AFTER_ERROR
        while True:
            try:
                await self._try_again()
                await self._hear()
                pause = _AFTER_ERROR[0]
            except StorageError as error:
                _log.warning("changes.unreadable", again_in=pause, reason=str(error))
                await self._clock.sleep(pause * (1 + self._clock.random()))
                pause = min(pause * 2, longest)

    async def _hear(self) -> None:
        wait = min(_WAIT, max(0.0, self._again_at - self._clock.monotonic())) if self._unread else _WAIT
        changes = await self._storage.changes(self._cursor, wait)
        names = await self._act([*self._everything(), *changes.keys] if changes.reset else changes.keys)
        self._cursor = changes.cursor  # only now: what failed is heard again
        self._put_aside.clear()
        self._news.tell(NameChanges(changes.cursor, names, reset=changes.reset))

    async def _act(self, keys: Iterable[str]) -> tuple[str, ...]:
        names: dict[str, None] = {}
        passed = PassedOver()
        for key in keys:
            if key in self._put_aside:
                names.update(dict.fromkeys(self._news.names_of(key)))
                continue
            try:
                names.update(dict.fromkeys(await self._on_change(key)))
            except StorageError as error:
                names.update(dict.fromkeys(self._news.names_of(key)))
                self._try_later(key, error)
                passed.failed(error)
            else:
                self._unread.pop(key, None)
                passed.worked()
        return tuple(names)

    def _try_later(self, key: str, error: StorageError) -> None:
        self._put_aside.add(key)
        if key in self._unread:
            return
        _log.warning("changes.value_unreadable", cert_key=key, reason=str(error))
        if not self._unread:
            self._again_in = _AFTER_UNREAD[0]
            self._again_at = self._clock.monotonic() + self._again_in
        if len(self._unread) < _MOST_UNREAD:
            self._unread[key] = None

    async def _try_again(self) -> None:
        if not self._unread or self._clock.monotonic() < self._again_at:
            return
        read = await self._read_again()
        try:
            if read:
                await self._storage.announce(read)  # so that they are heard as if nothing had been
        except StorageError:
            self._unread.update(dict.fromkeys(read))
        self._again_in = min(self._again_in * 2, _AFTER_UNREAD[1])
        self._again_at = self._clock.monotonic() + self._again_in

    async def _read_again(self) -> list[str]:
        """Read what could not be read, and give what could now."""
        read = []
        passed = PassedOver()
        with suppress(StorageError):  # it is away
            for key in [*self._unread]:
                del self._unread[key]
                try:
                    await self._on_change(key)
                except StorageError as error:
                    self._unread[key] = None
                    passed.failed(error)
                else:
                    passed.worked()
                    read.append(key)
        return read
