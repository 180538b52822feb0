"""More than one Redis: replicas that a write waits for, Sentinels that choose another primary, a cluster's nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Due, Lease, Storage
from ssl_cert_server.storage.redis import RedisSettings
from tests.integration.storage.redis.conftest import PATIENCE
from tests.support.redis_server import RedisServer, Replica, Sentinel, make_cluster
from tests.support.waiting import wait_until

# --- WAIT


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, Replica]]:
    with RedisServer(tmp_path / "primary") as primary, Replica(tmp_path / "replica", primary) as replica:
        yield primary, replica
        replica.resume()


async def test_a_write_waits_for_its_replica(pair: tuple[RedisServer, Replica], opened: Any) -> None:
    primary, replica = pair
    storage = opened(RedisSettings(addr=primary.addr, wait_replicas=1, timeout=PATIENCE))
    for number in range(50):
        await storage.put("key", b"%d" % number)
        assert replica.ask("GET", "key") == b"%d" % number
        await storage.schedule("work", [Due("key", float(number))])
        assert replica.ask("ZSCORE", " due work later", "key") == b"%d" % number
    await storage.delete("key")
    assert replica.ask("EXISTS", "key") == 0
    await storage.check_writable()


async def test_a_write_that_no_replica_has_is_no_success_though_it_may_be_there(
    pair: tuple[RedisServer, Replica], opened: Any
) -> None:
    primary, replica = pair
    storage = opened(RedisSettings(addr=primary.addr, wait_replicas=1, timeout=8))

    def calls(storage: Storage) -> list[Awaitable[None]]:
        return [
            storage.put("key", b"new"),
            storage.delete("other"),
            storage.schedule("work", [Due("key", 1.0)]),
            storage.mark_index_complete(),
            storage.check_writable(),
        ]

    # A script that the server doesn't know yet is waited for twice, which would leave little of the timeout.
    other = opened(RedisSettings(addr=primary.addr, prefix="else:", timeout=PATIENCE))
    for one in (other, storage):
        await one.index_complete()
    await asyncio.gather(*calls(other))
    await storage.put("key", b"old")
    replica.pause()
    for _ in range(2):  # again, too, where it changes nothing any more
        for result in await asyncio.gather(*calls(storage), return_exceptions=True):
            assert isinstance(result, StorageError)
            assert re.search(r"durably .* only 0 of 1 replicas \(wait_replicas\) have it", str(result))
    assert await storage.get("key") == b"new"
    replica.resume()
    await storage.put("key", b"newer")
    assert replica.ask("GET", "key") == b"newer"


async def test_where_there_are_fewer_replicas_than_are_wanted_nothing_is_writable(
    pair: tuple[RedisServer, Replica], opened: Any
) -> None:
    primary, _ = pair
    await opened(RedisSettings(addr=primary.addr, wait_replicas=1, timeout=PATIENCE)).check_writable()
    storage = opened(RedisSettings(addr=primary.addr, wait_replicas=2, timeout=8))
    with pytest.raises(StorageError, match="only 1 of 2 replicas"):
        await storage.check_writable()


# --- Sentinels


class Watched:
    """A primary, two replicas, and three Sentinels."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self.primary = running.enter_context(RedisServer(folder / "0"))
        others = [running.enter_context(Replica(folder / str(number), self.primary)) for number in (1, 2)]
        self.servers = [self.primary, *others]
        self.sentinels = [
            running.enter_context(Sentinel(folder / f"sentinel{number}", self.primary, quorum=2)) for number in range(3)
        ]
        wait_until(lambda: all(one.knows(sentinels=3, replicas=2) for one in self.sentinels), 120)

    def settings(self, **more: Any) -> RedisSettings:
        addrs = tuple(sentinel.addr for sentinel in self.sentinels)
        return RedisSettings(sentinels=addrs, master_name="main", timeout=10, **more)

    async def failed_over(self) -> RedisServer:
        """Kill the primary, and wait until the Sentinels agree on another."""
        old = self.sentinels[0].primary_port()
        server = next(server for server in self.servers if server.port == old)
        await asyncio.to_thread(server.kill)
        # A Sentinel that was held up itself does nothing for half a minute.
        await asyncio.to_thread(wait_until, lambda: all(one.primary_port() != old for one in self.sentinels), 120)
        return server


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ExitStack() as running:
        yield Watched(tmp_path, running)


class Load:
    """Writers that count up under leases, and readers of what they wrote."""

    def __init__(self, storages: list[Storage]) -> None:
        self.failures: list[StorageError] = []
        self.acknowledged: dict[str, int] = {}
        self.tokens: dict[str, list[int]] = {}
        self.torn: list[bytes] = []
        self.ended = False
        self._storages = storages

    async def write(self, number: int) -> None:
        key = f"key{number}"
        self.tokens[key] = []
        turn = 0
        while not self.ended:
            turn += 1
            storage = self._storages[turn % len(self._storages)]
            try:
                await self._write_once(storage, key, turn)
            except StorageError as failure:
                self.failures.append(failure)
            await asyncio.sleep(0.01)

    async def _write_once(self, storage: Storage, key: str, turn: int) -> None:
        lease = await storage.acquire(f"certificates/{key}", 0.5)
        if lease is None:
            return
        self.tokens[key].append(lease.token)
        await storage.put(key, b"%08d" % turn * 500, lease=lease)
        self.acknowledged[key] = turn
        await storage.release(lease)

    async def read(self, number: int) -> None:
        while not self.ended:
            try:
                value = await self._storages[0].get(f"key{number}")
            except StorageError:
                value = None
            if value is not None and value != value[:8] * 500:
                self.torn.append(value)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("wait_replicas", [0, 1])
