"""A copy, on this machine, of the certificates that were read from a storage on others: for when that is away."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Changes, Lease, Storage
from ssl_cert_server.storage.mirror_copies import Copies, MayReplace, always_replace
from ssl_cert_server.storage.mirror_given import Given
from ssl_cert_server.storage.wrapper import StorageWrapper

_log = structlog.get_logger()

_PAUSES = (1.0, 30.0)
_PATIENCE = 0.2
_LATE = 100
_NEVER_AWAY = float("-inf")
_ALSO = frozenset({"_local_ca/root"})
_FOLDERS = ("_ocsp/",)
_COPIED = "_issued/"
"""Copied, so that it can be restored together with the certificate, but never served: it decides about issuances."""

_AWAY = (
    "see that the storage runs and can be reached from here; nothing needs a restart, and certificates that were read "
    "before are served meanwhile"
)
_NEVER = frozenset({"acme_account+key"})


class MirroredStorage(StorageWrapper):
    """``primary``, with ``mirror`` answering for what was read before while ``primary`` doesn't answer.

    Only what is handed out is mirrored: certificates with their keys, and staples. Everything that is written, leased
    or planned needs ``primary``. While that is away, reads don't wait for it: one goes through now and then, to see
    whether it is back. A read that takes long goes on in the background, where ``mirror`` has the value.

    What was given from ``mirror`` is compared once ``primary`` answers, and announced where it is another by now.

    A certificate that ``primary`` lacks keeps its copy: ``primary`` may have been restored from a backup. Another value
    takes the copy's place only where ``may_replace`` agrees.
    """

    def __init__(
        self, primary: Storage, mirror: Storage, clock: Clock, may_replace: MayReplace = always_replace
    ) -> None:
        super().__init__(primary)
        self._mirror = mirror
        self._clock = clock
        self._away_until = _NEVER_AWAY
        self._pause = _PAUSES[0]
        self._away = False
        self._copies = Copies(mirror, may_replace)
        self._given = Given(self._read, primary.announce)
        self._late: set[asyncio.Task[bytes | None]] = set()
        self._leases: set[str] = set()

    async def get(self, key: str) -> bytes | None:
        """Read from ``primary``, else what it last gave."""
        if key.startswith(_COPIED):
            return await self._read_through(key)
        if not _is_mirrored(key):
            return await self._inner.get(key)
        away = self._clock.monotonic() < self._away_until
        if away or (len(self._late) >= _LATE and not self._works_on(key)):
            kept = await self._kept(key)
            if kept is not None:
                return self._give(key, kept)
            if away:
                raise StorageError(f"can't read {key}: storage is away, and it was not read here before")
        return await self._patiently(key)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        await self._inner.put(key, value, lease=lease)
        if _is_mirrored(key) or key.startswith(_COPIED):
            self._copies.add(key, value, written=True)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        await self._inner.delete(key, lease=lease)
        if _is_mirrored(key):
            self._copies.add(key, None, written=True)

    async def lacks(self, key: str) -> bool:
        """Return whether the mirror has no copy under ``key``, and have it written at the next read then.

        :raises StorageError: the mirror can't be read.
        """
        if await self._mirror.get(key) is not None:
            return False
        self._copies.forget(key)
        return True

    async def copy(self, key: str) -> bool:
        """Read a key from ``primary`` alone and have it copied; return whether it has a value.

        :raises StorageError: ``primary`` doesn't answer, or did not a moment ago.
        """
        if self._clock.monotonic() < self._away_until:
            raise StorageError(f"can't read {key}: storage is away")
        read = self._read_through if key.startswith(_COPIED) else self._read
        return await read(key) is not None

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        lease = await self._inner.acquire(name, seconds)
        self._away_until = _NEVER_AWAY  # it answers: what is read now, and decides what is done, is to be read there
        if lease is not None:
            self._leases.add(name)
        return lease

    async def release(self, lease: Lease) -> None:
        self._leases.discard(lease.name)
        await self._inner.release(lease)

    async def changes(self, cursor: str, wait: float) -> Changes:
        changes = await self._inner.changes(cursor, wait)
        self._away_until = _NEVER_AWAY  # what changed is to be read there
        self._given.compare()
        return changes

    async def close(self) -> None:
        for reading in (late := [*self._late]):
            reading.cancel()
        if late:
            await asyncio.wait(late)
        await self._given.close()
        await self._copies.close()
        await self._inner.close()
        await self._mirror.close()

    async def _patiently(self, key: str) -> bytes | None:
        reading = asyncio.create_task(self._read(key), name=f"read {key}")
        try:
            await self._wait_a_little(reading, key)
            if not _has_answer(reading):
                kept = await self._kept(key)
                if kept is not None and not _has_answer(reading):
                    self._let_go_on(reading)
                    return self._give(key, kept)
            return await reading
        finally:
            if reading not in self._late:
                reading.cancel()

    async def _wait_a_little(self, reading: asyncio.Task[bytes | None], key: str) -> None:
        if self._works_on(key):
            await asyncio.wait([reading])
            return
        patience = asyncio.create_task(self._clock.sleep(_PATIENCE))
        try:
            await asyncio.wait([reading, patience], return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()

    def _works_on(self, key: str) -> bool:
        """Tell whether what is read may decide about an issuance: an old value would have it done twice."""
        names = (f"certificates/{key}", f"self_signed/{key}", key.removeprefix("_"))
        return any(name in self._leases for name in names)

    def _let_go_on(self, reading: asyncio.Task[bytes | None]) -> None:
        if not reading.done():
            self._late.add(reading)
            reading.add_done_callback(self._came_late)

    def _came_late(self, reading: asyncio.Task[bytes | None]) -> None:
        self._late.discard(reading)
        if not reading.cancelled() and reading.exception() is None:
            self._given.compare()

    def _give(self, key: str, kept: bytes) -> bytes:
        self._given.add(key, kept)
        return kept

    async def _read(self, key: str) -> bytes | None:
        value = await self._ask(key)
        if value is not None or key.startswith(_FOLDERS):  # a staple that is lost is only asked for again
            self._copies.add(key, value)
        return value

    async def _read_through(self, key: str) -> bytes | None:
        value = await self._inner.get(key)
        if value is not None:
            self._copies.add(key, value)
        return value

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
            self._away, self._pause, self._away_until = False, _PAUSES[0], _NEVER_AWAY
            _log.info("storage.back")
            self._given.compare()
        return value

    def _note_away(self, error: StorageError) -> None:
        if not self._away:
            _log.error("storage.away", reason=str(error), remedy=_AWAY)
        self._away = True
        self._away_until = self._clock.monotonic() + self._pause * (1 - self._clock.random() / 4)
        self._pause = min(self._pause * 2, _PAUSES[1])

    async def _kept(self, key: str) -> bytes | None:
        with suppress(StorageError):
            return await self._mirror.get(key)
        return None


def _has_answer(reading: asyncio.Task[bytes | None]) -> bool:
    return reading.done() and not isinstance(reading.exception(), StorageError)


def _is_mirrored(key: str) -> bool:
    return key in _ALSO or key.startswith(_FOLDERS) or ("/" not in key and key not in _NEVER)
