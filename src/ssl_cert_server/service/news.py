"""What changed of late, by name, for clients that poll ``GET /v1/changes``."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ssl_cert_server.errors import Overloaded, Unavailable
from ssl_cert_server.storage.base import CHANGES_KEPT, Storage

MAX_WAITING = 1_000
"""Clients that wait at once, where nothing bounds them further."""

_ASK_AGAIN = 5.0

NamesOf = Callable[[str], Collection[str]]
"""Gives the names that a storage key's certificate answers; ``*.example.com`` stands for all that it covers."""


@dataclass(frozen=True, slots=True)
class NameChanges:
    """The names whose certificate or staple changed up to ``cursor``; with ``reset``, any may have."""

    cursor: str
    names: tuple[str, ...] = ()
    reset: bool = False


class News:
    """Remembers the last :data:`~ssl_cert_server.storage.base.CHANGES_KEPT` changes that this instance acted upon.

    A client is told of a change only after that: when it asks, it gets what is new. Cursors are the storage's, so that
    one from another instance, or from before a restart, is understood.
    """

    def __init__(self, storage: Storage, names_of: NamesOf, max_waiting: int = MAX_WAITING) -> None:
        """``max_waiting`` clients wait at once at most."""
        self._storage = storage
        self._max_waiting = max_waiting
        self.names_of = names_of
        self._cursor: str | None = None
        self._told: OrderedDict[str, NameChanges] = OrderedDict()
        """By the cursor that was the newest before."""
        self._size = 0
        self._waiting = 0
        self._closed = False
        self._more = asyncio.Event()

    def tell(self, changes: NameChanges) -> None:
        """Hear what changed since the last time, and was acted upon."""
        if changes.cursor == self._cursor:
            return
        if changes.reset:
            self._told.clear()  # cursors may begin anew
            self._size = 0
        if self._cursor is not None:
            self._told[self._cursor] = changes
            self._size += len(changes.names) + 1
            while self._size > CHANGES_KEPT and len(self._told) > 1:
                self._size -= len(self._told.popitem(last=False)[1].names) + 1
        self._cursor = changes.cursor
        self._more.set()
        self._more = asyncio.Event()

    async def since(self, cursor: str, wait: float) -> NameChanges:
        """Give what changed after ``cursor``, waiting for it for ``wait`` seconds at most where there is nothing.

        An empty cursor gives the present one at once. One that makes no sense, or is too old, gives ``reset``.

        :raises Unavailable: too many wait already, or nothing is known yet.
        :raises StorageError: what a cursor of another instance stands for can't be read.
        """
        if self._cursor is None:
            await self._wait(_ASK_AGAIN)  # the server has just started
        elif cursor == self._cursor and not self._closed:
            await self._wait(wait)
        newest = self._cursor
        if newest is None:
            raise Unavailable("changes: the storage has told nothing yet", _ASK_AGAIN)
        if cursor in ("", newest):
            return NameChanges(newest)
        if cursor in self._told:
            return self._after(cursor, newest)
        return await self._from_storage(cursor, newest)

    def close(self) -> None:
        """Let everybody go who waits, and have nobody wait any more."""
        self._closed = True
        self._more.set()

    async def _wait(self, seconds: float) -> None:
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} clients wait for changes already", _ASK_AGAIN)
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._more.wait()
        except TimeoutError:
            pass  # there is nothing, then
        finally:
            self._waiting -= 1

    def _after(self, cursor: str, newest: str) -> NameChanges:
        names: dict[str, None] = {}
        while cursor != newest:
            changes = self._told[cursor]
            if changes.reset:
                return NameChanges(newest, reset=True)
            names.update(dict.fromkeys(changes.names))
            cursor = changes.cursor
        return NameChanges(newest, tuple(names))

    async def _from_storage(self, cursor: str, newest: str) -> NameChanges:
        """Ask the storage. It may know of more than was acted upon here: that is told again after ``newest``."""
        names: dict[str, None] = {}
        for _ in range(CHANGES_KEPT):
            changes = await self._storage.changes(cursor, 0.0)
            if changes.reset or len(names) > CHANGES_KEPT:
                break
            if not changes.keys:
                return NameChanges(newest, tuple(names))
            for key in changes.keys:
                names.update(dict.fromkeys(self.names_of(key)))
            cursor = changes.cursor
        return NameChanges(newest, reset=True)
