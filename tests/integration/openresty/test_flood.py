"""A flood of names that nobody has a certificate for: it is bounded, and those of known names don't notice.

PLUGIN_FLOOD says how many names, for longer floods than one of four times what the dictionary holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.support.nginx import TEMPLATE, CheckedNginx
from tests.support.stand_in import Answer, Request, StandIn, make_pair
from tests.support.visitors import handshake, http_get, quickly, raw_handshake, until

NAMES = int(os.environ.get("PLUGIN_FLOOD", "30000"))
AT_ONCE = 100
HELD = 1000  # names at once, on a server that doesn't answer
KNOWN = [f"known{number}.example.com" for number in range(50)]
REFUSED = 6000  # names, whose failures would fill three quarters of a dictionary of 1m
MANY = 150  # names with chains of three, for which it has room
MAX_FETCHES = 16
WORKERS = 2
MEGABYTE = 1024


def resident(pid: int) -> int:
    """Memory of a process in KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


async def flood(port: int, numbers: Iterator[int]) -> None:
    for number in numbers:
        with contextlib.suppress(ConnectionError):
            assert await raw_handshake(port, f"flood{number}.example.com".encode(), b"\x16\x03\x03")


async def test_a_flood_of_unknown_names(prefix: Path) -> None:
    template = TEMPLATE.read_text().replace("ssl_certs_cache 16m", "ssl_certs_cache 1m")
    async with StandIn(changes=True) as server:
        options = f"max_fetches = {MAX_FETCHES},"
        async with CheckedNginx(
            prefix, backend=server.backend, options=options, workers=WORKERS, template=template
        ) as nginx:
            await handshake(nginx.https_port, "nobody.example.net")  # which isn't allowed, and asked for nowhere
            await until(lambda: any("since=0" in poll.path for poll in server.polls))
            for name in KNOWN:
                await quickly(nginx.https_port, name)

            async def refuse(request: Request) -> Answer:
                return Answer(400)

            server.answer = refuse
            known_requests = len(server.requests)
            numbers = iter(range(NAMES))
            tenth = iter([next(numbers) for _ in range(NAMES // 10)])
            await asyncio.gather(*(flood(nginx.https_port, tenth) for _ in range(AT_ONCE)))
            before = {worker: resident(worker) for worker in nginx.workers()}
            started = time.monotonic()
            flooding = asyncio.gather(*(flood(nginx.https_port, numbers) for _ in range(AT_ONCE)))
            visits = 0
            while not flooding.done():
                name = KNOWN[visits % len(KNOWN)]
                assert await quickly(nginx.https_port, name) == server.pairs[name].der
                visits += 1
            await flooding
            for worker in nginx.workers():
                assert resident(worker) < before[worker] + 48 * MEGABYTE
            assert server.most_under_way <= MAX_FETCHES * WORKERS
            assert len(server.requests) <= known_requests + NAMES + 10
            assert not [path for path in server.paths[known_requests:] if "known" in path], "they stayed in place"
            lines = [line for line in nginx.error_log.splitlines() if "ssl-cert-server:" in line]
            kinds = 6
            assert len(lines) <= kinds * WORKERS * (time.monotonic() - started + 60)
            # New workers know nothing but what is in the shared dictionary.
            old = set(nginx.workers())
            nginx.reload()
            await until(lambda: not old & set(nginx.workers()))
            for name in KNOWN:
                assert await quickly(nginx.https_port, name) == server.pairs[name].der
            assert not [path for path in server.paths[known_requests:] if "known" in path]


async def test_a_flood_leaves_the_dictionary_to_certificates(prefix: Path) -> None:
    template = TEMPLATE.read_text().replace("ssl_certs_cache 16m", "ssl_certs_cache 1m")
    async with StandIn() as server:

        async def refuse_some(request: Request) -> Answer:
            return Answer(400) if "flood" in request.path else await server.usual(request)

        server.answer = refuse_some
        async with CheckedNginx(prefix, backend=server.backend, workers=WORKERS, template=template) as nginx:
            numbers = iter(range(REFUSED))
            await asyncio.gather(*(flood(nginx.https_port, numbers) for _ in range(20)))
            _, body = await http_get(nginx.http_port, "/status", "localhost")
            cache = json.loads(body)["cache"]
            assert cache["dict_free"] > 0.85 * cache["dict_capacity"]
            one = make_pair("many")
            many = [f"many{number}.example.com" for number in range(MANY)]
            for name in many:
                server.pairs[name] = replace(one, cert_pem=one.cert_pem * 3)
                assert await quickly(nginx.https_port, name) == one.der
            assert "is too small" not in nginx.error_log
            # New workers know nothing but what is in the shared dictionary.
            await server.stop()
            old = set(nginx.workers())
            nginx.reload()
            await until(lambda: not old & set(nginx.workers()))
            for name in many:
                assert await quickly(nginx.https_port, name) == one.der


async def test_a_flood_of_unknown_names_on_a_server_that_does_not_answer(prefix: Path) -> None:
    async with StandIn() as server:
        options = f"max_fetches = {MAX_FETCHES}, wait_timeout = 10,"
        async with CheckedNginx(prefix, backend=server.backend, options=options, workers=WORKERS) as nginx:
            for name in KNOWN:
                await quickly(nginx.https_port, name)

            async def never(_: Request) -> Answer:
                await asyncio.Event().wait()
                return Answer()

            server.answer = never
            names = [f"flood{number}.example.com".encode() for number in range(HELD)]
            held = asyncio.gather(*(raw_handshake(nginx.https_port, name, nginx.fallback_der) for name in names))
            await until(lambda: server.under_way == MAX_FETCHES * WORKERS)
            for name in KNOWN:
                assert await quickly(nginx.https_port, name) == server.pairs[name].der
            assert not held.done(), "known names were served while all the others waited"
            assert all(nginx.fallback_der in seen for seen in await held)
            assert server.most_under_way == MAX_FETCHES * WORKERS
            await server.stop()  # or nginx would wait for its answers before it ends
