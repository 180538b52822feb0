"""What the system and SQLite say when a directory fails, in words that tell what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssl_cert_server.errors import StorageError
from ssl_cert_server.files import NotRegular

_FULL = "make room there (df -h), or remove files where inodes are what is missing (df -i)"
_READ_ONLY = "mount it writable again; after errors of the disk the system mounts it read-only by itself (dmesg)"
_REFUSED = "the server's user must own it, and be able to read and write it (chown, chmod -R u+rwX)"
_IRREGULAR = "remove it, or put the file back in its place"
_FAULTY = "the disk, or the way to it, is failing (dmesg)"

_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the server's user is at its quota (quota): make room, or raise it",
    errno.EFBIG: "a limit on the size of files is in the way (ulimit -f)",
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
    errno.EIO: _FAULTY,
    errno.EMFILE: "raise the limit of open files (LimitNOFILE, ulimit -n)",
    errno.ENFILE: "raise the machine's limit of open files (sysctl fs.file-max)",
    errno.ENOENT: "create the missing directory or file (mkdir -p), or correct the path",
    errno.ENOTDIR: "a file is in the place of a directory: move it away, or correct the path",
    errno.EEXIST: "a file is in the place of a directory: move it away, or correct the path",
    errno.EISDIR: "a directory is in the place of a file: move it away",
    errno.ENOTCONN: "the file system is gone: mount it again",
    errno.ENODEV: "the file system is gone: mount it again",
}
_SQLITE_REMEDIES = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: f"{_REFUSED}, and its file system be writable",
    sqlite3.SQLITE_PERM: _REFUSED,
    sqlite3.SQLITE_BUSY: "another process keeps it locked: look for an instance that is stopped or hangs",
    sqlite3.SQLITE_CANTOPEN: f"{_REFUSED}; look at the limit of open files, too (ulimit -n)",
    sqlite3.SQLITE_IOERR_SHMSIZE: f"it may be full: {_FULL}",
    sqlite3.SQLITE_IOERR: f"{_FAULTY}, or a limit on the size of files is in the way (ulimit -f)",
}


@contextmanager
def translated(path: Path, action: str) -> Iterator[None]:
    """Turn what the system or SQLite refuses into a StorageError: what couldn't be done, where, why, what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _IRREGULAR if isinstance(error, NotRegular) else _REMEDIES.get(error.errno or 0)
        raise StorageError(_words(f"{action} {path}{_elsewhere(error, path)}", reason, remedy)) from error
    except sqlite3.Error as error:
        remedy = _SQLITE_REMEDIES.get(_code(error)) or _SQLITE_REMEDIES.get(primary_code(error))
        raise StorageError(_words(f"{action} {path}", str(error), remedy)) from error
    except (UnicodeError, OverflowError) as error:
        raise StorageError(f"can't {action} {path}: {type(error).__name__}") from error


def primary_code(error: sqlite3.Error) -> int:
    """Give SQLite's own code, without what is only a detail of it; 0 where Python itself complains."""
    return _code(error) & 0xFF


def _elsewhere(error: OSError, path: Path) -> str:
    """Name the file that the trouble is with, where it is neither ``path``, nor above it, nor a temporary one."""
    found = error.filename2 or error.filename
    if found is None or isinstance(found, int):
        return ""
    file = Path(os.fsdecode(found))
    if file.name.startswith(".tmp-"):
        file = file.parent
    return "" if file == path or file in path.parents else f" ({file})"


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0))


def replaced(path: Path, remedy: str) -> OSError:
    """Return the error for a directory that isn't the one that was opened."""
    return OSError(errno.ESTALE, f"another directory is in its place now; {remedy}", os.fspath(path))


def missing(path: Path, remedy: str) -> OSError:
    """Return the error for an opened directory that is gone."""
    return OSError(errno.ESTALE, f"the directory {path} is gone; {remedy}", os.fspath(path))


def _words(what: str, reason: str, remedy: str | None) -> str:
    return f"can't {what}: {reason}" + (f"; {remedy}" if remedy else "")
