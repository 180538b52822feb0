"""The due index."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Due, check_key, never_asked
from ssl_cert_server.storage.redis.client import Client, Script
from ssl_cert_server.storage.redis.connection import Reply, Word
from ssl_cert_server.storage.redis.given_up import GivenUp
from ssl_cert_server.storage.redis.keys import Keys
from ssl_cert_server.storage.redis.scripts import CLAIM, ENTRIES, ENTRY, NEXT, SCHEDULE, UNSCHEDULE

_HISTORY = re.compile(rb"^master_replid:(\w+)", re.MULTILINE)
_BATCH = 1000
"""Entries that one script handles, so that it keeps nobody waiting for more than some milliseconds."""


class DueIndex:
    """Queues of one deployment."""

    def __init__(self, client: Client, keys: Keys, given_up: GivenUp, clock: Clock, timeout: float) -> None:
        self._client = client
        self._keys = keys
        self._given_up = given_up
        self._clock = clock
        self._timeout = timeout
        self._history = b""

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        for entry in entries:
            check_key(entry.key)
        latest = {entry.key: entry for entry in entries}
        words: list[list[Word]] = [[entry.key, repr(entry.at), repr(entry.rank)] for entry in latest.values()]
        await self._change(queue, SCHEDULE, "schedule", words)

    async def unschedule(self, queue: str, keys: Sequence[str]) -> None:
        await self._change(queue, UNSCHEDULE, "unschedule", [[key] for key in keys])

    async def _change(self, queue: str, script: Script, verb: str, entries: list[list[Word]]) -> None:
        names = [self._keys.given_up, *self._keys.queue(queue)]
        what = f"{verb} in {queue}"
        for start in range(0, len(entries), _BATCH):
            args = [word for entry in entries[start : start + _BATCH] for word in entry]

            async def send(first: list[Word], args: list[Word] = args) -> Reply:
                return await self._client.run(what, script, names, [*first, *args], durable=True)

            await self._given_up.run(f"{queue} due", send)

    async def scheduled(self, queue: str, key: str) -> Due | None:
        found = await self._client.run(f"look for {key} in {queue}", ENTRY, self._keys.queue(queue), [key])
        return next(_entries(found), None)

    async def claim(self, queue: str, now: float, limit: int, seconds: float) -> list[Due]:
        names = self._keys.queue(queue)
        claimed: list[Due] = []
        end = self._clock.monotonic() + self._timeout
        while len(claimed) < limit:
            wanted = min(limit - len(claimed), _BATCH)
            args: list[Word] = [repr(now), repr(now + seconds), wanted, _BATCH]
            try:
                again, *found = await self._client.run(f"claim in {queue}", CLAIM, names, args)
            except StorageError:
                if claimed:
                    break  # they are the caller's now, and wouldn't come up for a while
                raise
            claimed += _entries(found)
            if not again and len(found) < 3 * wanted:
                break
            if again and self._clock.monotonic() > end:
                raise StorageError(
                    f"can't claim in {queue}: too much came due at once to be put in order within {self._timeout:g} s; "
                    "the next attempt goes on from here"
                )
        return claimed

    async def complete(self) -> bool:
        """Look whether the index was said to be complete, in the present history of the data.

        A failover, or a restart, begins a new history, and may have lost entries that were acknowledged.
        """
        self._history = await self._present_history()
        marked = await self._client.command("look at the due index", "GET", self._keys.complete)
        return bool(marked == self._history)

    async def mark_complete(self) -> None:
        if not self._history:
            raise never_asked()
        # What was scheduled before a failover counts only for the history of then.
        await self._client.command("mark the due index", "SET", self._keys.complete, self._history, durable=True)

    async def _present_history(self) -> bytes:
        told: bytes = await self._client.command("look at the due index", "INFO", "replication")
        found = _HISTORY.search(told)
        return found[1] if found else b"unknown"

    async def next_due(self, queue: str) -> float | None:
        times = await self._client.run(f"look into {queue}", NEXT, self._keys.queue(queue))
        return min(map(float, times), default=None)

    async def list_due(self, queue: str) -> AsyncIterator[Due]:
        names = self._keys.queue(queue)
        cursor, seen = b"0", set[str]()
        while True:
            cursor, *found = await self._client.run(f"list {queue}", ENTRIES, names, [cursor, _BATCH])
            for entry in _entries(found):
                if entry.key not in seen:  # a scan may tell one twice
                    seen.add(entry.key)
                    yield entry
            if cursor == b"0":
                return


def _entries(found: Sequence[bytes]) -> Iterator[Due]:
    for start in range(0, len(found), 3):
        key, at, rank = found[start : start + 3]
        yield Due(key.decode(), float(at), float(rank))
