"""Challenges of a CA, passed on to the server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.nginx import CheckedNginx
from tests.support.stand_in import Answer, Request, StandIn
from tests.support.visitors import NAME, http_get


async def test_a_challenge_is_passed_on_with_the_host_that_was_asked_for(prefix: Path) -> None:
    async with StandIn() as server:
        server.tokens["tok-en_1"] = "tok-en_1.thumbprint"
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            path = "/.well-known/acme-challenge/tok-en_1"
            assert await http_get(nginx.http_port, path, f"{NAME}:8080") == (200, b"tok-en_1.thumbprint")
            assert server.requests[0].headers["host"] == NAME
            assert await http_get(nginx.http_port, path + "x", NAME) == (404, b"not found\n")


async def test_what_is_no_challenge_goes_nowhere(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        base = "/.well-known/acme-challenge/"
        for path in (
            base,
            base + "a/b",
            base + "a.b",
            base + "a%0d%0ab",
            base + "x" * 257,
        ):
            assert (await http_get(nginx.http_port, path, NAME))[0] == 404, path
        # nginx takes this one for /cert, which is another location
        assert (await http_get(nginx.http_port, base + "..%2f..%2fcert", NAME))[0] == 301
        assert (await http_get(nginx.http_port, base + "a", NAME, method="POST"))[0] == 404
        assert (await http_get(nginx.http_port, base + "a", "www.example.net"))[0] == 404
        assert (await http_get(nginx.http_port, base + "a", "127.0.0.1"))[0] == 404
        assert server.requests == []


async def test_a_challenge_while_the_server_is_down_or_failing(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        path = "/.well-known/acme-challenge/token"

        async def fail(_: Request) -> Answer:
            return Answer(500, body=b"secret reason\n" * 5)

        server.answer = fail
        status, body = await http_get(nginx.http_port, path, NAME)
        assert (status, body.count(b"\n"), b"secret" in body) == (502, 1, False)
        await server.stop()
        status, body = await http_get(nginx.http_port, path, NAME)
        assert (status, body.count(b"\n")) == (502, 1)


async def test_a_challenge_the_server_is_slow_to_answer(prefix: Path) -> None:
    async with StandIn() as server:

        async def never(_: Request) -> Answer:
            await asyncio.Event().wait()
            return Answer()

        server.answer = never
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            status, body = await http_get(nginx.http_port, "/.well-known/acme-challenge/token", NAME)
            assert (status, body.count(b"\n")) == (504, 1)
