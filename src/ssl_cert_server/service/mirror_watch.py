"""Fills the mirror again, with what is in use, where its directory was emptied or removed while the server runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
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
    """Looks at the mirror every ten seconds. Where it was emptied, all certificates in use are copied again."""

    def __init__(
        self,
        directory: MirrorDirectory,
        mirrored: MirroredStorage,
        guarded: GuardedStorage,
        storage: Storage,
        clock: Clock,
        in_use: Callable[[], Collection[str]],
    ) -> None:
        """``storage`` is what certificates are read from, around ``mirrored``; ``in_use`` returns their keys."""
        self._directory = directory
        self._mirrored = mirrored
        self._guarded = guarded
        self._storage = storage
        self._clock = clock
        self._in_use = in_use
        self._in_turn: deque[str] = deque()

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            try:
                await self.look()
            except StorageError as error:
                _log.warning("storage.mirror_unusable", reason=str(error))
            await self._clock.sleep(LOOK_EVERY * (1 + self._clock.random() / 4))

    async def look(self) -> None:
        """Copy again what is in use and missing.

        :raises StorageError: the mirror can't be read or written.
        """
        if await self._directory.check():
            await self._copy(self._next())
            return
        await self._guarded.remember()
        copied = await self._copy([*self._in_use()])
        await self._directory.mark_filled()
        _log.info("storage.mirror_filled", certificates=copied)

    async def _copy(self, cert_keys: Iterable[str]) -> int:
        copied = 0
        for cert_key in cert_keys:
            if await self._mirrored.lacks(cert_key):
                copied += await self._read(cert_key)
        return copied

    async def _read(self, cert_key: str) -> bool:
        """Read a certificate, and what belongs to it, which copies them."""
        for key in (f"{RECORDS}/{cert_key}", f"{STAPLES}/{cert_key}"):
            await self._mirrored.lacks(key)
            await self._try_read(key)
        return await self._try_read(cert_key)

    async def _try_read(self, key: str) -> bool:
        try:
            return await self._storage.get(key) is not None
        except StorageError:  # storage is away, or this value can't be read: it is copied when it can
            return False

    def _next(self) -> list[str]:
        if not self._in_turn:
            self._in_turn.extend(self._in_use())
        return [self._in_turn.popleft() for _ in range(min(_AT_ONCE, len(self._in_turn)))]
