"""Where a certificate comes from: each name once, for all workers, and nobody waits who needn't."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.support.nginx import CheckedNginx, Nginx
from tests.support.stand_in import Answer, Request, StandIn, make_pair
from tests.support.visitors import NAME, handshake, quickly, until, until_served

QUIET = 0.3  # seconds in which a request that should not come would have come


async def test_gives_the_certificate_of_the_name(prefix: Path) -> None:
    async with StandIn() as server:
        server.pairs["rsa.example.com"] = make_pair("rsa.example.com", use_rsa=True)
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            assert await handshake(nginx.https_port) == server.pairs[NAME].der
            assert await handshake(nginx.https_port, "rsa.example.com") == server.pairs["rsa.example.com"].der
            assert server.paths == [f"/cert/{NAME}", "/cert/rsa.example.com"]
            assert server.requests[0].headers["host"] == server.backend


async def test_asks_once_per_name_over_all_workers(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        for name in [NAME, NAME.upper(), NAME] * 10:
            assert await handshake(nginx.https_port, name) == server.pairs[NAME].der
        assert server.paths == [f"/cert/{NAME}"]


async def test_a_hundred_visitors_of_a_cold_name_cause_one_request(prefix: Path) -> None:
    async with StandIn() as server:

        async def slowly(request: Request) -> Answer:
            await asyncio.sleep(0.5)
            return await server.usual(request)

        server.answer = slowly
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            ders = await asyncio.gather(*(handshake(nginx.https_port) for _ in range(100)))
            assert set(ders) == {server.pairs[NAME].der}
            assert server.paths == [f"/cert/{NAME}"]


async def test_many_cold_names_at_once(prefix: Path) -> None:
    async with StandIn() as server:
        names = [f"n{number}.example.com" for number in range(150)]
        async with CheckedNginx(prefix, backend=server.backend, options="max_fetches = 4, wait_timeout = 40,") as nginx:
            ders = await asyncio.gather(*(handshake(nginx.https_port, name) for name in names))
            assert list(ders) == [server.pairs[name].der for name in names]
            assert len(server.requests) == len(names)
            assert server.connections < len(names), "connections are kept and used again"


async def test_a_thousand_cold_names_at_once(prefix: Path) -> None:
    # The visitors' handshakes keep the stand-in's loop busy: a staple, for which the server has 10 s, could come too
    # late, and the server would count as down.
    options = "wait_timeout = 50, disable_stapling = true,"
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, options=options) as nginx:
        names = [f"n{number}.example.com" for number in range(1000)]
        for name in names:
            server.pairs[name] = make_pair(name)
        ders = await asyncio.gather(*(handshake(nginx.https_port, name) for name in names))
        assert list(ders) == [server.pairs[name].der for name in names]
        assert len(server.requests) == len(names)


async def test_a_request_longer_than_the_lease_keeps_its_lock(prefix: Path) -> None:
    async with StandIn() as server:
        release = asyncio.Event()

        async def when_released(request: Request) -> Answer:
            await release.wait()
            return await server.usual(request)

        server.answer = when_released
        options = "wait_timeout = 40,"
        async with CheckedNginx(prefix, backend=server.backend, options=options, workers=4) as nginx:
            visitors = [asyncio.create_task(handshake(nginx.https_port)) for _ in range(20)]
            await asyncio.sleep(7)  # the lease is 5 s
            release.set()
            assert set(await asyncio.gather(*visitors)) == {server.pairs[NAME].der}
            assert server.paths == [f"/cert/{NAME}"]


async def test_workers_killed_during_a_fetch_hold_nobody_up_for_long(prefix: Path) -> None:
    async with StandIn() as server:

        async def never(_: Request) -> Answer:
            await asyncio.Event().wait()
            return Answer()

        server.answer = never
        with Nginx(prefix, backend=server.backend, options="wait_timeout = 20,") as nginx:
            visitor = asyncio.create_task(handshake(nginx.https_port))
            await until(lambda: len(server.requests) == 1)
            workers = Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split()  # noqa: ASYNC240
            for worker in workers:
                os.kill(int(worker), signal.SIGKILL)
            await asyncio.gather(visitor, return_exceptions=True)
            server.answer = server.usual
            assert await quickly(nginx.https_port) == server.pairs[NAME].der


async def test_a_visitor_who_hangs_up_does_not_stop_the_fetch(prefix: Path) -> None:
    async with StandIn() as server:
        release = asyncio.Event()

        async def when_released(request: Request) -> Answer:
            await release.wait()
            return await server.usual(request)

        server.answer = when_released
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            visitor = asyncio.create_task(handshake(nginx.https_port))
            await until(lambda: len(server.requests) == 1)
            visitor.cancel()
            await asyncio.gather(visitor, return_exceptions=True)
            other = asyncio.create_task(quickly(nginx.https_port))
            await asyncio.sleep(QUIET)
            release.set()
            assert await other == server.pairs[NAME].der
            assert len(server.requests) == 1


async def test_a_visitor_waits_no_longer_than_wait_timeout(prefix: Path) -> None:
    async with StandIn() as server:
        release = asyncio.Event()

        async def when_released(request: Request) -> Answer:
            await release.wait()
            return await server.usual(request)

        server.answer = when_released
        async with CheckedNginx(prefix, backend=server.backend, options="wait_timeout = 0.5,") as nginx:
            assert await quickly(nginx.https_port) == nginx.fallback_der
            release.set()
            await until(lambda: NAME in server.pairs)
            await until_served(nginx.https_port, server.pairs[NAME].der)
            assert len(server.requests) == 1


async def test_a_unix_socket(prefix: Path, short_path: str) -> None:
    async with StandIn(path=short_path) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        assert await handshake(nginx.https_port) == server.pairs[NAME].der
        assert server.requests[0].headers["host"] == "localhost"


async def test_a_url_as_backend(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=f"http://{server.backend}/") as nginx:
        assert await handshake(nginx.https_port) == server.pairs[NAME].der
