"""One piece of work per name at a time, with everybody who asks waiting for the same result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ssl_cert_server.errors import Unavailable

_T = TypeVar("_T")

_AFTER_RESTART = 2.0


class Flights(Generic[_T]):
    """Runs work in tasks of its own, so that a waiter that leaves cancels nothing."""

    def __init__(self, max_flights: int) -> None:
        self._max = max_flights
        self._tasks: dict[str, asyncio.Task[_T]] = {}

    @property
    def full(self) -> bool:
        """Whether no work for a further name is taken now."""
        return len(self._tasks) >= self._max

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    async def join(self, name: str, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Wait for the work on ``name`` that is under way, or start it.

        The work's outcome, an exception included, goes to every waiter; Unavailable where it was cancelled.
        """
        task = self.start(name, work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # the waiter leaves
            raise Unavailable(f"{name}: the server is stopping", _AFTER_RESTART) from None

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, _T]]) -> asyncio.Task[_T]:
        """Start the work on ``name``, unless it is under way; nobody has to wait for it."""
        task = self._tasks.get(name)
        if task is None:
            task = asyncio.create_task(work(), name=f"flight {name}")
            self._tasks[name] = task
            task.add_done_callback(lambda done: self._land(name, done))
        return task

    async def close(self) -> None:
        """Cancel what is under way and wait until it ended."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _land(self, name: str, task: asyncio.Task[_T]) -> None:
        del self._tasks[name]
        if not task.cancelled():
            task.exception()  # seen: all waiters may have left before it failed
