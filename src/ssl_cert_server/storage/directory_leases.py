"""Leases of the directory backend: small files under ``_leases``, changed only under ``flock`` on ``.lock``.

Each instance holds a lock on a file of its own for as long as it lives, so that the leases of one that was killed are
free at once. Times are the machine's monotonic clock: all instances on it share that, and nobody can set it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import LeaseLost
from ssl_cert_server.files import read_regular
from ssl_cert_server.storage.base import Lease
from ssl_cert_server.storage.directory_locks import FileLock, is_locked
from ssl_cert_server.storage.folders import create_file, create_folder, identity, make_folder

_MAX_RECORD = 4096
"""Bytes of a lease's record, or of the last token; ours have about a hundred."""


@dataclass(frozen=True, slots=True)
class _Record:
    token: int
    holder: str
    until: float


class DirectoryLeases:
    """Blocking calls: the backend runs them in its threads."""

    def __init__(self, root: Path, instance: str, clock: Clock) -> None:
        """The lock isn't taken for this, so that an instance starts while another is stopped with it."""
        self._folder = root / "_leases"
        create_folder(self._folder)
        self._lock = FileLock(root / ".lock")
        self._last_token = root / ".last-token"
        self._instance = instance
        self._clock = clock
        self.mark = self._holder_path(instance)
        """The file that tells that this instance is alive; no other directory has one of that name."""
        self._lock.make()
        self._remove_dead_holders()
        self._alive = self._make_mark()

    def acquire(self, name: str, seconds: float, until: float) -> Lease | None:
        """``until`` (``time.monotonic``), here and below, ends the wait for the lock."""
        path = self._folder / name
        make_folder(path.parent, durable=False)  # before the lock is held, which is to be held for moments only
        with self._lock.held(until):
            record = _load(path)
            if record and record.until > self._clock.monotonic() and self.is_alive(record.holder):
                return None
            self._stay_alive()
            lease = Lease(name, self._next_token())
            self._store(lease, seconds)
            return lease

    def renew(self, lease: Lease, seconds: float, until: float) -> None:
        with self.held(lease, until):
            self._store(lease, seconds)

    def release(self, lease: Lease, until: float) -> None:
        with self._lock.held(until):
            if self._holds(lease):
                (self._folder / lease.name).unlink()

    @contextmanager
    def held(self, lease: Lease | None, until: float) -> Iterator[None]:
        """Run the block with nobody able to take the lease over; with no lease, simply run it.

        :raises LeaseLost: somebody else has it.
        """
        if lease is None:
            yield
            return
        with self._lock.held(until):
            if not self._holds(lease):
                raise LeaseLost(f"the lease {lease.name} was taken over by another instance")
            yield

    def check_writable(self, until: float) -> None:
        """Write the last token again, as taking a lease does.

        :raises OSError: no lease could be taken now.
        """
        with self._lock.held(until), suppress(FileNotFoundError):
            self._replace(self._last_token, read_regular(self._last_token, _MAX_RECORD))

    def close(self) -> None:
        """Let go of everything; where the directory can't be written any more, a later start removes our file."""
        with suppress(OSError):
            self.mark.unlink(missing_ok=True)
        os.close(self._alive)
        self._lock.close()

    def is_alive(self, instance: str) -> bool:
        """Tell whether an instance's process lives."""
        if instance == self._instance:
            return True
        try:
            return is_locked(self._holder_path(instance))
        except FileNotFoundError:
            return False

    def _holds(self, lease: Lease) -> bool:
        record = _load(self._folder / lease.name)
        return record is not None and (record.token, record.holder) == (lease.token, self._instance)

    def _store(self, lease: Lease, seconds: float) -> None:
        record = _Record(lease.token, self._instance, self._clock.monotonic() + seconds)
        self._replace(self._folder / lease.name, json.dumps(asdict(record)).encode())

    def _next_token(self) -> int:
        try:
            last = int(read_regular(self._last_token, _MAX_RECORD))
        except (FileNotFoundError, ValueError):
            last = self._greatest_token_in_use()
        self._replace(self._last_token, str(last + 1).encode())
        return last + 1

    def _replace(self, path: Path, content: bytes) -> None:
        """Write a file in one step: a full disk, or our end, must not take away what it held.

        One temporary file is enough, as the lock is held. It isn't synced: a crash of the machine ends every holder
        as well.
        """
        temporary = self._folder / ".new"
        temporary.unlink(missing_ok=True)  # of one that was killed, maybe another user's
        with open(create_file(temporary), "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(content)
        temporary.replace(path)

    def _greatest_token_in_use(self) -> int:
        records = (_load(path) for path in self._folder.rglob("*") if path.is_file())
        return max((record.token for record in records if record), default=0)

    def _holder_path(self, instance: str) -> Path:
        return self._folder / f".holder-{instance}"

    def _make_mark(self) -> int:
        """Create the file that tells that this instance is alive: it is locked before anybody sees it."""
        temporary = self._folder / f".tmp-{self._instance}-mark"
        temporary.unlink(missing_ok=True)
        descriptor = create_file(temporary)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.replace(self.mark)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _stay_alive(self) -> None:
        """Put our file back where somebody removed it, or copied the directory."""
        with suppress(FileNotFoundError):
            found = os.fstat(self._alive)
            if identity(self.mark) == (found.st_dev, found.st_ino):
                return
        make_folder(self._folder, durable=False)
        before, self._alive = self._alive, self._make_mark()
        os.close(before)

    def _remove_dead_holders(self) -> None:
        for path in self._folder.glob(".holder-*"):
            with suppress(FileNotFoundError):
                if not is_locked(path):
                    path.unlink()


def _load(path: Path) -> _Record | None:
    """Read a lease's record; one that makes no sense is nobody's."""
    try:
        record = json.loads(read_regular(path, _MAX_RECORD))
        return _Record(int(record["token"]), str(record["holder"]), float(record["until"]))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        return None
