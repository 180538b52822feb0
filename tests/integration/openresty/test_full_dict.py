"""A shared dictionary that is too small: what it has no room for changes as promptly, where a worker still has it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.support.nginx import TEMPLATE, CheckedNginx
from tests.support.stand_in import Answer, Request, StandIn, make_pair
from tests.support.visitors import LIMIT, handshake, until

SMALL = TEMPLATE.read_text().replace("ssl_certs_cache 16m", "ssl_certs_cache 256k")
NAMES = [f"known{number}.example.com" for number in range(4)] + [f"known{number}.a.example.com" for number in range(4)]
FILLING = 150  # names with chains of three, of which the dictionary holds some thirty


async def seen(port: int, name: str) -> set[bytes]:
    """What many handshakes, which reach every worker, get."""
    return set(await asyncio.gather(*(handshake(port, name) for _ in range(20))))


async def until_everywhere(port: int, ders: dict[str, bytes]) -> None:
    async with asyncio.timeout(LIMIT):
        for name, der in ders.items():
            while True:
                if await seen(port, name) == {der}:
                    break
                await asyncio.sleep(0.05)


async def push_out(nginx: CheckedNginx, server: StandIn) -> None:
    """Have the workers know the names, and the dictionary no longer."""
    await handshake(nginx.https_port, "nobody.example.net")  # which isn't allowed, and asked for nowhere
    await until(lambda: any("since=0" in poll.path for poll in server.polls))
    for name in NAMES:
        await handshake(nginx.https_port, name)
    await until_everywhere(nginx.https_port, {name: server.pairs[name].der for name in NAMES})
    one = make_pair("filling")
    for number in range(FILLING):
        server.pairs[f"filling{number}.example.com"] = replace(one, cert_pem=one.cert_pem * 3)
        await handshake(nginx.https_port, f"filling{number}.example.com")
    server.requests.clear()


async def test_a_change_of_names_that_dropped_out_is_in_use_everywhere(prefix: Path) -> None:
    async with (
        StandIn(changes=True) as server,
        CheckedNginx(prefix, backend=server.backend, template=SMALL) as nginx,
    ):
        await push_out(nginx, server)
        server.pairs |= {name: make_pair(name) for name in NAMES}
        server.announce(*NAMES[:4], "*.a.example.com")
        await until(lambda: {f"/cert/{name}" for name in NAMES} <= {*server.paths})  # without a visitor
        await until_everywhere(nginx.https_port, {name: server.pairs[name].der for name in NAMES})


async def test_names_that_dropped_out_and_are_no_longer_permitted_go_out_of_service(prefix: Path) -> None:
    async with (
        StandIn(changes=True) as server,
        CheckedNginx(prefix, backend=server.backend, template=SMALL) as nginx,
    ):
        await push_out(nginx, server)

        async def refuse(_: Request) -> Answer:
            return Answer(400)

        server.answer = refuse
        server.announce(*NAMES)
        await until_everywhere(nginx.https_port, dict.fromkeys(NAMES, nginx.fallback_der))
