"""A storage on other machines that lost what it had is told from one in which there is nothing yet.

Redis that comes back without its data, or an empty replica in its place, answers as if nothing had ever been issued:
everything would be forgotten, and issued anew. So each storage carries a mark, which every instance remembers, in
``memory`` over restarts too. While the mark is gone, that something isn't there is no answer, but a failure.

A mark is a key of its own in :data:`MARKS`, whatever its value. Instances that start together on a new storage may each
make one, and a storage that another was copied into has the marks of both: nobody minds others' marks.
"""

from __future__ import annotations

import uuid
from contextlib import suppress

import structlog

from ssl_cert_server.errors import StorageError
from ssl_cert_server.log_interval import LogInterval
from ssl_cert_server.storage.base import Changes, Storage
from ssl_cert_server.storage.wrapper import StorageWrapper

_log = structlog.get_logger()

MARKS = "_deployment"
_VALUE = b"By this ssl-cert-server knows its storage again.\n"
_GUARDED = ("_accounts/", "_local_ca/", "_ocsp/")


class GuardedStorage(StorageWrapper):
    """``inner``, with its mark looked for wherever it would matter that it came back empty.

    That is where something isn't there, which is rare: what is found costs nothing more.
    """

    def __init__(self, inner: Storage, memory: Storage | None = None) -> None:
        super().__init__(inner)
        self._memory = memory
        self._mark = ""
        self._lost = False
        self._log_interval = LogInterval()

    async def get(self, key: str) -> bytes | None:
        value = await self._inner.get(key)
        if value is None and ("/" not in key or key.startswith(_GUARDED)):
            await self._check()
        return value

    async def index_complete(self) -> bool:
        complete = await self._inner.index_complete()
        if not complete:
            await self._check()
        return complete

    async def changes(self, cursor: str, wait: float) -> Changes:
        changes = await self._inner.changes(cursor, wait)
        if not await self._known():  # a server has just started; commands, which may only read, make no mark
            with suppress(StorageError):  # it is tried again
                await self._make()
        if changes.reset or not cursor:
            await self._check()
        return changes

    async def check_writable(self) -> None:
        await self._check()
        await self._inner.check_writable()

    async def remember(self) -> None:
        """Store the mark in ``memory`` again, which was emptied."""
        if self._mark:
            await self._adopt(self._mark)

    async def _check(self) -> None:
        mark = self._mark or await self._known()
        if mark and await self._inner.get(mark) is None:
            words = (
                f"storage lost what it had, or is another one: its mark {mark} is gone; restore it, or, where it is "
                f"meant to be empty, remove {MARKS} from mirror_dir and restart every instance"
            )
            if not self._lost:
                _log.error("storage.lost", reason=words)
            self._lost = True
            raise StorageError(words)
        if self._lost:
            _log.info("storage.found")
        self._lost = False

    async def _known(self) -> str:
        """Give the mark that was remembered, else one that is there; empty where there is none yet."""
        if not self._mark:
            mark = await self._remembered() or await _any_mark(self._inner)
            if mark:
                await self._adopt(mark)
        return self._mark

    async def _remembered(self) -> str | None:
        try:
            return await _any_mark(self._memory) if self._memory is not None else None
        except StorageError:
            if await _any_mark(self._inner) is None:
                raise  # it can't be told from one that came back empty
            return None

    async def _make(self) -> None:
        mark = f"{MARKS}/{uuid.uuid4().hex}"
        await self._inner.put(mark, _VALUE)
        await self._adopt(mark)

    async def _adopt(self, mark: str) -> None:
        self._mark = mark
        try:
            if self._memory is not None and await self._memory.get(mark) is None:
                await self._memory.put(mark, _VALUE)
        except StorageError as error:  # it is known until the restart, then
            if failed := self._log_interval.count():
                _log.warning("storage.not_mirrored", cert_key=mark, failed=failed, reason=str(error))


async def _any_mark(storage: Storage) -> str | None:
    async for mark in storage.list(MARKS):
        return mark
    return None
