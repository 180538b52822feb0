"""News of changes: a stream, of which the last entries are kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage.base import CHANGES_KEPT, Changes, check_key
from ssl_cert_server.storage.redis.client import LISTENERS, Client
from ssl_cert_server.storage.redis.connection import Word
from ssl_cert_server.storage.redis.keys import Keys
from ssl_cert_server.storage.redis.scripts import ANNOUNCE, CHANGES

_CURSOR = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_BATCH = 1000
_BLOCK = 5.0
"""Seconds of one blocking read, after which it is looked whether the server still knows the cursor."""


class News:
    """Announcements of one deployment."""

    def __init__(self, client: Client, keys: Keys, clock: Clock) -> None:
        self._client = client
        self._stream = keys.changes
        self._clock = clock
        self._turns = asyncio.Semaphore(LISTENERS)

    async def announce(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
        for start in range(0, len(keys), _BATCH):
            args: list[Word] = [CHANGES_KEPT + 1, *keys[start : start + _BATCH]]
            await self._client.run("announce changes", ANNOUNCE, [self._stream], args)

    async def changes(self, cursor: str, wait: float) -> Changes:
        end = self._clock.monotonic() + wait
        while True:
            found = await self._read(cursor)
            left = end - self._clock.monotonic()
            if not cursor or found.keys or found.reset or left <= 0:
                return found
            cursor = found.cursor
            await self._wait(cursor, min(left, _BLOCK))

    async def _read(self, cursor: str) -> Changes:
        # One that makes no sense is as one of an entry that is gone.
        known = cursor if not cursor or _CURSOR.fullmatch(cursor) else "0-0"
        reset, latest, *keys = await self._client.run("read changes", CHANGES, [self._stream], [known, _BATCH])
        return Changes(latest.decode(), tuple(dict.fromkeys(key.decode() for key in keys)), reset=bool(reset))

    async def _wait(self, cursor: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._turns.acquire()
        except TimeoutError:
            return  # as many as may wait for the server do; the caller looks again
        try:
            milliseconds = max(int(seconds * 1000), 1)  # 0 would be for ever
            words = ("XREAD", "COUNT", 1, "BLOCK", milliseconds, "STREAMS", self._stream, cursor)
            await self._client.listen("wait for changes", seconds, *words)
        finally:
            self._turns.release()
