"""The listener for tls-alpn-01: what a CA, and everybody else, is told."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs

from ssl_cert_server.challenges import tlsalpn01_listener
from ssl_cert_server.challenges.client_hello import MAX_HELLO
from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from ssl_cert_server.challenges.tlsalpn01_listener import CONNECTIONS, TlsAlpn01Listener
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.unit.challenges.tls_client import TlsClient

NAME = "a.example"
ACME = "acme-tls/1"
ALERT = b"\x15\x03\x03\x00\x02\x02"
ONLY_1_2 = {"highest": ssl.TLSVersion.TLSv1_2}
ONLY_1_3 = {"lowest": ssl.TLSVersion.TLSv1_3}


@pytest.fixture
async def responder(storage: FaultyStorage, clock: ManualClock) -> TlsAlpn01Responder:
    responder = TlsAlpn01Responder(storage, clock)
    await responder.present(NAME, "token", "token.thumbprint")
    return responder


@pytest.fixture
def listener(responder: TlsAlpn01Responder, clock: ManualClock) -> TlsAlpn01Listener:
    return TlsAlpn01Listener(responder, clock)


async def expected(responder: TlsAlpn01Responder, name: str = NAME) -> bytes:
    certificate = await responder.answer(name)
    assert certificate is not None
    return x509.load_pem_x509_certificate(certificate.chain_pem).public_bytes(Encoding.DER)


class Line:
    """Both ends of a connection: what a TLS client, or ``raw`` bytes, send arrives in pieces, and then the end."""

    def __init__(self, client: TlsClient | None = None, *, raw: bytes = b"", piece: int = 4096) -> None:
        self._client = client
        self._coming = raw or (client.hello() if client else b"")
        self._piece = piece
        self.taken = 0
        self.sent = b""

    async def read(self, size: int, /) -> bytes:
        count = min(size, self._piece)
        data, self._coming = self._coming[:count], self._coming[count:]
        self.taken += len(data)
        return data

    def write(self, data: bytes, /) -> None:
        self.sent += data
        if self._client:
            self._coming += self._client.feed(data)

    async def drain(self) -> None: ...


class TestTalk:
    """One conversation."""

    @pytest.mark.parametrize("piece", [1, 3, 4096])
    @pytest.mark.parametrize(("version", "options"), [("TLSv1.2", ONLY_1_2), ("TLSv1.3", ONLY_1_3)])
    async def test_a_ca_is_shown_the_challenge_certificate(
        self,
        listener: TlsAlpn01Listener,
        responder: TlsAlpn01Responder,
        version: str,
        options: dict[str, ssl.TLSVersion],
        piece: int,
    ) -> None:
        client = TlsClient(NAME, ACME, **options)
        line = Line(client, piece=piece)
        await listener.talk(line, line)
        assert client.done
        assert (client.protocol, client.version) == (ACME, version)
        assert client.leaf == await expected(responder)
        assert client.heard_goodbye

    async def test_it_is_shown_what_another_instance_presented(
        self, storage: FaultyStorage, responder: TlsAlpn01Responder, clock: ManualClock
    ) -> None:
        client = TlsClient(NAME, ACME)
        line = Line(client)
        await TlsAlpn01Listener(TlsAlpn01Responder(storage, clock), clock).talk(line, line)
        assert client.leaf == await expected(responder)

    async def test_an_address_is_asked_for_by_its_reverse_name(
        self, listener: TlsAlpn01Listener, responder: TlsAlpn01Responder
    ) -> None:
        await responder.present("192.0.2.1", "token", "token.thumbprint")
        client = TlsClient("1.2.0.192.in-addr.arpa", ACME)
        line = Line(client)
        await listener.talk(line, line)
        assert client.leaf == await expected(responder, "192.0.2.1")

    @pytest.mark.parametrize("options", [ONLY_1_2, ONLY_1_3])
    @pytest.mark.parametrize("protocols", [(), ("h2", "http/1.1"), ("h2", ACME), ("ACME-TLS/1",), ("acme-tls/2",)])
    async def test_no_other_protocol_is_spoken_and_storage_not_asked(
        self,
        listener: TlsAlpn01Listener,
        storage: FaultyStorage,
        protocols: tuple[str, ...],
        options: dict[str, ssl.TLSVersion],
    ) -> None:
        storage.break_down("get")
        client = TlsClient("b.example", *protocols, **options)
        line = Line(client)
        await listener.talk(line, line)
        assert not client.done
        assert line.sent == ALERT + bytes([120])
        assert "alert no application protocol" in client.alert

    @pytest.mark.parametrize("options", [ONLY_1_2, ONLY_1_3])
    @pytest.mark.parametrize("name", [None, "b.example", "example", "sub.a.example", "192.0.2.7"])
    async def test_an_unknown_name_is_unrecognized(
        self, listener: TlsAlpn01Listener, name: str | None, options: dict[str, ssl.TLSVersion]
    ) -> None:
        client = TlsClient(name, ACME, **options)
        line = Line(client)
        await listener.talk(line, line)
        assert not client.done
        assert line.sent == ALERT + bytes([112])
        assert "unrecognized name" in client.alert

    async def test_after_cleanup_nobody_is_shown_anything(
        self, listener: TlsAlpn01Listener, responder: TlsAlpn01Responder
    ) -> None:
        await responder.cleanup(NAME, "token")
        line = Line(TlsClient(NAME, ACME))
        await listener.talk(line, line)
        assert line.sent == ALERT + bytes([112])

    async def test_tls_1_1_is_refused_with_an_alert(self, listener: TlsAlpn01Listener) -> None:
        hello = bytearray(TlsClient(NAME, ACME, **ONLY_1_2).hello())
        hello[9:11] = b"\x03\x02"  # as of a client that knows no better version
        line = Line(raw=bytes(hello))
        await listener.talk(line, line)
        assert line.sent[0] == 21
        assert line.sent[-1] == 70, "protocol_version"

    @pytest.mark.parametrize(
        "raw", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x00\x04\x02\0\0\0"]
    )
    async def test_whoever_speaks_no_tls_is_told_nothing(self, listener: TlsAlpn01Listener, raw: bytes) -> None:
        line = Line(raw=raw)
        await listener.talk(line, line)
        assert line.sent == b""

    async def test_of_a_huge_hello_no_more_is_read_than_the_bound(self, listener: TlsAlpn01Listener) -> None:
        record = b"\x16\x03\x01\x40\x00"
        line = Line(raw=record + b"\x01\xff\xff\xff" + bytes(16_380) + (record + bytes(16_384)) * 50)
        await listener.talk(line, line)
        assert line.sent == b""
        assert line.taken <= MAX_HELLO + 4096

    @pytest.mark.parametrize("length", [0, 1, 5, 100])
    async def test_a_hello_that_is_cut_off_ends_it(self, listener: TlsAlpn01Listener, length: int) -> None:
        hello = TlsClient(NAME, ACME).hello()
        line = Line(raw=b"" if not length else hello[:length])
        await listener.talk(line, line)
        assert line.sent == b""

    async def test_a_client_that_leaves_after_its_hello_ends_it(self, listener: TlsAlpn01Listener) -> None:
        line = Line(raw=TlsClient(NAME, ACME).hello())
        await listener.talk(line, line)
        assert line.sent[0] == 22

    async def test_garbage_after_the_hello_ends_it(self, listener: TlsAlpn01Listener) -> None:
        line = Line(raw=TlsClient(NAME, ACME).hello() + b"\x17\x03\x03\x00\x20" + bytes(32))
        await listener.talk(line, line)
        assert line.sent[0] == 22

    @pytest.mark.parametrize("name", [b"\xff\xfe.example", b"a.exampl\n", b"a.exampl\0", b"../../../"])
    async def test_a_hostile_name_does_no_harm(
        self, listener: TlsAlpn01Listener, name: bytes, capfd: pytest.CaptureFixture[str]
    ) -> None:
        hello = TlsClient(NAME, ACME).hello()
        line = Line(raw=hello.replace(NAME.encode(), name.ljust(len(NAME), b"x")))
        with capture_logs() as logs:
            await listener.talk(line, line)
        assert line.sent in (b"", ALERT + bytes([112]))
        assert logs == []
        assert capfd.readouterr().err == ""


class Transport:
    """What a writer's transport is told."""

    def __init__(self) -> None:
        self._aborted = asyncio.Event()

    @property
    def aborted(self) -> bool:
        return self._aborted.is_set()

    def abort(self) -> None:
        self._aborted.set()

    async def wait(self) -> None:
        """Until it is aborted."""
        await self._aborted.wait()


