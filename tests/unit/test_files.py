"""Opening files that somebody may have replaced."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_cert_server.files import NotRegular, check_regular, open_regular, read_regular
from tests.support.irregular import IRREGULAR


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_RDWR])
@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_regular_file_is_refused_at_once(path: Path, kind: str, flags: int) -> None:
    IRREGULAR[kind](path)
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file|Is a directory") as failure:
        open_regular(path, flags)
    assert failure.value.filename == str(path)
    assert isinstance(failure.value, IsADirectoryError if kind == "a folder" else NotRegular)
    with pytest.raises(type(failure.value)):
        check_regular(path)


def test_one_that_is_put_in_place_at_the_last_moment_is_refused_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"")

    def replaced(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    monkeypatch.setattr("ssl_cert_server.files.check_regular", replaced)
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(NotRegular, match="a named pipe"):
        read_regular(path, 10)
    assert len([*Path("/proc/self/fd").iterdir()]) == before, "closed"


def test_a_symbolic_link_to_a_regular_file_is_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "live.pem").write_bytes(b"value")
    path.symlink_to(tmp_path / "live.pem")
    assert read_regular(path, 10) == b"value"


def test_no_more_than_one_byte_over_the_limit_is_read(path: Path) -> None:
    path.write_bytes(bytes(100))
    assert len(read_regular(path, 10)) == 11


@pytest.mark.parametrize("use", [open_regular, check_regular, lambda path: read_regular(path, 1)])
def test_a_file_that_is_not_there_is_told(path: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError):
        use(path)


def test_a_file_that_it_creates_is_0600_unless_said_otherwise(path: Path, tmp_path: Path) -> None:
    os.close(open_regular(path, os.O_WRONLY | os.O_CREAT))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = os.umask(0o022)
    os.close(open_regular(tmp_path / "other", os.O_WRONLY | os.O_CREAT, mode=0o666))
    os.umask(before)
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o644
