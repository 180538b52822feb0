"""Folders of the directory backend."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ssl_cert_server.storage.directory_errors import replaced

_NOT_GIVEN = frozenset({errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""Root without CAP_CHOWN, an owner that a container's user namespace doesn't map, or a file system without owners."""


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


def create_folder(folder: Path, *, parents: bool = False) -> None:
    """Create a folder, 0700, unless it exists; it gets the owner of its parent."""
    try:
        folder.mkdir(mode=0o700, parents=parents)
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
    own(descriptor, path)
    return descriptor


def own(created: int, path: Path) -> None:
    """Do as :func:`keep_owner` for a new file, and close the descriptor where that fails.

    The file stays: another process may have locked it by then.

    :raises OSError: its owner can't be given.
    """
    try:
        keep_owner(created, path.parent)
    except BaseException:
        os.close(created)
        raise


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
