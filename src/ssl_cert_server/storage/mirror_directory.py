"""The mirror's directory, which is opened again where it was removed or replaced while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.wrapper import StorageWrapper

_log = structlog.get_logger()

REMEDY = "it is opened again, or created, within 15 s, and filled"
"""What becomes of a mirror whose directory was removed or replaced while the server runs."""

MARKER = "_mirror/filled"
"""Stored once the copies in use are in the mirror; where it is missing, the mirror is new or was emptied."""


class MirrorDirectory(StorageWrapper):
    """Storage from ``open_directory``, which :meth:`check` opens again where it no longer works.

    Only values are kept in a mirror: no leases, no due index.
    """

    def __init__(self, open_directory: Callable[[], Storage]) -> None:
        """:raises StorageError: it can't be opened."""
        super().__init__(open_directory())
        self._open_directory = open_directory

    async def check(self) -> bool:
        """Return whether the mirror is filled; one that can't be read is opened, and created, anew.

        :raises StorageError: that failed, too.
        """
        try:
            return await self._inner.get(MARKER) is not None
        except StorageError as error:
            # DirectoryStorage refuses another directory in the place of the one that it opened.
            broken, self._inner = self._inner, await asyncio.to_thread(self._open_directory)
            _log.warning("storage.mirror_reopened", reason=str(error))
            await broken.close()
        return await self._inner.get(MARKER) is not None

    async def mark_filled(self) -> None:
        """Store the marker.

        :raises StorageError: it can't be written.
        """
        await self._inner.put(MARKER, b"Where this file is missing, the mirror is filled again.\n")
