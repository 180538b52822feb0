"""A log that can't be written: closed, full, or a pipe that nobody reads. It costs log lines, and nothing else."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import unsharing
from tests.support.pebble import Pebble
from tests.support.server import CertServer, Reply, acme_config
from tests.support.waiting import wait_until

PROMPTLY = 30
"""Seconds for a stop; nothing of it may depend on who reads the log."""

STAYS_AWAY = 4
"""Seconds for which storage is away: background tasks fail, log it, and are started again."""

CLOSED = {
    "full-device": ">/dev/full 2>&1",
    "stderr-closed": "2>&-",
    "stdout-closed": ">&-",
    "all-closed": "<&- >&- 2>&-",
}


def redirected(redirection: str, *before: str) -> list[str]:
    """What begins the server's command, so that a shell redirects its output first."""
    return ["sh", "-c", "; ".join([*before, f'exec "$@" {redirection}']), "sh"]


@pytest.fixture
def config(pebble: Pebble) -> dict[str, Any]:
    return acme_config(pebble.directory_url, pebble.ca_bundle, re_patterns=[r".+\.example\.com"])


class Pipe:
    """A pipe of 4 KiB that is the server's output; nobody reads it until told to."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self._end, fcntl.F_SETPIPE_SZ, 4096)
        self._read = bytearray()
        self._reader: threading.Thread | None = None

    @property
    def text(self) -> str:
        return bytes(self._read).decode()

    def read(self) -> None:
        """Read from now on, until every writer is gone."""
        os.set_blocking(self._end, True)
        self._reader = threading.Thread(target=self._run, daemon=True)
        self._reader.start()

    def leave(self) -> None:
        """Go away: who writes gets EPIPE."""
        with suppress(OSError):
            os.close(self._end)

    def join(self) -> None:
        """Wait until every writer is gone and all was read."""
        assert self._reader is not None
        self._reader.join(60)
        assert not self._reader.is_alive()

    def _run(self) -> None:
        while data := os.read(self._end, 65536):
            self._read += data


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "output")
    yield pipe
    pipe.leave()


def check_it_serves(server: CertServer, pebble: Pebble, name: str) -> None:
    """Ten requests for a new name: ten answers, one order."""
    orders = pebble.order_count()
    with ThreadPoolExecutor(5) as pool:
        replies = [*pool.map(server.cert, [name] * 5)]
    replies += [server.cert(name) for _ in range(5)]
    assert [reply.status for reply in replies] == [200] * 10
    assert pebble.order_count() == orders + 1


@contextmanager
def without_storage(server: CertServer) -> Iterator[None]:
    """Have storage away for a while."""
    aside = server.directory.with_name("aside")
    server.directory.rename(aside)
    try:
        wait_until(lambda: server.get("/readyz").status == 503)
        yield
    finally:
        aside.rename(server.directory)
    wait_until(lambda: server.get("/readyz").status == 200)


def check_it_survives(server: CertServer, known: str) -> None:
    """SIGHUP and a storage that goes away: both are logged, and neither ends the process."""
    server.process.signal(signal.SIGHUP)
    with without_storage(server):
        end = time.monotonic() + STAYS_AWAY
        while time.monotonic() < end:
            assert server.cert(known).status == 200
            time.sleep(0.1)
    server.process.signal(signal.SIGHUP)


def check_it_stops(server: CertServer) -> None:
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < PROMPTLY


def check_all(server: CertServer, pebble: Pebble) -> None:
    check_it_serves(server, pebble, "first.example.com")
    check_it_survives(server, "first.example.com")
    check_it_serves(server, pebble, "second.example.com")
    check_it_stops(server)
    assert pebble.order_count() == 2


@pytest.mark.parametrize("redirection", CLOSED.values(), ids=CLOSED.keys())
def test_output_that_is_closed_or_full_from_the_start(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, Any], redirection: str
) -> None:
    server = CertServer(tmp_path / "server", config, port=http_port, within=redirected(redirection))
    with server:
        check_all(server, pebble)
        files = [path.read_text(errors="replace") for path in server.directory.rglob("*") if path.is_file()]
        assert not any("timestamp=" in text for text in files), "no file became the log"


def test_a_pipe_whose_reader_is_gone(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, Any], pipe: Pipe
) -> None:
    within = redirected(f">{pipe.path} 2>&1")
    with CertServer(tmp_path / "server", config, port=http_port, within=within) as server:
        pipe.leave()
        check_all(server, pebble)


def test_a_full_disk_and_room_again(tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, Any]) -> None:
    if not unsharing():
        pytest.skip("this machine allows no mounts")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=64k none {disk}", f"dd if=/dev/zero of={disk}/filler bs=4096 2>/dev/null"
    within = [*unsharing(), *redirected(f">{disk}/output 2>{disk}/log", *mount)]
    with CertServer(tmp_path / "server", config, port=http_port, within=within) as server:
        seen = Path(f"/proc/{server.process.pid}/root{disk}")
        check_it_serves(server, pebble, "first.example.com")
        check_it_survives(server, "first.example.com")
        assert (seen / "log").stat().st_size == (seen / "output").stat().st_size == 0
        (seen / "filler").unlink()
        wait_until(lambda: dropped(seen.joinpath("log").read_text()) > 5)
        wait_until(lambda: seen.joinpath("output").read_text() == "lines that could not be written here: 1\n")
        check_it_serves(server, pebble, "second.example.com")
        wait_until(lambda: "name=second.example.com" in seen.joinpath("log").read_text())
        written = (seen / "log").read_text().splitlines()
        assert [line for line in written if not line.startswith("timestamp=")] == []
        check_it_stops(server)
    assert pebble.order_count() == 2


def dropped(log: str) -> int:
    """How many lines are missing by the log's own words."""
    counts = re.findall(r" level=warning event=log\.dropped count=(\d+)\n", log)
    return sum(map(int, counts))


