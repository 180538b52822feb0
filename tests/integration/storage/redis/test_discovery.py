"""Sentinels and nodes of a cluster that tell the wrong server: whoever knows better is asked before long.

The servers here are stand-ins that say what the test wants; test_replication.py has real ones.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.redis import RedisSettings
from tests.support.listener import Listener
from tests.support.loop_time import LoopTime
from tests.support.ports import free_port

ALL_SLOTS = (0, 16383)
PRIMARY = [b"master", 0, []]
REPLICA = [b"slave", b"127.0.0.1", 1, b"connected", 0]
Answer = Callable[[list[bytes]], Any]


class StandIn:
    """Answers every command with what ``answer`` gives for it; None is no answer at all."""

    def __init__(self, answer: Answer) -> None:
        self.port = free_port()
        self.answer = answer
        self.asked: list[bytes] = []

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._listener = Listener(socket.create_server(("127.0.0.1", self.port)), self._serve)

    async def close(self) -> None:
        await self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while command := await _read(reader):
                self.asked.append(command[0])
                reply = self.answer(command)
                if reply is not None:
                    writer.write(_encode(reply))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> list[bytes]:
    first = await reader.readline()
    words = []
    for _ in range(int(first[1:] or 0)):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


def _encode(reply: Any) -> bytes:
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, str):  # a refusal
        return b"-%s\r\n" % reply.encode()
    return b"*%d\r\n%s" % (len(reply), b"".join(map(_encode, reply)))


@pytest.fixture
async def stand_in() -> AsyncIterator[Any]:
    started: list[StandIn] = []

    async def stand_in(answer: Answer) -> StandIn:
        one = StandIn(answer)
        await one.start()
        started.append(one)
        return one

    yield stand_in
    for one in started:
        await one.close()


def primary(value: bytes, role: Any = PRIMARY) -> Answer:
    return lambda command: role if command[0] == b"ROLE" else value


def durable(waited: Any) -> Answer:
    """A primary whose writes so many replicas have, or that refuses them."""
    replies = {b"ROLE": PRIMARY, b"WAIT": waited}
    return lambda command: replies.get(command[0], waited if isinstance(waited, str) else b"done")


def naming(port: int) -> Answer:
    return lambda _: [b"127.0.0.1", b"%d" % port]


def node(serving: int, reply: Any) -> Answer:
    """A node of a cluster that takes the one at this port for the only one."""
    slots = [[*ALL_SLOTS, [b"127.0.0.1", serving, b"id"]]]
    return lambda command: slots if command[0] == b"CLUSTER" else reply


def watched(*sentinels: StandIn, wait_replicas: int = 0) -> RedisSettings:
    addrs = tuple(one.addr for one in sentinels)
    return RedisSettings(sentinels=addrs, master_name="main", timeout=60, wait_replicas=wait_replicas)


def of_nodes(*nodes: StandIn) -> RedisSettings:
    return RedisSettings(addr=",".join(one.addr for one in nodes), cluster=True, prefix="{x}:", timeout=60)


async def given_up(call: Awaitable[object], deaf: StandIn, command: bytes) -> None:
    """Let the call's time pass once it waits for an answer to ``command``."""
    task = asyncio.ensure_future(call)
    while command not in deaf.asked:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)
    await LoopTime().advance(60)
    with pytest.raises(StorageError, match="no answer in 60 s"):
        await task


# --- Sentinels


async def test_a_sentinel_that_names_a_dead_primary_is_asked_last_from_then_on(stand_in: Any, opened: Any) -> None:
    right = await stand_in(primary(b"value"))
    cut_off, other = await stand_in(naming(free_port())), await stand_in(naming(right.port))
    storage = opened(watched(cut_off, other))
    for _ in range(3):
        assert await storage.get("key") == b"value"
    right.answer = primary(b"new")
    await asyncio.gather(*(storage.get("key") for _ in range(20)))  # over new connections
    assert len(cut_off.asked) == 1


async def test_a_sentinel_that_names_a_replica_is_asked_last_from_then_on(stand_in: Any, opened: Any) -> None:
    right, demoted = await stand_in(primary(b"value")), await stand_in(primary(b"old", REPLICA))
    stale, other = await stand_in(naming(demoted.port)), await stand_in(naming(right.port))
    storage = opened(watched(stale, other))
    assert await storage.get("key") == b"value"
    assert len(stale.asked) == 1


async def test_a_sentinel_that_names_a_primary_that_went_deaf_costs_one_call(stand_in: Any, opened: Any) -> None:
    right, deaf = await stand_in(primary(b"value")), await stand_in(lambda _: None)
    stale, other = await stand_in(naming(deaf.port)), await stand_in(naming(right.port))
    storage = opened(watched(stale, other))
    await given_up(storage.get("key"), deaf, b"ROLE")
    assert await storage.get("key") == b"value"
    assert len(stale.asked) == 1


async def test_two_sentinels_that_are_wrong_are_passed_over_within_one_call(stand_in: Any, opened: Any) -> None:
    right = await stand_in(primary(b"value"))
    wrong = [await stand_in(naming(free_port())) for _ in range(2)]
    storage = opened(watched(*wrong, await stand_in(naming(right.port))))
    assert await storage.get("key") == b"value"


