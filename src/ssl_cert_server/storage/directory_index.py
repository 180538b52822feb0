"""The due index and the changes of a directory, in a SQLite file that can be made anew from what else is stored."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage import directory_index_sql as sql
from ssl_cert_server.storage import directory_news as news
from ssl_cert_server.storage.base import Changes, Due, check_key, never_asked
from ssl_cert_server.storage.directory_index_file import IndexFile
from ssl_cert_server.storage.directory_threads import Call, Threads
from ssl_cert_server.storage.folders import Place

_T = TypeVar("_T")

_WRITTEN_AT_ONCE = 10_000
_LISTED_AT_ONCE = 1000
_LOOK_EVERY = 0.4


class DirectoryIndex:
    """One thread reads and one writes, each on a connection of its own: who reads never waits for another's write."""

    def __init__(self, root: Path, place: Place, clock: Clock) -> None:
        self._root = root.resolve()
        self._clock = clock
        self._reading = Threads(1, "storage-index-read"), IndexFile(root, place, clock)
        self._writing = Threads(1, "storage-index-write"), IndexFile(root, place, clock)
        self._asked_about: str | None = None

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        """See the contract. More than 10,000 entries are written in several steps, each durable and whole."""
        _check_queue(queue)
        for entry in entries:
            check_key(entry.key)
            if math.isnan(entry.at) or math.isnan(entry.rank):
                raise StorageError(f"can't schedule {entry.key}: its time or rank is not a number")
        for part in _parts(entries):
            action = _action("schedule", [entry.key for entry in part])
            await self._write(action, partial(sql.schedule, queue=queue, entries=part))

    async def unschedule(self, queue: str, keys: Sequence[str]) -> None:
        """See the contract, and :meth:`schedule`."""
        _check_queue(queue)
        for part in _parts(keys):
            action = _action("unschedule", part)
            await self._write(action, partial(sql.unschedule, queue=queue, keys=part))

    async def scheduled(self, queue: str, key: str) -> Due | None:
        """See the contract."""
        return await self._read(f"look for {key[:80]!r} in", partial(sql.scheduled, queue=queue, key=key))

    async def claim(self, queue: str, *, now: float, limit: int, seconds: float) -> list[Due]:
        """See the contract. It isn't synced: a crash of the machine ends every claimer as well."""
        first = await self.next_due(queue)
        if first is None or first > now:
            return []
        claim = partial(sql.claim, queue=queue, now=now, limit=limit, until=now + seconds)
        return await self._write(f"claim what is due of {queue} in", claim, durable=False)

    async def next_due(self, queue: str) -> float | None:
        """See the contract."""
        _check_queue(queue)
        return await self._read(f"look for what is due of {queue} in", partial(sql.next_due, queue=queue))

    async def list_due(self, queue: str) -> AsyncIterator[Due]:
        """See the contract."""
        _check_queue(queue)
        after = ""
        page = partial(sql.page, queue=queue, limit=_LISTED_AT_ONCE)
        while entries := await self._read(f"list what is due of {queue} in", partial(page, after=after)):
            for entry in entries:
                yield entry
            after = entries[-1].key

    async def announce(self, keys: Sequence[str]) -> None:
        """See the contract."""
        for key in keys:
            check_key(key)
        for part in _parts(keys):
            action = _action("announce", part)
            await self._write(action, partial(sql.announce, keys=part, now=self._clock.now()), durable=False)
        news.tell(self._root)

    async def changes(self, cursor: str, wait: float) -> Changes:
        """See the contract."""
        end = self._clock.monotonic() + wait
        with news.listening(self._root) as told:
            while True:
                told.clear()
                changes = await self._read("look for changes in", partial(sql.changes, cursor=cursor))
                left = end - self._clock.monotonic()
                if not cursor or changes.keys or changes.reset or left <= 0:
                    return changes
                await self._sleep(min(left, _LOOK_EVERY), told)

    async def index_complete(self) -> bool:
        """Tell whether the index was marked as complete since it was made."""
        self._asked_about, complete = await self._read("read", sql.completeness)
        return complete

    async def mark_index_complete(self) -> None:
        """Say that everything that belongs into the index is in it.

        :raises StorageError: it isn't the index any more that :meth:`index_complete` told of: fill it again.
        """
        if self._asked_about is None:
            raise never_asked()
        if not await self._write("mark as complete", partial(sql.mark_complete, log=self._asked_about)):
            raise StorageError(f"{self._writing[1].path} was lost while it was filled, and has to be filled again")

    async def check_writable(self) -> None:
        """Write an entry and remove it again, durably and in one transaction.

        :raises StorageError: the index takes no entry now.
        """
        await self._write("write", sql.write_and_remove)

    def stop(self) -> None:
        """Take no more work."""
        for threads, _ in (self._reading, self._writing):
            threads.close()
        news.tell(self._root)

    def close(self) -> None:
        """Close the files, once nothing is done with them any more; blocks."""
        both = (self._reading, self._writing)
        for threads, _ in both:
            threads.join()
        for _, file in both:
            file.close()

    async def _read(self, action: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
        threads, file = self._reading
        call = Call()
        return await threads.run(file.path, action, lambda: file.read(work, call), call)

    async def _write(self, action: str, work: Callable[[sqlite3.Connection], _T], *, durable: bool = True) -> _T:
        threads, file = self._writing
        call = Call()
        return await threads.run(file.path, action, lambda: file.write(work, call, durable=durable), call)

    async def _sleep(self, seconds: float, told: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(work) for work in (self._clock.sleep(seconds), told.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()


def _check_queue(queue: str) -> None:
    if len(check_key(queue)) != 1:
        raise StorageError(f"{queue[:80]!r} can't be a queue: it is one segment of a key")


def _parts(items: Sequence[_T]) -> list[Sequence[_T]]:
    return [items[start : start + _WRITTEN_AT_ONCE] for start in range(0, len(items), _WRITTEN_AT_ONCE)]


def _action(verb: str, keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"{verb} {keys[0][:80]}{more} in"
