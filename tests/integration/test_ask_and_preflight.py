"""Before an order: the operator's endpoint over real HTTP, and a real name server's addresses and CAA records."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.dns.resolver import Resolver
from ssl_cert_server.errors import AskFailed, PreflightFailed
from ssl_cert_server.service.ask import MAX_BODY, Ask
from ssl_cert_server.service.preflight import Preflight
from tests.support.clock import ManualClock
from tests.support.knot import Knot
from tests.support.listener import Listener
from tests.support.loop_time import LoopTime
from tests.support.ports import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


PATIENCE = 600.0  # seconds that an endpoint has, and no test waits for

Hook = Callable[[Any], Awaitable[None]]


class Endpoint:
    """An HTTP server that answers by the bytes in ``answer``, and then holds the connection or, if ``hang_up``, not.

    ``targets`` are the request targets that came, ``asked`` tells of the first, ``connections`` counts the connections.
    Nothing is answered while ``answer`` is None.
    """

    def __init__(self) -> None:
        self.answer: bytes | None = OK
        self.hang_up = False
        self.targets: list[str] = []
        self.asked = asyncio.Event()
        self.connections = 0
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/allowed?key=1"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        listener = Listener(socket.create_server(("127.0.0.1", self.port)), self._serve)
        try:
            yield
        finally:
            await listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.targets.append(head.split()[1].decode())
            self.asked.set()
            if self.answer is None:
                await asyncio.Event().wait()
                return
            writer.write(self.answer)
            await writer.drain()
            if self.hang_up:
                return


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    async with endpoint.listening():
        yield endpoint


@asynccontextmanager
async def asking(clock: ManualClock, url: str, hooks: Mapping[str, list[Hook]] | None = None) -> AsyncIterator[Ask]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, event_hooks=hooks))
        ask = Ask(http, clock, url=url, timeout=PATIENCE)
        stack.push_async_callback(ask.close)
        yield ask


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def ask(clock: ManualClock, endpoint: Endpoint) -> AsyncIterator[Ask]:
    async with asking(clock, endpoint.url) as ask:
        yield ask


async def test_yes_and_no_over_one_connection(ask: Ask, endpoint: Endpoint) -> None:
    assert await ask.permitted("a.com")
    endpoint.answer = NO
    assert not await ask.permitted("*.b.com")
    assert endpoint.targets == ["/allowed?key=1&domain=a.com", "/allowed?key=1&domain=%2A.b.com"]
    assert endpoint.connections == 1


async def test_a_hundred_at_once_are_one_request(ask: Ask, endpoint: Endpoint) -> None:
    assert await asyncio.gather(*(ask.permitted("a.com") for _ in range(100))) == [True] * 100
    assert len(endpoint.targets) == 1


async def test_a_redirect_leads_nowhere(ask: Ask, endpoint: Endpoint) -> None:
    other = Endpoint()
    async with other.listening():
        endpoint.answer = f"HTTP/1.1 302 Found\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n".encode()
        assert not await ask.permitted("a.com")
    assert other.connections == 0


async def test_5xx_is_no_verdict_and_is_asked_again(ask: Ask, clock: ManualClock, endpoint: Endpoint) -> None:
    endpoint.answer = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(AskFailed, match="status 500"):
        await ask.permitted("a.com")
    endpoint.answer = OK
    await clock.advance(1)
    assert await ask.permitted("a.com")


async def test_an_endpoint_that_does_not_answer_is_given_up(clock: ManualClock, endpoint: Endpoint) -> None:
    endpoint.answer = None
    time = LoopTime()

    async def half_has_passed(_: httpx2.Request) -> None:
        await time.advance(PATIENCE / 2)  # or the client's own time-out could be over at the same moment

    async with asking(clock, endpoint.url, {"request": [half_has_passed]}) as ask:
        asked = asyncio.create_task(ask.permitted("a.com"))
        await endpoint.asked.wait()
        await time.advance(PATIENCE / 2)
        with pytest.raises(AskFailed, match=r"no answer within 600 s"):
            await asked
    assert len(endpoint.targets) == 1


async def test_a_huge_body_and_one_that_stalls_change_no_verdict(clock: ManualClock, endpoint: Endpoint) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {100 * MAX_BODY}\r\n\r\n".encode()
    time, begun = LoopTime(), asyncio.Event()

    async def head_came(_: httpx2.Response) -> None:
        begun.set()

    async with asking(clock, endpoint.url, {"response": [head_came]}) as ask:
        endpoint.answer = head + bytes(2 * MAX_BODY)
        assert await ask.permitted("a.com")
        endpoint.answer = head + b"begun"
        begun.clear()
        asked = asyncio.create_task(ask.permitted("b.com"))
        await begun.wait()
        await time.advance(PATIENCE)
        assert await asked
        endpoint.hang_up = True
        endpoint.answer = head.replace(b"200", b"404")
        assert not await ask.permitted("c.com")
    assert endpoint.connections == 3


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
async def test_what_is_no_http_is_no_verdict(ask: Ask, endpoint: Endpoint, answer: bytes) -> None:
    endpoint.answer, endpoint.hang_up = answer, True
    with pytest.raises(AskFailed, match="gave no verdict: RemoteProtocolError"):
        await ask.permitted("a.com")


async def test_an_endpoint_that_is_gone_and_comes_back(clock: ManualClock) -> None:
    endpoint = Endpoint()
    async with asking(clock, endpoint.url) as ask:
        with pytest.raises(AskFailed, match="ConnectError"):
            await ask.permitted("a.com")
        async with endpoint.listening():
            with pytest.raises(AskFailed, match="left alone for a while"):
                await ask.permitted("b.com")
            assert endpoint.connections == 0
            await clock.advance(1)
            assert await ask.permitted("b.com")
            assert await ask.permitted("a.com")


# --- preflight

OURS = "203.0.113.1"
ZONE = """\
good        A     203.0.113.1
good        CAA   0 issue "ca.test"
moved       A     198.51.100.7
six         A     203.0.113.1
six         AAAA  2001:db8::7
alias       CNAME good
astray      CNAME moved
guarded     A     203.0.113.1
guarded     CAA   0 issue "other.test"
guarded     CAA   0 issuewild "ca.test; validationmethods=dns-01"
www.guarded A     203.0.113.1
odd         A     203.0.113.1
odd         CAA   128 newtag "what"
mine        A     203.0.113.1
mine        CAA   0 issue "ca.test; accounturi=https://ca.test/acct/1; validationmethods=http-01"
"""


@pytest.fixture(scope="module")
def name_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Knot on a loopback port, with the zone ``test``; it refuses questions for every other name."""
    with Knot(tmp_path_factory.mktemp("knot"), zones={"test": ZONE.splitlines()}) as knot:
        yield knot.port


