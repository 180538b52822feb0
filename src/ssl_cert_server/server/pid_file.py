"""The pid file, as the predecessor wrote it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssl_cert_server.errors import StartError
from ssl_cert_server.files import open_regular, read_regular


@contextmanager
def pid_file(path: Path) -> Iterator[None]:
    """Hold this process's id in ``path`` during the block; afterwards it is removed where it is still ours.

    With ``/dev/null`` there is no pid file.

    :raises StartError: it can't be written.
    """
    if os.fspath(path) == os.devnull:
        yield
        return
    own = f"{os.getpid()}\n"
    try:
        with open(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=0o666), "w") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(own)
    except OSError as error:
        raise StartError(f"can't write the pid file {path}: {error.strerror}; set pid_file to another path") from error
    try:
        yield
    finally:
        with suppress(OSError):  # what can't be removed any more is of no use, but does no harm either
            if read_regular(path, len(own)) == own.encode():
                path.unlink()
