"""One queue of the due index in memory: a heap by time, and a heap by rank of what is due."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from ssl_cert_server.storage.base import Due


class MemoryQueue:
    """Holds each key once. What was replaced stays in the heaps until it comes to the top."""

    def __init__(self) -> None:
        self._entries: dict[str, Due] = {}
        self._later: list[tuple[float, str, float, Due]] = []
        self._ready: list[tuple[float, float, str, Due]] = []

    def put(self, entry: Due) -> None:
        """Have an entry come up, in place of the one there was for its key."""
        if self._entries.get(entry.key) == entry:
            return  # it lies there already
        self._entries[entry.key] = entry
        heapq.heappush(self._later, (entry.at, entry.key, entry.rank, entry))

    def remove(self, key: str) -> None:
        """Have a key not come up."""
        self._entries.pop(key, None)

    def get(self, key: str) -> Due | None:
        """Give a key's entry."""
        return self._entries.get(key)

    def __iter__(self) -> Iterator[Due]:
        return iter([*self._entries.values()])

    def claim(self, now: float, limit: int, seconds: float) -> list[Due]:
        """See :meth:`ssl_cert_server.storage.base.Storage.claim`."""
        self._move_due(now)
        claimed: list[Due] = []
        early: list[tuple[float, float, str, Due]] = []
        while self._ready and len(claimed) < limit:
            place = heapq.heappop(self._ready)
            entry = place[-1]
            if self._entries.get(entry.key) != entry:
                continue
            if entry.at > now:  # the clock was set back
                early.append(place)
                continue
            claimed.append(entry)
        for entry in claimed:
            self.put(Due(entry.key, now + seconds, entry.rank))
        for place in early:
            heapq.heappush(self._ready, place)
        return claimed

    def next(self) -> float | None:
        """Give when the next entry comes up; what is due already, but not claimed yet, counts."""
        ready = min((entry.at for *_, entry in self._ready if self._entries.get(entry.key) == entry), default=None)
        while self._later and self._entries.get(self._later[0][1]) != self._later[0][-1]:
            heapq.heappop(self._later)
        later = self._later[0][0] if self._later else None
        return min((at for at in (ready, later) if at is not None), default=None)

    def _move_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            at, key, _, entry = heapq.heappop(self._later)
            if self._entries.get(key) == entry:
                heapq.heappush(self._ready, (entry.rank, at, key, entry))
