"""Folders of the directory backend."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ssl_cert_server.storage.directory_errors import replaced


class Place:
    """The directory as it was opened, so that another in its place is noticed: that under a mount that is gone.

    There every certificate would seem to be missing, and be issued anew.
    """

    def __init__(self, root: Path, mark: Path) -> None:
        """``mark`` is a file in it that no other directory has."""
        self._root = root
        self._mark = mark
        self._identity = identity(root)

    def check(self) -> None:
        """:raises OSError: the directory is gone, or another one."""
        found = identity(self._root)
        if found == self._identity:
            return
        if not self._mark.exists():
            raise replaced(self._root)
        self._identity = found  # mounted anew, under another number


def identity(path: Path) -> tuple[int, int]:
    """Tell files apart, whatever their path.

    :raises OSError: there is none.
    """
    found = path.stat()
    return found.st_dev, found.st_ino


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, each 0700 and durable; ``Path.mkdir`` sees to the mode of the last only."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder survive a crash of the machine."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make what was written to a file survive a crash of the machine."""
    _sync(path, 0)


def lock_file(path: Path, *, block: bool) -> int:
    """Open a file, and lock it exclusively; closing the descriptor unlocks it.

    :raises BlockingIOError: ``block`` is off and somebody has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if block else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
