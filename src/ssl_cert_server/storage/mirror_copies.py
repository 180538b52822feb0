"""Keeps a mirror like what was read and written: in the background, each value once."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict

import structlog

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_WAITING = 10_000
_KNOWN = 1_000_000


class Copies:
    """Copies into ``mirror``."""

    def __init__(self, mirror: Storage) -> None:
        self._mirror = mirror
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._waiting: asyncio.Queue[str] = asyncio.Queue(_WAITING)
        self._values: dict[str, bytes | None] = {}
        self._copying: asyncio.Task[None] | None = None

    def add(self, key: str, value: bytes | None) -> None:
        """Have a value written, or removed; what comes faster than that waits until it is read another time."""
        digest = digest_of(value)
        if self._known.get(key) == digest:
            return
        if key not in self._values:
            if self._waiting.full():
                return
            self._waiting.put_nowait(key)
        self._values[key] = value
        self._known[key] = digest
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        if self._copying is None:
            self._copying = asyncio.create_task(self._copy_all(), name="storage mirror")

    async def close(self) -> None:
        """Stop."""
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.wait([self._copying])

    async def _copy_all(self) -> None:
        while True:
            key = await self._waiting.get()
            value = self._values.pop(key)
            try:
                if await self._mirror.get(key) == value:
                    continue
                if value is None:
                    await self._mirror.delete(key)
                else:
                    await self._mirror.put(key, value)
            except StorageError as error:
                self._known.pop(key, None)
                _log.warning("storage.not_mirrored", cert_key=key, reason=str(error))


def digest_of(value: bytes | None) -> bytes:
    """Tell values apart; that there is none is told from every value."""
    return hashlib.sha256(value).digest() if value is not None else b""
