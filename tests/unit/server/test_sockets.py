from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssl_cert_server.config.addresses import UnixAddress
from ssl_cert_server.errors import StartError
from ssl_cert_server.server.sockets import bind

PATH = Path("server.sock")
"""Relative: a temporary folder's own path may be too long for a socket."""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def listening() -> Iterator[list[socket.socket]]:
    """Sockets to close in the end."""
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def _bind(listening: list[socket.socket], *paths: Path) -> None:
    listening += bind([UnixAddress(path) for path in paths])


def _connect(path: Path = PATH) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_owner_and_the_group_may_connect_whatever_the_umask(listening: list[socket.socket], umask: int) -> None:
    previous = os.umask(umask)
    try:
        _bind(listening, PATH)
        assert os.umask(umask) == umask
    finally:
        os.umask(previous)
    assert stat.S_IMODE(PATH.stat().st_mode) == 0o660
    _connect()


def test_a_socket_that_a_killed_server_left_is_replaced(listening: list[socket.socket]) -> None:
    bind([UnixAddress(PATH)])[0].close()
    assert PATH.is_socket()
    _bind(listening, PATH)
    _connect()


def test_a_socket_in_use_is_left_alone(listening: list[socket.socket]) -> None:
    _bind(listening, PATH)
    with pytest.raises(StartError, match=r"^can't listen on unix:server\.sock: Address already in use"):
        bind([UnixAddress(PATH)])
    _connect()


def test_a_file_that_is_no_socket_is_left_alone() -> None:
    PATH.write_text("precious")
    with pytest.raises(StartError, match="Address already in use"):
        bind([UnixAddress(PATH)])
    assert PATH.read_text() == "precious"


def test_a_folder_that_is_not_there_is_told() -> None:
    with pytest.raises(StartError, match=r"unix:nowhere/s\.sock: No such file or directory"):
        bind([UnixAddress(Path("nowhere/s.sock"))])


def test_all_addresses_or_none(listening: list[socket.socket]) -> None:
    first = Path("first.sock")
    _bind(listening, PATH)
    with pytest.raises(StartError, match=r"server\.sock"):
        bind([UnixAddress(first), UnixAddress(PATH)])
    with pytest.raises(ConnectionRefusedError):
        _connect(first)
    _bind(listening, first)
    _connect(first)


def test_the_missing_directory_of_a_unix_socket_is_told_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"No such file or directory; create the directory of the socket, or change"):
        bind([UnixAddress(tmp_path / "missing" / "socket")])