async def test_a_failover_under_load_tears_nothing_and_tokens_only_grow(
    watched: Watched, opened: Any, wait_replicas: int
) -> None:
    load = Load([opened(watched.settings(wait_replicas=wait_replicas)) for _ in range(2)])
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(load.write(number))
            group.create_task(load.read(number))
        await asyncio.sleep(1)
        old = await watched.failed_over()
        settled = dict(load.acknowledged)
        await asyncio.to_thread(wait_until, lambda: all(load.acknowledged[key] > settled[key] for key in settled))
        old.start()  # and is made a replica
        await asyncio.sleep(1.5)
        load.ended = True
    assert load.failures, "the outage was not noticed?"
    assert not load.torn
    for key, tokens in load.tokens.items():
        assert tokens == sorted(set(tokens)), key
    storage = opened(watched.settings())
    for key, turn in load.acknowledged.items():
        value = await storage.get(key)
        assert value is not None
        # Without waiting for a replica, what was acknowledged right before or while the old primary goes may be lost.
        assert not wait_replicas or int(value[:8]) >= turn


async def test_a_lease_of_before_a_failover_that_lost_it_writes_nothing(watched: Watched, opened: Any) -> None:
    storage = opened(watched.settings())
    for replica in watched.servers[1:]:
        replica.ask("REPLICAOF", "127.0.0.1", 1)  # they hear nothing any more
    lease = await storage.acquire("work", 30)
    assert isinstance(lease, Lease)
    await storage.put("key", b"lost", lease=lease)
    for replica in watched.servers[1:]:
        replica.ask("REPLICAOF", "NO", "ONE")
    await asyncio.to_thread(watched.primary.kill)
    other = opened(RedisSettings(addr=watched.servers[1].addr))
    with pytest.raises(StorageError, match="taken over by another instance"):
        await other.put("key", b"late", lease=lease)
    again = await other.acquire("work", 30)
    assert again.token > lease.token


async def test_a_failover_makes_the_index_be_looked_at_anew(watched: Watched, opened: Any) -> None:
    storage = opened(watched.settings(wait_replicas=1))
    assert not await storage.index_complete()
    await storage.mark_index_complete()
    assert await storage.index_complete()
    await watched.failed_over()
    assert not await storage.index_complete()


async def test_sentinels_that_are_deaf_or_gone_are_passed_over(watched: Watched, opened: Any) -> None:
    watched.sentinels[0].pause()
    storage = opened(watched.settings())
    await storage.put("key", b"value")
    watched.sentinels[1].__exit__(None, None, None)
    assert await opened(watched.settings()).get("key") == b"value"


async def test_sentinels_that_know_nothing_of_the_name_say_so(watched: Watched, opened: Any) -> None:
    addrs = tuple(sentinel.addr for sentinel in watched.sentinels)
    storage = opened(RedisSettings(sentinels=addrs, master_name="other"))
    with pytest.raises(StorageError, match="it knows no primary called other"):
        await storage.get("key")


# --- a cluster


async def test_a_cluster_without_a_hash_tag_in_the_prefix_is_refused(opened: Any) -> None:
    for prefix in ("", "ssl:", "{}x", "}{"):
        with pytest.raises(StorageError, match="a Cluster needs one with a hash tag"):
            opened(RedisSettings(cluster=True, prefix=prefix))


async def test_a_clusters_node_that_is_taken_for_a_single_server_says_what_to_do(
    cluster: list[RedisServer], opened: Any
) -> None:
    storages = [opened(RedisSettings(addr=node.addr, prefix="{tag}:")) for node in cluster]
    results = await asyncio.gather(*(storage.put("key", b"") for storage in storages), return_exceptions=True)
    refusals = [result for result in results if isinstance(result, StorageError)]
    assert len(refusals) == 2
    assert all("it is a node of a cluster" in str(refusal) for refusal in refusals)
    with pytest.raises(StorageError, match="it is a node of a cluster"):
        await opened(RedisSettings(addr=cluster[0].addr)).acquire("work", 30)


@pytest.fixture
async def six(tmp_path: Path) -> AsyncIterator[list[RedisServer]]:
    """Three primaries and a replica of each."""
    with ExitStack() as running:
        options = {"cluster-enabled": "yes", "cluster-node-timeout": "3000"}
        nodes = [running.enter_context(RedisServer(tmp_path / str(number), options)) for number in range(6)]
        make_cluster(nodes, replicas=1)
        yield nodes


async def test_a_clusters_failover_is_followed(six: list[RedisServer], opened: Any) -> None:
    addr = ",".join(node.addr for node in six)
    storage = opened(RedisSettings(addr=addr, cluster=True, prefix="{tag}:", wait_replicas=1, timeout=10))
    for number in range(20):
        await storage.put(f"key{number}", b"%d" % number)
    lease = await storage.acquire("work", 1000)
    owner = next(node for node in six if node.ask("ROLE")[0] == b"master" and node.ask("DBSIZE"))
    await asyncio.to_thread(owner.kill)

    async def back() -> None:
        while True:
            try:
                await storage.get("key1")
            except StorageError:
                await asyncio.sleep(0.1)
            else:
                return

    await asyncio.wait_for(back(), 120)
    for number in range(20):
        assert await storage.get(f"key{number}") == b"%d" % number
    later = opened(RedisSettings(addr=addr, cluster=True, prefix="{tag}:", timeout=10))
    assert await later.acquire("work", 30) is None
    await later.put("key", b"under the lease of before", lease=lease)
    assert len([key async for key in later.list()]) == 21
