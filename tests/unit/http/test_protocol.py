from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs
from uvicorn.config import Config
from uvicorn.server import ServerState

from ssl_cert_server.errors import StorageError
from ssl_cert_server.http import load as load_module
from ssl_cert_server.http.connection import PIECE, SEND_DEADLINE
from ssl_cert_server.http.load import Load
from ssl_cert_server.http.protocol import MAX_MESSAGE, MESSAGE_DEADLINE, CertServerProtocol, protocol_class
from ssl_cert_server.model import KeyFamily
from ssl_cert_server.service.answer import Answer
from ssl_cert_server.service.news import NameChanges
from tests.support.leaves import make_certificate
from tests.support.loop_time import LoopTime, settle
from tests.unit.http.support import Site

KEEP_ALIVE = 75
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"
REQUEST = b"GET /cert/a.com HTTP/1.1\r\nHost: server\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Keeps what is written; closing is noticed by the protocol as with a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.writes = 0
        self.reading = True
        self.unsent = 0
        self.aborted = False
        self.reset = False
        self.protocol: asyncio.BaseProtocol | None = None
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:  # what comes later is lost, as on a real one
            self.written += data
            self.writes += 1

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self.unsent:
                self._end()

    def setsockopt(self, *_: object) -> None:
        self.reset = True

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 50000)

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8999)

    def fileno(self) -> int:
        return -1  # no poll reports anything of it

    def abort(self) -> None:
        self.aborted = self._closing = True
        self._end()

    def _end(self) -> None:
        assert self.protocol
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@dataclass(frozen=True)
class Response:
    """One response as it went over the wire."""

    status: int
    headers: frozenset[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


def parse_responses(data: bytes) -> list[Response]:
    """Parse what a server sent to GET requests."""
    responses = []
    while data:
        head, blank, rest = data.partition(b"\r\n\r\n")
        assert blank, data
        status_line, *lines = head.decode("ascii").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines]
        headers = dict(pairs)
        assert len(headers) == len(pairs), "a header twice"
        length = int(headers.get("content-length", "0"))
        responses.append(Response(int(status), frozenset(headers.items()), rest[:length]))
        assert len(rest) >= length
        data = rest[length:]
    return responses


