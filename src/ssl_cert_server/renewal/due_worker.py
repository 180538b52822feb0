"""Works off one queue of the due index: the most pressing first, a few at a time, for all instances."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.renewal.clock_marks import ClockMarks
from ssl_cert_server.storage.base import Due, Storage

_log = structlog.get_logger()

# The wall clock may jump, and peers schedule, too; a nap this short notices soon enough.
_LONGEST_NAP = 60.0
_AFTER_ERROR = 10.0
CLAIMED_FOR = 90.0
"""Seconds from now within which an entry comes up again that somebody is at, or was when its server died."""


class DueWorker:
    """Has ``work`` done for each entry when it is due, ``side_by_side`` at most.

    ``work`` schedules its entry anew, or takes it out; it never raises. While it works, the claim is kept alive; where
    its server died, another takes the entry up within a minute and a half.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        queue: str,
        work: Callable[[Due], Awaitable[None]],
        *,
        marks: ClockMarks,
        sooner: asyncio.Event,
        side_by_side: int,
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._queue = queue
        self._work = work
        self._marks = marks
        self._sooner = sooner
        self._slots = asyncio.Semaphore(side_by_side)
        self._paused_until = float("-inf")

    def pause(self, seconds: float) -> bool:
        """Begin nothing for a while; False where that was said already."""
        until = self._clock.monotonic() + seconds
        if until <= self._paused_until:
            return False
        self._paused_until = until
        return True

    async def run(self) -> None:
        """Work, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._slots.acquire()
                entry = await self._next()
                group.create_task(self._do(entry))

    async def _do(self, entry: Due) -> None:
        keeping = asyncio.create_task(self._keep(entry))
        try:
            await self._work(entry)
        finally:
            keeping.cancel()
            self._slots.release()

    async def _keep(self, entry: Due) -> None:
        while True:
            await self._clock.sleep(CLAIMED_FOR / 3)
            try:
                again = Due(entry.key, await self._marks.note() + CLAIMED_FOR, entry.rank)
                await self._storage.schedule(self._queue, [again])
            except StorageError as error:
                _log.warning("renewal.index_unreadable", queue=self._queue, reason=str(error))

    async def _next(self) -> Due:
        while True:
            while (pause := self._paused_until - self._clock.monotonic()) > 0:
                await self._clock.sleep(pause)
            self._sooner.clear()
            try:
                now = await self._marks.note()
                claimed = await self._storage.claim(self._queue, now=now, limit=1, seconds=CLAIMED_FOR)
                if claimed:
                    return claimed[0]
                due_at = await self._storage.next_due(self._queue)
            except StorageError as error:
                _log.warning("renewal.index_unreadable", queue=self._queue, reason=str(error))
                await self._clock.sleep(_AFTER_ERROR * (1 + self._clock.random()))
                continue
            nap = _LONGEST_NAP if due_at is None else max(0.0, due_at - self._clock.now())
            await self._nap(min(nap, _LONGEST_NAP))

    async def _nap(self, seconds: float) -> None:
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        woken = asyncio.ensure_future(self._sooner.wait())
        try:
            await asyncio.wait({sleeping, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            woken.cancel()
