"""The files of the directory backend: read, listed, and replaced in one step. Blocking calls."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import MAX_VALUE
from ssl_cert_server.storage.folders import make_folder, sync_folder

_PREFIX = ".tmp-"
_STALE_TEMPORARY = 600.0


class Files:
    """Writes of one instance, by way of temporary files that bear its name."""

    def __init__(self, root: Path, instance: str) -> None:
        self._root = root
        self._instance = instance
        self._counter = itertools.count()

    def replace(self, path: Path, value: bytes, landing: AbstractContextManager[None]) -> None:
        """Write a file durably; ``landing`` is held for the step that makes it visible, or refuses it."""
        temporary = self.write_temporary(value)
        try:
            make_folder(path.parent)
            with landing:
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)

    def unlink(self, path: Path, landing: AbstractContextManager[None]) -> None:
        """Remove a file durably; see :meth:`replace`."""
        with landing, suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
        if path.parent.is_dir():
            sync_folder(path.parent)

    def write_temporary(self, value: bytes) -> Path:
        """Write a file that nobody sees, durably, or leave nothing."""
        temporary = self._root / f"{_PREFIX}{self._instance}-{next(self._counter)}"
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

    def remove_stale_temporaries(self, is_alive: Callable[[str], bool]) -> None:
        """Clear what a crash left, and nothing of an instance that is alive: the clock alone may be wrong."""
        for path in self._root.glob(f"{_PREFIX}*"):
            with suppress(FileNotFoundError):
                old = time.time() - path.stat().st_mtime > _STALE_TEMPORARY
                if old and not is_alive(path.name.removeprefix(_PREFIX).partition("-")[0]):
                    path.unlink()


def read_file(path: Path) -> bytes | None:
    """Give what a file holds, or None where there is none."""
    try:
        with path.open("rb") as file:
            value = file.read(MAX_VALUE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(value) > MAX_VALUE:
        raise StorageError(f"can't read {path}: more than {MAX_VALUE} bytes, so not a certificate or state of ours")
    return value


def file_names(folder: Path) -> Iterator[str]:
    """Iterate over the names of the files in a folder, hidden ones left out."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_file():
                yield entry.name
