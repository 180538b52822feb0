"""Storage in a directory: one file per key, as the predecessor kept them, and the due index beside them.

Writes go to a temporary file that is synced, renamed over the old one, and the folder synced. Several instances on
one machine may share a directory; their short critical sections exclude each other by ``flock`` on ``.lock``. An
instance that is stopped while it holds that keeps the others from writing under leases, but from nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Changes, Due, Lease, check_key, check_value
from ssl_cert_server.storage.directory_errors import translated
from ssl_cert_server.storage.directory_files import Files, file_names, read_file
from ssl_cert_server.storage.directory_index import DirectoryIndex
from ssl_cert_server.storage.directory_leases import DirectoryLeases
from ssl_cert_server.storage.directory_threads import Call, Closed, Threads
from ssl_cert_server.storage.folders import REMEDY, Place, create_folder, holds_storage

_T = TypeVar("_T")
_Entries: TypeAlias = list[Due]  # inside the class, ``list`` is a method
_log = structlog.get_logger()

_THREADS = 8
_LIST_BATCH = 1000
_PROBE = bytes(16 * 1024)
_CLOSING = 5.0
"""Seconds that closing may take; where the file system hangs it would take for ever."""


class DirectoryStorage:
    """See :class:`~ssl_cert_server.storage.base.Storage`. Files are 0600, folders 0700."""

    def __init__(self, root: Path, clock: Clock, *, create: bool = True, remedy: str = REMEDY) -> None:
        """Open the directory; with ``create`` it is created where it is missing.

        ``remedy`` says what to do once the directory is removed or replaced.

        :raises StorageError: it can't be created or written, or holds no storage while ``create`` is off.
        """
        self._root = root
        self._closed = False
        instance = uuid.uuid4().hex
        self._files = Files(root, instance)
        with translated(root, "open"):
            if create:
                create_folder(root, parents=True)
            elif not holds_storage(root):
                raise StorageError(
                    f"there is no storage in {root}; check storage.dir_cache, or start the server once, "
                    "which creates it"
                )
            _warn_if_open_to_others(root)
            self._leases = DirectoryLeases(root, instance, clock)
            self._files.look_around(self._leases.is_alive)
            self._place = Place(root, self._leases.mark, remedy)
        self._index = DirectoryIndex(root, self._place, clock)
        # What waits for a lock, or for the disk to take something, keeps no thread from reads.
        self._reading = Threads(_THREADS, "storage-read")
        self._writing = Threads(_THREADS, "storage-write")
        self._locking = Threads(_THREADS, "storage-lock")

    async def get(self, key: str) -> bytes | None:
        path = self._path(key)
        return await self._run(self._reading, key, "read", lambda: read_file(path))

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        path = self._path(key)
        check_value(key, value)
        call = Call()
        landing = self._landing(lease, call)
        await self._run(self._threads_for(lease), key, "write", lambda: self._files.replace(path, value, landing), call)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        path = self._path(key)
        call = Call()
        landing = self._landing(lease, call)
        await self._run(self._threads_for(lease), key, "delete", lambda: self._files.unlink(path, landing), call)

    async def list(self, folder: str = "") -> AsyncIterator[str]:
        path = self._path(folder) if folder else self._root
        prefix = f"{folder}/" if folder else ""
        names = file_names(path)
        while batch := await self._run(self._reading, folder, "list", lambda: [*itertools.islice(names, _LIST_BATCH)]):
            for name in batch:
                yield prefix + name

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        check_key(name)
        call, taken = Call(), list[Lease]()

        def take() -> Lease | None:
            self._files.note_folder((self._root / "_leases" / name).parent)
            lease = self._leases.acquire(name, seconds, call.until)
            if lease is not None:
                taken.append(lease)
                if call.given_up:
                    give_back()
            return lease

        def give_back() -> None:
            with suppress(IndexError):  # either of the two that call this comes first
                self._leases.release(taken.pop(), call.until)

        try:
            return await self._run(self._locking, f"_leases/{name}", "lease", take, call)
        except BaseException:
            # A lease that nobody knows of would keep everybody waiting until it lapses.
            with suppress(Closed):  # and all leases free
                self._locking.submit(give_back)
            raise

    async def renew(self, lease: Lease, seconds: float) -> None:
        call = Call()
        work = partial(self._leases.renew, lease, seconds, call.until)
        await self._run(self._locking, f"_leases/{lease.name}", "renew", work, call)

    async def release(self, lease: Lease) -> None:
        work = partial(self._leases.release, lease, Call().until)
        await self._run(self._locking, f"_leases/{lease.name}", "release", work)

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        await self._index.schedule(queue, entries)

    async def unschedule(self, queue: str, keys: Sequence[str]) -> None:
        await self._index.unschedule(queue, keys)

    async def scheduled(self, queue: str, key: str) -> Due | None:
        return await self._index.scheduled(queue, key)

    async def claim(self, queue: str, *, now: float, limit: int, seconds: float) -> _Entries:
        return await self._index.claim(queue, now=now, limit=limit, seconds=seconds)

    async def next_due(self, queue: str) -> float | None:
        return await self._index.next_due(queue)

    def list_due(self, queue: str) -> AsyncIterator[Due]:
        return self._index.list_due(queue)

    async def announce(self, keys: Sequence[str]) -> None:
        await self._index.announce(keys)

    async def changes(self, cursor: str, wait: float) -> Changes:
        return await self._index.changes(cursor, wait)

    async def index_complete(self) -> bool:
        return await self._index.index_complete()

    async def mark_index_complete(self) -> None:
        await self._index.mark_index_complete()

    async def check_writable(self) -> None:
        until = Call().until
        await self._run(self._writing, ".", "write", lambda: self._files.check_writable(_PROBE))
        await self._run(self._locking, ".", "write", lambda: self._leases.check_writable(until))
        await self._index.check_writable()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for threads in (self._reading, self._writing, self._locking):
            threads.close()
        self._index.stop()
        closing = threading.Thread(target=self._let_go, name="storage-close", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _CLOSING)
        if closing.is_alive():
            _log.warning("storage.close_given_up", directory=str(self._root), seconds=_CLOSING)

    def _let_go(self) -> None:
        for threads in (self._reading, self._writing, self._locking):
            threads.join()
        self._index.close()
        self._leases.close()

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*check_key(key))

    def _threads_for(self, lease: Lease | None) -> Threads:
        return self._writing if lease is None else self._locking

    async def _run(
        self, threads: Threads, key: str, action: str, work: Callable[[], _T], call: Call | None = None
    ) -> _T:
        def in_place() -> _T:
            self._place.check()
            return work()

        return await threads.run(self._root / key, action, in_place, call)

    @contextmanager
    def _landing(self, lease: Lease | None, call: Call) -> Iterator[None]:
        with self._leases.held(lease, call.until), call:
            yield


def _warn_if_open_to_others(root: Path) -> None:
    mode = root.stat().st_mode & 0o777
    if mode & 0o077:
        _log.warning("storage.open_to_others", directory=str(root), mode=f"{mode:04o}", remedy=f"chmod 0700 {root}")
