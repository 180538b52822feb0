from __future__ import annotations

from dataclasses import replace

import pytest

from ssl_cert_server.errors import BackingOff, LeaseLost
from ssl_cert_server.model import OpenOrder
from ssl_cert_server.service.state import (
    HELD_FOR,
    NameState,
    check_not_backing_off,
    load_state,
    save_state,
    settle_interrupted,
)
from ssl_cert_server.storage.base import Lease
from ssl_cert_server.storage.memory import MemoryStorage
from tests.support.clock import START, ManualClock

ORDER = OpenOrder("https://ca.test/directory", "https://ca.test/order/1", "-----BEGIN EC PRIVATE KEY-----")
KEY = "_state/a.com"


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage(ManualClock())


async def _lease(storage: MemoryStorage) -> Lease:
    lease = await storage.acquire("certificates/a.com", 30)
    assert lease
    return lease


@pytest.mark.parametrize(
    "state",
    [
        NameState(failures=3, failed_at=1_799_999_940.25, retry_at=1_800_000_000.5, error="the CA said: nö"),
        NameState(orders=(ORDER,), expected_at=6.5, troubles=7),
        NameState(1, 2.0, 3.0, "four", (ORDER, replace(ORDER, directory_url="other", placed_at=5.5))),
        NameState(placing_at=1_800_000_000.5),
    ],
)
async def test_round_trip(storage: MemoryStorage, state: NameState) -> None:
    await save_state(storage, "a.com", state, await _lease(storage))
    assert await load_state(storage, "a.com") == state
    assert await load_state(storage, "b.com") == NameState()


async def test_what_an_earlier_build_wrote_is_read(storage: MemoryStorage) -> None:
    await storage.put(KEY, b'{"failures": 2, "retry_at": 7.0, "error": "no", "order": null}')
    assert await load_state(storage, "a.com") == NameState(failures=2, retry_at=7.0, error="no")


async def test_so_is_an_order_of_an_earlier_build(storage: MemoryStorage) -> None:
    order = b'{"directory_url": "https://ca.test/directory", "order_url": "https://ca.test/order/1", "key_pem": "key"}'
    await storage.put(KEY, b'{"failures": 0, "retry_at": 0, "error": "", "orders": [' + order + b"]}")
    assert (await load_state(storage, "a.com")).orders == (replace(ORDER, key_pem="key"),)


async def test_an_empty_state_leaves_nothing_behind(storage: MemoryStorage) -> None:
    lease = await _lease(storage)
    await save_state(storage, "a.com", NameState(failures=1), lease)
    assert [key async for key in storage.list("_state")] == [KEY]
    await save_state(storage, "a.com", NameState(), lease)
    assert [key async for key in storage.list("_state")] == []


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"3",
        b'"text"',
        b"{}",
        b'{"failures": 1}',
        b'{"order": null, "unknown": 1}',
        b'{"order": {"order_url": "x"}}',
        b'{"order": ["x"]}',
        b'{"order": "x"}',
    ],
)
async def test_what_cannot_be_parsed_counts_as_nothing(storage: MemoryStorage, stored: bytes) -> None:
    await storage.put(KEY, stored)
    assert await load_state(storage, "a.com") == NameState()


@pytest.mark.parametrize(
    "stored",
    [
        b'{"failures": "many", "retry_at": 0, "error": "", "order": null}',
        b'{"failures": 1, "retry_at": "tomorrow", "error": "", "order": null}',
        b'{"failures": 1, "retry_at": null, "error": "", "order": null}',
        b'{"failures": [], "retry_at": 0, "error": "", "order": null}',
        b'{"failures": 1, "failed_at": null, "retry_at": 0, "error": "", "order": null}',
    ],
)
async def test_fields_of_a_wrong_type_count_as_nothing(storage: MemoryStorage, stored: bytes) -> None:
    await storage.put(KEY, stored)
    assert await load_state(storage, "a.com") == NameState()


async def test_it_is_written_under_the_lease(storage: MemoryStorage) -> None:
    lost = await _lease(storage)
    await storage.release(lost)
    await _lease(storage)
    for state in (NameState(failures=1), NameState()):
        with pytest.raises(LeaseLost):
            await save_state(storage, "a.com", state, lost)


@pytest.mark.parametrize(("failures", "troubles", "pause"), [(0, 0, 60), (0, 1, 600), (1, 0, 600), (3, 3, 600)])
def test_an_order_that_was_being_placed_backs_off(failures: int, troubles: int, pause: float) -> None:
    state = NameState(failures, 5.0, 6.0, "before", (ORDER,), troubles=troubles, placing_at=START)
    settled = settle_interrupted(state, START)
    assert (settled.failures, settled.troubles) == (failures, troubles + 1)
    assert (settled.failed_at, settled.retry_at) == (START, START + pause)
    assert (settled.orders, settled.placing_at) == ((ORDER,), 0.0)
    with pytest.raises(BackingOff, match="the CA's answer is not known"):
        check_not_backing_off("a.com", settled, START + pause - 1)
    check_not_backing_off("a.com", settled, START + pause)


def test_whoever_finds_an_order_announced_long_ago_leaves_a_peer_time_to_store_it() -> None:
    now = START + 3600
    settled = settle_interrupted(NameState(placing_at=START), now)
    assert settled.retry_at == now + HELD_FOR
    with pytest.raises(BackingOff):
        check_not_backing_off("a.com", settled, now)


def test_an_order_announced_by_a_clock_that_is_ahead_backs_off() -> None:
    settled = settle_interrupted(NameState(placing_at=START + 3600), START)
    assert (settled.failed_at, settled.retry_at) == (START, START + 60)
    with pytest.raises(BackingOff):
        check_not_backing_off("a.com", settled, START)


@pytest.mark.parametrize("ahead", [0.5, 5, 300])
def test_a_failure_noted_by_a_clock_that_is_a_little_ahead_backs_off(ahead: float) -> None:
    state = NameState(failures=1, failed_at=START + ahead, retry_at=START + ahead + 60, error="the CA said no")
    with pytest.raises(BackingOff):
        check_not_backing_off("a.com", state, START)


def test_a_failure_noted_by_a_clock_that_was_wrong_holds_nothing_back() -> None:
    state = NameState(failures=1, failed_at=START + 301, retry_at=START + 361, error="the CA said no")
    check_not_backing_off("a.com", state, START)


def test_what_was_not_interrupted_stays_as_it_is() -> None:
    state = NameState(1, 2.0, 3.0, "four", (ORDER,))
    assert settle_interrupted(state, START) is state


def test_an_order_that_is_just_being_placed_keeps_nobody_from_waiting_for_it() -> None:
    check_not_backing_off("a.com", NameState(placing_at=START), START)


def test_the_private_key_of_an_order_is_not_in_its_repr() -> None:
    assert "PRIVATE KEY" not in repr(NameState(orders=(ORDER,)))
