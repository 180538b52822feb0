"""What is due, the most pressing first: a heap by time, a heap of what is due, one wake-up event."""

from __future__ import annotations

import asyncio
import heapq

from ssl_cert_server.clock import Clock

# The wall clock may jump; a nap this short notices soon enough.
_LONGEST_NAP = 60.0


class DueQueue:
    """Holds each key once, at the time it was last given."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, float]] = {}
        self._later: list[tuple[float, float, str]] = []
        self._due: list[tuple[float, float, str]] = []
        self._earlier = asyncio.Event()

    def add(self, key: str, at: float, deadline: float = 0.0) -> None:
        """Have a key come up at a time (Unix seconds), instead of when it would have.

        Of those that are due the one with the earliest ``deadline`` (Unix seconds) comes up first.
        """
        if self._entries.get(key) == (at, deadline):
            return  # it lies there already
        self._entries[key] = (at, deadline)
        heapq.heappush(self._later, (at, deadline, key))
        if self._later[0] == (at, deadline, key):
            self._earlier.set()

    def remove(self, key: str) -> None:
        """Have a key not come up."""
        self._entries.pop(key, None)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    async def next(self) -> str:
        """Wait for the next key that is due, and take it out."""
        while True:
            self._earlier.clear()
            self._move_due()
            while self._due:
                deadline, at, key = heapq.heappop(self._due)
                if self._entries.get(key) == (at, deadline):
                    del self._entries[key]
                    return key
            nap = self._later[0][0] - self._clock.now() if self._later else _LONGEST_NAP
            await self._nap(min(nap, _LONGEST_NAP))

    def _move_due(self) -> None:
        now = self._clock.now()
        while self._later:
            at, deadline, key = self._later[0]
            current = self._entries.get(key) == (at, deadline)
            if current and at > now:
                return
            heapq.heappop(self._later)
            if current:
                heapq.heappush(self._due, (deadline, at, key))

    async def _nap(self, seconds: float) -> None:
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        woken = asyncio.ensure_future(self._earlier.wait())
        try:
            await asyncio.wait({sleeping, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            woken.cancel()
