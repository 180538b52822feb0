"""Storage wrapper that records which kinds of write failed, so that no order is placed that could not be stored."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import Due, Lease, Storage
from ssl_cert_server.storage.wrapper import StorageWrapper
from ssl_cert_server.storage.write_failures import Kind, WriteFailures

_log = structlog.get_logger()

PROBE = "~probe"
"""The last segment of every key that is written only to see whether it can be; no host name holds such a character."""

_VALUE = b"{}"
_LEASE = 10.0
_NEVER_DUE = 4e9
"""Unix seconds of a due entry that is removed at once."""

_ORDER_FOLDERS = ("_state", "_issued")
_ORDER_QUEUE = "renewal"


class WriteWatch(StorageWrapper):
    """``inner``, whose :meth:`check_writable` also asks for every kind of write that failed last.

    A disk, a table or a folder may take one write and refuse another. After a write failed, ``check_writable`` raises
    until a write of that kind worked: one of the server's own, or a probe that is made here. A single key that goes on
    failing while others work holds up nothing else: its own writes fail, and each leads to one probe a second at most.
    """

    def __init__(self, inner: Storage, clock: Clock) -> None:
        super().__init__(inner)
        self._clock = clock
        self._failures = WriteFailures()
        self._probing = asyncio.Lock()
        self._instance = uuid.uuid4().hex

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        async with self._watched(Kind("value", _folder(key)), key):
            await self._inner.put(key, value, lease=lease)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        async with self._watched(Kind("value", _folder(key)), key, decides=False):
            await self._inner.delete(key, lease=lease)

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        return await self._acquire(Kind("lease", _folder(name)), name, name, seconds)

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        async with self._watched(Kind("entry", queue), entries[0].key if len(entries) == 1 else ""):
            await self._inner.schedule(queue, entries)

    async def check_writable(self) -> None:
        await self._inner.check_writable()
        async with self._probing:
            for kind in self._failures.probe_due(self._clock.monotonic()):
                await self._probe(kind)

    async def rehearse_order(self) -> None:
        """Write, and remove, what an order needs: its state under a lease, its record, its entry in the due index.

        :raises StorageError: one of these writes fails, or one of another kind failed last and fails again.
        """
        await self.check_writable()
        lease = await self.acquire(f"probes/{self._instance}", _LEASE)
        try:
            for folder in _ORDER_FOLDERS:
                await self._probe_value(folder, lease)
            await self._probe_entry(_ORDER_QUEUE)
        finally:
            if lease is not None:
                with suppress(StorageError):  # it lapses by itself
                    await self.release(lease)

    async def _probe(self, kind: Kind) -> None:
        if kind.what == "value":
            await self._probe_value(kind.place, None)
        elif kind.what == "entry":
            await self._probe_entry(kind.place)
        else:
            await self._probe_lease(kind.place)

    async def _probe_lease(self, folder: str) -> None:
        name = f"{_key(folder)}{self._instance}"  # or a peer's probe would have it, and nothing be written
        lease = await self._acquire(Kind("lease", folder), "", name, _LEASE)
        if lease is not None:
            await self._inner.release(lease)

    async def _acquire(self, kind: Kind, key: str, name: str, seconds: float) -> Lease | None:
        async with self._watched(kind, key, decides=False):
            lease = await self._inner.acquire(name, seconds)
        if lease is not None:  # where a peer has it, nothing was written
            self._note_success(kind, key)
        return lease

    async def _probe_value(self, folder: str, lease: Lease | None) -> None:
        async with self._watched(Kind("value", folder)):
            await self._inner.put(_key(folder), _VALUE, lease=lease)
            await self._inner.delete(_key(folder), lease=lease)

    async def _probe_entry(self, queue: str) -> None:
        async with self._watched(Kind("entry", queue)):
            await self._inner.schedule(queue, [Due(PROBE, _NEVER_DUE)])
            await self._inner.unschedule(queue, [PROBE])

    @asynccontextmanager
    async def _watched(self, kind: Kind, key: str = "", *, decides: bool = True) -> AsyncIterator[None]:
        """Record whether a write works. With ``decides`` off, a success does not clear an earlier failure."""
        try:
            yield
        except LeaseLost:
            raise  # storage works: a peer took over
        except StorageError as error:
            self._note_failure(kind, key, str(error))
            raise
        if decides:
            self._note_success(kind, key)

    def _note_success(self, kind: Kind, key: str) -> None:
        if self._failures.worked(kind, key, self._clock.monotonic()):
            _log.info("storage.write_works", kind=kind.what, place=kind.place or "/")

    def _note_failure(self, kind: Kind, key: str, reason: str) -> None:
        single = self._failures.is_single(kind, key)
        if not self._failures.failed(kind, key, reason, self._clock.monotonic()):
            return
        if single:
            _log.error("storage.key_not_written", kind=kind.what, storage_key=key, reason=reason)
        else:
            _log.error("storage.write_failed", kind=kind.what, place=kind.place or "/", reason=reason)


def is_probe(key: str) -> bool:
    """Return whether a key is written only to see whether it can be; a killed server may leave one behind."""
    return key.rpartition("/")[2] == PROBE


def _folder(key: str) -> str:
    """Return the top-level folder of a key; empty for a key at the top level."""
    return key.partition("/")[0] if "/" in key else ""


def _key(folder: str) -> str:
    return f"{folder}/{PROBE}" if folder else PROBE
