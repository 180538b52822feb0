from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssl_cert_server.errors import StartError
from ssl_cert_server.server.pid_file import pid_file


def test_holds_this_process_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_is_removed_when_the_server_fails(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with pytest.raises(ZeroDivisionError), pid_file(path):
        raise ZeroDivisionError
    assert not path.exists()


def test_one_left_by_a_killed_server_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text("999999 and much more than a number\n")
    with pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_one_that_a_successor_wrote_is_left(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with pid_file(path):
        path.write_text("12345\n")
    assert path.read_text() == "12345\n"


def test_one_that_somebody_removed_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with pid_file(path):
        path.unlink()
    assert not path.exists()


def test_a_path_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(StartError, match=r"can't write the pid file .+: No such file or directory; set pid_file"),
        pid_file(tmp_path / "nowhere" / "server.pid"),
    ):
        pytest.fail("it must not come this far")


def test_with_the_null_device_there_is_none() -> None:
    with pid_file(Path("/dev/null")):
        pass
    assert Path("/dev/null").is_char_device()
