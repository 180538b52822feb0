"""Names that get the fallback certificate: not allowed, or no names at all."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.support.nginx import CheckedNginx
from tests.support.stand_in import StandIn, make_pair
from tests.support.visitors import LIMIT, NAME, handshake, quickly, raw_handshake

QUIET = 0.3  # seconds in which a request that should not come would have come


async def test_a_name_that_is_not_allowed(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        assert await quickly(nginx.https_port, "www.example.net") == nginx.fallback_der
        assert await quickly(nginx.https_port, "") == nginx.fallback_der
        assert server.requests == []


async def test_allow_domain_that_fails(prefix: Path) -> None:
    async with (
        StandIn() as server,
        CheckedNginx(prefix, backend=server.backend, allow='error("line one\\nline two")') as nginx,
    ):
        assert await quickly(nginx.https_port) == nginx.fallback_der
        assert server.requests == []
        assert "allow_domain failed" in nginx.error_log
        assert "\nline two" not in nginx.error_log


async def test_a_crafted_hello_of_a_good_name_gets_its_certificate(prefix: Path) -> None:
    async with StandIn() as server:
        server.pairs[NAME] = make_pair(NAME)
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            der = server.pairs[NAME].der
            assert der in await raw_handshake(nginx.https_port, NAME.encode(), der)
            assert der in await raw_handshake(nginx.https_port, NAME.encode() + b".", der)
            assert server.paths == [f"/cert/{NAME}"]


@pytest.mark.parametrize(
    "server_name",
    [
        b"a HTTP/1.1\r\nHost: x\r\n\r\nGET /cert/b.example.com",
        b"a\r\nX: y.example.com",
        b"a\n.example.com",
        b"../admin.example.com",
        b"a?b=c.example.com",
        b"a#.example.com",
        b"%61.example.com",
        b"a b.example.com",
        b"-a.example.com",
        b"a..example.com",
        b"\xc3\xa4.example.com",
        b"x" * 64 + b".example.com",
        b"x." * 122 + b"example.com",
        b"127.0.0.1",
        b"1.example.com\x7f",
    ],
)
async def test_an_sni_that_is_no_host_name_goes_nowhere(prefix: Path, server_name: bytes) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, allow="return true") as nginx:
        seen = await raw_handshake(nginx.https_port, server_name, nginx.fallback_der)
        assert nginx.fallback_der in seen or seen[:1] == b"\x15"  # OpenSSL itself may answer with an alert
        await asyncio.sleep(QUIET)
        assert server.requests == []
        assert all(request.path.startswith("/v1/changes?since=&wait=") for request in server.polls)
        assert server.raw.count(b"\r\n\r\n") == len(server.polls)
        assert server_name not in nginx.error_log.encode()


async def test_a_tls_alpn_01_validation_is_ended_at_once(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with asyncio.timeout(LIMIT):
                await handshake(nginx.https_port, NAME, ["acme-tls/1"])
        assert server.requests == []
        async with asyncio.timeout(LIMIT):
            assert await handshake(nginx.https_port, NAME, ["h2", "http/1.1"]) == server.pairs[NAME].der