WEB = ("http-01", "tls-alpn-01")
ALL = (*WEB, "dns-01")


@pytest.fixture
def preflight(name_server: int, monkeypatch: pytest.MonkeyPatch) -> Preflight:
    # What isn't answered in time refuses nothing, which is not what is tried here.
    monkeypatch.setattr("ssl_cert_server.service.preflight.CHECK_DEADLINE", 60.0)
    resolver = Resolver(SystemClock(), nameservers=[("127.0.0.1", name_server)], deadline=60)
    return Preflight(resolver, public_ips=[OURS])


async def _left(preflight: Preflight, name: str, methods: tuple[str, ...]) -> tuple[str, ...]:
    found = await preflight.check(
        [name], {name: methods}, caa_identities=["ca.test"], account_url="https://ca.test/acct/1"
    )
    return found[name]


@pytest.mark.parametrize(
    ("name", "methods", "left"),
    [
        ("good.test", ALL, ALL),
        ("alias.test", WEB, WEB),
        ("moved.test", ALL, ("dns-01",)),
        ("six.test", ALL, ("dns-01",)),
        ("mine.test", ALL, ("http-01",)),
        ("*.guarded.test", ("dns-01",), ("dns-01",)),
        (OURS, WEB, WEB),
        ("not-served.example", ALL, ALL),  # our own trouble: REFUSED
    ],
)
async def test_what_is_left(preflight: Preflight, name: str, methods: tuple[str, ...], left: tuple[str, ...]) -> None:
    assert await _left(preflight, name, methods) == left


@pytest.mark.parametrize(
    ("name", "methods", "message"),
    [
        ("moved.test", WEB, "moved.test points to 198.51.100.7, which is none of public_ips (203.0.113.1): its owner"),
        ("astray.test", WEB, "astray.test points to 198.51.100.7"),
        ("six.test", WEB, "six.test points to 2001:db8::7, .* change the AAAA record"),
        ("missing.test", WEB, "missing.test has no A or AAAA record"),
        ("guarded.test", ALL, 'at guarded.test permit other.test alone: their owner has to add issue "ca.test"'),
        ("www.guarded.test", ALL, "at guarded.test, which hold for www.guarded.test, permit other.test alone"),
        ("odd.test", ALL, "hold a critical property that no CA may overlook: their owner has to remove newtag"),
        ("mine.test", ("dns-01",), "don't permit dns-01"),
        ("203.0.113.2", WEB, "203.0.113.2 is none of public_ips"),
    ],
)
async def test_what_is_refused(preflight: Preflight, name: str, methods: tuple[str, ...], message: str) -> None:
    with pytest.raises(PreflightFailed, match=message.replace("(", r"\(").replace(")", r"\)")) as caught:
        await _left(preflight, name, methods)
    assert str(caught.value).endswith("nothing was asked of the CA")
