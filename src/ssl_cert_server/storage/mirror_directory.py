"""The mirror's directory, which is opened again where it can't be used: removed or replaced, or broken at the start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future

import structlog

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.directory_threads import DEADLINE, Threads
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

    def __init__(self, open_directory: Callable[[], Storage], *, required: bool = True) -> None:
        """Open the directory.

        One that isn't ``required`` may be unusable: each use of it fails until :meth:`check` opens it.

        :raises StorageError: a required one can't be opened.
        """
        super().__init__(open_directory() if required else _opened(open_directory))
        self._open_directory = open_directory
        # A thread that nothing waits for at the end of the process: opening may hang with the disk.
        self._threads = Threads(1, "mirror-open")
        self._opening: Future[Storage] | None = None

    async def check(self) -> bool:
        """Return whether the mirror is filled; one that can't be read is opened, and created, anew.

        :raises StorageError: that failed, too.
        """
        try:
            return await self._inner.get(MARKER) is not None
        except StorageError as error:
            # DirectoryStorage refuses another directory in the place of the one that it opened.
            broken, self._inner = self._inner, await self._open_again()
            _log.warning("storage.mirror_reopened", reason=str(error))
            await broken.close()
        return await self._inner.get(MARKER) is not None

    async def mark_filled(self) -> None:
        """Store the marker.

        :raises StorageError: it can't be written.
        """
        await self._inner.put(MARKER, b"Where this file is missing, the mirror is filled again.\n")

    async def close(self) -> None:
        self._threads.close()
        await super().close()

    async def _open_again(self) -> Storage:
        """Open the directory; an opening that is given up goes on, and the next call waits for the same one."""
        if self._opening is None:
            self._opening = self._threads.submit(self._open_directory)
        opening = self._opening
        try:
            async with asyncio.timeout(DEADLINE):
                return await asyncio.wrap_future(opening)  # a cancelled one ends nothing that has begun
        except TimeoutError as error:
            raise StorageError(f"can't open mirror_dir: no answer in {DEADLINE:.0f} s") from error
        finally:
            if opening.done():
                self._opening = None


class _Unopened(StorageWrapper):
    """Stands in for a directory that could not be opened: reading and writing values fails for the ``reason``."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def get(self, key: str) -> bytes | None:
        raise self._failure(key)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:  # noqa: ARG002
        raise self._failure(key)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:  # noqa: ARG002
        raise self._failure(key)

    async def list(self, folder: str = "") -> AsyncIterator[str]:
        raise self._failure(folder)
        yield ""

    def _failure(self, what: str) -> StorageError:
        return StorageError(f"can't use {what or 'anything'} in mirror_dir: {self._reason}")

    async def close(self) -> None:
        pass


def _opened(open_directory: Callable[[], Storage]) -> Storage:
    try:
        return open_directory()
    except StorageError as error:
        return _Unopened(str(error))
