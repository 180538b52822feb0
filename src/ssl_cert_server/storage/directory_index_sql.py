"""The due index and the log of changes as tables: what is asked and changed, on an open connection.

An entry whose time has come is marked ``ready``, in order of time and a bounded number per claim; ready ones are found
by rank. So a claim sorts nothing, however many are due. Where a clock was set back, those that aren't due any more lose
their mark when they are met.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Sequence

from ssl_cert_server.storage.base import CHANGES_KEPT, Changes, Due

APPLICATION = 0x53434901
"""SQLite's ``application_id`` of our index; its last digits are the version of the tables."""

MOVED = 5000
"""Entries that one claim marks as ready at most, or twenty times its limit where that is more.

Where more than that come up at once, the longest due are considered first, and the rest in the claims that follow.
"""

_LOOKED_AT = 200
_NO_QUEUE = "."
"""A queue's name that no caller can use."""

_TABLES = f"""
BEGIN;
CREATE TABLE meta (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), log TEXT NOT NULL, complete INTEGER NOT NULL);
CREATE TABLE due (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    rank REAL NOT NULL,
    ready INTEGER NOT NULL DEFAULT 0,
    UNIQUE (queue, key)
);
CREATE INDEX due_by_time ON due (queue, ready, at);
CREATE INDEX due_by_rank ON due (queue, rank, at) WHERE ready = 1;
CREATE TABLE change (id INTEGER PRIMARY KEY, key TEXT NOT NULL);
PRAGMA application_id = {APPLICATION};
COMMIT;
"""
_CURSOR = re.compile(r"([0-9a-f]{16})-([0-9]{1,18})")


def create(connection: sqlite3.Connection) -> None:
    """Make the tables, with nothing in them."""
    connection.executescript(_TABLES)
    connection.execute("INSERT INTO meta VALUES (1, ?, 0)", (secrets.token_hex(8),))
    connection.execute("PRAGMA journal_mode = WAL")


def is_ours(connection: sqlite3.Connection) -> bool:
    """Tell whether these are our tables; what else the file holds isn't looked at."""
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION,):
        return False
    try:
        connection.execute("SELECT id, queue, key, at, rank, ready FROM due LIMIT 1").fetchone()
        connection.execute("SELECT id, key FROM change LIMIT 1").fetchone()
        return connection.execute("SELECT log, complete FROM meta").fetchone() is not None
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # no such table, no such column
            return False
        raise


def completeness(connection: sqlite3.Connection) -> tuple[str, bool]:
    """Give the index's own random name, and whether it was marked as complete."""
    log, complete = connection.execute("SELECT log, complete FROM meta").fetchone()
    return log, bool(complete)


def mark_complete(connection: sqlite3.Connection, log: str) -> bool:
    """Mark the index as complete, where it is still the one of that name; tells whether it is."""
    return connection.execute("UPDATE meta SET complete = 1 WHERE log = ?", (log,)).rowcount == 1


def schedule(connection: sqlite3.Connection, queue: str, entries: Sequence[Due]) -> None:
    """Write entries, each in place of the one there was."""
    connection.executemany(
        "INSERT INTO due (queue, key, at, rank) VALUES (?, ?, ?, ?) ON CONFLICT (queue, key) DO UPDATE"
        " SET at = excluded.at, rank = excluded.rank, ready = 0 WHERE at <> excluded.at OR rank <> excluded.rank",
        ((queue, entry.key, entry.at, entry.rank) for entry in entries),
    )


def unschedule(connection: sqlite3.Connection, queue: str, keys: Sequence[str]) -> None:
    """Remove entries."""
    connection.executemany("DELETE FROM due WHERE queue = ? AND key = ?", ((queue, key) for key in keys))


def write_and_remove(connection: sqlite3.Connection) -> None:
    """Change the table and its indexes, and leave them as they were: the transaction is written all the same."""
    entry = (_NO_QUEUE, "", 0.0, 0.0)
    connection.execute("INSERT INTO due (queue, key, at, rank) VALUES (?, ?, ?, ?)", entry)
    connection.execute("DELETE FROM due WHERE queue = ?", (_NO_QUEUE,))


def scheduled(connection: sqlite3.Connection, queue: str, key: str) -> Due | None:
    """Give one entry."""
    row = connection.execute("SELECT key, at, rank FROM due WHERE queue = ? AND key = ?", (queue, key)).fetchone()
    return Due(*row) if row else None


