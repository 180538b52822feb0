"""Storage in one SQLite file, for instances on one machine: ``storage: {type: sqlite, sqlite: {path: certs.db}}``."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import CHANGES_KEPT, Changes, Due, Lease, check_key, check_value, never_asked

_T = TypeVar("_T")
_Rows = list[Any]  # in the class, ``list`` is a method
_DEADLINE, _POLL, _PAGE = 30.0, 0.25, 500
_SCHEMA = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, folder TEXT NOT NULL, value BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS kept_folder ON kept (folder, key);
CREATE TABLE IF NOT EXISTS probe (value BLOB);
CREATE TABLE IF NOT EXISTS token (id INTEGER PRIMARY KEY, last INTEGER); INSERT OR IGNORE INTO token VALUES (1, 0);
CREATE TABLE IF NOT EXISTS lease (name TEXT PRIMARY KEY, token INTEGER, until REAL, holder TEXT);
CREATE TABLE IF NOT EXISTS due (queue TEXT, key TEXT, at REAL, rank REAL, ready INTEGER, PRIMARY KEY (queue, key));
CREATE INDEX IF NOT EXISTS due_at ON due (queue, ready, at);
CREATE INDEX IF NOT EXISTS due_rank ON due (queue, ready, rank);
CREATE TABLE IF NOT EXISTS change (number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT);
"""


def open_storage(settings: Mapping[str, object], clock: Clock) -> SqliteStorage:
    """Open the file that ``storage.sqlite.path`` names: what the entry point leads to."""
    path = settings.get("path")
    if not isinstance(path, str) or set(settings) != {"path"}:
        raise StorageError("storage.sqlite must have one key: path, the database's file")
    return SqliteStorage(Path(path), clock)


