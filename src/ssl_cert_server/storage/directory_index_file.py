"""The index's file: opened when it is wanted, made where it is missing, set aside where it is of no use.

Whoever opens, closes or replaces it holds ``.index.lock``: SQLite, when it closes a file, removes what lies beside it
by name, and must not meet another file there by then. Nothing else here may open the file: closing any descriptor of
it would drop the locks that SQLite holds for this process.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage import directory_index_sql as sql
from ssl_cert_server.storage.directory_errors import primary_code
from ssl_cert_server.storage.directory_locks import LEAST, FileLock, lock_file, lock_holders, locked
from ssl_cert_server.storage.directory_threads import Call
from ssl_cert_server.storage.folders import Place, create_file, identity, sync_file, sync_folder

_T = TypeVar("_T")
_log = structlog.get_logger()

NAME = ".index.sqlite"
_TURN = ".index.turn"
"""Locked by the process that writes to the index."""

_BROKEN = f"{NAME}.broken-"
_BROKEN_KEPT = 3
_NEVER_OPENED = (0, 0)
_SECTOR = 512
_USELESS = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SETTINGS = """
PRAGMA cache_size = -8000;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 16777216;
PRAGMA mmap_size = 0;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
PRAGMA temp_store = MEMORY;
"""


class _Useless(OSError):
    """The file is no index of ours, or can't be read."""


