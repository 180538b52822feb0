"""Threads for calls that may block for long, or for ever: nothing waits for them without a bound."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.directory_errors import translated

_T = TypeVar("_T")

DEADLINE = 30.0
"""Seconds that one call may take."""

PATIENCE = 5.0
"""Seconds that a call waits for locks that other processes hold, counted from when it was made.

That is far below the time of a lease (``leasing.LEASE_SECONDS``): a holder that can't renew one has time to find out.
"""

_WAITING = 10_000
"""Calls that wait for a thread at most; where a file system hangs, more would only take memory."""

_CLOSED = "the storage is closed"


class Closed(Exception):
    """No work is taken: the storage is closed, or too many calls wait."""


class Call:
    """One call, which waits for locks until ``until`` (``time.monotonic``), and which its caller may give up.

    It is entered for the step that makes a write visible.

    What was given up must not land after a later write of the same key that was acknowledged. So one at a time takes
    that step: none can be given up, and overtaken, between its look at ``given_up`` and the step itself.
    """

    _landing = threading.Lock()

    def __init__(self) -> None:
        self.given_up = False
        self.until = time.monotonic() + PATIENCE

    def check(self) -> None:
        """:raises StorageError: nobody waits for it any more."""
        if self.given_up:
            raise StorageError("given up before it was done")

    def __enter__(self) -> None:
        self._landing.acquire()
        try:
            self.check()
        except BaseException:
            self._landing.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._landing.release()


class Threads:
    """At most ``number`` threads, started when wanted.

    They are daemons: where one hangs in a dead file system, neither ``close`` nor the end of the process waits for it,
    as they would for those of ``concurrent.futures``.
    """

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._guard = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    async def run(self, path: Path, action: str, work: Callable[[], _T], call: Call | None = None) -> _T:
        """Have a thread do the work.

        :raises StorageError: it failed, or took more than :data:`DEADLINE`; it names ``action`` and ``path``.
        """

        def done() -> _T:
            with translated(path, action):
                return work()

        try:
            async with asyncio.timeout(DEADLINE):
                return await asyncio.wrap_future(self.submit(done))
        except TimeoutError as error:
            raise StorageError(f"can't {action} {path}: no answer in {DEADLINE:.0f} s") from error
        except Closed as error:
            raise StorageError(f"can't {action} {path}: {error}") from error
        finally:
            if call is not None:
                call.given_up = True

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """:raises Closed: no work is taken."""
        with self._guard:
            if self._closed:
                raise Closed(_CLOSED)
            if self._jobs.qsize() >= _WAITING:
                raise Closed(f"{_WAITING} calls wait already; look for a disk that hangs (dmesg)")
            future: Future[_T] = Future()
            self._jobs.put((future, work))
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._number:
                name = f"{self._name}-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()
        return future

    def close(self) -> None:
        """Take no more work, and drop what has not begun."""
        with self._guard:
            self._closed = True
            with suppress(queue.Empty):
                while job := self._jobs.get_nowait():
                    if job[0].set_running_or_notify_cancel():
                        job[0].set_exception(Closed(_CLOSED))
            for _ in self._threads:
                self._jobs.put(None)

    def join(self) -> None:
        """Wait until all that had begun is done; blocks, for ever where a thread hangs."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while job := self._jobs.get():
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
                    future.set_exception(error)
            del job, future, work  # or they, and what they hold, live until the next one comes
            self._idle.release()
