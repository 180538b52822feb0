"""Managed certificates: changes picked up, mistakes refused, the last good one kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest
from cryptography.x509.oid import ExtensionOID
from structlog.testing import capture_logs

from ssl_cert_server.errors import InvalidCertificate, StorageError, Unavailable
from ssl_cert_server.issuers.managed import ManagedCertificates
from ssl_cert_server.model import Subject
from ssl_cert_server.pki.x509 import parse_certificate
from tests.support.certs import DAY, make_pair
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaks import assert_no_key
from tests.support.loop_time import LoopTime

NAME, KEY = "a.example", "managed.pem"
FIRST, SECOND = make_pair([NAME]), make_pair([NAME])
LOOK = 3.0
"""Seconds within which a change is seen."""

BAD = {
    "another's key": SECOND.key_pem + FIRST.pem,
    "expired": make_pair([NAME], end=START - 1).stored,
    "not valid yet": make_pair([NAME], start=START + 10 * DAY).stored,
    "garbage": b"garbage",
    "half written": SECOND.stored[:-100],
    "only the chain": SECOND.pem,
    "empty": b"",
}
bad = pytest.mark.parametrize("stored", BAD.values(), ids=BAD.keys())


@pytest.fixture
def replaced() -> list[str]:
    return []


@pytest.fixture
def keys() -> list[str]:
    return [KEY]


@pytest.fixture
def managed(storage: FaultyStorage, clock: ManualClock, keys: list[str], replaced: list[str]) -> ManagedCertificates:
    return ManagedCertificates(storage, clock, keys, lambda subject, _: replaced.append(subject.cert_key))


@pytest.fixture
async def watched(managed: ManagedCertificates) -> AsyncIterator[ManagedCertificates]:
    """With ``watch`` running; it is still running at the end."""
    watching = asyncio.ensure_future(managed.watch())
    yield managed
    assert not watching.done()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def refusals(logs: list[MutableMapping[str, Any]]) -> list[str]:
    return [log["reason"] for log in logs if log["event"] == "managed.refused"]


async def test_it_is_read_at_the_first_request(managed: ManagedCertificates, storage: FaultyStorage) -> None:
    await storage.put(KEY, FIRST.stored)
    certificate = await managed.obtain(NAME, Subject(KEY))
    assert certificate == parse_certificate(FIRST.stored)
    storage.break_down("get")
    assert await managed.obtain("b.example", Subject(KEY)) is certificate, "from memory from then on"
    assert managed.fresh_until(certificate) == certificate.not_after


async def test_without_an_ocsp_url_it_is_as_good(managed: ManagedCertificates, storage: FaultyStorage) -> None:
    present = {extension.oid for extension in FIRST.certificate.extensions}
    assert ExtensionOID.AUTHORITY_INFORMATION_ACCESS not in present
    await storage.put(KEY, FIRST.stored)
    await managed.obtain(NAME, Subject(KEY))


async def test_a_change_is_picked_up_and_told(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock, replaced: list[str]
) -> None:
    cursor = (await storage.changes("", 0)).cursor
    await storage.put(KEY, FIRST.stored)
    first = await watched.obtain(NAME, Subject(KEY))
    await storage.put(KEY, SECOND.stored)
    assert await watched.obtain(NAME, Subject(KEY)) == first
    await clock.advance(LOOK)
    assert await watched.obtain(NAME, Subject(KEY)) == parse_certificate(SECOND.stored)
    assert replaced == [KEY]
    assert (await storage.changes(cursor, 0)).keys == (KEY,), "the other instances are told"


async def test_the_same_certificate_written_anew_is_no_change(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock, replaced: list[str]
) -> None:
    await storage.put(KEY, FIRST.stored)
    await watched.obtain(NAME, Subject(KEY))
    await storage.put(KEY, FIRST.pem + FIRST.pkcs8)
    await clock.advance(LOOK)
    assert replaced == []


@bad
async def test_a_bad_one_is_refused_at_first_sight(
    managed: ManagedCertificates, storage: FaultyStorage, stored: bytes
) -> None:
    await storage.put(KEY, stored)
    with capture_logs() as logs, pytest.raises(Unavailable, match=rf"{NAME}: {KEY} in storage can't be used") as caught:
        await managed.obtain(NAME, Subject(KEY))
    assert 0 < caught.value.retry_after < LOOK, "by then it was looked at again"
    [reason] = refusals(logs)
    assert reason
    assert logs[0]["still_served"] is None


async def test_one_that_is_missing_is_told(managed: ManagedCertificates) -> None:
    with pytest.raises(Unavailable, match="there is nothing under this key"):
        await managed.obtain(NAME, Subject(KEY))


@bad
async def test_a_bad_one_leaves_the_last_good_one_served(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock, replaced: list[str], stored: bytes
) -> None:
    await storage.put(KEY, FIRST.stored)
    good = await watched.obtain(NAME, Subject(KEY))
    await storage.put(KEY, stored)
    with capture_logs() as logs:
        await clock.advance(20 * LOOK)
    assert await watched.obtain(NAME, Subject(KEY)) == good
    assert replaced == []
    assert len(refusals(logs)) == 1, "one line for a mistake, not one for a look"
    assert logs[0]["still_served"] == good.fingerprint
    assert logs[0]["cert_key"] == KEY


async def test_a_deleted_one_is_served_on(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put(KEY, FIRST.stored)
    good = await watched.obtain(NAME, Subject(KEY))
    await storage.delete(KEY)
    with capture_logs() as logs:
        await clock.advance(20 * LOOK)
    assert await watched.obtain(NAME, Subject(KEY)) == good
    assert refusals(logs) == ["there is nothing under this key"]


async def test_each_mistake_is_told_anew(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put(KEY, FIRST.stored)
    await watched.obtain(NAME, Subject(KEY))
    with capture_logs() as logs:
        for stored in (b"one", b"another", FIRST.stored, b"another", FIRST.stored, b"another"):
            await storage.put(KEY, stored)
            await clock.advance(5 * LOOK)
    assert len(refusals(logs)) == 4


async def test_one_that_is_not_valid_yet_is_taken_over_when_its_time_comes(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock, replaced: list[str]
) -> None:
    await storage.put(KEY, FIRST.stored)
    first = await watched.obtain(NAME, Subject(KEY))
    later = make_pair([NAME], start=START + 60)
    await storage.put(KEY, later.stored)
    await clock.advance(59)
    assert await watched.obtain(NAME, Subject(KEY)) == first
    await clock.advance(1 + LOOK)
    assert await watched.obtain(NAME, Subject(KEY)) == parse_certificate(later.stored)
    assert replaced == [KEY]


async def test_a_bad_one_that_was_mended_is_served(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put(KEY, b"garbage")
    with pytest.raises(Unavailable):
        await watched.obtain(NAME, Subject(KEY))
    await storage.put(KEY, FIRST.stored)
    await clock.advance(LOOK)
    assert await watched.obtain(NAME, Subject(KEY)) == parse_certificate(FIRST.stored)


async def test_one_that_expires_is_not_served_any_more(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put(KEY, make_pair([NAME], end=START + 60).stored)
    await watched.obtain(NAME, Subject(KEY))
    clock.jump(59)
    await watched.obtain(NAME, Subject(KEY))
    clock.jump(1)
    with pytest.raises(InvalidCertificate, match=rf"{NAME}: {KEY} in storage can't be used: .*expired"):
        await watched.obtain(NAME, Subject(KEY))
    await storage.put(KEY, FIRST.stored)
    await clock.advance(LOOK)
    assert await watched.obtain(NAME, Subject(KEY)) == parse_certificate(FIRST.stored)


async def test_storage_that_fails_is_survived(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put(KEY, FIRST.stored)
    first = await watched.obtain(NAME, Subject(KEY))
    storage.break_down("get")
    with capture_logs() as logs:
        await clock.advance(10 * LOOK)
    assert {log["event"] for log in logs} == {"managed.unreadable"}
    assert await watched.obtain(NAME, Subject(KEY)) == first
    with pytest.raises(StorageError):
        await watched.obtain(NAME, Subject("another.pem"))
    storage.repair()
    await storage.put(KEY, SECOND.stored)
    await clock.advance(LOOK)
    assert await watched.obtain(NAME, Subject(KEY)) == parse_certificate(SECOND.stored)


def unreadable(logs: list[MutableMapping[str, Any]]) -> list[tuple[str, str, str | None]]:
    found = [log for log in logs if log["event"] == "managed.unreadable"]
    return [(log["log_level"], log["reason"], log["still_served"]) for log in found]


@pytest.mark.parametrize("served", [False, True])
async def test_one_that_can_not_be_read_is_logged_once_a_minute_and_by_whether_anything_is_served(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock, served: bool
) -> None:
    loop_time = LoopTime()
    fingerprint = None
    if served:
        await storage.put(KEY, FIRST.stored)
        fingerprint = (await watched.obtain(NAME, Subject(KEY))).fingerprint
    line = ("warning" if served else "error", f"can't get {KEY}: the disk is gone", fingerprint)
    storage.break_down("get")
    with capture_logs() as logs:
        await clock.advance(50 * LOOK)
    assert unreadable(logs) == [line]
    with capture_logs() as logs:
        for _ in range(3):
            await loop_time.advance(61)
            await clock.advance(10 * LOOK)
    assert unreadable(logs) == [line] * 3


async def test_another_reason_for_which_one_can_not_be_read_is_logged_at_once_and_so_is_the_next_failure(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "first"

    async def fail(key: str) -> bytes | None:
        raise StorageError(reason)

    with capture_logs() as logs:
        with monkeypatch.context() as patches:
            patches.setattr(storage, "get", fail)
            await clock.advance(5 * LOOK)
            reason = "second"
            await clock.advance(5 * LOOK)
        await clock.advance(LOOK)
        monkeypatch.setattr(storage, "get", fail)
        await clock.advance(5 * LOOK)
    assert [reason for _, reason, _ in unreadable(logs)] == ["first", "second", "second"]


async def test_an_expired_one_in_memory_is_not_said_to_be_served(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put(KEY, make_pair([NAME], end=START + 60).stored)
    await watched.obtain(NAME, Subject(KEY))
    clock.jump(60)
    storage.break_down("get")
    with capture_logs() as logs:
        await clock.advance(LOOK)
    assert [(level, served) for level, _, served in unreadable(logs)] == [("error", None)]


@pytest.mark.parametrize("keys", [["one", "two", "three"]])
async def test_one_bad_certificate_keeps_no_other_from_being_looked_at(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock, keys: list[str]
) -> None:
    for key in keys:
        await storage.put(key, FIRST.stored)
        await watched.obtain(NAME, Subject(key))
    await storage.put("one", b"garbage")
    await storage.put("three", SECOND.stored)
    await clock.advance(LOOK)
    assert await watched.obtain(NAME, Subject("three")) == parse_certificate(SECOND.stored)


@pytest.mark.parametrize("keys", [[f"{number}.pem" for number in range(1000)]], ids=["1000"])
async def test_many_are_looked_at_in_turn_so_that_idling_costs_no_more(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock, keys: list[str], replaced: list[str]
) -> None:
    for key in keys:
        await storage.put(key, FIRST.stored)
        await watched.obtain(NAME, Subject(key))
    reads: list[str] = []

    def note(operation: str, key: str) -> bool:
        if operation == "get":
            reads.append(key)
        return False

    storage.broken = note
    await clock.advance(60)
    assert len(reads) <= 30 * 60, "a read takes a tenth of a millisecond"
    assert {*reads} == {*keys}
    storage.broken = lambda *_: False
    await storage.put(keys[0], SECOND.stored)
    await storage.put(keys[-1], SECOND.stored)
    await clock.advance(60)
    assert sorted(replaced) == [keys[0], keys[-1]]


@pytest.mark.parametrize("keys", [[f"{number}.pem" for number in range(50)]], ids=["50"])
async def test_up_to_fifty_are_all_looked_at_each_time(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock, keys: list[str], replaced: list[str]
) -> None:
    for key in keys:
        await storage.put(key, FIRST.stored)
        await watched.obtain(NAME, Subject(key))
    for key in keys:
        await storage.put(key, SECOND.stored)
    await clock.advance(LOOK)
    assert sorted(replaced) == sorted(keys)


@pytest.mark.parametrize("keys", [[KEY, "bad.pem"]])
async def test_each_is_read_before_anybody_asks_and_announced_once_for_it_may_be_another_than_before(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put(KEY, FIRST.stored)
    await storage.put("bad.pem", b"garbage")
    cursor = (await storage.changes("", 0)).cursor
    with capture_logs() as logs:
        await clock.advance(10 * LOOK)
    changes = await storage.changes(cursor, 0)
    assert changes.keys == (KEY,)
    assert (await storage.changes(changes.cursor, 0)).keys == ()
    assert watched.names_of(KEY) == {NAME}
    assert len(refusals(logs)) == 1


async def test_one_that_a_visitor_had_read_first_is_announced_all_the_same(
    watched: ManagedCertificates, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put(KEY, FIRST.stored)
    cursor = (await storage.changes("", 0)).cursor
    await watched.obtain(NAME, Subject(KEY))
    await clock.advance(LOOK)
    assert (await storage.changes(cursor, 0)).keys == (KEY,)


async def test_what_another_instance_tells_of_is_read_before_anybody_asks(
    managed: ManagedCertificates, storage: FaultyStorage
) -> None:
    await storage.put(KEY, FIRST.stored)
    await managed.refresh_used("another.pem")
    await managed.refresh_used(KEY)
    assert managed.names_of(KEY) == {NAME}


@bad
async def test_no_key_is_in_a_log_or_an_error(
    managed: ManagedCertificates, storage: FaultyStorage, stored: bytes
) -> None:
    await storage.put(KEY, stored)
    with capture_logs() as logs, pytest.raises(Unavailable) as refusal:
        await managed.obtain(NAME, Subject(KEY))
    for pair in (FIRST, SECOND):
        assert_no_key(pair.key_pem, logs, refusal.value)