def page(connection: sqlite3.Connection, queue: str, after: str, limit: int) -> list[Due]:
    """Give the next entries by key."""
    words = "SELECT key, at, rank FROM due WHERE queue = ? AND key > ? ORDER BY key LIMIT ?"
    return [Due(*row) for row in connection.execute(words, (queue, after, limit))]


def next_due(connection: sqlite3.Connection, queue: str) -> float | None:
    """Give the earliest time; one look-up for each of the two marks."""
    words = "SELECT min(at) FROM due WHERE queue = ? AND ready = ?"
    times = [connection.execute(words, (queue, ready)).fetchone()[0] for ready in (0, 1)]
    return min((at for at in times if at is not None), default=None)


def claim(connection: sqlite3.Connection, queue: str, *, now: float, limit: int, until: float) -> list[Due]:
    """Give what is due, the lowest rank first, and have it come up again ``until`` then."""
    _move_ready(connection, queue, now, max(MOVED, 20 * limit))
    taken: list[tuple[int, Due]] = []
    for _ in range(MOVED // _LOOKED_AT):
        wanted = max(0, limit - len(taken))
        batch = _first_ready(connection, queue, max(wanted, _LOOKED_AT)) if wanted else []
        early = [(entry.at, number) for number, entry in batch if entry.at > now]
        due = [(number, entry) for number, entry in batch if entry.at <= now][:wanted]
        _put_off(connection, [*early, *((until, number) for number, _ in due)])
        taken += due
        if not early:
            break
    return [entry for _, entry in taken]


def announce(connection: sqlite3.Connection, keys: Sequence[str], now: float) -> None:
    """Add to the log of changes, and forget the oldest.

    Ids follow the clock (microseconds), so that none is given twice where an older state of the file was restored.
    """
    last = connection.execute("SELECT max(id) FROM change").fetchone()[0] or 0
    first = max(last + 1, int(now * 1e6))
    connection.executemany("INSERT INTO change VALUES (?, ?)", enumerate(keys, first))
    oldest = connection.execute("SELECT id FROM change ORDER BY id DESC LIMIT 1 OFFSET ?", (2 * CHANGES_KEPT,))
    connection.execute("DELETE FROM change WHERE id <= ?", oldest.fetchone() or (0,))


def changes(connection: sqlite3.Connection, cursor: str) -> Changes:
    """Return what the log holds after a cursor."""
    log, _ = completeness(connection)
    last = connection.execute("SELECT max(id) FROM change").fetchone()[0] or 0
    present = f"{log}-{last}"
    if not cursor:
        return Changes(present)
    parsed = _CURSOR.fullmatch(cursor)
    if not (parsed and parsed[1] == log and _is_known(connection, int(parsed[2]))):
        return Changes(present, reset=True)
    words = "SELECT key FROM change WHERE id > ? AND id <= ? ORDER BY id"
    rows = connection.execute(words, (int(parsed[2]), last))
    return Changes(present, tuple(dict.fromkeys(key for (key,) in rows)))


def _is_known(connection: sqlite3.Connection, cursor: int) -> bool:
    """Return whether a cursor's entry is in the log: else those after it may be missing, or others."""
    if cursor:
        return connection.execute("SELECT 1 FROM change WHERE id = ?", (cursor,)).fetchone() is not None
    # From before the first announcement: nothing may have been forgotten since.
    return connection.execute("SELECT 1 FROM change LIMIT 1 OFFSET ?", (CHANGES_KEPT,)).fetchone() is None


def _move_ready(connection: sqlite3.Connection, queue: str, now: float, limit: int) -> None:
    connection.execute(
        "UPDATE due SET ready = 1 WHERE id IN"
        " (SELECT id FROM due WHERE queue = ? AND ready = 0 AND at <= ? ORDER BY at LIMIT ?)",
        (queue, now, limit),
    )


def _first_ready(connection: sqlite3.Connection, queue: str, limit: int) -> list[tuple[int, Due]]:
    words = "SELECT id, key, at, rank FROM due WHERE queue = ? AND ready = 1 ORDER BY rank, at LIMIT ?"
    return [(row[0], Due(*row[1:])) for row in connection.execute(words, (queue, limit))]


def _put_off(connection: sqlite3.Connection, rows: Sequence[tuple[float, int]]) -> None:
    connection.executemany("UPDATE due SET at = ?, ready = 0 WHERE id = ?", rows)
