from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterable
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.acceptor import Acceptor
from ssl_cert_server.http.load import Connection, Load
from ssl_cert_server.server.admission import Admission
from tests.support.loop_time import LoopTime


class Socket:
    """An accepted socket."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def settimeout(self, _: float) -> None: ...

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def shutdown(self, _: int) -> None: ...

    def recv(self, _: int) -> bytes:
        raise BlockingIOError

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Listener(Socket):
    """A listening socket: each call of ``accept`` raises or returns the next of ``outcomes``."""

    def __init__(self, outcomes: Iterable[Socket | OSError]) -> None:
        super().__init__()
        self.outcomes = [*outcomes]

    def accept(self) -> tuple[Socket, None]:
        outcome = self.outcomes.pop(0) if self.outcomes else BlockingIOError()
        if isinstance(outcome, OSError):
            raise outcome
        return outcome, None


class Busy:
    """A connection with a request under way, or an idle one."""

    def __init__(self, idle: float | None = None) -> None:
        self.idle = idle
        self.aborted = False

    def idle_since(self) -> float | None:
        return self.idle

    def abort(self) -> None:
        self.aborted = True

    def go_on(self) -> None: ...


@pytest.fixture
async def readers(monkeypatch: pytest.MonkeyPatch) -> set[Any]:
    """The listeners that the loop watches."""
    watched: set[Any] = set()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_reader", lambda listener, *_: watched.add(listener))
    monkeypatch.setattr(loop, "remove_reader", watched.discard)
    return watched


class TestAcceptor:
    """Accepting, with and without descriptors to spare."""

    async def test_it_stops_for_a_moment_where_there_is_none_and_logs_it_once_a_minute(self, readers: set[Any]) -> None:
        time = LoopTime()
        accepted: list[Any] = []
        room: list[None] = []
        none_left = OSError(errno.EMFILE, "Too many open files")
        late = Socket()
        listener = cast(socket.socket, Listener([none_left, none_left, none_left, late]))
        acceptor = Acceptor(accepted.append, lambda: room.append(None))
        acceptor.start([listener])
        with capture_logs() as logs:
            for _ in range(3):
                assert listener in readers
                acceptor.accept(listener)
                assert listener not in readers, "it would be called again at once, for ever"
                await time.advance(0.2)
            acceptor.accept(listener)
        assert accepted == [late]
        assert len(room) == 3
        assert [(log["event"], log["reason"]) for log in logs] == [("connections.not_accepted", "Too many open files")]

    async def test_a_client_that_left_the_queue_is_no_trouble(self, readers: set[Any]) -> None:
        listener = cast(socket.socket, Listener([ConnectionAbortedError()]))
        acceptor = Acceptor(lambda _: None, lambda: None)
        acceptor.start([listener])
        with capture_logs() as logs:
            acceptor.accept(listener)
        assert listener in readers
        assert logs == []

    async def test_a_flood_leaves_the_loop_to_others(self, readers: set[Any]) -> None:
        accepted: list[Any] = []
        listener = cast(socket.socket, Listener(Socket() for _ in range(1000)))
        acceptor = Acceptor(accepted.append, lambda: None)
        acceptor.start([listener])
        acceptor.accept(listener)
        assert 0 < len(accepted) < 100
        assert listener in readers

    async def test_closed_it_watches_nothing_any_more(self, readers: set[Any]) -> None:
        time = LoopTime()
        listener = cast(socket.socket, Listener([OSError(errno.ENFILE, "Too many open files in system")]))
        acceptor = Acceptor(lambda _: None, lambda: None)
        acceptor.start([listener])
        acceptor.accept(listener)
        acceptor.close()
        await time.advance(1)
        assert readers == set()


class TestAdmission:
    """More connections than there may be."""

    async def test_an_idle_one_is_closed_for_a_new_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        connections: set[Connection] = {Busy(), Busy(idle=1.0)}
        served: list[Any] = []

        async def connect(_: object, connection: Socket) -> None:
            served.append(connection)

        monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", connect)
        new = Socket()
        with capture_logs() as logs:
            Admission(asyncio.Protocol, connections, Load(connections=2)).admit(cast(socket.socket, new))
            await asyncio.sleep(0)
        assert served == [new]
        assert sorted(each.aborted for each in cast(set[Busy], connections)) == [False, True]
        assert [log["event"] for log in logs] == ["connections.full"]

    async def test_where_none_is_idle_it_is_refused_in_words(self) -> None:
        connections: set[Connection] = {Busy(), Busy()}
        admission = Admission(asyncio.Protocol, connections, Load(connections=2))
        with capture_logs() as logs:
            for _ in range(3):
                new = Socket()
                admission.admit(cast(socket.socket, new))
                assert new.sent.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nretry-after: 1\r\n" in new.sent
                assert new.closed
        assert [log["event"] for log in logs] == ["connections.full"]
