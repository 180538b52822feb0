"""Keeps a mirror like what was read and written: in the background, each value once."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from ssl_cert_server.errors import StorageError
from ssl_cert_server.log_interval import LogInterval
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_WAITING = 10_000
_KNOWN = 1_000_000


MayReplace = Callable[[str, bytes, bytes], Awaitable[bool]]
"""Given a key, its copy, and a value that was read: whether the value may take the copy's place."""


async def always_replace(_key: str, _copy: bytes, _value: bytes) -> bool:
    """Let every value that was read take the copy's place."""
    return True


@dataclass(frozen=True, slots=True)
class _Waiting:
    value: bytes | None
    written: bool


class Copies:
    """Copies into ``mirror``. ``may_replace`` is asked about values that were read, not about those written here."""

    def __init__(self, mirror: Storage, may_replace: MayReplace = always_replace) -> None:
        self._mirror = mirror
        self._may_replace = may_replace
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._waiting: asyncio.Queue[str] = asyncio.Queue(_WAITING)
        self._values: dict[str, _Waiting] = {}
        self._copying: asyncio.Task[None] | None = None
        self._log_interval = LogInterval()

    def add(self, key: str, value: bytes | None, *, written: bool = False) -> None:
        """Have a value copied, or its copy removed; what comes faster than that waits until it is read another time.

        ``written`` tells that this process wrote it, or removed it.
        """
        digest = digest_of(value)
        if self._known.get(key) == digest and not (written and key in self._values):
            return
        if key not in self._values:
            if self._waiting.full():
                return
            self._waiting.put_nowait(key)
        self._values[key] = _Waiting(value, written)
        self._known[key] = digest
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        if self._copying is None:
            self._copying = asyncio.create_task(self._copy_all(), name="storage mirror")

    def forget(self, key: str) -> None:
        """Forget that a key was copied: its copy is gone."""
        self._known.pop(key, None)

    async def close(self) -> None:
        """Stop."""
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.wait([self._copying])

    async def _copy_all(self) -> None:
        while True:
            key = await self._waiting.get()
            try:
                await self._copy(key, self._values.pop(key))
            except StorageError as error:
                self._known.pop(key, None)
                # Each value fails for the same reason, and is tried again each time it is read.
                if self._log_interval.over():
                    _log.warning("storage.not_mirrored", cert_key=key, reason=str(error))

    async def _copy(self, key: str, new: _Waiting) -> None:
        copy = await self._mirror.get(key)
        if copy == new.value:
            return
        if new.value is None:
            await self._mirror.delete(key)
        elif copy is None or new.written or await self._may_replace(key, copy, new.value):
            await self._mirror.put(key, new.value)
        else:
            self._known.pop(key, None)  # it is compared again when it is read again


def digest_of(value: bytes | None) -> bytes:
    """Tell values apart; that there is none is told from every value."""
    return hashlib.sha256(value).digest() if value is not None else b""
