"""Storages full of certificates, made for measuring: the same pair under very many names."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tests.support.leaves import DAY, make_certificate
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.renewal.plan import EXPIRIES, QUESTIONS, RENEWALS
from ssl_cert_server.server.storages import open_storage
from ssl_cert_server.storage.base import Due, Storage

DOMAIN = "bench.example"
_AT_ONCE = 64
_BATCH = 10_000


@contextmanager
def backend(kind: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Start what a backend needs, and give the configuration's ``storage`` section."""
    if kind == "directory":
        yield {"type": "dir_cache", "dir_cache": str(folder / "storage")}
    elif kind == "redis":
        with RedisServer(folder / "redis") as redis:
            yield {"type": "redis", "redis": {"addr": redis.addr}}
    else:
        with PostgresServer() as postgres:
            yield {"type": "postgres", "postgres": {"dsn": postgres.dsn()}}


def name(number: int) -> str:
    """Give the name of one of the certificates."""
    return f"n{number}.{DOMAIN}"


def fill(section: dict[str, Any], have: int, count: int) -> None:
    """Store certificates up to ``count`` where there are ``have`` already, and plan them for weeks from now."""
    asyncio.run(_fill(section, have, count))


async def _fill(section: dict[str, Any], have: int, count: int) -> None:
    config = parse_config(_yaml(section), "scale")
    storage = open_storage(config, SystemClock(), create=True)
    now = time.time()
    await storage.index_complete()  # or it can't be marked in the end
    pair = make_certificate(f"*.{DOMAIN}", start=now - DAY, end=now + 89 * DAY)
    for start in range(have, count, _BATCH):
        numbers = range(start, min(start + _BATCH, count))
        if section["type"] == "dir_cache":
            await asyncio.to_thread(_write_files, Path(section["dir_cache"]), pair.stored, numbers)
        else:
            await _put_all(storage, pair.stored, numbers)
        due = [now + 30 * DAY + number % (20 * DAY) for number in numbers]
        entries = list(zip(map(name, numbers), due, strict=True))
        await storage.schedule(RENEWALS, [Due(key, at, pair.not_after) for key, at in entries])
        await storage.schedule(QUESTIONS, [Due(key, at) for key, at in entries])
        await storage.schedule(EXPIRIES, [Due(key, now + 79 * DAY, pair.not_after) for key, _ in entries])
    await storage.mark_index_complete()
    await storage.close()


def _write_files(folder: Path, stored: bytes, numbers: range) -> None:
    """As storage would, but without waiting for the disk each time."""
    for number in numbers:
        descriptor = os.open(folder / name(number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(descriptor, stored)
        os.close(descriptor)


async def _put_all(storage: Storage, stored: bytes, numbers: range) -> None:
    waiting = iter(numbers)

    async def put() -> None:
        for number in waiting:
            await storage.put(name(number), stored)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(put())


def _yaml(section: dict[str, Any]) -> str:
    return yaml.safe_dump({"storage": section})
