from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.service.records import IssuedRecord, load_record, save_record
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import make_certificate

KEY = "*.a.com+rsa"
PLACE = f"_issued/{KEY}"
RECORD = IssuedRecord("ab" * 20, "https://ca.test/dir", "dns-01", 1.5, 2.5, 2.25, 3.0)

texts = st.text(max_size=50)
times = st.floats(0, 1e11)


async def test_what_was_written_is_read(storage: FaultyStorage) -> None:
    await save_record(storage, KEY, RECORD)
    assert await load_record(storage, KEY, RECORD.fingerprint) == RECORD


@given(st.builds(IssuedRecord, texts, texts, texts, times, times, times, times))
async def test_any_record_comes_back(record: IssuedRecord) -> None:
    storage = FaultyStorage(ManualClock())
    await save_record(storage, KEY, record)
    assert await load_record(storage, KEY, record.fingerprint) == record


async def test_nothing_is_known_of_a_certificate_without_one(storage: FaultyStorage) -> None:
    assert await load_record(storage, KEY, "cd" * 20) == IssuedRecord("cd" * 20)


async def test_one_of_another_certificate_says_nothing(storage: FaultyStorage) -> None:
    await save_record(storage, KEY, RECORD)
    assert await load_record(storage, KEY, "cd" * 20) == IssuedRecord("cd" * 20)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"rubbish",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        json.dumps({"fingerprint": "ab" * 20}).encode(),
        json.dumps({**asdict(RECORD), "window_start": "soon"}).encode(),
        json.dumps({**asdict(RECORD), "ask_at": None}).encode(),
    ],
)
async def test_a_broken_one_says_nothing_and_is_told(storage: FaultyStorage, stored: bytes) -> None:
    await storage.put(PLACE, stored)
    with capture_logs() as logs:
        assert await load_record(storage, KEY, "ab" * 20) == IssuedRecord("ab" * 20)
    assert [(log["event"], log["cert_key"]) for log in logs] == [("record.unreadable", KEY)]


async def test_storage_that_fails_is_told(storage: FaultyStorage) -> None:
    storage.break_down("get", "put")
    with pytest.raises(StorageError):
        await load_record(storage, KEY, "ab" * 20)
    with pytest.raises(StorageError):
        await save_record(storage, KEY, RECORD)


async def test_under_a_lease_that_was_lost_nothing_is_written(storage: FaultyStorage) -> None:
    lease = await storage.acquire("certificates/a.com", 30)
    storage.steal("certificates/a.com")
    with pytest.raises(LeaseLost):
        await save_record(storage, KEY, RECORD, lease)
    assert await storage.get(PLACE) is None


@pytest.mark.parametrize(("now", "holds"), [(1.0, False), (1.5, True), (2.4, True), (2.5, False)])
def test_a_window_holds_from_its_start_until_its_end(now: float, holds: bool) -> None:
    assert RECORD.window_holds(now) is holds


def test_an_unknown_window_never_holds() -> None:
    assert not IssuedRecord().window_holds(0.0)


async def test_the_record_of_a_successor_names_its_predecessor(storage: FaultyStorage) -> None:
    certificate = make_certificate("a.com")
    record = IssuedRecord.of_new(certificate, "https://ca.test/dir", "dns-01", START, RECORD)
    assert record.replaces == RECORD.fingerprint
    await save_record(storage, KEY, record)
    assert await load_record(storage, KEY, certificate.fingerprint) == record
    assert IssuedRecord.of_new(certificate, "https://ca.test/dir", "dns-01", START, None).replaces == ""