class TestStuckPipe:
    """A reader that stops reading."""

    @pytest.fixture
    def server(self, tmp_path: Path, http_port: int, config: dict[str, Any], pipe: Pipe) -> Iterator[CertServer]:
        within = redirected(f">{pipe.path} 2>&1")
        with CertServer(tmp_path / "server", config, port=http_port, within=within) as server:
            yield server

    def test_it_stops_nothing_and_is_told_once_it_is_read_again(
        self, server: CertServer, pebble: Pebble, pipe: Pipe
    ) -> None:
        names = [f"n{number}.example.com" for number in range(20)]
        with ThreadPoolExecutor(5) as pool:
            assert {reply.status for reply in pool.map(server.cert, names)} == {200}
        assert [server.cert(name).status for name in names] == [200] * 20
        assert pebble.order_count() == 20
        check_it_survives(server, names[0])
        fail_until_the_queue_is_full(server)
        pipe.read()
        wait_until(lambda: dropped(pipe.text) > 0)
        check_it_serves(server, pebble, "after.example.com")
        check_it_stops(server)
        pipe.join()
        log = pipe.text
        assert log.count("event=server.started") == 1
        assert log.count("event=server.no_reload") == 2
        assert log.splitlines()[-1].endswith("event=server.stopped")
        assert "Traceback" not in log

    def test_it_keeps_no_server_from_stopping(self, server: CertServer, pebble: Pebble) -> None:
        check_it_serves(server, pebble, "first.example.com")
        for _ in range(100):
            server.process.signal(signal.SIGHUP)
            assert server.get("/healthz").status == 200
        check_it_survives(server, "first.example.com")
        check_it_stops(server)


def fail_until_the_queue_is_full(server: CertServer) -> None:
    """Have more lines logged than fit: one for each request for a new name while storage is away."""

    def ask(number: int) -> Reply:
        return server.cert(f"x{number}.example.com")

    with without_storage(server), ThreadPoolExecutor(8) as pool:
        assert {reply.status for reply in pool.map(ask, range(3000))} == {500}
