"""What is kept of names goes when nobody has asked for them for a month, and nothing else does."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import StorageError
from ssl_cert_server.model import OpenOrder
from ssl_cert_server.service.state import NameState, load_state, save_state
from ssl_cert_server.service.sweep import StateSweep
from ssl_cert_server.storage.removals import RemovalSweep, load_removals, save_removals
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY

FAILED = NameState(failures=4, failed_at=START, retry_at=START + DAY, error="no")
ORDER = OpenOrder("https://ca.test/dir", "https://ca.test/order/1", "key")


async def _keep(storage: FaultyStorage, state: NameState, name: str = "a.com") -> None:
    lease = await storage.acquire("test", 1e9)
    assert lease is not None
    await save_state(storage, name, state, lease)
    await storage.release(lease)


@pytest.mark.parametrize(
    ("state", "days", "swept"),
    [
        (FAILED, 30, 0),
        (FAILED, 32, 1),
        (NameState(failed_at=START, error="no room"), 29, 0),
        (NameState(failed_at=START, error="no room"), 31, 1),
        (NameState(failures=1, failed_at=START, error="no", orders=(ORDER,)), 400, 0),
    ],
)
async def test_what_goes(storage: FaultyStorage, clock: ManualClock, state: NameState, days: int, swept: int) -> None:
    await _keep(storage, state)
    clock.jump(days * DAY)
    assert await StateSweep(storage, clock).sweep() == swept
    assert (await load_state(storage, "a.com") == NameState()) == bool(swept)


async def test_what_is_worked_on_stays(storage: FaultyStorage, clock: ManualClock) -> None:
    await _keep(storage, FAILED)
    clock.jump(40 * DAY)
    lease = await storage.acquire("certificates/a.com", 1e9)
    assert lease is not None
    assert await StateSweep(storage, clock).sweep() == 0
    await storage.release(lease)
    assert await StateSweep(storage, clock).sweep() == 1


async def test_what_can_not_be_read_is_passed_over(storage: FaultyStorage, clock: ManualClock) -> None:
    for name in ("bad.com", "a.com", "b.com"):
        await _keep(storage, FAILED, name)
    clock.jump(40 * DAY)
    storage.break_down("get", key="_state/bad.com")
    with capture_logs() as logs:
        assert await StateSweep(storage, clock).sweep() == 2
    assert [(log["event"], log["folder"], log["values"]) for log in logs] == [("storage.passed_over", "_state", 1)]


async def test_storage_that_is_away_ends_the_sweep(storage: FaultyStorage, clock: ManualClock) -> None:
    for number in range(50):
        await _keep(storage, FAILED, f"{number}.com")
    storage.break_down("get")
    with pytest.raises(StorageError):
        await StateSweep(storage, clock).sweep()


async def test_removal_records_go_once_what_they_name_has_expired(storage: FaultyStorage, clock: ManualClock) -> None:
    await save_removals(storage, "a.com", {"old": START + DAY, "new": START + 2 * DAY}, now=START)
    await save_removals(storage, "b.com", {"other": START + DAY}, now=START)
    clock.jump(1.5 * DAY)
    await RemovalSweep(storage, clock).sweep()
    assert [key async for key in storage.list("_removed")] == ["_removed/a.com"]
    assert set(await load_removals(storage, "a.com")) == {"old", "new"}


async def test_a_record_that_is_just_being_written_stays(storage: FaultyStorage, clock: ManualClock) -> None:
    await save_removals(storage, "a.com", {"old": START + DAY}, now=START)
    clock.jump(2 * DAY)
    lease = await storage.acquire("certificates/a.com", 1e9)
    assert lease is not None
    await RemovalSweep(storage, clock).sweep()
    assert await storage.get("_removed/a.com") is not None


async def test_a_removal_record_is_bounded_and_a_broken_one_counts_as_none(storage: FaultyStorage) -> None:
    await storage.put("_removed/a.com", b"[]")
    for number in range(50):
        await save_removals(storage, "a.com", {f"{number}": START + number + 1}, now=START)
    assert set(await load_removals(storage, "a.com")) == {f"{number}" for number in range(30, 50)}
