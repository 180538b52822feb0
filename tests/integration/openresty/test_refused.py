"""Certificates that are whole, and that OpenSSL won't use all the same: too weak for its security level."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.nginx import TEMPLATE, CheckedNginx
from tests.support.ports import free_port
from tests.support.stand_in import Pair, StandIn, make_pair
from tests.support.staples import hello
from tests.support.visitors import NAME, quickly, until, until_served

QUICK = "failure_ttl = 1,"
VISITS = 20  # enough to come to each worker
RSA_SCHEMES = b"\x08\x04\x04\x01"
CERTIFICATE = 11
REFUSED = "OpenSSL refuses the certificate: ee key too small"


def weak(name: str = NAME) -> Pair:
    return make_pair(name, use_rsa=True, bits=1024)


async def seen(port: int, name: str = NAME) -> set[bytes]:
    return set(await asyncio.gather(*(quickly(port, name) for _ in range(VISITS))))


async def has_rsa(port: int) -> bool:
    return CERTIFICATE in await hello(port, schemes=RSA_SCHEMES)


async def until_rsa(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            if await has_rsa(port):
                return
            await asyncio.sleep(0.1)


async def test_visitors_of_a_new_name_get_the_fallback_until_there_is_a_good_one(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=QUICK, workers=2) as nginx:
        server.pairs[NAME] = weak()
        for _ in range(3):
            assert await seen(nginx.https_port) == {nginx.fallback_der}
            await asyncio.sleep(0.6)
        assert REFUSED in nginx.error_log
        server.pairs[NAME] = make_pair(NAME)
        await until_served(nginx.https_port, server.pairs[NAME].der)


async def test_a_known_name_keeps_its_certificate(prefix: Path) -> None:
    async with (
        StandIn(changes=True) as server,
        CheckedNginx(prefix, backend=server.backend, options=QUICK, workers=2) as nginx,
    ):
        good = await quickly(nginx.https_port)
        assert await seen(nginx.https_port) == {good}
        await until(lambda: any("since=0" in poll.path for poll in server.polls))
        server.pairs[NAME] = weak()
        server.announce(NAME)
        await until(lambda: REFUSED in nginx.error_log)
        for _ in range(3):
            assert await seen(nginx.https_port) == {good}
            await asyncio.sleep(0.6)
        server.pairs[NAME] = make_pair(NAME)
        server.announce(NAME)
        await until_served(nginx.https_port, server.pairs[NAME].der)


async def test_a_weak_one_of_the_other_key_type_leaves_the_first_in_service(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=QUICK, workers=2) as nginx:
        server.pairs[NAME], server.others[NAME] = make_pair(NAME), weak()
        assert await quickly(nginx.https_port) == server.pairs[NAME].der
        await until(lambda: REFUSED in nginx.error_log)
        assert await seen(nginx.https_port) == {server.pairs[NAME].der}
        assert not await has_rsa(nginx.https_port)


async def test_what_ssl_ciphers_permits_is_served(prefix: Path) -> None:
    template = TEMPLATE.read_text().replace("ssl_protocols ", "ssl_ciphers DEFAULT:@SECLEVEL=0; ssl_protocols ")
    async with (
        StandIn() as server,
        CheckedNginx(prefix, backend=server.backend, workers=2, template=template) as nginx,
    ):
        server.pairs[NAME], server.others[NAME] = make_pair(NAME), weak()
        assert await quickly(nginx.https_port) == server.pairs[NAME].der
        await until(lambda: f"/cert/{NAME}?keytype=rsa" in server.paths)
        await until_rsa(nginx.https_port)


# A second port, whose security level is above the first one's: what passed there is refused here in the handshake.
STRICT = """
server {{
    listen 127.0.0.1:{port} ssl;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers DEFAULT:@SECLEVEL=3;
    ssl_certificate fallback.pem;
    ssl_certificate_key fallback.key;
    ssl_certificate_by_lua_block {{ cert_server:ssl_certificate() }}
}}
"""


async def test_what_a_handshake_refuses_ends_in_the_fallback(prefix: Path) -> None:
    port = free_port()
    async with (
        StandIn() as server,
        CheckedNginx(prefix, backend=server.backend, workers=1, servers=STRICT.format(port=port)) as nginx,
    ):
        server.pairs[NAME] = make_pair(NAME, use_rsa=True)
        assert await quickly(nginx.https_port) == server.pairs[NAME].der
        for _ in range(3):
            assert await quickly(port) == nginx.fallback_der
        assert "nginx refused the certificate" in nginx.error_log


async def test_a_handshake_that_refuses_one_key_type_is_given_the_other(prefix: Path) -> None:
    port = free_port()
    async with (
        StandIn() as server,
        CheckedNginx(prefix, backend=server.backend, workers=1, servers=STRICT.format(port=port)) as nginx,
    ):
        server.pairs[NAME], server.others[NAME] = make_pair(NAME), make_pair(NAME, use_rsa=True)
        assert await quickly(nginx.https_port) == server.pairs[NAME].der
        await until_rsa(nginx.https_port)
        for _ in range(3):
            assert await quickly(port) == server.pairs[NAME].der
            assert await quickly(nginx.https_port) == server.pairs[NAME].der
        assert "nginx refused the certificate" in nginx.error_log
        assert server.paths.count(f"/cert/{NAME}") == 1
