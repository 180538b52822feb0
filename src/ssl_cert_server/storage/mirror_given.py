"""What was given from a mirror while the storage didn't answer: it may have been replaced before, unseen here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.mirror_copies import digest_of

_REMEMBERED = 100_000


class Given:
    """Remembers it, and compares it with the storage once that answers: ``announce`` tells what is another by now."""

    def __init__(
        self, read: Callable[[str], Awaitable[bytes | None]], announce: Callable[[Sequence[str]], Awaitable[None]]
    ) -> None:
        self._read = read
        self._announce = announce
        self._given: dict[str, bytes] = {}
        self._comparing: asyncio.Task[None] | None = None

    def add(self, key: str, value: bytes) -> None:
        """Remember what was given."""
        if len(self._given) < _REMEMBERED:
            self._given[key] = digest_of(value)

    def compare(self) -> None:
        """Hear that the storage answers."""
        if self._given and (self._comparing is None or self._comparing.done()):
            self._comparing = asyncio.create_task(self._compare(), name="storage mirror: compare")

    async def close(self) -> None:
        """Stop."""
        if self._comparing is not None:
            self._comparing.cancel()
            await asyncio.wait([self._comparing])

    async def _compare(self) -> None:
        while self._given:
            key, digest = next(iter(self._given.items()))
            del self._given[key]
            try:
                if digest_of(await self._read(key)) != digest:
                    await self._announce([key])
            except StorageError:
                self._given.setdefault(key, digest)  # the last one now: it keeps no other from being compared
                return
