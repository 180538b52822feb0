"""Work under a lease: waited for, kept alive, and given back however the work ends."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import Lease
from ssl_cert_server.storage.leasing import LEASE_SECONDS, leased
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.loop_time import LoopTime


class Work:
    """A block under the lease that goes on until it is told to end."""

    def __init__(self, storage: FaultyStorage, clock: ManualClock) -> None:
        self.tokens: list[int] = []
        self.end = asyncio.Event()
        self._storage = storage
        self._clock = clock

    async def run(self) -> None:
        async with leased(self._storage, "work", self._clock) as lease:
            self.tokens.append(lease.token)
            await self.end.wait()


@pytest.fixture
def storage(clock: ManualClock) -> FaultyStorage:
    return FaultyStorage(clock)


async def is_free(storage: FaultyStorage) -> bool:
    lease = await storage.acquire("work", 1)
    if lease is not None:
        await storage.release(lease)
    return lease is not None


async def test_a_free_lease_is_had_without_waiting_and_given_back(storage: FaultyStorage, clock: ManualClock) -> None:
    async with leased(storage, "work", clock) as lease:
        assert not await is_free(storage)
        await storage.put("key", b"value", lease=lease)
    assert clock.sleeps == [] or clock.sleeps == [LEASE_SECONDS / 3]
    assert await is_free(storage)


async def test_waits_until_the_holder_is_done(storage: FaultyStorage, clock: ManualClock) -> None:
    first, second = Work(storage, clock), Work(storage, clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(first.run())
        await clock.advance(0)
        group.create_task(second.run())
        await clock.advance(100)
        assert second.tokens == []
        first.end.set()
        second.end.set()
        await clock.advance(1)
    assert second.tokens > first.tokens


async def test_those_who_wait_do_not_ask_in_step(storage: FaultyStorage, clock: ManualClock) -> None:
    await storage.acquire("work", 1000)
    waiting = asyncio.ensure_future(Work(storage, clock).run())
    for clock.chance in (0.0, 0.25, 0.75):
        await clock.advance(1)
    assert len(set(clock.sleeps)) >= 3
    assert all(0.5 <= pause < 1 for pause in clock.sleeps)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_the_lease_is_kept_alive_far_beyond_its_time(storage: FaultyStorage, clock: ManualClock) -> None:
    work = Work(storage, clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(work.run())
        for _ in range(40):
            await clock.advance(LEASE_SECONDS / 4)
            assert await storage.acquire("work", 1) is None
        work.end.set()
    assert await is_free(storage)


async def test_a_failing_block_gives_the_lease_back_and_its_failure_is_the_whole_story(
    storage: FaultyStorage, clock: ManualClock
) -> None:
    cause = ValueError("what led to it")
    with pytest.raises(StorageError, match="the disk is gone") as failure:
        async with leased(storage, "work", clock):
            raise StorageError("the disk is gone") from cause
    assert failure.value.__cause__ is cause
    assert await is_free(storage)


async def test_a_group_of_failures_comes_out_as_it_is(storage: FaultyStorage, clock: ManualClock) -> None:
    group = ExceptionGroup("two", [ValueError("one"), ValueError("two")])
    with pytest.raises(ExceptionGroup) as failure:
        async with leased(storage, "work", clock):
            raise group
    assert failure.value is group


async def test_a_cancelled_block_gives_the_lease_back(storage: FaultyStorage, clock: ManualClock) -> None:
    task = asyncio.ensure_future(Work(storage, clock).run())
    await clock.advance(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_free(storage)


async def test_a_deadline_ends_the_wait(storage: FaultyStorage, clock: ManualClock) -> None:
    held = await storage.acquire("work", 1000)
    work = Work(storage, clock)
    task = asyncio.ensure_future(work.run())
    await clock.advance(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.tokens == []
    assert held is not None
    await storage.renew(held, 10)


async def test_nothing_goes_on_after_the_block(storage: FaultyStorage, clock: ManualClock) -> None:
    before = asyncio.all_tasks()
    async with leased(storage, "work", clock):
        await clock.advance(0)
    await clock.advance(100)
    assert asyncio.all_tasks() == before


async def test_a_lost_lease_cancels_the_block(storage: FaultyStorage, clock: ManualClock) -> None:
    work = Work(storage, clock)
    task = asyncio.ensure_future(work.run())
    await clock.advance(1)
    storage.steal("work")
    await clock.advance(LEASE_SECONDS / 3)
    with pytest.raises(LeaseLost, match="work"):
        await task
    assert await storage.acquire("work", 1) is None, "it stays with its new holder"


async def test_a_lease_lost_unnoticed_is_noticed_at_the_write(storage: FaultyStorage, clock: ManualClock) -> None:
    async def robbed_and_writing() -> None:
        async with leased(storage, "work", clock) as lease:
            storage.steal("work")
            await storage.put("key", b"value", lease=lease)

    with pytest.raises(LeaseLost):
        await robbed_and_writing()
    assert await storage.get("key") is None


async def refused(*args: object) -> None:
    raise StorageError("the disk is gone")


async def test_a_lease_that_cannot_be_renewed_is_tried_again_while_it_lasts(
    storage: FaultyStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(storage, clock)
    task = asyncio.ensure_future(work.run())
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(storage, "renew", refused)
        await clock.advance(LEASE_SECONDS * 0.7)
    assert [log["event"] for log in logs] == ["lease.not_renewed"] * 2
    await clock.advance(LEASE_SECONDS / 2)
    assert await storage.acquire("work", 1) is None, "renewed as soon as storage was back"
    work.end.set()
    await task


async def test_a_lease_that_lapsed_unrenewed_cancels_the_block_once_another_has_it(
    storage: FaultyStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = asyncio.ensure_future(Work(storage, clock).run())
    with monkeypatch.context() as broken:
        broken.setattr(storage, "renew", refused)
        await clock.advance(LEASE_SECONDS)
        assert await storage.acquire("work", 1000) is not None
    await clock.advance(LEASE_SECONDS / 3)
    assert task.done()
    with pytest.raises(LeaseLost):
        await task


# --- a holder that stood still, or could not renew


async def test_a_held_lease_passes_its_check_however_long_it_is_renewed(
    storage: FaultyStorage, clock: ManualClock
) -> None:
    async with leased(storage, "work", clock) as lease:
        for _ in range(10):
            await clock.advance(LEASE_SECONDS * 0.9)
            lease.check()


@pytest.mark.parametrize("how", ["stopped", "suspended"])
async def test_after_standing_still_for_longer_than_the_lease_the_block_knows_before_its_next_step(
    storage: FaultyStorage, clock: ManualClock, how: str
) -> None:
    async with leased(storage, "work", clock) as lease:
        await clock.advance(1)
        lease.check()
        if how == "stopped":
            clock.stand_still(LEASE_SECONDS)
        else:
            clock.suspend(LEASE_SECONDS)
        with pytest.raises(LeaseLost, match="work was not renewed for 30 s; another may have it"):
            lease.check()


async def test_a_lapsed_lease_that_nobody_took_is_renewed_and_held_again(
    storage: FaultyStorage, clock: ManualClock
) -> None:
    async with leased(storage, "work", clock) as lease:
        await clock.advance(1)
        clock.stand_still(LEASE_SECONDS * 2)
        await clock.advance(0)
        lease.check()
        assert await storage.acquire("work", 1) is None


async def test_a_lapsed_lease_that_was_taken_cancels_the_block_when_it_goes_on(
    storage: FaultyStorage, clock: ManualClock
) -> None:
    task = asyncio.ensure_future(Work(storage, clock).run())
    await clock.advance(1)
    clock.stand_still(LEASE_SECONDS * 2)
    assert await storage.acquire("work", 1000) is not None
    await clock.advance(0)
    with pytest.raises(LeaseLost):
        await task


async def test_one_that_cannot_be_renewed_in_time_cancels_the_block_though_nobody_took_it(
    storage: FaultyStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = asyncio.ensure_future(Work(storage, clock).run())
    monkeypatch.setattr(storage, "renew", refused)
    await clock.advance(LEASE_SECONDS * 0.99)
    assert not task.done()
    await clock.advance(LEASE_SECONDS * 0.01)
    assert task.done()
    with pytest.raises(LeaseLost, match="not renewed for 30 s"):
        await task


async def test_a_renewal_without_an_answer_is_given_up_when_the_lease_lapses(
    storage: FaultyStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*args: object) -> None:
        await asyncio.get_running_loop().create_future()

    time = LoopTime()
    task = asyncio.ensure_future(Work(storage, clock).run())
    monkeypatch.setattr(storage, "renew", hang)
    await clock.advance(LEASE_SECONDS / 3)
    clock.stand_still(LEASE_SECONDS * 2 / 3)
    await time.advance(LEASE_SECONDS * 2 / 3 + 1)
    with pytest.raises(LeaseLost, match="not renewed for 30 s"):
        await task


async def test_the_lease_counts_from_when_storage_was_asked(
    storage: FaultyStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, renew = storage.acquire, storage.renew

    async def slow_acquire(name: str, seconds: float) -> Lease | None:
        lease = await acquire(name, seconds)
        clock.stand_still(LEASE_SECONDS)
        return lease

    async def slow_renew(lease: Lease, seconds: float) -> None:
        await renew(lease, seconds)
        clock.stand_still(LEASE_SECONDS)

    with monkeypatch.context() as slow:
        slow.setattr(storage, "acquire", slow_acquire)
        async with leased(storage, "work", clock) as lease:
            with pytest.raises(LeaseLost):
                lease.check()
    async with leased(storage, "work", clock) as lease:
        monkeypatch.setattr(storage, "renew", slow_renew)
        await clock.advance(LEASE_SECONDS / 3)
        with pytest.raises(LeaseLost):
            lease.check()


async def test_a_lease_that_cannot_be_released_lapses_by_itself(
    storage: FaultyStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "release", refused)
    async with leased(storage, "work", clock):
        pass
    assert await storage.acquire("work", 1) is None
    await clock.advance(LEASE_SECONDS)
    assert await storage.acquire("work", 1) is not None


async def test_storage_that_is_gone_is_told_at_once(
    storage: FaultyStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "acquire", refused)
    with pytest.raises(StorageError, match="the disk is gone"):
        async with leased(storage, "work", clock):
            pytest.fail("the block ran without a lease")


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_any_moment_it_leaves_no_lease_held(
    storage: FaultyStorage, clock: ManualClock, turns: int
) -> None:
    task = asyncio.ensure_future(one_piece_of_work(storage, clock))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await clock.advance(0)
    assert await is_free(storage)


class SlowLeases(FaultyStorage):
    """Storage that gives a lease at once, and answers when it is told to."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.answers = asyncio.Event()

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        lease = await super().acquire(name, seconds)
        await self.answers.wait()
        return lease


async def test_a_lease_whose_answer_comes_after_the_wait_was_cancelled_is_released(clock: ManualClock) -> None:
    storage = SlowLeases(clock)
    task = asyncio.ensure_future(one_piece_of_work(storage, clock))
    await clock.advance(0)
    task.cancel()
    await clock.advance(0)
    storage.answers.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_free(storage)


async def one_piece_of_work(storage: FaultyStorage, clock: ManualClock) -> None:
    async with leased(storage, "work", clock):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