async def test_where_all_name_a_dead_primary_it_is_found_when_it_is_back(stand_in: Any, opened: Any) -> None:
    right = await stand_in(primary(b"value"))
    await right.close()
    storage = opened(watched(*[await stand_in(naming(right.port)) for _ in range(2)]))
    with pytest.raises(StorageError, match="Connect call failed"):
        await storage.get("key")
    await right.start()
    assert await storage.get("key") == b"value"


async def test_a_primary_that_becomes_a_replica_casts_doubt_on_who_named_it(stand_in: Any, opened: Any) -> None:
    right, demoted = await stand_in(primary(b"done")), await stand_in(primary(b"done"))
    stale, other = await stand_in(naming(demoted.port)), await stand_in(naming(right.port))
    storage = opened(watched(stale, other))
    await storage.put("key", b"value")
    demoted.answer = primary("READONLY You can't write against a read only replica.")  # type: ignore[arg-type]
    await storage.put("key", b"value")
    assert b"EVALSHA" in right.asked
    assert len(stale.asked) == 1


@pytest.mark.parametrize("refusal", ["NOREPLICAS Not enough good replicas to write.", 0], ids=["min-replicas", "WAIT"])
async def test_a_primary_that_is_cut_off_from_its_replicas_is_left_for_the_one_that_was_promoted(
    stand_in: Any, opened: Any, refusal: Any
) -> None:
    cut_off, promoted = await stand_in(durable(1)), await stand_in(durable(1))
    sentinels = [await stand_in(naming(cut_off.port)) for _ in range(2)]
    storage = opened(watched(*sentinels, wait_replicas=1))
    await asyncio.gather(*(storage.put("key", b"value") for _ in range(10)))
    cut_off.answer = durable(refusal)
    sentinels[1].answer = naming(promoted.port)  # the first one is cut off, too
    with suppress(StorageError):
        await storage.put("key", b"value")
    for _ in range(3):
        await storage.put("key", b"value")
    assert b"WAIT" in promoted.asked


async def test_a_primary_whose_machine_is_gone_costs_one_call_and_not_one_for_each_connection(
    stand_in: Any, opened: Any
) -> None:
    gone, right = await stand_in(primary(b"old")), await stand_in(primary(b"value"))
    sentinel = await stand_in(naming(gone.port))
    storage = opened(watched(sentinel))
    await asyncio.gather(*(storage.get("key") for _ in range(10)))
    assert gone.asked.count(b"ROLE") > 1, "there are several connections"
    gone.answer = lambda _: None
    sentinel.answer = naming(right.port)
    gone.asked.clear()
    await given_up(storage.get("key"), gone, b"GETRANGE")
    assert await storage.get("key") == b"value"
    assert gone.asked == [b"GETRANGE"]


# --- a cluster


async def test_a_node_that_is_cut_off_from_its_cluster_is_left_for_the_one_that_was_promoted(
    stand_in: Any, opened: Any
) -> None:
    cut_off, promoted = await stand_in(lambda _: None), await stand_in(lambda _: None)
    cut_off.answer = node(cut_off.port, b"value")
    promoted.answer = node(promoted.port, b"value")
    storage = opened(of_nodes(cut_off, promoted))
    await asyncio.gather(*(storage.get("key") for _ in range(10)))
    cut_off.answer = node(cut_off.port, "CLUSTERDOWN The cluster is down")
    promoted.answer = node(promoted.port, b"new")
    for _ in range(3):
        assert await storage.get("key") == b"new"


async def test_a_node_that_names_a_dead_one_is_asked_last_from_then_on(stand_in: Any, opened: Any) -> None:
    right = await stand_in(lambda _: None)
    right.answer = node(right.port, b"value")
    stale = await stand_in(node(free_port(), b"nothing"))
    storage = opened(of_nodes(stale, right))
    assert await storage.get("key") == b"value"
    assert stale.asked == [b"CLUSTER"]


async def test_a_node_that_names_one_that_serves_the_slot_no_more_is_asked_last(stand_in: Any, opened: Any) -> None:
    right = await stand_in(lambda _: None)
    right.answer = node(right.port, b"value")
    former = await stand_in(node(right.port, f"MOVED 100 {right.addr}"))
    stale = await stand_in(node(former.port, b"nothing"))
    storage = opened(of_nodes(stale, right))
    assert await storage.get("key") == b"value"
    assert stale.asked == [b"CLUSTER"]


async def test_a_cluster_that_is_down_says_so(stand_in: Any, opened: Any) -> None:
    nodes = [await stand_in(lambda _: None) for _ in range(2)]
    for one in nodes:
        one.answer = node(one.port, "CLUSTERDOWN Hash slot not served")
    storage = opened(of_nodes(*nodes))
    with pytest.raises(StorageError, match="its cluster is down, or no node serves the slot"):
        await storage.get("key")
    for one in nodes:
        one.answer = node(one.port, b"value")
    assert await storage.get("key") == b"value"
