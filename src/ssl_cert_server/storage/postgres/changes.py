"""News of changes: a table that is read after a cursor, and NOTIFY to wake those who wait."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage.base import CHANGES_KEPT, Changes
from ssl_cert_server.storage.postgres.connections import Connections
from ssl_cert_server.storage.postgres.listener import Listener

_ANNOUNCE = "SELECT announce(%(keys)s::text[], %(kept)s, %(per_row)s)"
_READ = """
SELECT edge.known, edge.high, news.id, news.keys
FROM (
    SELECT EXISTS (SELECT FROM changes WHERE id = %(since)s) AS known, (SELECT max(id) FROM changes) AS high
) AS edge
LEFT JOIN LATERAL (
    SELECT id, keys FROM changes WHERE id > %(since)s ORDER BY id LIMIT %(most)s
) AS news ON true
ORDER BY news.id
"""
_CURSOR = re.compile("[0-9]{1,18}")
_KEYS_PER_ROW = 100
_KEYS_AT_ONCE = 5000
_ROWS_AT_ONCE = 500
_POLL = 5.0


class ChangeLog:
    """What was announced, by every instance."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self._connections = connections
        self._clock = clock
        self._listener = Listener(connections, clock)

    async def announce(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            batch = [*keys[start : start + _KEYS_AT_ONCE]]
            values = {"keys": batch, "kept": CHANGES_KEPT, "per_row": _KEYS_PER_ROW}
            await self._connections.fetch(f"announce {batch[0]}", _ANNOUNCE, values)

    async def changes(self, cursor: str, wait: float) -> Changes:
        deadline = self._clock.monotonic() + wait
        if cursor and wait > 0:
            await self._listener.ready()  # before the look: nothing falls between the two
        while True:
            heard = self._listener.heard
            changes = await self._read(cursor)
            left = deadline - self._clock.monotonic()
            if not cursor or changes.keys or changes.reset or left <= 0:
                return changes
            # NOTIFY may fail to come through, as behind a proxy; then a look now and then finds what was missed.
            await self._listener.wait(heard, min(left, _POLL * (0.5 + self._clock.random())))

    async def close(self) -> None:
        await self._listener.close()

    async def _read(self, cursor: str) -> Changes:
        """Give what is there; where ``cursor`` is empty, only how far it goes."""
        since = int(cursor) if _CURSOR.fullmatch(cursor) else 0
        values = {"since": since, "most": _ROWS_AT_ONCE if cursor else 0}
        rows = await self._connections.fetch("read what changed", _READ, values)
        known, high = rows[0][:2]
        if not cursor:
            return Changes(str(high))
        # A cursor is a row's id. That row is also gone where an older state was restored, and ids have passed it since.
        if not known:
            return Changes(str(high), reset=True)
        told = [row for row in rows if row[2] is not None]
        keys = dict.fromkeys(key for row in told for key in row[3])
        return Changes(str(told[-1][2]) if told else cursor, tuple(keys))
