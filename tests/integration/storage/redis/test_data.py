"""What stands in the database: the predecessor's keys as they are, ours beside them, nobody's harmed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import MAX_VALUE, Due, Lease, Storage
from ssl_cert_server.storage.redis import RedisSettings
from tests.integration.storage.redis.conftest import DAY, age, names
from tests.support.certs import make_pair
from tests.support.redis_server import RedisServer


@pytest.fixture
def storage(settings: RedisSettings, opened: Any) -> Storage:
    storage: Storage = opened(settings)
    return storage


async def listed(storage: Storage, folder: str = "") -> list[str]:
    return sorted([key async for key in storage.list(folder)])


async def used_in_every_way(storage: Storage) -> None:
    lease = await storage.acquire("certificates/a.example", 30)
    await storage.put("a.example", b"value", lease=lease)
    await storage.put("_state/a.example", b"state")
    await storage.schedule("renewals", [Due("a.example", 1.0)])
    await storage.claim("renewals", now=2.0, limit=1, seconds=1)
    await storage.index_complete()
    await storage.mark_index_complete()
    await storage.announce(["a.example"])
    await storage.changes("", 0)
    await storage.check_writable()


@pytest.mark.parametrize("prefix", ["", "ssl-cert:"])
async def test_the_predecessors_database_is_taken_over_as_it_is(
    redis_server: RedisServer, settings: RedisSettings, opened: Any, prefix: str
) -> None:
    kept = {name: make_pair(["a.example"]).stored for name in ("a.example", "a.example+rsa", "*.b.example")}
    kept["acme_account+key"] = make_pair().key_pem
    for name, value in kept.items():
        redis_server.ask("SET", prefix + name, value)
    storage = opened(RedisSettings(addr=redis_server.addr, prefix=prefix))
    assert await listed(storage) == sorted(kept)
    for name, value in kept.items():
        assert await storage.get(name) == value
    lease = await storage.acquire("certificates/a.example", 30)
    await storage.put("a.example", b"renewed", lease=lease)
    assert redis_server.ask("GET", f"{prefix}a.example") == b"renewed", "and it can be handed back"
    await storage.delete("*.b.example")
    assert redis_server.ask("EXISTS", f"{prefix}*.b.example") == 0


async def test_values_have_no_expiry(redis_server: RedisServer, storage: Storage) -> None:
    await used_in_every_way(storage)
    for name in ("a.example", "_state/a.example", " last-token", " changes", " due renewals later", " due-complete"):
        assert redis_server.ask("TTL", name) == -1, name


async def test_prefixes_keep_deployments_apart_though_one_is_the_start_of_another(
    redis_server: RedisServer, settings: RedisSettings, opened: Any
) -> None:
    prefixes = ["", "x", "x.", "[x]*?\\", "x lease "]
    storages = [opened(RedisSettings(addr=redis_server.addr, prefix=prefix)) for prefix in prefixes]
    for number, storage in enumerate(storages):
        await storage.put("key", b"%d" % number)
        await storage.put("_folder/key", b"%d" % number)
        assert await storage.acquire("work", 30) is not None
        await storage.schedule("work", [Due("key", float(number))])
    for number, storage in enumerate(storages):
        assert await storage.get("key") == b"%d" % number
        assert await listed(storage, "_folder") == ["_folder/key"]
        assert await storage.next_due("work") == float(number)
    assert await listed(storages[3]) == ["key"]
    assert await listed(storages[2]) == ["key"]


async def test_all_that_is_ours_stands_beside_what_a_key_can_be(redis_server: RedisServer, storage: Storage) -> None:
    await used_in_every_way(storage)
    found = {name.decode() for name in names(redis_server)}
    assert {"a.example", "_state/a.example"} == {name for name in found if " " not in name}
    assert all(name.startswith(" ") for name in found - {"a.example", "_state/a.example"})
    assert await listed(storage) == ["a.example"]
    assert await listed(storage, "_state") == ["_state/a.example"]


async def test_what_is_no_value_of_ours_is_left_alone_and_in_no_list(
    redis_server: RedisServer, storage: Storage
) -> None:
    redis_server.ask("SADD", "a-set", "x")
    redis_server.ask("SET", "with space", "x")
    redis_server.ask("SET", b"\xff\xfe", "x")
    redis_server.ask("SET", "a/folder/of/some/body", "x")
    await storage.put("key", b"")
    assert await listed(storage) == ["key"]
    with pytest.raises(StorageError, match=r"can't read a-set in Redis at .*: the key holds something other than"):
        await storage.get("a-set")


async def test_a_value_that_is_far_too_long_is_not_read(redis_server: RedisServer, storage: Storage) -> None:
    redis_server.ask("SETRANGE", "huge", 300 * 1024 * 1024, "x")
    with pytest.raises(StorageError, match=f"can't read huge: more than {MAX_VALUE} bytes"):
        await storage.get("huge")
    redis_server.ask("DEL", "huge")
    assert await storage.get("huge") is None


async def test_a_folder_is_listed_without_looking_at_anything_else(redis_server: RedisServer, storage: Storage) -> None:
    await storage.put("_notices/one", b"")
    redis_server.ask("CONFIG", "RESETSTAT")
    assert await listed(storage, "_notices") == ["_notices/one"]
    commands = redis_server.ask("INFO", "commandstats")
    assert b"cmdstat_sscan:calls=1," in commands
    assert b"cmdstat_scan:" not in commands
    assert b"cmdstat_keys:" not in commands


async def test_the_top_level_is_listed_in_bounded_steps(redis_server: RedisServer, storage: Storage) -> None:
    redis_server.ask("DEBUG", "POPULATE", 20_000, "name", 1)
    redis_server.ask("CONFIG", "RESETSTAT")
    assert len(await listed(storage)) == 20_000
    commands = redis_server.ask("INFO", "commandstats")
    assert b"cmdstat_keys:" not in commands
    assert int(commands.split(b"cmdstat_scan:calls=")[1].split(b",")[0]) >= 15


async def test_a_lease_is_forgotten_a_day_after_it_lapsed_and_writes_nothing_then(
    redis_server: RedisServer, storage: Storage
) -> None:
    lease = await storage.acquire("work", 30)
    assert lease is not None
    age(redis_server, b" lease work", 30 + DAY - 60)
    await storage.put("key", b"late, and nobody minds", lease=lease)
    age(redis_server, b" lease work", 61)
    assert redis_server.ask("EXISTS", " lease work") == 0
    with pytest.raises(LeaseLost):
        await storage.put("key", b"later", lease=lease)
    again = await storage.acquire("work", 30)
    assert again is not None
    assert again.token > lease.token


async def test_a_dead_holders_lease_lapses_within_its_length_though_the_servers_clock_was_set_back(
    redis_server: RedisServer, storage: Storage, opened: Any, settings: RedisSettings
) -> None:
    peer = opened(settings)
    lease = await storage.acquire("work", 5)
    assert lease is not None
    await storage.renew(lease, 30)
    age(redis_server, b" lease work", -3600)
    for _ in range(2):
        assert await peer.acquire("work", 30) is None
        assert 0 < lapses_in(redis_server) <= 30
    await storage.put("key", b"value", lease=lease)
    await storage.renew(lease, 60)
    assert await peer.acquire("work", 30) is None
    assert lapses_in(redis_server) > 30, "what it was renewed for counts"
    age(redis_server, b" lease work", 60)
    assert (await peer.acquire("work", 30)).token > lease.token


@pytest.mark.parametrize("left", ["", "1700000000000000 5000"], ids=["none before it", "one before it"])
async def test_a_lease_that_an_older_server_took_is_left_as_it_is(
    redis_server: RedisServer, storage: Storage, left: str
) -> None:
    until = round((time.time() + 3600) * 1_000_000)
    redis_server.ask("HSET", " lease work", "token", 1_700_000_000_000_001, "until", until, "holder", "x", "call", "x")
    if left:
        redis_server.ask("HSET", " lease work", "lasts", left)
    assert await storage.acquire("work", 30) is None
    assert lapses_in(redis_server) > 3000


def lapses_in(server: RedisServer) -> float:
    """Seconds that the lease still has."""
    seconds, micros = server.ask("TIME")
    return int(server.ask("HGET", " lease work", "until")) / 1_000_000 - int(seconds) - int(micros) / 1_000_000


async def test_tokens_grow_on_where_the_servers_clock_was_set_back_and_where_the_last_was_lost(
    redis_server: RedisServer, storage: Storage
) -> None:
    ahead = 4_000_000_000_000_000
    redis_server.ask("SET", " last-token", ahead)
    assert await storage.acquire("work", 30) == Lease("work", ahead + 1)
    assert await storage.acquire("other", 30) == Lease("other", ahead + 2)
    redis_server.ask("FLUSHALL")
    seconds, micros = redis_server.ask("TIME")
    lease = await storage.acquire("work", 30)
    assert lease is not None
    assert lease.token >= int(seconds) * 1_000_000 + int(micros)


async def test_scripts_are_sent_again_where_the_server_forgot_them(redis_server: RedisServer, storage: Storage) -> None:
    await used_in_every_way(storage)
    redis_server.ask("SCRIPT", "FLUSH")
    await storage.put("key", b"value")
    redis_server.ask("SCRIPT", "FLUSH")
    assert await storage.next_due("renewals") == 3.0


async def test_a_million_that_come_due_at_once_are_put_in_order_in_bounded_steps(
    redis_server: RedisServer, storage: Storage
) -> None:
    for start in range(0, 12_000, 3000):
        await storage.schedule("work", [Due(f"k{n}", 1.0, float(n % 7)) for n in range(start, start + 3000)])
    redis_server.ask("CONFIG", "RESETSTAT")
    claimed = await storage.claim("work", now=2.0, limit=5, seconds=60)
    assert [entry.rank for entry in claimed] == [0.0] * 5
    commands = redis_server.ask("INFO", "commandstats")
    assert int(commands.split(b"cmdstat_evalsha:calls=")[1].split(b",")[0]) == 13
    redis_server.ask("CONFIG", "RESETSTAT")
    await storage.claim("work", now=2.0, limit=5, seconds=60)
    again = redis_server.ask("INFO", "commandstats")
    assert b"cmdstat_evalsha:calls=1," in again, "and are not moved again"


async def test_one_whose_clock_is_behind_claims_nothing_that_another_found_due(storage: Storage) -> None:
    entries = [Due("early", 100.0, 2.0), Due("late", 200.0, 1.0)]
    await storage.schedule("work", entries)
    assert await storage.claim("work", now=250.0, limit=0, seconds=60) == []
    assert [entry.key for entry in await storage.claim("work", now=150.0, limit=9, seconds=500)] == ["early"]
    assert await storage.scheduled("work", "late") == entries[1]
    assert [entry.key for entry in await storage.claim("work", now=200.0, limit=9, seconds=500)] == ["late"]


async def test_news_that_the_server_lost_is_told(redis_server: RedisServer, storage: Storage) -> None:
    cursor = (await storage.changes("", 0)).cursor
    await storage.announce(["a.example"])
    redis_server.ask("FLUSHALL")
    changes = await storage.changes(cursor, 1000)
    assert changes.reset
    await storage.announce(["b.example"])
    assert (await storage.changes(changes.cursor, 0)).keys == ("b.example",)
    redis_server.ask("XTRIM", " changes", "MAXLEN", 0)
    assert (await storage.changes(changes.cursor, 0)).reset
