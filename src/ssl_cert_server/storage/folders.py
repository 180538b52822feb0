"""Folders of the directory backend."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from ssl_cert_server.storage.directory_errors import missing, replaced

_NOT_GIVEN = frozenset({errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""Root without CAP_CHOWN, an owner that a container's user namespace doesn't map, or a file system without owners."""

REMEDY = "mount the right one or move it back, or restart the server"
"""What to do about a directory that was removed or replaced while it was open."""


class Place:
    """The directory as it was opened, so that another in its place is noticed: that under a mount that is gone.

    There every certificate would seem to be missing, and be issued anew.
    """

    def __init__(self, root: Path, mark: Path, remedy: str = REMEDY) -> None:
        """``mark`` is a file in it that no other directory has; ``remedy`` says what to do once it is gone."""
        self._root = root
        self._mark = mark
        self._remedy = remedy
        self._identity = identity(root)

    def check(self) -> None:
        """:raises OSError: the directory is gone, or another one."""
        try:
            found = identity(self._root)
        except FileNotFoundError:
            raise missing(self._root, self._remedy) from None
        if found == self._identity:
            return
        if not self._mark.exists():
            raise replaced(self._root, self._remedy)
        self._identity = found  # mounted anew, under another number


def identity(path: Path) -> tuple[int, int]:
    """Tell files apart, whatever their path.

    :raises OSError: there is none.
    """
    found = path.stat()
    return found.st_dev, found.st_ino


def make_folder(folder: Path, *, durable: bool = True) -> None:
    """Create a folder and those above it, each 0700; ``durable`` ones survive a crash of the machine.

    ``Path.mkdir`` sees to the mode of the last one only.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent, durable=durable)
    create_folder(folder)
    if durable:
        sync_folder(folder.parent)


def holds_storage(root: Path) -> bool:
    """Return whether a directory holds a storage: what a server made, or the files of one to be taken over.

    A directory that is missing holds none, nor does an empty one, as under a file system that is not mounted.

    :raises OSError: it can't be listed.
    """
    with suppress(FileNotFoundError), os.scandir(root) as entries:
        return any(entry.name == "_leases" or not entry.is_dir() for entry in entries)
    return False


def create_folder(folder: Path, *, parents: bool = False, mode: int = 0o700) -> None:
    """Create a folder unless it exists, and with ``parents`` those above it; each gets the owner of its parent."""
    if parents and not folder.parent.exists():
        create_folder(folder.parent, parents=True, mode=0o777)
    try:
        folder.mkdir(mode=mode)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        keep_owner(descriptor, folder.parent)
    finally:
        os.close(descriptor)


def create_file(path: Path) -> int:
    """Create a file that isn't there yet, 0600, and open it for writing; it gets the owner of its folder."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    keep_owner(descriptor, path.parent)
    return descriptor


def keep_owner(created: int, folder: Path) -> None:
    """Give what root just created, by its descriptor, to the owner of the folder that it is in.

    A command that an operator runs as root must leave nothing behind that the server's user can't write. It takes a
    descriptor of a file that was created with ``O_EXCL``: whatever else a path leads to is not ours to give away.
    """
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    if owner.st_uid != os.fstat(created).st_uid:
        try:
            os.fchown(created, owner.st_uid, owner.st_gid)
        except OSError as error:
            if error.errno not in _NOT_GIVEN:
                raise


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder survive a crash of the machine."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make what was written to a file survive a crash of the machine."""
    _sync(path, 0)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
