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
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ssl_cert_server.files import open_regular
from ssl_cert_server.storage.directory_threads import Threads
from ssl_cert_server.storage.folders import own

LEAST = 0.05
"""Seconds that a lock is waited for at least, by a call whose time went by before it came to that."""

_WAITING = 8
"""Threads that wait for one lock; while a process is stopped with it, the calls beyond that wait for a thread."""

_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.02
"""Seconds between two tries; the lock is held for far less than one of them."""


class FileLock:
    """An exclusive lock, between threads as well as processes.

    A lock that is taken is waited for in the kernel, which wakes everyone who waits when it is released: processes that
    lock in turn all get on. The system call has no timeout, so it runs in a thread of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting = Threads(_WAITING, "storage-flock")
        self._free = threading.Semaphore(_WAITING)

    def make(self) -> None:
        """Create the file where it is missing.

        :raises OSError: it can't be opened.
        """
        os.close(_open(self._path))

    def close(self) -> None:
        """Stop the threads; one that waits for a stopped process ends with the lock, or with this process."""
        self._waiting.close()

    @contextmanager
    def held(self, until: float) -> Iterator[None]:
        """Hold the lock during the block. ``until`` (``time.monotonic``) ends the wait for it.

        :raises OSError: another process held it all the time, or the file can't be opened.
        """
        until = max(until, time.monotonic() + LEAST)
        descriptor = _open(self._path)
        try:
            locking = None if _try_lock(descriptor) else self._start_waiting(descriptor, until)
        except BaseException:
            os.close(descriptor)
            raise
        if locking is not None:
            self._wait(locking, descriptor, until)
        try:
            yield
        finally:
            os.close(descriptor)

    def _start_waiting(self, descriptor: int, until: float) -> Future[None]:
        if not self._free.acquire(timeout=max(0.0, until - time.monotonic())):
            raise self._locked()
        locking = self._waiting.submit(partial(fcntl.flock, descriptor, fcntl.LOCK_EX))
        locking.add_done_callback(lambda _: self._free.release())
        return locking

    def _wait(self, locking: Future[None], descriptor: int, until: float) -> None:
        try:
            locking.result(max(0.0, until - time.monotonic()))
        except BaseException as error:
            # Not before the system call has returned: the number may be another file's by then.
            locking.add_done_callback(lambda _: os.close(descriptor))
            if isinstance(error, TimeoutError):
                raise self._locked() from error
            raise

    def _locked(self) -> OSError:
        return locked(self._path, lock_holders(self._path, "FLOCK"))


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
    own(descriptor, path)
    return descriptor


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
