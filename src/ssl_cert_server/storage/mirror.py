"""A copy, on this machine, of the certificates that were read from a storage on others: for when that is away."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from contextlib import suppress

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.wrapper import StorageWrapper

_log = structlog.get_logger()

_PAUSES = (1.0, 30.0)
_WAITING = 10_000
_KNOWN = 1_000_000
_ALSO = frozenset({"_local_ca/root"})
_FOLDERS = ("_ocsp/",)
_NEVER = frozenset({"acme_account+key"})


class MirroredStorage(StorageWrapper):
    """``primary``, with ``mirror`` answering for what was read before while ``primary`` doesn't answer.

    Only what is handed out is mirrored: certificates with their keys, and staples. Everything that is written, leased
    or planned needs ``primary``. While that is away, reads don't wait for it: one goes through now and then, to see
    whether it is back.
    """

    def __init__(self, primary: Storage, mirror: Storage, clock: Clock) -> None:
        super().__init__(primary)
        self._mirror = mirror
        self._clock = clock
        self._away_until = float("-inf")
        self._pause = _PAUSES[0]
        self._away = False
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._waiting: asyncio.Queue[str] = asyncio.Queue(_WAITING)
        self._values: dict[str, bytes | None] = {}
        self._copying: asyncio.Task[None] | None = None

    async def get(self, key: str) -> bytes | None:
        """Read from ``primary``, else what it last gave."""
        if not _is_mirrored(key):
            return await self._inner.get(key)
        if self._clock.monotonic() < self._away_until:
            kept = await self._kept(key)
            if kept is None:
                raise StorageError(f"can't read {key}: storage is away, and it was not read here before")
            return kept
        try:
            value = await self._ask(key)
        except StorageError:
            kept = await self._kept(key)
            if kept is None:
                raise
            return kept
        self._copy(key, value)
        return value

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        await self._inner.put(key, value, lease=lease)
        if _is_mirrored(key):
            self._copy(key, value)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        await self._inner.delete(key, lease=lease)
        if _is_mirrored(key):
            self._copy(key, None)

    async def close(self) -> None:
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.wait([self._copying])
        await self._inner.close()
        await self._mirror.close()

    async def _ask(self, key: str) -> bytes | None:
        # Whoever comes while this one waits is answered from the mirror.
        if self._away:
            self._away_until = self._clock.monotonic() + self._pause
        try:
            value = await self._inner.get(key)
        except StorageError as error:
            self._note_away(error)
            raise
        if self._away:
            self._away, self._pause, self._away_until = False, _PAUSES[0], float("-inf")
            _log.info("storage.back")
        return value

    def _note_away(self, error: StorageError) -> None:
        if not self._away:
            _log.error("storage.away", reason=str(error), remedy="certificates that were served before still are")
        self._away = True
        self._away_until = self._clock.monotonic() + self._pause * (1 - self._clock.random() / 4)
        self._pause = min(self._pause * 2, _PAUSES[1])

    async def _kept(self, key: str) -> bytes | None:
        with suppress(StorageError):
            return await self._mirror.get(key)
        return None

    def _copy(self, key: str, value: bytes | None) -> None:
        """Have a value written to the mirror in the background; what comes faster than that waits for another read."""
        digest = hashlib.sha256(value).digest() if value is not None else b""
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


def _is_mirrored(key: str) -> bool:
    return key in _ALSO or key.startswith(_FOLDERS) or ("/" not in key and key not in _NEVER)