class Connection:
    """A client's connection to the server; ``by_app`` counts the requests that took the ordinary way."""

    def __init__(self, site: Site, hot: Callable[[str], Answer | None] | None = None, load: Load | None = None) -> None:
        self.by_app = 0
        self._site = site
        self.transport = FakeTransport()
        state = ServerState()
        state.default_headers = [(b"date", DATE.encode())]
        config = Config(
            self._app,
            interface="asgi3",
            proxy_headers=False,
            loop="none",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        bound = protocol_class(hot or site.cache.get, load or Load())
        self.protocol: CertServerProtocol = bound(config, state, {})
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.by_app += 1
        await self._site.app(scope, receive, send)

    async def feed(self, *chunks: bytes) -> None:
        """Have chunks arrive one after the other, as long as the connection is open."""
        for chunk in chunks:
            if not self.transport.is_closing():
                self.protocol.data_received(chunk)
        await settle()

    @property
    def responses(self) -> list[Response]:
        return parse_responses(bytes(self.transport.written))

    @property
    def closed(self) -> bool:
        return self.transport.is_closing()


@pytest.fixture
async def site() -> Site:
    site = Site()
    await site.certificates.answer("a.com")
    await site.certificates.answer("b.com")
    return site


class TestHotNames:
    """What lies ready is answered at once."""

    async def test_within_the_very_call_that_brings_the_request(self, site: Site) -> None:
        connection = Connection(site)
        connection.protocol.data_received(REQUEST)
        assert connection.transport.writes == 1
        (response,) = connection.responses
        assert response.status == 200
        assert connection.by_app == 0

    async def test_exactly_as_the_application_does(self, site: Site) -> None:
        fast, ordinary = Connection(site), Connection(site, lambda _: None)
        await fast.feed(REQUEST)
        await ordinary.feed(REQUEST)
        assert (fast.by_app, ordinary.by_app) == (0, 1)
        assert fast.responses == ordinary.responses
        assert fast.responses[0].header("date") == DATE
        assert fast.closed == ordinary.closed == False  # noqa: E712 - both, and open

    async def test_byte_by_byte(self, site: Site) -> None:
        connection = Connection(site)
        await connection.feed(*(bytes([byte]) for byte in REQUEST))
        assert [response.status for response in connection.responses] == [200]
        assert connection.by_app == 0

    async def test_many_on_one_connection(self, site: Site) -> None:
        connection = Connection(site)
        for _ in range(50):
            await connection.feed(REQUEST)
        assert len(connection.responses) == 50
        assert connection.by_app == 0

    async def test_pipelined(self, site: Site) -> None:
        connection = Connection(site)
        names = ["a.com", "b.com"] * 20
        await connection.feed(b"".join(REQUEST.replace(b"a.com", name.encode()) for name in names))
        assert len(connection.responses) == 40
        assert connection.by_app == 0

    async def test_behind_an_ordinary_one_they_keep_their_order(self, site: Site) -> None:
        connection = Connection(site)
        site.acme.gate.clear()
        cold = REQUEST.replace(b"a.com", b"cold.com")
        await connection.feed(cold + REQUEST + b"GET /healthz HTTP/1.1\r\nHost: s\r\n\r\n" + REQUEST)
        assert connection.responses == []
        site.acme.gate.set()
        await settle()
        first, second, third, fourth = connection.responses
        assert [first.status, second.status, fourth.status] == [200, 200, 200]
        assert third.body == b"ok\n"

    async def test_after_an_ordinary_one_the_fast_way_is_taken_again(self, site: Site) -> None:
        connection = Connection(site)
        await connection.feed(b"GET /healthz HTTP/1.1\r\nHost: s\r\n\r\n")
        await connection.feed(REQUEST)
        assert connection.by_app == 1
        assert [response.body == b"ok\n" for response in connection.responses] == [True, False]

    async def test_an_expired_one_is_not_hot(self, site: Site) -> None:
        site.clock.jump(200 * 86_400)
        connection = Connection(site)
        await connection.feed(REQUEST)
        assert connection.by_app == 1
        assert connection.responses[0].status == 500

    async def test_with_the_issuer_and_storage_gone(self, site: Site) -> None:
        site.acme.error = StorageError("gone")
        site.storage.break_down("get", "put", "list", "check_writable")
        connection = Connection(site)
        await connection.feed(REQUEST)
        assert connection.responses[0].status == 200


TAG = b"If-None-Match: {tag}\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /cert/cold.com HTTP/1.1\r\nHost: s\r\n\r\n", 200),
        (b"GET /cert/A.com HTTP/1.1\r\nHost: s\r\n\r\n", 200),
        (b"GET /cert/a.com. HTTP/1.1\r\nHost: s\r\n\r\n", 200),
        (b"GET /cert/%61.com HTTP/1.1\r\nHost: s\r\n\r\n", 200),
        (b"GET /cert/a.com?alpn=1 HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        (b"GET /cert/a.com?alpn=0 HTTP/1.1\r\nHost: s\r\n\r\n", 200),
        (b"GET /cert/a.com?keytype=ecdsa HTTP/1.1\r\nHost: s\r\n\r\n", 200),
        (b"GET /cert/a.com?keytype=rsa HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        (b"GET http://server/cert/a.com HTTP/1.1\r\nHost: s\r\n\r\n", 200),
        (b"GET /cert/a.com HTTP/1.1\r\nHost: s\r\nIf-None-Match: {tag}\r\n\r\n", 304),
        (b'GET /cert/a.com HTTP/1.1\r\nHost: s\r\nif-none-match: "x"\r\n\r\n', 200),
        (b"GET /cert/a.com HTTP/1.1\r\nHost: s\r\nContent-Length: 4\r\n\r\nbody", 200),
        (b"GET /cert/a.com HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 200),
        (b"GET /cert/a.com HTTP/1.1\r\nHost: s\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
        (b"POST /cert/a.com HTTP/1.1\r\nHost: s\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /ocsp/a.com HTTP/1.1\r\nHost: s\r\n\r\n", 204),
        (b"GET /cert/not_a_name HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        (b"GET /cert/a.net HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        (b"GET /cert/ HTTP/1.1\r\nHost: s\r\n\r\n", 400),
        (b"GET /elsewhere HTTP/1.1\r\nHost: s\r\n\r\n", 404),
    ],
)
async def test_whatever_is_unusual_takes_the_ordinary_way(site: Site, request_bytes: bytes, status: int) -> None:
    connection = Connection(site)
    tag = f'"{site.acme.certificate.fingerprint}"'.encode()
    await connection.feed(request_bytes.replace(b"{tag}", tag))
    assert connection.by_app == 1
    assert [response.status for response in connection.responses] == [status]


@pytest.mark.parametrize("path", ["a.com+rsa", "a.com%20rsa", "a.com rsa"])
async def test_the_answer_of_another_family_has_no_name_of_its_own(path: str) -> None:
    site = Site([KeyFamily.ECDSA, KeyFamily.RSA])
    site.acme.certificate = replace(make_certificate("*.com"), family=KeyFamily.RSA)
    await site.certificates.answer("a.com", KeyFamily.RSA)
    connection = Connection(site)
    await connection.feed(f"GET /cert/{path} HTTP/1.1\r\nHost: s\r\n\r\n".encode())
    assert [response.status for response in connection.responses] == [400]


async def test_head_has_the_headers_and_no_body(site: Site) -> None:
    connection, get = Connection(site), Connection(site)
    await connection.feed(REQUEST.replace(b"GET", b"HEAD"))
    await get.feed(REQUEST)
    assert connection.by_app == 1
    head, _, body = bytes(connection.transport.written).partition(b"\r\n\r\n")
    assert body == b""
    assert bytes(get.transport.written).partition(b"\r\n\r\n")[0].splitlines()[0] == head.splitlines()[0]
    assert set(head.splitlines()[1:]) == {f"{name}: {value}".encode() for name, value in get.responses[0].headers}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /cert/a.com HTTP/1.0\r\nHost: s\r\n\r\n",
        b"GET /cert/a.com HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n",
    ],
)
async def test_a_client_that_wants_the_connection_closed_gets_it_closed(site: Site, request_bytes: bytes) -> None:
    connection = Connection(site)
    await connection.feed(request_bytes)
    assert connection.by_app == 1
    (response,) = connection.responses
    assert response.status == 200
    assert response.header("connection") == "close"
    assert connection.closed


async def test_while_the_client_does_not_read_requests_take_the_ordinary_way_and_wait(site: Site) -> None:
    connection = Connection(site)
    connection.protocol.pause_writing()
    await connection.feed(REQUEST)
    assert connection.by_app == 1
    assert connection.transport.writes == 0
    connection.protocol.resume_writing()
    await settle()
    assert [response.status for response in connection.responses] == [200]


HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: s\r\n\r\n"
COLD = REQUEST.replace(b"a.com", b"cold.com")


async def work_off() -> None:
    for _ in range(100):
        await settle()


class TestPipelines:
    """Requests that are sent before earlier ones are answered."""

    @pytest.mark.parametrize("piece", [1, 100, 511, 512, 513, 10_000])
    async def test_thousands_are_answered_in_their_order(self, site: Site, piece: int) -> None:
        connection = Connection(site)
        requests = (HEALTHZ + REQUEST * 3 + HEALTHZ) * 100
        await connection.feed(*(requests[at : at + piece] for at in range(0, len(requests), piece)))
        await work_off()
        bodies = [response.body == b"ok\n" for response in connection.responses]
        assert bodies == [True, False, False, False, True] * 100
        assert connection.transport.reading

    async def test_a_turn_of_the_loop_answers_a_few(self, site: Site) -> None:
        connection = Connection(site)
        connection.protocol.data_received(REQUEST * 1000)
        assert 0 < connection.transport.writes <= PIECE // len(REQUEST)
        assert not connection.transport.reading
        await work_off()
        assert connection.transport.writes == 1000

    @pytest.mark.parametrize("request_bytes", [REQUEST, HEALTHZ])
    async def test_another_connection_has_its_turn_meanwhile(self, site: Site, request_bytes: bytes) -> None:
        load = Load()
        busy = [Connection(site, load=load) for _ in range(50)]
        for connection in busy:
            connection.protocol.data_received(request_bytes * 1000)
        other = Connection(site, load=load)
        await other.feed(HEALTHZ)
        assert len(other.responses) == 1
        assert all(connection.transport.writes < 1000 for connection in busy)
        for connection in busy:
            connection.protocol.connection_lost(None)
        await settle()

    async def test_behind_one_that_waits_few_are_parsed(self, site: Site) -> None:
        connection = Connection(site)
        site.acme.gate.clear()
        await connection.feed(COLD, *[b"GET / HTTP/1.1\r\n\r\n" * 100] * 100)
        assert len(connection.protocol.pipeline) <= PIECE // 18
        assert not connection.transport.reading
        site.acme.gate.set()
        for _ in range(50):
            await work_off()
        assert len(connection.responses) == 10_001

    async def test_while_the_client_does_not_read_nothing_is_parsed(self, site: Site) -> None:
        connection = Connection(site)
        connection.protocol.data_received(REQUEST * 1000)
        connection.protocol.pause_writing()
        await work_off()
        written = connection.transport.writes
        assert written <= 3 * PIECE // len(REQUEST)
        connection.protocol.resume_writing()
        await work_off()
        assert connection.transport.writes == 1000

    async def test_what_is_held_is_bounded_over_all_connections(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(load_module, "MAX_HELD", 60_000)
        load = Load()
        connections = [Connection(site, load=load) for _ in range(3)]
        for connection in connections:
            connection.protocol.pause_writing()
            connection.protocol.data_received(REQUEST * 1000)
        assert [connection.transport.aborted for connection in connections] == [True, True, False]
        assert connections[0].transport.reset


class TestUnreadAnswers:
    """Clients that don't read."""

    async def test_without_progress_the_connection_is_reset(self, site: Site) -> None:
        time, connection = LoopTime(), Connection(site)
        connection.transport.unsent = 70_000
        connection.protocol.pause_writing()
        await time.advance(SEND_DEADLINE - 1)
        assert not connection.closed
        await time.advance(2)
        assert connection.transport.aborted
        assert connection.transport.reset

    async def test_a_slow_client_keeps_it(self, site: Site) -> None:
        time, connection = LoopTime(), Connection(site)
        await connection.feed(REQUEST)
        connection.transport.unsent = 70_000
        connection.protocol.pause_writing()
        for _ in range(5):
            connection.transport.unsent -= 1
            await time.advance(SEND_DEADLINE + 1)
        connection.protocol.resume_writing()
        await time.advance(SEND_DEADLINE + 1)
        assert not connection.closed

    async def test_one_that_is_closed_and_read_in_part_does_not_stay_for_the_rest(self, site: Site) -> None:
        time, connection = LoopTime(), Connection(site)
        connection.transport.unsent = 70_000
        connection.protocol.pause_writing()
        await connection.feed(b"garbage\r\n\r\n")
        assert connection.closed
        connection.transport.unsent = 10_000
        connection.protocol.resume_writing()
        await time.advance(SEND_DEADLINE + 1)
        assert connection.transport.aborted

    @pytest.mark.parametrize("end", [b"GET /healthz HTTP/1.0\r\n\r\n", b"garbage\r\n\r\n"])
    async def test_a_connection_that_is_closed_does_not_stay_for_them(self, site: Site, end: bytes) -> None:
        time, connection = LoopTime(), Connection(site)
        connection.transport.unsent = 10_000
        await connection.feed(end)
        assert connection.closed
        assert not connection.transport.aborted
        await time.advance(SEND_DEADLINE + 1)
        assert connection.transport.aborted


class TestRequestsWhoseClientHasGone:
    """A wait ends with its connection."""

    @pytest.mark.parametrize("behind", [b"", HEALTHZ, REQUEST * 100])
    async def test_a_poll_no_longer_counts(self, site: Site, behind: bytes) -> None:
        site.usual.news.tell(NameChanges("7"))
        connection = Connection(site)
        await connection.feed(b"GET /v1/changes?since=7&wait=50 HTTP/1.1\r\nHost: s\r\n\r\n" + behind)
        assert (site.usual.news._waiting, connection.protocol.load.waiting) == (1, 1)
        connection.protocol.connection_lost(ConnectionResetError())
        await settle()
        assert (site.usual.news._waiting, connection.protocol.load.waiting) == (0, 0)
        assert connection.transport.writes == 0

    async def test_an_issuance_that_others_wait_for_goes_on(self, site: Site) -> None:
        one, other = Connection(site), Connection(site)
        site.acme.gate.clear()
        await one.feed(COLD)
        await other.feed(COLD)
        one.protocol.connection_lost(None)
        await settle()
        assert one.protocol.load.waiting == 0
        site.acme.gate.set()
        await settle()
        assert [response.status for response in other.responses] == [200]
        assert site.acme.asked.count("cold.com") == 1

    async def test_an_issuance_that_nobody_waits_for_goes_on(self, site: Site) -> None:
        connection = Connection(site)
        site.acme.gate.clear()
        await connection.feed(COLD)
        connection.protocol.connection_lost(None)
        await settle()
        site.acme.gate.set()
        await settle()
        assert site.cache.get("cold.com") is not None

    async def test_one_that_is_lost_before_it_began_does_nothing(self, site: Site) -> None:
        connection = Connection(site)
        connection.protocol.data_received(COLD)
        connection.protocol.connection_lost(None)
        await settle()
        assert site.acme.asked.count("cold.com") == 0


class TestWaiting:
    """How many requests may wait."""

    async def test_too_many_are_refused_and_names_in_memory_answered(self, site: Site) -> None:
        load = Load(waiting=2)
        site.acme.gate.clear()
        waiting = [Connection(site, load=load) for _ in range(2)]
        for connection in waiting:
            await connection.feed(COLD)
        late = Connection(site, load=load)
        with capture_logs() as logs:
            for _ in range(3):
                await late.feed(COLD.replace(b"cold", b"other"))
            await late.feed(REQUEST, REQUEST.replace(b"a.com", b"a.com?x=1"))
        assert [response.status for response in late.responses] == [500, 500, 500, 200, 200]
        assert late.responses[0].header("retry-after") == "5"
        assert [log["event"] for log in logs] == ["requests.too_many_waiting"]
        site.acme.gate.set()
        await settle()
        assert [connection.responses[0].status for connection in waiting] == [200, 200]
        assert load.waiting == 0


class TestRoom:
    """Which connections are closed for others."""

    async def test_the_longest_idle_first_and_none_with_a_request(self, site: Site) -> None:
        time, load = LoopTime(), Load()
        site.acme.gate.clear()
        connections = []
        for start in (COLD, b"", b"GET /ce", REQUEST, HEALTHZ):
            connections.append(Connection(site, load=load))
            await connections[-1].feed(*([start] if start else []))
            await time.advance(1)
        waiting, *idle = connections
        ages = [connection.protocol.idle_since() for connection in idle]
        assert None not in ages
        assert ages == sorted(ages)  # type: ignore[type-var]
        assert waiting.protocol.idle_since() is None
        assert len(load.make_room([each.protocol for each in connections])) == 4
        assert [each.transport.aborted for each in connections] == [False, True, True, True, True]
        assert not any(each.transport.reset for each in connections)
        assert load.make_room([waiting.protocol]) == []

    async def test_then_one_that_does_not_read(self, site: Site) -> None:
        load = Load()
        stuck = Connection(site, load=load)
        stuck.transport.unsent = 70_000
        stuck.protocol.pause_writing()
        assert load.make_room([stuck.protocol]) == [stuck.protocol]
        assert stuck.transport.reset


class TestBounds:
    """What a stranger can make a connection hold, and for how long."""

    @pytest.mark.parametrize(
        "chunks",
        [
            [b"GET /cert/", *[b"a" * 1000] * 70],
            [b"GET /cert/a.com HTTP/1.1\r\n", *[b"X-Header: " + b"a" * 990 + b"\r\n"] * 70],
            [b"POST /cert/a.com HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", *[b"a" * 1000] * 70],
            [
                b"POST /cert/a.com HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                *[b"3e8\r\n" + b"a" * 1000 + b"\r\n"] * 70,
            ],
        ],
        ids=["url", "headers", "body", "chunks"],
    )
    async def test_a_message_that_is_too_long_ends_the_connection(self, site: Site, chunks: list[bytes]) -> None:
        assert sum(map(len, chunks)) > MAX_MESSAGE
        connection = Connection(site)
        await connection.feed(*chunks)
        assert connection.closed
        assert b"HTTP/1.1 400 " in connection.transport.written
        assert connection.by_app <= 1

    async def test_one_just_within_the_bound_is_answered(self, site: Site) -> None:
        connection = Connection(site)
        filler = [b"X-Header: " + b"a" * 988 + b"\r\n"] * 60
        await connection.feed(b"GET /cert/a.com HTTP/1.1\r\n", *filler, b"\r\n")
        assert [response.status for response in connection.responses] == [200]
        assert not connection.closed

    async def test_the_bound_is_for_each_message(self, site: Site) -> None:
        connection = Connection(site)
        for _ in range(3):
            await connection.feed(b"GET /cert/a.com HTTP/1.1\r\n", b"X-Header: " + b"a" * 30_000 + b"\r\n", b"\r\n")
        assert len(connection.responses) == 3
        assert not connection.closed

    @pytest.mark.parametrize(
        "start", [b"", b"G", b"GET /cert/a.com HT", b"GET /cert/a.com HTTP/1.1\r\nHost: s\r\n", b"\r\n"]
    )
    async def test_a_message_that_is_too_slow_ends_the_connection(self, site: Site, start: bytes) -> None:
        time = LoopTime()
        connection = Connection(site)
        if start:
            await connection.feed(start)
        await time.advance(MESSAGE_DEADLINE - 0.5)
        assert not connection.closed
        await time.advance(1)
        assert connection.closed

    async def test_bytes_now_and_then_do_not_buy_time(self, site: Site) -> None:
        time = LoopTime()
        connection = Connection(site)
        await connection.feed(b"GET /cert/a.com HTTP/1.1\r\nX-Slow: ")
        for _ in range(16):
            await time.advance(1)
            await connection.feed(b"a")
        assert connection.closed

    @pytest.mark.parametrize("first", [REQUEST, b"GET /healthz HTTP/1.1\r\nHost: s\r\n\r\n"])
    async def test_a_second_message_may_not_be_slow_either(self, site: Site, first: bytes) -> None:
        time = LoopTime()
        connection = Connection(site)
        await connection.feed(first)
        await time.advance(30)
        await connection.feed(b"GET /cert/a.com")
        await time.advance(MESSAGE_DEADLINE - 0.5)
        assert not connection.closed
        await time.advance(1)
        assert connection.closed

    @pytest.mark.parametrize("first", [REQUEST, b"GET /healthz HTTP/1.1\r\nHost: s\r\n\r\n"])
    async def test_an_idle_connection_is_kept_for_the_keep_alive_time(self, site: Site, first: bytes) -> None:
        time = LoopTime()
        connection = Connection(site)
        await connection.feed(first)
        await time.advance(KEEP_ALIVE - 1)
        assert not connection.closed
        await time.advance(2)
        assert connection.closed

    @pytest.mark.parametrize("first", [REQUEST, b"GET /healthz HTTP/1.1\r\nHost: s\r\n\r\n"])
    async def test_stray_line_ends_between_messages_do_not_keep_it_for_ever(self, site: Site, first: bytes) -> None:
        time = LoopTime()
        connection = Connection(site)
        await connection.feed(first)
        await connection.feed(b"\r\n")
        await time.advance(KEEP_ALIVE + 1)
        assert connection.closed

    async def test_a_request_after_stray_line_ends_is_answered(self, site: Site) -> None:
        time = LoopTime()
        connection = Connection(site)
        await connection.feed(REQUEST, b"\r\n", REQUEST)
        await time.advance(KEEP_ALIVE - 1)
        assert len(connection.responses) == 2
        assert not connection.closed

    async def test_a_slow_issuance_is_not_a_slow_message(self, site: Site) -> None:
        time = LoopTime()
        connection = Connection(site)
        site.acme.gate.clear()
        await connection.feed(REQUEST.replace(b"a.com", b"cold.com"))
        await time.advance(90)
        assert not connection.closed
        site.acme.gate.set()
        await settle()
        assert [response.status for response in connection.responses] == [200]

    async def test_no_timer_outlives_the_connection(self, site: Site) -> None:
        time = LoopTime()
        connection = Connection(site)
        await connection.feed(b"GET /cert/a")
        connection.protocol.connection_lost(None)
        await time.advance(MESSAGE_DEADLINE + 1)
        assert connection.by_app == 0

    async def test_garbage_is_400(self, site: Site) -> None:
        connection = Connection(site)
        await connection.feed(b"\x16\x03\x01\x02\x00\x01\x00")
        assert connection.closed
        assert [response.status for response in connection.responses] == [400]


_PIECES = [
    b"GET ",
    b"/cert/a.com",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"\r\n",
    b"Host: s\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"CONNECT a.com:443",
    b"OPTIONS *",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"0\r\n\r\n",
    b"GET http://[/cert/a.com",
    b"GET /cert/\xff\xfe",
    b"GET ?",
    b"%00%ff",
    b": \r\n",
    b"\x00",
    REQUEST,
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=30) | st.sampled_from(_PIECES), max_size=12))
async def test_no_bytes_make_it_raise(chunks: list[bytes]) -> None:
    await _survives(chunks)


async def test_no_mutilated_request_makes_it_raise() -> None:
    dice = random.Random(20270115)
    for _ in range(300):
        data = bytearray(REQUEST * 2)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        cut = dice.randrange(len(data))
        await _survives([bytes(data[:cut]), bytes(data[cut:])])


async def _survives(chunks: list[bytes]) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    connection = Connection(_SITE)
    await connection.feed(*chunks)
    if not connection.closed:
        connection.protocol.connection_lost(None)
    await settle()
    assert complaints == []
    assert bytes(connection.transport.written[:9]) in (b"", b"HTTP/1.1 ")
    assert b"Traceback" not in connection.transport.written


_SITE = Site()
