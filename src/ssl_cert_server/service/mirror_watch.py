"""Fills the mirror again, with what is in use, where its directory was emptied or removed while the server runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.log_interval import ReasonInterval
from ssl_cert_server.ocsp.staples import FOLDER as STAPLES
from ssl_cert_server.service.records import FOLDER as RECORDS
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.guarded import GuardedStorage
from ssl_cert_server.storage.mirror import MirroredStorage
from ssl_cert_server.storage.mirror_directory import MirrorDirectory

_log = structlog.get_logger()

LOOK_EVERY = 10.0
"""Seconds between looks at the mirror."""

_AT_ONCE = 50
"""Certificates in use whose copies one look checks, in turn: single files may have been removed."""


class MirrorWatch:
    """Looks at the mirror every ten seconds. Where it was emptied, all certificates in use are copied again.

    While storage is away they are copied from memory, and once more from storage when that answers.
    """

    def __init__(
        self,
        directory: MirrorDirectory,
        mirrored: MirroredStorage,
        guarded: GuardedStorage,
        copies: Storage,
        clock: Clock,
        in_use: Callable[[], Collection[str]],
        in_memory: Callable[[str], bytes | None],
    ) -> None:
        """``copies`` is ``directory``, as values from memory are written to it: sealed, where that is configured.

        ``in_use`` returns the keys of the certificates in use, ``in_memory`` the value to store under one.
        """
        self._directory = directory
        self._mirrored = mirrored
        self._guarded = guarded
        self._copies = copies
        self._clock = clock
        self._in_use = in_use
        self._in_memory = in_memory
        self._from_memory: dict[str, None] = {}
        self._unusable = ReasonInterval()
        self._in_turn: deque[str] = deque()

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            try:
                await self.look()
            except StorageError as error:
                if self._unusable.over(str(error)):
                    _log.warning("storage.mirror_unusable", reason=str(error))
            await self._clock.sleep(LOOK_EVERY * (1 + self._clock.random() / 4))

    async def look(self) -> None:
        """Copy again what is in use and missing.

        :raises StorageError: the mirror can't be read or written.
        """
        if await self._directory.check():
            await self._copy_from_storage()
            await self._copy(self._next())
            return
        await self._guarded.remember()
        self._from_memory.clear()
        copied = await self._copy([*self._in_use()])
        await self._directory.mark_filled()
        _log.info("storage.mirror_filled", certificates=copied, from_memory=len(self._from_memory))

    async def _copy_from_storage(self) -> None:
        """Replace what was copied from memory, and copy what belongs to it, once storage answers."""
        for cert_key in [*self._from_memory]:
            await self._copy_one(cert_key)
            if cert_key in self._from_memory:
                return  # storage is still away

    async def _copy(self, cert_keys: Iterable[str]) -> int:
        copied = 0
        for cert_key in cert_keys:
            if await self._mirrored.lacks(cert_key):
                copied += await self._copy_one(cert_key)
        return copied

    async def _copy_one(self, cert_key: str) -> bool:
        """Copy a certificate, and what belongs to it, from storage; else the certificate from memory."""
        for key in (f"{RECORDS}/{cert_key}", f"{STAPLES}/{cert_key}"):
            await self._mirrored.lacks(key)
            with suppress(StorageError):
                await self._mirrored.copy(key)
        try:
            copied = await self._mirrored.copy(cert_key)
        except StorageError:
            return await self._copy_from_memory(cert_key)
        self._from_memory.pop(cert_key, None)
        return copied

    async def _copy_from_memory(self, cert_key: str) -> bool:
        value = self._in_memory(cert_key)
        if value is None:
            return False
        await self._copies.put(cert_key, value)
        self._from_memory[cert_key] = None
        return True

    def _next(self) -> list[str]:
        if not self._in_turn:
            self._in_turn.extend(self._in_use())
        return [self._in_turn.popleft() for _ in range(min(_AT_ONCE, len(self._in_turn)))]
