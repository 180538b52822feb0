"""What status() tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.nginx import TEMPLATE, CheckedNginx, Nginx
from tests.support.stand_in import Answer, Request, StandIn
from tests.support.visitors import LIMIT, NAME, http_get, quickly, until


async def read_status(nginx: Nginx) -> dict[str, Any]:
    code, body = await http_get(nginx.http_port, "/status", "localhost")
    assert code == 200
    value: dict[str, Any] = json.loads(body)
    return value


async def until_status(nginx: Nginx, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The workers add up what they did several times a second."""
    value: dict[str, Any] = {}
    try:
        async with asyncio.timeout(LIMIT):
            while True:
                value = await read_status(nginx)
                if holds(value):
                    return value
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"the status stayed {value}") from None


async def test_handshakes_are_counted_over_all_workers(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend, workers=3) as nginx:
        for number in range(10):
            await quickly(nginx.https_port, f"n{number}.example.com")
        for _ in range(30):
            await quickly(nginx.https_port)
        await quickly(nginx.https_port, "www.example.net")

        async def fail(_: Request) -> Answer:
            return Answer(500)

        server.answer = fail
        assert await quickly(nginx.https_port, "bad.example.com") == nginx.fallback_der

        def all_counted(value: dict[str, Any]) -> bool:
            counters = value["counters"]
            served = counters["lru_hits"] + counters["dict_hits"] + counters["misses"]
            # The last handshake is counted in two steps, between which a worker may have carried its sums over.
            return bool(served == 41 and counters["refused"] == counters["fallbacks"] == counters["errors"] == 1)

        value = await until_status(nginx, all_counted)
        counters = value["counters"]
        assert counters["misses"] == 12
        assert counters["dict_hits"] <= 2, "each worker takes a name from there once"
        assert value["workers"] == 3
        idle = {"fetching": 0, "waiting": 0}
        value = await until_status(
            nginx, lambda value: value["cache"]["worker_entries"] >= 11 and value["jobs"] == idle
        )
        assert value["cache"]["worker_capacity"] == 1000
        assert 0 < value["cache"]["dict_free"] < value["cache"]["dict_capacity"]


async def test_changes_and_the_server_are_told_of(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        assert (await read_status(nginx))["changes"] == {"supported": False, "answered_ago": None}
        await quickly(nginx.https_port)
        value = await until_status(nginx, lambda value: value["counters"]["polls"] == 1)
        assert value["changes"]["supported"]
        assert 0 <= value["changes"]["answered_ago"] < LIMIT
        assert value["backends"] == [{"address": server.backend, "state": "up", "failures": 0, "current": True}]
        server.announce(NAME)
        await until_status(nginx, lambda value: value["counters"]["changes"] == 1)
        await server.stop()
        assert await quickly(nginx.https_port, "cold.example.com") == nginx.fallback_der
        value = await until_status(nginx, lambda value: value["backends"][0]["state"] == "down")
        assert value["backends"][0]["failures"] >= 1
        await server.start()
        await until_status(nginx, lambda value: value["backends"][0]["state"] == "up")


async def test_it_starts_with_init_worker_too(prefix: Path) -> None:
    template = TEMPLATE.read_text().replace(
        "    server {\n", "    init_worker_by_lua_block { cert_server:init_worker() }\n    server {\n", 1
    )
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend, template=template):
        await until(lambda: len(server.polls) >= 2)
        assert server.requests == []
