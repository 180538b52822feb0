"""An event loop in a thread of its own, for servers that tests run beside themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")

_SECONDS = 60
_TURNS = 10


class LoopThread:
    """Runs from its making until ``stop``, which ends whatever still runs on it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Have the loop do the work, and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)

    def call(self, functions: Iterable[Callable[[], object]]) -> None:
        """Have the loop's thread call them, as what belongs to a loop wants to be."""

        async def calling() -> None:
            for function in functions:
                function()

        self.run(calling())

    def stop(self) -> None:
        """Cancel every task, wait for them, and end the thread."""
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_SECONDS / 2)
    for _ in range(_TURNS):  # what they closed on their way out is let go now
        await asyncio.sleep(0)