class Connection:
    """An accepted connection, with a client that says ``data`` and then waits."""

    def __init__(self, data: bytes = b"") -> None:
        self.reader = asyncio.StreamReader()
        self.reader.feed_data(data)
        self.transport = Transport()
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    async def drain(self) -> None: ...

    def close(self) -> None:
        self.closed = True
        self.transport.abort()

    async def wait_closed(self) -> None: ...


class Loopback:
    """Stands in for the acceptor: connections are made by hand."""

    def __init__(self) -> None:
        self.accept: list[Callable[[Any], None]] = []
        self.sockets: list[Any] = []
        self.open = 0

    def acceptor(self, accepted: Callable[[Any], None], make_room: Callable[[], object]) -> Loopback:
        make_room()
        self.accept.append(accepted)
        return self

    def start(self, listeners: Sequence[Any]) -> None:
        self.sockets += listeners
        self.open += len(listeners)

    def close(self) -> None:
        self.open = 0

    async def connect(self, data: bytes = b"") -> Connection:
        connection = Connection(data)
        self.accept[-1](connection)
        await settle()
        return connection


@asynccontextmanager
async def streams(connection: Connection) -> AsyncIterator[tuple[asyncio.StreamReader, Connection]]:
    """Stands in for the streams of an accepted socket."""
    yield connection.reader, connection


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class TestServe:
    """Many connections."""

    @pytest.fixture
    async def loopback(self, monkeypatch: pytest.MonkeyPatch) -> Loopback:
        loopback = Loopback()
        monkeypatch.setattr(tlsalpn01_listener, "Acceptor", loopback.acceptor)
        monkeypatch.setattr(tlsalpn01_listener, "_streams", streams)
        return loopback

    @pytest.fixture
    async def serving(self, listener: TlsAlpn01Listener, loopback: Loopback) -> AsyncIterator[asyncio.Task[None]]:
        sockets = [cast(socket.socket, loopback)] * 2
        task = asyncio.create_task(listener.serve(sockets))
        await settle()
        yield task
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    async def test_all_sockets_are_served_and_stay_the_callers(
        self, loopback: Loopback, serving: asyncio.Task[None]
    ) -> None:
        assert loopback.sockets == [loopback] * 2
        assert loopback.open == 2
        connection = await loopback.connect(TlsClient("b.example", ACME).hello())
        assert connection.sent == ALERT + bytes([112])
        assert connection.closed

    async def test_the_hundred_and_first_is_closed_at_once_and_told_once_a_minute(
        self, loopback: Loopback, serving: asyncio.Task[None], clock: ManualClock
    ) -> None:
        busy = {"event": "tls_alpn01.busy", "log_level": "warning", "connections": CONNECTIONS}
        waiting = [await loopback.connect() for _ in range(CONNECTIONS)]
        with capture_logs() as logs:
            assert not any(connection.transport.aborted for connection in waiting)
            for _ in range(3):
                assert (await loopback.connect()).transport.aborted
            assert logs == [busy]
            await clock.advance(60)
            await loopback.connect()
            assert logs == [busy] * 2
        waiting[0].reader.feed_eof()
        await settle()
        assert waiting[0].transport.aborted
        assert not (await loopback.connect()).transport.aborted

    async def test_a_connection_that_takes_too_long_is_closed(
        self, loopback: Loopback, serving: asyncio.Task[None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tlsalpn01_listener, "DEADLINE", 0.01)
        with capture_logs() as logs:
            silent = await loopback.connect()
            slow = await loopback.connect(TlsClient(NAME, ACME).hello())
            await silent.transport.wait()
            await slow.transport.wait()
        assert slow.sent[0] == 22
        assert logs == []

    async def test_cancelling_closes_everything(
        self, loopback: Loopback, serving: asyncio.Task[None], listener: TlsAlpn01Listener
    ) -> None:
        connections = [await loopback.connect() for _ in range(3)]
        late = Connection()
        loopback.accept[0](late)  # its task never gets to run
        serving.cancel()
        await asyncio.wait({serving})
        assert loopback.open == 0
        assert all(connection.transport.aborted for connection in [*connections, late])
        assert listener._open == 0

    async def test_it_can_be_served_again(
        self, loopback: Loopback, serving: asyncio.Task[None], listener: TlsAlpn01Listener
    ) -> None:
        serving.cancel()
        await asyncio.wait({serving})
        again = asyncio.create_task(listener.serve([cast(socket.socket, loopback)]))
        await settle()
        assert not (await loopback.connect()).transport.aborted
        again.cancel()
        await asyncio.wait({again})

    async def test_storage_that_fails_is_told_once_a_minute_and_ends_one_connection(
        self, loopback: Loopback, serving: asyncio.Task[None], storage: FaultyStorage, clock: ManualClock
    ) -> None:
        storage.break_down("get")
        hello = TlsClient("b.example", ACME).hello()
        with capture_logs() as logs:
            for _ in range(3):
                assert (await loopback.connect(hello)).transport.aborted
            assert [(log["event"], log["log_level"]) for log in logs] == [("tls_alpn01.failed", "error")]
            assert "the disk is gone" in logs[0]["reason"]
            await clock.advance(60)
            await loopback.connect(hello)
            assert len(logs) == 2
        assert not serving.done()

    async def test_a_bug_ends_one_connection_only(
        self,
        loopback: Loopback,
        serving: asyncio.Task[None],
        responder: TlsAlpn01Responder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(responder, "answer", None)
        with capture_logs() as logs:
            assert (await loopback.connect(TlsClient(NAME, ACME).hello())).transport.aborted
        assert [log["event"] for log in logs] == ["tls_alpn01.crashed"]
        assert not serving.done()
