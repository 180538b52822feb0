"""Storage in a directory: one file per key, as the predecessor kept them.

Writes go to a temporary file that is synced, renamed over the old one, and the folder synced. Several instances on
one machine may share a directory; their short critical sections exclude each other by ``flock`` on ``.lock``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import MAX_VALUE, Lease, check_key, check_value
from ssl_cert_server.storage.directory_leases import DirectoryLeases
from ssl_cert_server.storage.folders import make_folder, sync_folder

_T = TypeVar("_T")
_log = structlog.get_logger()

_THREADS = 8
_DEADLINE = 30.0
_LIST_BATCH = 1000
_STALE_TEMPORARY = 600.0
_PROBE = bytes(16 * 1024)


class _Call:
    """A write that its caller may give up; entered for the step that makes it visible.

    What was given up must not land after a later write of the same key that was acknowledged. So one at a time takes
    that step: none can be given up, and overtaken, between its look at ``given_up`` and the step itself.
    """

    _landing = threading.Lock()

    def __init__(self) -> None:
        self.given_up = False

    def __enter__(self) -> None:
        self._landing.acquire()
        if self.given_up:
            self._landing.release()
            raise StorageError("given up before it was done")

    def __exit__(self, *_: object) -> None:
        self._landing.release()


class DirectoryStorage:
    """See :class:`~ssl_cert_server.storage.base.Storage`. Files are 0600, folders 0700."""

    def __init__(self, root: Path, clock: Clock) -> None:
        """Open the directory, creating it where it is missing.

        :raises StorageError: it can't be created or written.
        """
        self._root = root
        self._counter = itertools.count()
        self._instance = uuid.uuid4().hex
        self._closed = False
        with _translated(root, "open"):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _warn_if_open_to_others(root)
            self._remove_stale_temporaries()
            self._leases = DirectoryLeases(root, self._instance, clock)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="storage")

    async def get(self, key: str) -> bytes | None:
        path = self._path(key)
        return await self._run(key, "read", lambda: _read(path))

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        path = self._path(key)
        check_value(key, value)
        call = _Call()
        await self._run(key, "write", lambda: self._replace(path, value, lease, call), call)

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        path = self._path(key)
        call = _Call()
        await self._run(key, "delete", lambda: self._unlink(path, lease, call), call)

    async def list(self, folder: str = "") -> AsyncIterator[str]:
        path = self._path(folder) if folder else self._root
        prefix = f"{folder}/" if folder else ""
        names = _file_names(path)
        while batch := await self._run(folder, "list", lambda: [*itertools.islice(names, _LIST_BATCH)]):
            for name in batch:
                yield prefix + name

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        check_key(name)
        call, taken = _Call(), list[Lease]()

        def take() -> Lease | None:
            lease = self._leases.acquire(name, seconds)
            if lease is not None:
                taken.append(lease)
                if call.given_up:
                    give_back()
            return lease

        def give_back() -> None:
            with suppress(IndexError):  # either of the two that call this comes first
                self._leases.release(taken.pop())

        try:
            return await self._run(f"_leases/{name}", "lease", take, call)
        except BaseException:
            # A lease that nobody knows of would keep everybody waiting until it lapses.
            with suppress(RuntimeError):  # closed, and all leases free
                self._threads.submit(give_back)
            raise

    async def renew(self, lease: Lease, seconds: float) -> None:
        await self._run(f"_leases/{lease.name}", "renew", lambda: self._leases.renew(lease, seconds))

    async def release(self, lease: Lease) -> None:
        await self._run(f"_leases/{lease.name}", "release", lambda: self._leases.release(lease))

    async def check_writable(self) -> None:
        await self._run(".", "write", self._probe)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._leases.close()

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*check_key(key))

    async def _run(self, key: str, action: str, work: Callable[[], _T], call: _Call | None = None) -> _T:
        def translated() -> _T:
            with _translated(self._root / key, action):
                return work()

        if self._closed:
            raise StorageError(f"can't {action} {self._root / key}: the storage is closed")
        try:
            async with asyncio.timeout(_DEADLINE):
                return await asyncio.get_running_loop().run_in_executor(self._threads, translated)
        except TimeoutError as error:
            raise StorageError(f"can't {action} {self._root / key}: no answer in {_DEADLINE:.0f} s") from error
        finally:
            if call is not None:
                call.given_up = True

    def _replace(self, path: Path, value: bytes, lease: Lease | None, call: _Call) -> None:
        temporary = self._write_temporary(value)
        try:
            make_folder(path.parent)
            with self._leases.held(lease), call:
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)

    def _unlink(self, path: Path, lease: Lease | None, call: _Call) -> None:
        with self._leases.held(lease), call, suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
        if path.parent.is_dir():
            sync_folder(path.parent)

    def _probe(self) -> None:
        self._write_temporary(_PROBE).unlink()

    def _write_temporary(self, value: bytes) -> Path:
        temporary = self._root / f".tmp-{self._instance}-{next(self._counter)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _remove_stale_temporaries(self) -> None:
        """Clear what a crash left; a write that still goes on is far younger."""
        for path in self._root.glob(".tmp-*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_TEMPORARY:
                    path.unlink()


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            value = file.read(MAX_VALUE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(value) > MAX_VALUE:
        raise StorageError(f"can't read {path}: more than {MAX_VALUE} bytes, so not a certificate or state of ours")
    return value


def _file_names(folder: Path) -> Iterator[str]:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_file():
                yield entry.name


def _warn_if_open_to_others(root: Path) -> None:
    mode = root.stat().st_mode & 0o777
    if mode & 0o077:
        _log.warning("storage.open_to_others", directory=str(root), mode=f"{mode:04o}", remedy=f"chmod 0700 {root}")


@contextmanager
def _translated(path: Path, action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        inside = f" ({error.filename})" if action == "open" and error.filename not in (None, str(path)) else ""
        raise StorageError(f"can't {action} {path}{inside}: {error.strerror or error}") from error