class SqliteStorage:
    """See :class:`ssl_cert_server.storage.base.Storage`. One thread does all work of an instance, in order."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock, self._holder = path, clock, uuid.uuid4().hex
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"can't open {path}: {error}") from error
        self._thread, self._closed, self._asked = ThreadPoolExecutor(1, thread_name_prefix="sqlite"), False, False

    async def get(self, key: str) -> bytes | None:
        check_key(key)
        return next(iter(await self._rows(key, "SELECT value FROM kept WHERE key = ?", key)), (None,))[0]

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        folder = "/".join(check_key(key)[:-1])
        check_value(key, value)
        await self._rows(key, "REPLACE INTO kept VALUES (?, ?, ?)", key, folder, value, lease=lease)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        check_key(key)
        await self._rows(key, "DELETE FROM kept WHERE key = ?", key, lease=lease)

    async def list(self, folder: str = "") -> AsyncIterator[str]:
        if folder:
            check_key(folder)
        query, last = "SELECT key FROM kept WHERE folder = ? AND key > ? ORDER BY key LIMIT ?", ""
        while rows := await self._rows(folder, query, folder, last, _PAGE):
            for (last,) in rows:
                yield last

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        check_key(name)
        return await self._call(name, lambda: self._acquire(name, seconds))

    async def renew(self, lease: Lease, seconds: float) -> None:
        query = "UPDATE lease SET until = ? WHERE name = ?"
        await self._rows(lease.name, query, self._clock.now() + seconds, lease.name, lease=lease)

    async def release(self, lease: Lease) -> None:
        await self._rows(lease.name, "DELETE FROM lease WHERE name = ? AND token = ?", lease.name, lease.token)

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        rows = [(queue, "/".join(check_key(entry.key)), entry.at, entry.rank) for entry in entries]
        await self._call(queue, lambda: self._database.executemany("REPLACE INTO due VALUES (?, ?, ?, ?, 0)", rows))

    async def unschedule(self, queue: str, keys: Sequence[str]) -> None:
        rows, query = [(queue, key) for key in keys], "DELETE FROM due WHERE queue = ? AND key = ?"
        await self._call(queue, lambda: self._database.executemany(query, rows))

    async def scheduled(self, queue: str, key: str) -> Due | None:
        rows = await self._rows(queue, "SELECT key, at, rank FROM due WHERE queue = ? AND key = ?", queue, key)
        return Due(*rows[0]) if rows else None

    async def claim(self, queue: str, *, now: float, limit: int, seconds: float) -> Sequence[Due]:
        return await self._call(queue, lambda: self._claim(queue, now, limit, seconds))

    async def next_due(self, queue: str) -> float | None:
        query = "SELECT min(at) FROM due WHERE queue = ? AND ready = ?"  # one look into an index for each ``ready``
        rows = [row for ready in (0, 1) for row in await self._rows(queue, query, queue, ready)]
        return min((at for (at,) in rows if at is not None), default=None)

    async def list_due(self, queue: str) -> AsyncIterator[Due]:
        query, last = "SELECT key, at, rank FROM due WHERE queue = ? AND key > ? ORDER BY key LIMIT ?", ""
        while rows := await self._rows(queue, query, queue, last, _PAGE):
            for last, at, rank in rows:
                yield Due(last, at, rank)

    async def index_complete(self) -> bool:
        self._asked = True
        return await self._rows("index", "PRAGMA user_version") == [(1,)]

    async def mark_index_complete(self) -> None:
        if not self._asked:
            raise never_asked()
        await self._rows("index", "PRAGMA user_version = 1")

    async def announce(self, keys: Sequence[str]) -> None:
        await self._call("changes", lambda: self._announce(keys))

    async def changes(self, cursor: str, wait: float) -> Changes:
        until = self._clock.monotonic() + wait
        while True:
            found = await self._call("changes", lambda: self._changes(cursor))
            if found.keys or found.reset or not cursor or self._clock.monotonic() >= until:
                return found
            await asyncio.sleep(_POLL * (1 + self._clock.random()))

    async def check_writable(self) -> None:
        for query in ("INSERT INTO probe VALUES (zeroblob(16384))", "DELETE FROM probe"):
            await self._rows("probe", query)

    async def close(self) -> None:
        if not self._closed:
            await self._rows("leases", "DELETE FROM lease WHERE holder = ?", self._holder)
            self._closed = True
            self._thread.shutdown()
            self._database.close()

    def _acquire(self, name: str, seconds: float) -> Lease | None:
        now = self._clock.now()
        if self._run("SELECT 1 FROM lease WHERE name = ? AND until > ?", name, now).fetchone():
            return None
        (token,) = self._run("UPDATE token SET last = last + 1 RETURNING last").fetchone()
        self._run("REPLACE INTO lease VALUES (?, ?, ?, ?)", name, token, now + seconds, self._holder)
        return Lease(name, token)

    def _claim(self, queue: str, now: float, limit: int, seconds: float) -> Sequence[Due]:
        # What came due is marked once, so that the lowest rank of it is found by an index.
        self._run("UPDATE due SET ready = 1 WHERE queue = ? AND ready = 0 AND at <= ?", queue, now)
        query = "SELECT key, at, rank FROM due WHERE queue = ? AND ready = 1 AND at <= ? ORDER BY rank LIMIT ?"
        found = [Due(*row) for row in self._run(query, queue, now, limit)]
        again = [(now + seconds, queue, entry.key) for entry in found]
        self._database.executemany("UPDATE due SET ready = 0, at = ? WHERE queue = ? AND key = ?", again)
        return found

    def _announce(self, keys: Sequence[str]) -> None:
        self._database.executemany("INSERT INTO change (key) VALUES (?)", [(key,) for key in keys])
        self._run("DELETE FROM change WHERE number <= (SELECT max(number) FROM change) - ?", 2 * CHANGES_KEPT)

    def _changes(self, cursor: str) -> Changes:
        first, last = self._run("SELECT min(number), max(number) FROM change").fetchone()
        end = str(last or 0)
        since = int(cursor) if cursor.isdecimal() and len(cursor) < 18 else -1
        if not cursor or not (first or 1) - 1 <= since <= int(end):
            return Changes(end, reset=bool(cursor))
        rows = self._run("SELECT key FROM change WHERE number > ? ORDER BY number", since)
        return Changes(end, tuple(dict.fromkeys(key for (key,) in rows)))

    async def _rows(self, key: str, query: str, *values: object, lease: Lease | None = None) -> _Rows:
        return await self._call(key, lambda: self._run(query, *values).fetchall(), lease)

    def _run(self, query: str, *values: object) -> sqlite3.Cursor:
        return self._database.execute(query, values)

    async def _call(self, key: str, work: Callable[[], _T], lease: Lease | None = None) -> _T:
        """Do work in a transaction of its own, under a lease; what its caller gave up is not done later."""
        given_up = threading.Event()

        def transaction() -> _T:
            with self._database:  # commits, or rolls back
                self._run("BEGIN IMMEDIATE")
                if given_up.is_set():
                    raise StorageError(f"{key} in {self._path} was given up")
                held = "SELECT 1 FROM lease WHERE name = ? AND token = ?"
                if lease is not None and not self._run(held, lease.name, lease.token).fetchone():
                    raise LeaseLost(f"the lease {lease.name} was taken over by another instance")
                return work()

        try:
            async with asyncio.timeout(_DEADLINE):
                return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except (sqlite3.Error, TimeoutError, RuntimeError) as error:  # RuntimeError: it is closed
            raise StorageError(f"can't use {key} in {self._path}: {str(error) or 'no answer'}") from error
        finally:
            given_up.set()
