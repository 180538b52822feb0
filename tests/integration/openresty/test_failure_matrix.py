"""Every failure behind nginx, and what visitors of known and of unknown names get.

The known name is past its ttl, so that each visit has a reason to ask the server. That its visitors don't wait is told
by causality: they are served while the server is still in that state. The time bound on them is wait_timeout, which is
what they would take if they waited.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.nginx import TEMPLATE, CheckedNginx, Nginx
from tests.support.server import CertServer
from tests.support.stand_in import Answer, Request, StandIn, json_answer, make_pair
from tests.support.visitors import LIMIT, NAME, handshake, quickly, until, until_served

WAIT = 8.0  # seconds; wait_timeout
OPTIONS = "wait_timeout = 8, failure_ttl = 1,"
UNKNOWN = "unknown.example.com"
VISITS = 12
LOCAL_CA = {"local_ca": {"enable": True, "names": [r"(.+\.)?example\.com"]}}


@dataclass(frozen=True)
class Visit:
    der: bytes
    seconds: float


async def visit(nginx: Nginx, name: str) -> Visit:
    start = time.monotonic()
    der = await handshake(nginx.https_port, name)
    return Visit(der, time.monotonic() - start)


async def expect_known(nginx: Nginx, der: bytes) -> None:
    """Visitors of the known name get their certificate, and none waits, whichever worker it comes to."""
    for seen in await asyncio.gather(*(visit(nginx, NAME) for _ in range(VISITS))):
        assert seen.der == der
        assert seen.seconds < WAIT


async def expect_fallback(nginx: Nginx, *, waits: bool) -> None:
    seen = await visit(nginx, UNKNOWN)
    assert seen.der == nginx.fallback_der
    assert (seen.seconds >= WAIT - 0.1) == waits
    assert seen.seconds < LIMIT


async def make_stale(nginx: Nginx, server: StandIn) -> bytes:
    """The known name, in every worker, past its ttl."""
    server.ttl = 1
    der = await handshake(nginx.https_port, NAME)
    await expect_known(nginx, der)
    await asyncio.sleep(1.2)
    return der


async def recovers(nginx: Nginx, server: StandIn) -> None:
    """Once the server is well, unknown names get their certificates, and known ones their renewed ones."""
    server.pairs[UNKNOWN], server.pairs[NAME] = make_pair(UNKNOWN), make_pair(NAME)
    await until_served(nginx.https_port, server.pairs[UNKNOWN].der, UNKNOWN)
    await until_served(nginx.https_port, server.pairs[NAME].der, NAME)


async def until_no_fallback(nginx: Nginx, name: str = UNKNOWN) -> bytes:
    async with asyncio.timeout(LIMIT):
        while True:
            if (der := (await visit(nginx, name)).der) != nginx.fallback_der:
                return der
            await asyncio.sleep(0.2)


async def test_stopped(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=OPTIONS) as nginx:
        der = await make_stale(nginx, server)
        await server.stop()
        for _ in range(3):
            await expect_known(nginx, der)
            await expect_fallback(nginx, waits=False)
            await asyncio.sleep(1)
        await server.start()
        await recovers(nginx, server)


async def test_paused(prefix: Path, tmp_path: Path) -> None:
    with CertServer(tmp_path / "server", LOCAL_CA) as server:
        backend = f"127.0.0.1:{server.port}"
        async with CheckedNginx(prefix, backend=backend, options=OPTIONS, workers=2) as nginx:
            der = await until_no_fallback(nginx, NAME)
            await expect_known(nginx, der)
            server.process.pause()
            try:
                await expect_known(nginx, der)
                await expect_fallback(nginx, waits=True)
                await expect_known(nginx, der)
            finally:
                server.process.resume()
            await until_no_fallback(nginx)


async def test_paused_past_the_ttl(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=OPTIONS) as nginx:
        der = await make_stale(nginx, server)
        resumed = asyncio.Event()

        async def when_resumed(request: Request) -> Answer:
            await resumed.wait()
            return await server.usual(request)

        server.answer = when_resumed
        await expect_known(nginx, der)
        await expect_fallback(nginx, waits=True)
        await expect_known(nginx, der)
        resumed.set()
        await recovers(nginx, server)


async def test_slow(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=OPTIONS) as nginx:
        der = await make_stale(nginx, server)

        async def slowly(request: Request) -> Answer:
            await asyncio.sleep(WAIT + 1)
            return await server.usual(request)

        server.answer = slowly
        await expect_known(nginx, der)
        await expect_fallback(nginx, waits=True)
        await expect_known(nginx, der)
        # What the first visitor waited for in vain serves the next.
        await until(lambda: UNKNOWN in server.pairs)
        await until_served(nginx.https_port, server.pairs[UNKNOWN].der, UNKNOWN)
        assert server.paths.count(f"/cert/{UNKNOWN}") == 1


TORN = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"type": 0, "cert": "-----BEGIN'
)
WRONG = {
    "garbage": Answer(raw=b"\x00\xffnonsense\r\n\r\n" * 100, close=True),
    "garbage as JSON": json_answer({"cert": [], "pkey": None, "type": "x"}),
    "500": Answer(500, body=b"no\n"),
    "503": Answer(503, body=b"no\n"),
    "reset in mid-body": Answer(raw=TORN, reset=True),
    "closed in mid-body": Answer(raw=TORN, close=True),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong(prefix: Path, wrong: str) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=OPTIONS) as nginx:
        der = await make_stale(nginx, server)

        async def answer(_: Request) -> Answer:
            return WRONG[wrong]

        server.answer = answer
        for _ in range(3):
            await expect_known(nginx, der)
            await expect_fallback(nginx, waits=False)
            await asyncio.sleep(1)
        assert len(server.requests) < 20, "one attempt a second and name at most, whoever visits"
        server.answer = server.usual
        await recovers(nginx, server)


async def test_stalled_in_mid_body(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=OPTIONS) as nginx:
        der = await make_stale(nginx, server)

        async def answer(_: Request) -> Answer:
            return Answer(raw=TORN)

        server.answer = answer
        await expect_known(nginx, der)
        await expect_fallback(nginx, waits=True)
        await expect_known(nginx, der)
        await server.drop_connections()
        server.answer = server.usual
        await recovers(nginx, server)


async def test_restarted(prefix: Path, tmp_path: Path) -> None:
    with CertServer(tmp_path / "server", LOCAL_CA) as server:
        backend = f"127.0.0.1:{server.port}"
        async with CheckedNginx(prefix, backend=backend, options=OPTIONS, workers=2) as nginx:
            der = await until_no_fallback(nginx, NAME)
            await expect_known(nginx, der)
            server.kill()
            await expect_known(nginx, der)
            server.start()
            await expect_known(nginx, der)
            # The connections that nginx kept are dead, which no visitor feels.
            await until_no_fallback(nginx)


@pytest.mark.parametrize("server_state", ["stopped", "up"])
async def test_expired(prefix: Path, server_state: str) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=OPTIONS) as nginx:
        server.pairs[NAME] = make_pair(NAME, lifetime=12)
        old = server.pairs[NAME]
        await expect_known(nginx, old.der)
        server.pairs[NAME] = make_pair(NAME)
        if server_state == "stopped":
            await server.stop()
        await asyncio.sleep(max(0.0, old.expire_at + 0.2 - time.time()))
        if server_state == "stopped":
            seen = await visit(nginx, NAME)
            assert seen.der == nginx.fallback_der
            assert seen.seconds < WAIT
            await expect_fallback(nginx, waits=False)
            await server.start()
            await until_served(nginx.https_port, server.pairs[NAME].der)
        else:  # it is like an unknown name
            await expect_known(nginx, server.pairs[NAME].der)
            assert await quickly(nginx.https_port, UNKNOWN) == server.pairs[UNKNOWN].der


async def test_shared_dictionary_full(prefix: Path) -> None:
    template = TEMPLATE.read_text().replace("ssl_certs_cache 16m", "ssl_certs_cache 100k")
    names = [f"n{number}.example.com" for number in range(120)]
    async with StandIn(changes=True) as server:
        options = OPTIONS + "lru_maxitems = 500,"
        async with CheckedNginx(prefix, backend=server.backend, options=options, template=template) as nginx:
            for name in names:
                assert await quickly(nginx.https_port, name) == server.pairs[name].der
            assert "lua_shared_dict ssl_certs_cache is too small" in nginx.error_log
            await expect_known(nginx, await handshake(nginx.https_port, NAME))
            assert await quickly(nginx.https_port, UNKNOWN) == server.pairs[UNKNOWN].der
            # Changes are still heard.
            server.pairs[UNKNOWN] = make_pair(UNKNOWN)
            server.announce(UNKNOWN)
            await until_served(nginx.https_port, server.pairs[UNKNOWN].der, UNKNOWN)
            assert len(server.polls) < 8, "one worker asks, and holds on"
            await server.stop()
            await expect_known(nginx, server.pairs[NAME].der)