class IndexFile:
    """One connection, for one thread at a time. Where the file was replaced, by whomever, it is opened anew."""

    def __init__(self, root: Path, place: Place, clock: Clock) -> None:
        self.path = root / NAME
        self._root = root
        self._place = place
        self._clock = clock
        # SQLite's own wait polls: a process that writes without a pause would keep the others waiting until they fail.
        self._turn = FileLock(root / _TURN)
        self._connection: sqlite3.Connection | None = None
        self._identity = _NEVER_OPENED
        self._until = 0.0

    def read(self, work: Callable[[sqlite3.Connection], _T], call: Call) -> _T:
        """Have the work see one state of the index."""

        def done(connection: sqlite3.Connection) -> _T:
            with _transaction(connection, "DEFERRED"):
                return work(connection)

        return self._with(done, call)

    def write(self, work: Callable[[sqlite3.Connection], _T], call: Call, *, durable: bool) -> _T:
        """Have the work change the index in one step, which survives the machine where it is ``durable``.

        Nothing is changed where the call was given up by then. Whatever comes later has to wait for this one to end.
        """

        def done(connection: sqlite3.Connection) -> _T:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with self._turn.held(self._until):
                self._limit_wait(connection)
                with _transaction(connection, "IMMEDIATE"):
                    result = work(connection)
                    call.check()
            if not self._is_current():
                raise _Useless("it was replaced in the middle of a write")
            return result

        return self._with(done, call)

    def close(self) -> None:
        """Let go of the file."""
        self._until = Call().until
        with suppress(OSError):  # the end of the process closes it as well
            self._close()
        self._turn.close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            with self._exclusively():
                connection.close()
        except OSError as error:
            if error.errno == errno.EBUSY:
                self._connection = connection
                raise
        connection.close()  # where there is no directory any more, there is nobody to meet

    def _with(self, work: Callable[[sqlite3.Connection], _T], call: Call) -> _T:
        self._until = call.until
        try:
            return self._twice(work)
        except sqlite3.Error as error:
            held = primary_code(error) == sqlite3.SQLITE_BUSY and self._held_by_another()
            if held:
                raise held from error
            raise

    def _twice(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            return self._once(work)
        except _Useless:
            return self._once(work)

    def _once(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        self._place.check()
        connection = self._current()
        try:
            self._limit_wait(connection)
            return work(connection)
        except sqlite3.Error as error:
            if primary_code(error) == sqlite3.SQLITE_BUSY:
                raise
            self._close()  # a descriptor from before the disk's failure may never work again
            if primary_code(error) in _USELESS:
                with self._exclusively():
                    if self._is_current():
                        self._replace(str(error))
            if not self._is_current():
                raise _Useless(str(error)) from error
            raise

    def _current(self) -> sqlite3.Connection:
        if self._connection is not None and self._is_current():
            return self._connection
        self._close()
        with self._exclusively():
            if not os.path.lexists(self.path):
                if self._identity != _NEVER_OPENED:
                    _log.error("storage.index_lost", path=str(self.path), reason="the file is gone", kept_as=None)
                self._make()
            try:
                self._connection = self._open()
            except _Useless as useless:
                self._replace(str(useless))
                self._connection = self._open()
            self._identity = identity(self.path)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self._check_files()
        connection = connect(self.path, self._left())
        try:
            connection.executescript(_SETTINGS)
            if not sql.is_ours(connection):
                raise _Useless("not an index of this version")
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error) and primary_code(error) in _USELESS:
                raise _Useless(str(error)) from error
            raise
        return connection

    def _check_files(self) -> None:
        for path in self._files(self.path):
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise _Useless(f"{path.name} is not a file")
        for path in self._files(self.path):
            if path.exists() and not os.access(path, os.R_OK | os.W_OK) and os.access(self._root, os.W_OK):
                raise _Useless(f"{path.name} can't be read and written by the server's user")
        if self.path.stat().st_size % _SECTOR and not self._files(self.path)[1].exists():
            raise _Useless("it was cut short")

    def _make(self) -> None:
        """Make an empty one, complete with its tables, and put it in its place."""
        self._place.check()
        new = self._root / f".tmp-index-{uuid.uuid4().hex}"
        os.close(create_file(new))
        try:
            connection = connect(new, self._left())
            try:
                sql.create(connection)
            finally:
                connection.close()
            sync_file(new)
            for beside in self._files(self.path)[1:]:
                beside.unlink(missing_ok=True)  # of one that is gone: SQLite would take it for the new one's
            new.replace(self.path)
        except BaseException:
            for path in self._root.glob(f"{new.name}*"):
                path.unlink(missing_ok=True)
            raise
        sync_folder(self._root)

    def _replace(self, reason: str) -> None:
        """Keep what is of no use for a look at it. The file itself goes first: without its log it would look sound."""
        kept = self._set_aside_before()
        stamp = max([int(self._clock.now()), *(number + 1 for number, _ in kept)])
        aside = self._root / f"{_BROKEN}{stamp}"
        for old, new in zip(self._files(self.path), self._files(aside), strict=True):
            with suppress(FileNotFoundError):
                old.rename(new)
        _log.error("storage.index_lost", path=str(self.path), reason=reason, kept_as=aside.name)
        for _, path in kept[: -(_BROKEN_KEPT - 1)]:
            for file in self._files(path):
                with suppress(OSError):  # it is in nobody's way
                    file.unlink(missing_ok=True)
        self._make()

    def _set_aside_before(self) -> list[tuple[int, Path]]:
        names = (path.name.removeprefix(_BROKEN) for path in self._root.glob(f"{_BROKEN}*"))
        return sorted((int(name), self._root / f"{_BROKEN}{name}") for name in names if name.isdecimal())

    def _is_current(self) -> bool:
        try:
            return identity(self.path) == self._identity
        except FileNotFoundError:
            return False

    @staticmethod
    def _files(path: Path) -> list[Path]:
        return [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]

    def _limit_wait(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout = {int(self._left() * 1000)}")

    def _left(self) -> float:
        return max(self._until - time.monotonic(), LEAST)

    def _held_by_another(self) -> OSError | None:
        """Name the process that keeps the index locked: SQLite locks bytes of the file for shared memory."""
        shared = self._files(self.path)[2]
        others = [pid for pid in lock_holders(shared, "POSIX") if pid != os.getpid()]
        return locked(shared, others) if others else None

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        lock = self._root / ".index.lock"
        try:
            descriptor = lock_file(lock, time.monotonic() + self._left())
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} ({lock})") from error
        try:
            yield
        finally:
            os.close(descriptor)


def connect(path: Path, patience: float) -> sqlite3.Connection:
    """Open a file that is there; SQLite would make one that others may read. ``patience`` (seconds) is for locks."""
    place = f"file:{quote(os.fspath(path))}?mode=rw"
    return sqlite3.connect(place, timeout=patience, isolation_level=None, check_same_thread=False, uri=True)


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # over already, or the connection is given up
            connection.execute("ROLLBACK")
        raise
