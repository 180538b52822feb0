"""Calls that wait for one another, and work in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from ssl_cert_server.errors import ChallengeFailed

SIDE_BY_SIDE = 4
"""Calls that one provider serves at once."""

TURN_DEADLINE = 100.0
"""Seconds that a call waits until those before it are done."""

_T = TypeVar("_T")


class Turns:
    """At most four calls at once, and only one of them for each zone or record (``place``)."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._free = asyncio.Semaphore(SIDE_BY_SIDE)
        self._places: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def at(self, place: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it.

        :raises ChallengeFailed: the calls before it took too long.
        """
        lock, waiting = self._places.get(place, (asyncio.Lock(), 0))
        self._places[place] = lock, waiting + 1
        try:
            await self._take(lock, place)
            try:
                yield
            finally:
                self._free.release()
                lock.release()
        finally:
            lock, waiting = self._places.pop(place)
            if waiting > 1:
                self._places[place] = lock, waiting - 1

    async def _take(self, lock: asyncio.Lock, place: str) -> None:
        try:
            async with asyncio.timeout(TURN_DEADLINE):
                await lock.acquire()
                try:
                    await self._free.acquire()
                except BaseException:
                    lock.release()
                    raise
        except TimeoutError:
            raise ChallengeFailed(
                f"{self._provider}: no turn for {place} within {TURN_DEADLINE:g} s; earlier calls take too long"
            ) from None


class Threads:
    """Runs what blocks in threads of its own, at most four at once.

    They are daemons, unlike those of an executor: one that hangs delays neither the loop nor the end of the process.
    It keeps its place, though, until it comes back.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._free = asyncio.Semaphore(SIDE_BY_SIDE)

    async def run(self, work: Callable[[], _T], deadline: float) -> _T:
        """Give what ``work`` gives; it must not raise.

        :raises TimeoutError: not within ``deadline`` seconds; the thread goes on.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()

        def finish(value: _T) -> None:
            self._free.release()
            if not result.done():
                result.set_result(value)

        def body() -> None:
            value = work()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, value)

        async with asyncio.timeout(deadline):
            await self._free.acquire()
            try:
                threading.Thread(target=body, name=self._name, daemon=True).start()
            except RuntimeError:
                self._free.release()
                raise
            return await result
