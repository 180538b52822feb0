"""New files whose owner can't be given leave no descriptor open."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_cert_server.storage.directory_locks import FileLock
from ssl_cert_server.storage.folders import create_file


def _refuse(*_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("create", [create_file, lambda path: FileLock(path).make()])
def test_a_file_whose_owner_can_not_be_given_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: Callable[[Path], object]
) -> None:
    os.chown(tmp_path, 65534, 65534)
    monkeypatch.setattr(os, "fchown", _refuse)
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="Input/output error"):
        create(tmp_path / "file")
    assert sorted(Path("/proc/self/fd").iterdir()) == before
