"""A server that is down, slow or wrong."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.nginx import CheckedNginx
from tests.support.stand_in import Answer, Pair, Request, StandIn, chunked, json_answer, make_pair
from tests.support.visitors import LIMIT, NAME, handshake, quickly, until, until_served

# Failures are remembered for a second only, so that the tests needn't wait long to see the plugin recover.
QUICK = "failure_ttl = 1,"
QUIET = 0.3  # seconds in which a request that should not come would have come


async def test_a_server_that_is_down(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=QUICK) as nginx:
        assert await handshake(nginx.https_port) == server.pairs[NAME].der
        await server.stop()
        for _ in range(10):
            assert await quickly(nginx.https_port) == server.pairs[NAME].der
            assert await quickly(nginx.https_port, "cold.example.com") == nginx.fallback_der
        await server.start()
        server.pairs["cold.example.com"] = make_pair("cold.example.com")
        await until_served(nginx.https_port, server.pairs["cold.example.com"].der, "cold.example.com")


async def test_a_kept_connection_that_the_server_closed(prefix: Path) -> None:
    async with StandIn() as server:

        async def then_close(request: Request) -> Answer:
            answer = await server.usual(request)
            return Answer(answer.status, answer.headers, answer.body, close=True)

        async with CheckedNginx(prefix, backend=server.backend, workers=1) as nginx:
            server.answer = then_close
            for number in range(20):
                name = f"n{number}.example.com"
                assert await quickly(nginx.https_port, name) == server.pairs[name].der


async def test_a_connection_closed_instead_of_an_answer_is_tried_once_more(prefix: Path) -> None:
    options = "disable_stapling = true,"
    async with (
        StandIn() as server,
        CheckedNginx(prefix, backend=server.backend, options=options, workers=1) as nginx,
    ):
        # Only on a connection that was kept: nothing else may be using it just then, as a poll would.
        await handshake(nginx.https_port)
        await until(lambda: len(server.polls) == 1)
        await handshake(nginx.https_port, "another.example.com")
        server.requests.clear()

        async def hang_up_once(request: Request) -> Answer:
            server.answer = server.usual
            return Answer(raw=b"", close=True)

        server.answer = hang_up_once
        name = "other.example.com"
        assert await quickly(nginx.https_port, name) == server.pairs[name].der
        assert server.paths == [f"/cert/{name}"] * 2


async def test_past_its_ttl_a_certificate_is_served_and_refreshed(prefix: Path) -> None:
    async with StandIn() as server:
        server.ttl = 1
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            assert await handshake(nginx.https_port) == server.pairs[NAME].der
            first = server.requests[0]
            assert "if-none-match" not in first.headers

            release = asyncio.Event()

            async def when_released(request: Request) -> Answer:
                await release.wait()
                return await server.usual(request)

            server.answer = when_released
            await asyncio.sleep(1.5)
            for _ in range(20):  # while the refresh hangs, nobody else does
                assert await quickly(nginx.https_port) == server.pairs[NAME].der
            await until(lambda: len(server.requests) == 2)
            assert server.requests[1].headers["if-none-match"] == f'"{server.pairs[NAME].fingerprint}"'
            server.ttl = 3600
            release.set()
            await asyncio.sleep(QUIET)
            for _ in range(20):  # a 304, and its X-TTL holds
                assert await quickly(nginx.https_port) == server.pairs[NAME].der
            assert len(server.requests) == 2


async def test_a_renewed_certificate_replaces_the_old_one_in_every_worker(prefix: Path) -> None:
    async with StandIn() as server:
        server.ttl = 1
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            first = await handshake(nginx.https_port)
            assert set(await asyncio.gather(*(handshake(nginx.https_port) for _ in range(50)))) == {first}
            renewed = server.pairs[NAME] = make_pair(NAME)
            server.ttl = 3600
            await until_served(nginx.https_port, renewed.der)
            ders: set[bytes] = set()
            async with asyncio.timeout(LIMIT):  # each worker looks once a second
                while ders != {renewed.der}:
                    ders = set(await asyncio.gather(*(handshake(nginx.https_port) for _ in range(50))))
            assert renewed.der != first


@pytest.mark.parametrize("status", [400, 500])
async def test_a_refresh_that_fails_leaves_the_certificate_in_service(prefix: Path, status: int) -> None:
    async with StandIn() as server:
        server.ttl = 1
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            der = await handshake(nginx.https_port)

            async def fail(_: Request) -> Answer:
                return Answer(status, headers={"Retry-After": "60"})

            server.answer = fail
            await asyncio.sleep(1.5)
            await quickly(nginx.https_port)
            await until(lambda: len(server.requests) == 2)
            await asyncio.sleep(1.5)
            for _ in range(20):
                assert await quickly(nginx.https_port) == der
            await asyncio.sleep(QUIET)
            assert len(server.requests) == 2, "the failure is remembered"


async def test_an_expired_certificate_is_not_served(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=QUICK) as nginx:
        server.pairs[NAME] = make_pair(NAME, lifetime=12)
        assert await handshake(nginx.https_port) == server.pairs[NAME].der
        await server.stop()
        await asyncio.sleep(max(0.0, server.pairs[NAME].expire_at + 0.5 - time.time()))
        assert await quickly(nginx.https_port) == nginx.fallback_der


async def test_a_failure_is_remembered(prefix: Path) -> None:
    async with StandIn() as server:

        async def refuse(_: Request) -> Answer:
            return Answer(400, body=b"not permitted here\n")

        server.answer = refuse
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            for _ in range(20):
                assert await quickly(nginx.https_port) == nginx.fallback_der
            assert server.paths == [f"/cert/{NAME}"]


EMPTY: dict[str, Any] = {}
LARGE = 5 * 1024 * 1024


def malformed(pair: Pair, other: Pair) -> dict[str, Answer]:
    good = json.dumps(pair.answer()).encode()
    fields = {
        "all null": dict.fromkeys(pair.answer()),
        "null cert": pair.answer(cert=None),
        "number as cert": pair.answer(cert=5),
        "table as key": pair.answer(pkey={"a": []}),
        "null ttl": pair.answer(ttl=None),
        "string as ttl": pair.answer(ttl="3600"),
        "negative ttl": pair.answer(ttl=-1),
        "NaN ttl": pair.answer(ttl=float("nan")),
        "infinite expiry": pair.answer(expire_at=float("inf")),
        "fraction as expiry": pair.answer(expire_at=pair.expire_at + 0.5),
        "past expiry": pair.answer(expire_at=1),
        "null fingerprint": pair.answer(fingerprint=None),
        "fingerprint with CR LF": pair.answer(fingerprint="ab\r\nX: y"),
        "challenge certificate": pair.answer(type=101, expire_at=0, ttl=0),
        "string as type": pair.answer(type="0"),
        "empty PEMs": pair.answer(cert="", pkey=""),
        "bad certificate": pair.answer(cert=pair.cert_pem.replace("MII", "XXX", 1)),
        "bad key": pair.answer(pkey="-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"),
        "another's key": pair.answer(pkey=other.key_pem),
        "nothing": EMPTY,
        "a list": [],
        "a number": 7,
    }
    answers = {name: json_answer(value) for name, value in fields.items()}
    answers |= {
        "not JSON": Answer(body=b"<html>"),
        "no body": Answer(),
        "5 MB": Answer(body=b'{"cert": "' + b"A" * LARGE),
        "5 MB in chunks": chunked(b"A" * LARGE, 65536),
        "5 MB until the end": Answer(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b"A" * LARGE, close=True),
        "endless header": Answer(raw=b"HTTP/1.1 200 OK\r\nX: " + b"A" * LARGE),
        "not HTTP": Answer(raw=b"SSH-2.0-OpenSSH_9.2\r\n", close=True),
        "cut short": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + good, close=True),
        "two lengths": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", close=True),
        "bad chunk": Answer(
            raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n", close=True
        ),
        "304 unasked": Answer(304, headers={"X-TTL": "60"}),
        "204": Answer(204),
        "401": Answer(401),
        "503": Answer(503, headers={"Retry-After": "1"}),
    }
    return answers


async def test_a_malformed_answer_is_not_kept_and_heals(prefix: Path) -> None:
    pair, other = make_pair(NAME), make_pair(NAME)
    answers = malformed(pair, other)
    names = {f"m{number}.example.com": answer for number, answer in enumerate(answers.values())}
    async with StandIn() as server:

        async def misbehave(request: Request) -> Answer:
            return names[request.path.removeprefix("/cert/")]

        server.answer = misbehave
        async with CheckedNginx(prefix, backend=server.backend, options=QUICK) as nginx:
            for name, kind in zip(names, answers, strict=True):
                assert await quickly(nginx.https_port, name) == nginx.fallback_der, kind
            server.answer = server.usual
            for name, kind in zip(names, answers, strict=True):
                server.pairs[name] = make_pair(name)
                await until_served(nginx.https_port, server.pairs[name].der, name)
                assert await quickly(nginx.https_port, name) == server.pairs[name].der, kind


async def test_a_mismatched_pair_is_told_before_nginx_is_given_it(prefix: Path) -> None:
    pair, other = make_pair(NAME), make_pair(NAME)
    async with StandIn() as server:

        async def mismatch(_: Request) -> Answer:
            return json_answer(pair.answer(pkey=other.key_pem))

        server.answer = mismatch
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            assert await quickly(nginx.https_port) == nginx.fallback_der
            assert "certificate and key do not match" in nginx.error_log


@pytest.mark.parametrize("size", [1, 700, 100_000])
async def test_a_chunked_answer(prefix: Path, size: int) -> None:
    pair = make_pair(NAME)
    async with StandIn() as server:

        async def in_chunks(_: Request) -> Answer:
            return chunked(json.dumps(pair.answer()).encode(), size)

        server.answer = in_chunks
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            assert await quickly(nginx.https_port) == pair.der


async def test_an_answer_that_ends_with_the_connection(prefix: Path) -> None:
    pair = make_pair(NAME)
    async with StandIn() as server:

        async def until_the_end(_: Request) -> Answer:
            return Answer(raw=b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(pair.answer()).encode(), close=True)

        server.answer = until_the_end
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            assert await quickly(nginx.https_port) == pair.der


async def test_a_flood_leaves_the_log_short_and_certificates_in_place(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        der = await handshake(nginx.https_port)

        async def refuse(_: Request) -> Answer:
            return Answer(400)

        server.answer = refuse
        started = time.monotonic()
        for start in range(0, 600, 50):
            names = [f"flood{number}.example.com" for number in range(start, start + 50)]
            ders = await asyncio.gather(*(handshake(nginx.https_port, name) for name in names))
            assert set(ders) == {nginx.fallback_der}
        seconds = int(time.monotonic() - started) + 2
        lines = [line for line in nginx.error_log.splitlines() if "ssl-cert-server:" in line]
        kinds, workers = 4, 2
        assert len(lines) <= kinds * workers * seconds
        assert await quickly(nginx.https_port) == der
