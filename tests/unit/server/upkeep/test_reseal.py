"""Resealing: everything, under the leases that servers write under, and again as often as it takes."""

from __future__ import annotations

import asyncio

import pytest

from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import StorageError
from ssl_cert_server.server.upkeep.kept import Kept
from ssl_cert_server.server.upkeep.reseal import PATIENCE, Reseal
from ssl_cert_server.storage.leasing import leased
from ssl_cert_server.storage.seal import Sealer, SealKey, is_sealed
from ssl_cert_server.storage.sealed import SealedStorage
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.loop_time import LoopTime, settle
from tests.unit.server.upkeep.support import everything, fill

OLD, NEW, OTHER = (SealKey(bytes([number]) * 32) for number in (1, 2, 3))


class Resealing:
    """Reseals with the new key, knowing the old one."""

    def __init__(self, storage: FaultyStorage, config: Config, clock: ManualClock, lines: list[str]) -> None:
        self.steps = 0
        self._storage, self._kept, self._clock, self._lines = storage, Kept(config), clock, lines

    def work(self, *, seal: bool = True) -> Reseal:
        storage = SealedStorage(self._storage, Sealer([NEW, OLD], seal=seal))
        return Reseal(storage, self._kept, self._clock, self._lines.append, self._step)

    def _step(self) -> None:
        self.steps += 1


@pytest.fixture
def resealing(storage: FaultyStorage, config: Config, clock: ManualClock, lines: list[str]) -> Resealing:
    return Resealing(storage, config, clock, lines)


async def test_everything_unsealed_is_sealed_and_then_nothing_is_left_to_do(
    resealing: Resealing, storage: FaultyStorage
) -> None:
    await fill(storage)
    before = everything(storage)
    counts = await resealing.work().run()
    assert (counts.rewritten, resealing.steps) == (len(before), len(before))
    assert counts.complete
    assert all(is_sealed(value) for value in everything(storage).values())
    opened = SealedStorage(storage, Sealer([NEW]))
    assert {key: await opened.get(key) for key in before} == before
    again = await resealing.work().run()
    assert (again.rewritten, again.current) == (0, len(before))
    assert await storage.acquire("certificates/a.example", 1), "every lease was given back"


async def test_a_change_of_keys_and_the_way_back(resealing: Resealing, storage: FaultyStorage) -> None:
    await fill(SealedStorage(storage, Sealer([OLD])))
    assert all(is_sealed(value) for value in everything(storage).values())
    await resealing.work().run()
    values = {key: await SealedStorage(storage, Sealer([NEW])).get(key) for key in everything(storage)}
    counts = await resealing.work(seal=False).run()
    assert counts.rewritten == len(values)
    assert everything(storage) == values


async def test_what_a_server_works_on_is_waited_for(
    resealing: Resealing, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put("a.example", b"old")
    async with asyncio.TaskGroup() as group:
        async with leased(storage, "certificates/a.example", clock) as lease:
            work = group.create_task(resealing.work().run())
            await clock.advance(5)
            assert not work.done()
            await SealedStorage(storage, Sealer([OLD])).put("a.example", b"new", lease=lease)
        await clock.advance(2)
    assert work.result().rewritten == 1
    assert await SealedStorage(storage, Sealer([NEW])).get("a.example") == b"new"


async def test_what_a_server_works_on_for_long_is_left_for_the_next_run(
    resealing: Resealing, storage: FaultyStorage, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl_cert_server.server.upkeep.reseal.PATIENCE", 0.01)
    assert PATIENCE > 1
    await storage.put("a.example", b"value")
    await storage.acquire("certificates/a.example", 1000)
    counts = await resealing.work().run()
    assert (counts.busy, counts.complete) == (1, False)
    assert lines == ["a.example: a server is at work on it; run this again"]
    assert await storage.get("a.example") == b"value"


async def test_a_lease_that_is_lost_meanwhile_leaves_the_value(
    resealing: Resealing, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.put("a.example", b"old")
    original = SealedStorage.get

    async def robbed(self: SealedStorage, key: str) -> bytes | None:
        value = await original(self, key)
        storage.steal("certificates/a.example")
        await storage.put("a.example", b"of the new holder")
        return value

    monkeypatch.setattr(SealedStorage, "get", robbed)
    time = LoopTime()
    work = asyncio.create_task(resealing.work().run())
    await settle()
    await time.advance(PATIENCE)  # in which the robber keeps it
    counts = await work
    assert (counts.busy, counts.rewritten) == (1, 0)
    assert await storage.get("a.example") == b"of the new holder"


async def test_what_cannot_be_opened_is_told_and_the_rest_sealed(
    resealing: Resealing, storage: FaultyStorage, lines: list[str]
) -> None:
    await fill(storage)
    await SealedStorage(storage, Sealer([OTHER])).put("a.example", b"value")
    counts = await resealing.work().run()
    assert (counts.unreadable, counts.complete) == (1, False)
    assert counts.rewritten == len(everything(storage)) - 1
    assert [line.partition(":")[0] for line in lines] == ["can't open a.example"]


async def test_storage_that_fails_ends_it_and_it_is_gone_on_with(resealing: Resealing, storage: FaultyStorage) -> None:
    await fill(storage)
    storage.break_down("put", key="b.example")
    with pytest.raises(StorageError):
        await resealing.work().run()
    storage.repair()
    counts = await resealing.work().run()
    assert counts.complete
    assert all(is_sealed(value) for value in everything(storage).values())
