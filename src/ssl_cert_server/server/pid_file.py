"""The pid file, as the predecessor wrote it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssl_cert_server.errors import StartError


@contextmanager
def pid_file(path: Path) -> Iterator[None]:
    """Hold this process's id in ``path`` during the block; afterwards it is removed where it is still ours.

    :raises StartError: it can't be written.
    """
    own = f"{os.getpid()}\n"
    try:
        path.write_text(own)
    except OSError as error:
        raise StartError(f"can't write the pid file {path}: {error.strerror}; set pid_file to another path") from error
    try:
        yield
    finally:
        with suppress(OSError):  # what can't be removed any more is of no use, but does no harm either
            if path.read_text() == own:
                path.unlink()
