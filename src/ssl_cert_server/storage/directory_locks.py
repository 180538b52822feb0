"""Locks that instances on one directory share: ``flock`` on a file, waited for within a bound.

A process that is stopped (SIGSTOP, ``docker pause``, a debugger) keeps its locks, and nobody else can break them. So
every wait ends, and its error names the process that holds the lock, where the system shows it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ssl_cert_server.files import open_regular
from ssl_cert_server.storage.folders import keep_owner

LEAST = 0.05
"""Seconds that a lock is waited for at least, by a call whose time went by before it came to that."""

_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.02
"""Seconds between two tries; the lock is held for far less than one of them."""


class FileLock:
    """An exclusive lock, between threads as well as processes: one thread of an instance at a time tries the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()

    def make(self) -> None:
        """Create the file where it is missing.

        :raises OSError: it can't be opened.
        """
        os.close(_open(self._path))

    @contextmanager
    def held(self, until: float) -> Iterator[None]:
        """Hold the lock during the block. ``until`` (``time.monotonic``) ends the wait for it.

        :raises OSError: another process held it all the time, or the file can't be opened.
        """
        until = max(until, time.monotonic() + LEAST)
        if not self._turn.acquire(timeout=until - time.monotonic()):
            raise locked(self._path, lock_holders(self._path, "FLOCK"))
        try:
            descriptor = lock_file(self._path, until)
            try:
                yield
            finally:
                os.close(descriptor)
        finally:
            self._turn.release()


def lock_file(path: Path, until: float) -> int:
    """Open a file, creating it where it is missing, and lock it exclusively; closing the descriptor unlocks it.

    :raises OSError: another process held the lock until then, or the file can't be opened.
    """
    descriptor = _open(path)
    try:
        pause = _FIRST_PAUSE
        while not _try_lock(descriptor):
            left = until - time.monotonic()
            if left <= 0:
                raise locked(path, lock_holders(path, "FLOCK"))
            time.sleep(min(pause * (1 + random.random()), left))  # noqa: S311 - spreads load, protects nothing
            pause = min(pause * 2, _LONGEST_PAUSE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(path: Path) -> bool:
    """Return whether a process holds the exclusive lock on a file, which must exist; those who ask don't count."""
    descriptor = open_regular(path)
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def locked(path: Path, holders: Sequence[int]) -> OSError:
    """Return the error for a lock that was not to be had: which process holds it, and what to do."""
    if not holders:
        words = (
            "it is locked by a process that can't be seen from here; look for an instance that is stopped, paused or "
            "hangs, and continue it (kill -CONT, docker unpause) or end it"
        )
    else:
        pid = holders[0]
        words = (
            f"it is locked by process {pid}{', which is stopped' if _is_stopped(pid) else ''}; continue it "
            f"(kill -CONT {pid}, docker unpause), or end it where it hangs (kill -KILL {pid})"
        )
    return OSError(errno.EBUSY, words, os.fspath(path))


def lock_holders(path: Path, kind: str) -> list[int]:
    """Return the ids of the processes that hold a write lock on a file, as far as the system shows them.

    ``kind`` is ``FLOCK`` or ``POSIX``, the latter for ``fcntl``'s.
    """
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    return [pid for line in lines if (pid := _holder(line, kind, inode))]


def _holder(line: str, kind: str, inode: int) -> int:
    """Parse ``1: FLOCK ADVISORY WRITE 4711 fe:00:1234 0 EOF``; 0 where it is about another lock.

    The device is not compared: on overlay file systems it is another one than ``stat`` returns.
    """
    fields = line.split()  # one that waits has another field, "->", before the kind
    if len(fields) < 6 or fields[1] != kind or fields[3] != "WRITE" or not fields[4].isdecimal():
        return 0
    return int(fields[4]) if fields[5].rpartition(":")[2] == str(inode) else 0


def _is_stopped(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[:1] in (["T"], ["t"])


def _open(path: Path) -> int:
    try:
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return open_regular(path, os.O_RDWR)
    keep_owner(descriptor, path.parent)
    return descriptor


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
