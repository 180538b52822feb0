"""The files of the directory backend: read, listed, and replaced in one step. Blocking calls."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from ssl_cert_server.errors import StorageError
from ssl_cert_server.files import read_regular
from ssl_cert_server.storage.base import MAX_VALUE
from ssl_cert_server.storage.folders import create_file, make_folder, sync_folder

_PREFIX = ".tmp-"
_STALE_TEMPORARY = 600.0
_FOLDERS_KNOWN = 100
"""Folders that a check of writability visits at most; a deployment has about a dozen."""


class Files:
    """Writes of one instance, by way of temporary files that bear its name."""

    def __init__(self, root: Path, instance: str) -> None:
        self._root = root
        self._instance = instance
        self._counter = itertools.count()
        self._folders: dict[Path, None] = {}

    def replace(self, path: Path, value: bytes, landing: AbstractContextManager[None]) -> None:
        """Write a file durably; ``landing`` is held for the step that makes it visible, or refuses it."""
        self.note_folder(path.parent)
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
        descriptor = create_file(temporary)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def note_folder(self, folder: Path) -> None:
        """Have :meth:`check_writable` look at a folder from now on."""
        if folder != self._root and len(self._folders) < _FOLDERS_KNOWN:
            self._folders[folder] = None

    def check_writable(self, value: bytes) -> None:
        """Write a file durably, move it through every folder that values or leases are written to, and remove it.

        :raises OSError: one of them takes no new file; ``filename2`` is in it.
        """
        temporary = self.write_temporary(value)
        try:
            for folder in [*self._folders]:
                with suppress(FileNotFoundError):  # it is made again when it is needed
                    temporary = temporary.replace(folder / temporary.name)
        finally:
            temporary.unlink(missing_ok=True)

    def look_around(self, is_alive: Callable[[str], bool]) -> None:
        """Note the folders that there are, and remove what a crash left behind; done once, as it reads the root."""
        found: list[Path] = []
        with os.scandir(self._root) as entries:
            for entry in entries:
                if entry.name.startswith("_") and entry.is_dir(follow_symlinks=False):
                    self.note_folder(Path(entry.path))
                elif entry.name.startswith(_PREFIX):
                    found.append(Path(entry.path))
        for folder in (path for path in (self._root / "_leases").glob("*") if path.is_dir()):
            self.note_folder(folder)
        for folder in self._folders:
            found += folder.glob(f"{_PREFIX}*")
        self._remove_stale(found, is_alive)

    def _remove_stale(self, found: Sequence[Path], is_alive: Callable[[str], bool]) -> None:
        """Remove nothing of an instance that is alive: the clock alone may be wrong."""
        for path in found:
            with suppress(FileNotFoundError):
                old = time.time() - path.stat().st_mtime > _STALE_TEMPORARY
                if old and not is_alive(path.name.removeprefix(_PREFIX).partition("-")[0]):
                    path.unlink()


def read_file(path: Path) -> bytes | None:
    """Give what a file holds, or None where there is none."""
    try:
        value = read_regular(path, MAX_VALUE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(value) > MAX_VALUE:
        raise StorageError(f"can't read {path}: more than {MAX_VALUE} bytes, so not a certificate or state of ours")
    return value


def file_names(folder: Path) -> Iterator[str]:
    """Iterate over the names of the entries in a folder that a value is, or should be, stored under.

    Hidden ones are left out, and so are folders, unless a dot in the name says that a certificate should be there. A
    named pipe, a device or a folder in the place of a file is found out when it is read.
    """
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if not entry.name.startswith(".") and _is_for_value(entry):
                yield entry.name


def _is_for_value(entry: os.DirEntry[str]) -> bool:
    if entry.is_file():
        return True
    if entry.is_dir():
        return "." in entry.name
    return Path(entry).exists()  # a symbolic link that leads nowhere counts as nothing
