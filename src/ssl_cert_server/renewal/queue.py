"""Names by the time they are due: one heap, one wake-up event."""

from __future__ import annotations

import asyncio
import heapq

from ssl_cert_server.clock import Clock

# The wall clock may jump; a nap this short notices soon enough.
_LONGEST_NAP = 60.0


class DueQueue:
    """Holds each name once, at the time it was last given."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._earlier = asyncio.Event()

    def add(self, name: str, at: float) -> None:
        """Have a name come up at a time (Unix seconds), instead of when it would have."""
        self._due[name] = at
        heapq.heappush(self._heap, (at, name))
        if self._heap[0] == (at, name):
            self._earlier.set()

    def __contains__(self, name: str) -> bool:
        return name in self._due

    async def next(self) -> str:
        """Wait for the next name that is due, and take it out."""
        while True:
            self._earlier.clear()
            self._drop_outdated()
            nap = self._heap[0][0] - self._clock.now() if self._heap else _LONGEST_NAP
            if nap <= 0:
                _, name = heapq.heappop(self._heap)
                del self._due[name]
                return name
            await self._nap(min(nap, _LONGEST_NAP))

    def _drop_outdated(self) -> None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)

    async def _nap(self, seconds: float) -> None:
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        woken = asyncio.ensure_future(self._earlier.wait())
        try:
            await asyncio.wait({sleeping, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            woken.cancel()
