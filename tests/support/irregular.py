"""What may stand where a regular file is expected."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path


def _socket(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFSOCK)  # Linux needs no privileges for these


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


IRREGULAR: Mapping[str, Callable[[Path], None]] = {
    "a named pipe": os.mkfifo,
    "a socket": _socket,
    "a device": _device,
    "a folder": Path.mkdir,
}
"""By what messages call it, how it is put in place."""
