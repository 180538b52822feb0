"""OCSP staples: fetched beside the handshakes, and given with the certificate they are about while they are valid."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import pytest

from tests.integration.openresty.promptness import within_a_second
from tests.support.nginx import CheckedNginx, Nginx
from tests.support.stand_in import Answer, Request, StandIn, Staple, json_answer, make_pair, make_staple
from tests.support.staples import stapled
from tests.support.visitors import LIMIT, NAME, handshake, quickly, until, until_served


def in_an_hour() -> int:
    return int(time.time()) + 3600


def equip(
    server: StandIn, name: str = NAME, *, mark: bytes = b"one", ttl: int = 3600, lifetime: float = 3600
) -> Staple:
    """Give the name a certificate with a staple."""
    pair = server.pairs.setdefault(name, make_pair(name))
    staple = server.staples[pair.fingerprint] = Staple(make_staple(mark), int(time.time() + lifetime), ttl)
    return staple


async def until_stapled(nginx: Nginx, der: bytes | None, name: str = NAME) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            if await stapled(nginx.https_port, name) == der:
                return
            await asyncio.sleep(0.1)


async def test_a_staple_comes_along_once_it_is_there(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        staple = equip(server)
        assert await stapled(nginx.https_port) is None, "the first visitor doesn't wait for it"
        await until_stapled(nginx, staple.der)
        for _ in range(30):
            await asyncio.sleep(0.05)
            await quickly(nginx.https_port)
        fingerprint = server.pairs[NAME].fingerprint
        assert [request.path for request in server.ocsp_requests] == [f"/ocsp/{NAME}?fp={fingerprint}"]
        assert len(server.requests) == 1


async def test_slow_staples_hold_nobody_up(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        staple = equip(server)
        release = asyncio.Event()

        async def when_released(request: Request) -> Answer:
            await release.wait()
            return await server.usual_ocsp(request)

        server.answer_ocsp = when_released
        for number in range(20):
            name = f"n{number}.example.com"
            assert await quickly(nginx.https_port, name) == server.pairs[name].der
            assert await quickly(nginx.https_port) == server.pairs[NAME].der
        assert await stapled(nginx.https_port) is None
        release.set()
        await until_stapled(nginx, staple.der)


async def test_no_staple_is_remembered_as_long_as_the_certificate(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert await stapled(nginx.https_port) is None
        await until(lambda: len(server.ocsp_requests) > 0)
        assert len(server.ocsp_requests) == 1


async def test_a_staple_is_replaced_when_its_ttl_is_over(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        first = equip(server, ttl=1)
        await until_stapled(nginx, first.der)
        second = equip(server, mark=b"two")
        await until_stapled(nginx, second.der)
        assert len(server.requests) == 1, "the certificate isn't asked for again on that account"


async def test_a_staple_goes_when_the_server_has_none_any_more(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        staple = equip(server, ttl=1)
        await until_stapled(nginx, staple.der)
        server.staples.clear()
        await until_stapled(nginx, None)


async def test_an_expired_staple_is_not_given(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        staple = equip(server, lifetime=12)
        await until_stapled(nginx, staple.der)
        await server.stop()
        await asyncio.sleep(max(0.0, staple.expire_at + 0.2 - time.time()))
        assert await stapled(nginx.https_port) is None
        assert await quickly(nginx.https_port) == server.pairs[NAME].der


async def test_a_staple_outlives_the_server_while_it_is_valid(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        staple = equip(server, ttl=1)
        await until_stapled(nginx, staple.der)
        await server.stop()
        for _ in range(10):
            await asyncio.sleep(0.2)
            assert await stapled(nginx.https_port) == staple.der


async def test_a_new_certificate_is_never_given_with_the_old_ones_staple(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        old = equip(server)
        await until_stapled(nginx, old.der)
        release = asyncio.Event()

        async def when_released(request: Request) -> Answer:
            await release.wait()
            return await server.usual_ocsp(request)

        server.answer_ocsp = when_released
        renewed = server.pairs[NAME] = make_pair(NAME)
        new = equip(server, mark=b"new")
        server.announce(NAME)
        await until_served(nginx.https_port, renewed.der)
        async with asyncio.timeout(LIMIT):
            seen: set[tuple[bytes, bytes | None]] = set()
            while (renewed.der, None) not in seen:
                der = await handshake(nginx.https_port)
                seen.add((der, await stapled(nginx.https_port)))
        release.set()
        await until_stapled(nginx, new.der)


async def test_a_changed_staple_is_in_use_within_a_second(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        first = equip(server)
        await until_stapled(nginx, first.der)
        await until(lambda: any("since=0" in poll.path for poll in server.polls))
        marks = itertools.count()

        def change() -> None:
            equip(server, mark=b"mark %d" % next(marks))
            server.announce(NAME)

        async def in_use() -> bool:
            der = server.staples[server.pairs[NAME].fingerprint].der
            return {await stapled(nginx.https_port) for _ in range(10)} == {der}

        await within_a_second(change, in_use, rest=2.5)


GOOD = make_staple(b"good")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(400),
        Answer(500),
        Answer(headers={"X-Expire-At": "99999999999"}, body=b""),
        Answer(headers={"X-Expire-At": "99999999999"}, body=b"<html>"),
        Answer(headers={"X-Expire-At": "99999999999"}, body=GOOD + b"more"),
        Answer(headers={"X-Expire-At": "99999999999"}, body=GOOD[:-1]),
        Answer(headers={"X-Expire-At": "99999999999"}, body=b"\x30\x03\x0a\x01\x06"),
        Answer(headers={"X-Expire-At": "99999999999"}, body=GOOD + b"x" * 70_000),
        Answer(headers={"X-Expire-At": "1000"}, body=GOOD),
        Answer(headers={"X-Expire-At": "soon"}, body=GOOD),
        Answer(body=GOOD),
        Answer(raw=b"nonsense", close=True),
    ],
    ids=[
        "400",
        "500",
        "empty",
        "HTML",
        "too long",
        "too short",
        "an error of the responder",
        "70 kB",
        "expired",
        "no date",
        "no header",
        "not HTTP",
    ],
)
async def test_what_is_no_valid_staple_is_not_given(prefix: Path, answer: Answer) -> None:
    async with StandIn() as server:

        async def wrong(_: Request) -> Answer:
            return answer

        server.answer_ocsp = wrong
        async with CheckedNginx(prefix, backend=server.backend, options="failure_ttl = 1,") as nginx:
            await handshake(nginx.https_port)
            await until(lambda: len(server.ocsp_requests) > 0)
            await asyncio.sleep(0.5)
            assert await stapled(nginx.https_port) is None
            assert await quickly(nginx.https_port) == server.pairs[NAME].der


async def test_self_signed_certificates_are_not_asked_about(prefix: Path) -> None:
    async with StandIn() as server:

        async def self_signed(request: Request) -> Answer:
            pair = server.pairs.setdefault(NAME, make_pair(NAME))
            return json_answer(pair.answer(type=100))

        server.answer = self_signed
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            await handshake(nginx.https_port)
            await asyncio.sleep(1.5)
            await handshake(nginx.https_port)
            assert server.ocsp_requests == []


async def test_disable_stapling(prefix: Path) -> None:
    async with StandIn() as server:
        equip(server)
        async with CheckedNginx(prefix, backend=server.backend, options="disable_stapling = true,") as nginx:
            for _ in range(3):
                assert await stapled(nginx.https_port) is None
                await asyncio.sleep(0.5)
            assert server.ocsp_requests == []
