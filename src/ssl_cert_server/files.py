"""Opening of files that another process may have replaced: regular files only, and never blocking.

Opening a named pipe waits for a writer, reading a device may never end, and some devices act on being opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegular(OSError):
    """The path leads to a named pipe, a socket or a device; ``strerror`` names which."""

    def __init__(self, kind: str, path: Path) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))


def open_regular(path: Path, flags: int = os.O_RDONLY, *, mode: int = 0o600) -> int:
    """Open a regular file, or a symbolic link to one, and return its descriptor; ``mode`` is for one it creates.

    :raises NotRegular: something else is in its place.
    :raises OSError: it can't be opened.
    """
    with suppress(FileNotFoundError):
        check_regular(path)
    descriptor = os.open(path, flags | _FLAGS, mode)
    try:
        _check_kind(path, os.fstat(descriptor).st_mode)  # it may have been replaced in between
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(path: Path) -> None:
    """Check a file that a library opens by its path.

    :raises NotRegular: it is no regular file, or symbolic link to one.
    :raises OSError: it can't be looked at.
    """
    _check_kind(path, path.stat().st_mode)


def read_regular(path: Path, limit: int) -> bytes:
    """Return the content of a regular file, but never more than one byte over ``limit``.

    :raises OSError: as :func:`open_regular`, or it can't be read.
    """
    with open(open_regular(path), "rb") as file:
        return file.read(limit + 1)


def _check_kind(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise NotRegular(name, path)
