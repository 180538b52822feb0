"""The bounded queue of keys whose values storage has lost."""

from __future__ import annotations

import asyncio

_MOST = 10_000
"""Keys in the queue; of more, the rest is found at another read, or by the next walk."""


class LostKeys:
    """Each key once, in the order in which they were added."""

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}
        self._added = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether no further key is taken now."""
        return len(self._keys) >= _MOST

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str) -> None:
        """Queue a key, unless the queue is full."""
        if not self.full:
            self._keys.setdefault(key)
            self._added.set()

    async def take(self) -> str:
        """Wait for a key, and return it."""
        while not self._keys:
            self._added.clear()
            await self._added.wait()
        key = next(iter(self._keys))
        del self._keys[key]
        return key
