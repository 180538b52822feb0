"""The due index.

What is due goes by rank, and no index gives the lowest rank among those before some time. So entries that came due
are marked as ready, each once, and the ready ones have an index by rank: a claim costs what it takes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Due, check_key, never_asked
from ssl_cert_server.storage.postgres.connections import Connections

# Sorted, so that two calls that meet wait for each other in one direction only.
_SCHEDULE = """
INSERT INTO due (queue, key, at, rank)
SELECT %(queue)s, entry.* FROM unnest(%(keys)s::text[], %(ats)s::float8[], %(ranks)s::float8[]) AS entry
WHERE (SELECT in_time(%(by)s))
ON CONFLICT (queue, key) DO UPDATE SET at = excluded.at, rank = excluded.rank, ready = false
WHERE (due.at, due.rank) IS DISTINCT FROM (excluded.at, excluded.rank)
"""
_UNSCHEDULE = """
WITH gone AS MATERIALIZED (
    SELECT key FROM due WHERE queue = %(queue)s AND key = ANY(%(keys)s) ORDER BY key FOR UPDATE
)
DELETE FROM due USING gone WHERE due.queue = %(queue)s AND due.key = gone.key AND (SELECT in_time(%(by)s))
"""
_SCHEDULED = "SELECT at, rank FROM due WHERE queue = %(queue)s AND key = %(key)s"
_MAKE_READY = "SELECT make_ready(%(queue)s, %(now)s, %(most)s)"
_CLAIM = """
WITH taken AS MATERIALIZED (
    SELECT key, at, rank FROM due WHERE queue = %(queue)s AND ready AND at <= %(now)s
    ORDER BY rank LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE due SET at = %(until)s, ready = false FROM taken WHERE due.queue = %(queue)s AND due.key = taken.key
RETURNING taken.key, taken.at, taken.rank
"""
_NEXT = """
SELECT least(
    (SELECT at FROM due WHERE queue = %(queue)s AND NOT ready ORDER BY at LIMIT 1),
    (SELECT at FROM due WHERE queue = %(queue)s AND ready ORDER BY at LIMIT 1)
)
"""
_LIST = """
SELECT key, at, rank FROM due WHERE queue = %(queue)s AND key > %(after)s ORDER BY key LIMIT %(most)s
"""
_IS_COMPLETE = "SELECT EXISTS (SELECT FROM due_complete)"
_MARK_COMPLETE = "INSERT INTO due_complete VALUES (true) ON CONFLICT DO NOTHING"
_BATCH = 2000


class DueIndex:
    """Queues of keys by time."""

    def __init__(self, connections: Connections, clock: Clock) -> None:
        self._connections = connections
        self._clock = clock
        self._asked = False

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        _check_queue(queue)
        for entry in entries:
            check_key(entry.key)
        last = {entry.key: entry for entry in entries}
        ordered = [last[key] for key in sorted(last)]
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            keys = [entry.key for entry in batch]
            values = {
                "queue": queue,
                "keys": keys,
                "ats": [float(entry.at) for entry in batch],
                "ranks": [float(entry.rank) for entry in batch],
            }
            await self._connections.fetch(f"schedule {_named(keys)} in {queue}", _SCHEDULE, values)

    async def unschedule(self, queue: str, keys: Sequence[str]) -> None:
        _check_queue(queue)
        ordered = sorted({*keys})
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            values = {"queue": queue, "keys": batch}
            await self._connections.fetch(f"take {_named(batch)} out of {queue}", _UNSCHEDULE, values)

    async def scheduled(self, queue: str, key: str) -> Due | None:
        _check_queue(queue)
        rows = await self._connections.fetch(f"look up {key} in {queue}", _SCHEDULED, {"queue": queue, "key": key})
        return Due(key, *rows[0]) if rows else None

    async def claim(self, queue: str, now: float, limit: int, seconds: float) -> list[Due]:
        _check_queue(queue)
        await self._make_ready(queue, now)
        values = {"queue": queue, "now": float(now), "until": float(now + seconds), "limit": limit}
        rows = await self._connections.fetch(f"claim from {queue}", _CLAIM, values)
        return sorted((Due(*row) for row in rows), key=lambda entry: entry.rank)

    async def next_due(self, queue: str) -> float | None:
        _check_queue(queue)
        at: float | None
        ((at,),) = await self._connections.fetch(f"look into {queue}", _NEXT, {"queue": queue})
        return at

    async def is_complete(self) -> bool:
        ((complete,),) = await self._connections.fetch("look into the due index", _IS_COMPLETE, {})
        self._asked = True
        return bool(complete)

    async def mark_complete(self) -> None:
        if not self._asked:
            raise never_asked()
        await self._connections.fetch("mark the due index as complete", _MARK_COMPLETE, {})

    async def list(self, queue: str) -> AsyncIterator[Due]:
        _check_queue(queue)
        after = ""
        while True:
            values = {"queue": queue, "after": after, "most": _BATCH}
            rows = await self._connections.fetch(f"list {queue}", _LIST, values)
            for row in rows:
                yield Due(*row)
            if len(rows) < _BATCH:
                return
            after = rows[-1][0]

    async def _make_ready(self, queue: str, now: float) -> None:
        """Mark what came due, in batches; where that is very much, the rest is left to later claims."""
        values = {"queue": queue, "now": float(now), "most": _BATCH}
        until = self._clock.monotonic() + self._connections.timeout / 2
        while True:
            ((moved,),) = await self._connections.fetch(f"claim from {queue}", _MAKE_READY, values)
            if moved < _BATCH or self._clock.monotonic() > until:
                return


def _check_queue(queue: str) -> None:
    if len(check_key(queue)) > 1:
        raise StorageError(f"{queue[:80]!r} can't be a queue")


def _named(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"
