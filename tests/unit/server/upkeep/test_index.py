"""Rebuilding the queue of renewals."""

from __future__ import annotations

import pytest

from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import StorageError
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.renewal.schedule import advised_at, expiring_from, renew_at
from ssl_cert_server.server.compose import renewal_plan
from ssl_cert_server.server.upkeep.index import QueueRebuild
from ssl_cert_server.server.upkeep.stored import Rules
from ssl_cert_server.service.records import IssuedRecord, save_record
from ssl_cert_server.storage.base import Due, Storage
from ssl_cert_server.storage.seal import Sealer, SealKey
from ssl_cert_server.storage.sealed import SealedStorage
from tests.support.certs import DAY, Pair, make_pair
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.ocsp_ca import OcspCa
from tests.unit.server.upkeep.support import CONFIG, fill, note_calls

KEY = SealKey(bytes(32))
FROM, UNTIL = START - DAY, START + 90 * DAY


class Rebuild:
    def __init__(self, rules: Rules, clock: ManualClock, lines: list[str]) -> None:
        self._rules, self._clock, self._lines = rules, clock, lines

    async def __call__(self, storage: Storage, config: Config | None = None) -> QueueRebuild:
        plan = renewal_plan(config or Config(), storage, self._clock)
        work = QueueRebuild(storage, plan, self._rules, self._clock, self._lines.append, lambda: None)
        await work.run()
        return work


@pytest.fixture
def rebuild(rules: Rules, clock: ManualClock, lines: list[str]) -> Rebuild:
    return Rebuild(rules, clock, lines)


async def stored(storage: Storage, key: str, pair: Pair | None = None) -> str:
    pair = pair or make_pair([key], start=FROM, end=UNTIL)
    await storage.put(key, pair.stored)
    return parse_certificate(pair.stored).fingerprint


async def entries(storage: Storage) -> dict[str, Due]:
    return {entry.key: entry async for entry in storage.list_due("renewal")}


async def test_every_permitted_certificate_is_scheduled_and_nothing_else(
    rebuild: Rebuild, storage: FaultyStorage, clock: ManualClock
) -> None:
    await fill(storage)
    await storage.unschedule("renewal", ["a.example", "b.example"])
    await storage.unschedule("parked", ["192.0.2.1"])
    await stored(storage, "not.permitted")
    done = await rebuild(storage)
    at = renew_at(START, UNTIL, clock.chance)
    assert await entries(storage) == {name: Due(name, at, UNTIL) for name in ("a.example", "b.example")}
    assert (done.scheduled, done.removed, done.unusable) == (2, 0, 0)


async def test_entries_are_made_anew_and_those_of_nothing_taken_out(
    rebuild: Rebuild, storage: FaultyStorage, clock: ManualClock
) -> None:
    await stored(storage, "a.example")
    await stored(storage, "not.permitted")
    wrong = ["a.example", "gone.example", "not.permitted"]
    await storage.schedule("renewal", [Due(key, 1.0, 2.0) for key in wrong])
    done = await rebuild(storage)
    assert await entries(storage) == {"a.example": Due("a.example", renew_at(FROM, UNTIL, clock.chance), UNTIL)}
    assert (done.scheduled, done.removed) == (1, 2)


async def test_what_its_ca_advised_counts(rebuild: Rebuild, storage: FaultyStorage) -> None:
    fingerprint = await stored(storage, "a.example")
    await save_record(storage, "a.example", IssuedRecord(fingerprint, renew_at=START + DAY))
    await stored(storage, "late.example")
    record = IssuedRecord(parse_certificate(await storage.get("late.example") or b"").fingerprint, renew_at=UNTIL)
    await save_record(storage, "late.example", record)
    await stored(storage, "other.example")
    await save_record(storage, "other.example", IssuedRecord("of another", renew_at=START + DAY))
    await rebuild(storage)
    found = await entries(storage)
    assert found["a.example"].at == START + DAY
    assert found["late.example"].at == advised_at(UNTIL, FROM, UNTIL)
    assert found["other.example"].at == renew_at(FROM, UNTIL, 0.5)


async def test_renew_before_counts(rebuild: Rebuild, storage: FaultyStorage) -> None:
    config = parse_config(f"{CONFIG}\nlets_encrypt: {{renew_before: 10}}", "c")
    await stored(storage, "a.example")
    await rebuild(storage, config)
    assert (await entries(storage))["a.example"].at == UNTIL - 9.5 * DAY


async def test_a_new_certificate_rests(rebuild: Rebuild, storage: FaultyStorage) -> None:
    pair = make_pair(["due.example"], start=START - 89 * DAY, end=START + DAY)
    fingerprint = await stored(storage, "due.example", pair)
    await save_record(storage, "due.example", IssuedRecord(fingerprint, rests_until=START + 600))
    await rebuild(storage)
    assert (await entries(storage))["due.example"].at == START + 600


async def test_what_is_parked_stays_so_and_what_is_being_issued_is_still_expected(
    rebuild: Rebuild, storage: FaultyStorage
) -> None:
    await stored(storage, "parked.example")
    await storage.schedule("parked", [Due(key, 0.0, UNTIL) for key in ("parked.example", "gone.example")])
    await storage.schedule("renewal", [Due("new.example", START + 3600), Due("old.example", START + DAY)])
    assert (await rebuild(storage)).removed == 2
    assert set(await entries(storage)) == {"new.example"}
    assert [entry.key async for entry in storage.list_due("parked")] == ["parked.example"]


async def test_cas_are_asked_for_advice_within_the_hour_where_nobody_would_ask(
    rebuild: Rebuild, storage: FaultyStorage
) -> None:
    for name in ("a.example", "b.example"):
        await stored(storage, name)
    await storage.schedule("advice", [Due("a.example", START + DAY)])
    await rebuild(storage)
    found = {entry.key: entry.at async for entry in storage.list_due("advice")}
    assert found == {"a.example": START + DAY, "b.example": START + 1800}


async def test_warnings_come_up_when_they_should_where_nobody_would_be_warned(
    rebuild: Rebuild, storage: FaultyStorage
) -> None:
    for name in ("a.example", "b.example", "not.permitted"):
        await stored(storage, name)
    await storage.schedule("expiry", [Due("a.example", START + DAY, UNTIL), Due("managed/managed", START + DAY, UNTIL)])
    await rebuild(storage)
    found = {entry.key: (entry.at, entry.rank) async for entry in storage.list_due("expiry")}
    assert found == {
        "a.example": (START + DAY, UNTIL),
        "b.example": (expiring_from(FROM, UNTIL), UNTIL),
        "managed/managed": (START + DAY, UNTIL),
    }


async def test_what_was_planned_by_a_clock_that_was_ahead_is_planned_anew(
    rebuild: Rebuild, storage: FaultyStorage
) -> None:
    await stored(storage, "a.example")
    late = START + 95 * DAY
    await storage.schedule("renewal", [Due("a.example", late, UNTIL)])
    await storage.schedule("advice", [Due("a.example", late)])
    await storage.schedule("expiry", [Due("a.example", UNTIL - DAY, UNTIL)])
    await rebuild(storage)
    assert (await entries(storage))["a.example"].at == renew_at(FROM, UNTIL, 0.5)
    assert [entry.at async for entry in storage.list_due("advice")] == [START + 1800]
    assert [entry.at async for entry in storage.list_due("expiry")] == [expiring_from(FROM, UNTIL)]


async def test_what_its_ca_said_when_it_may_be_asked_counts(rebuild: Rebuild, storage: FaultyStorage) -> None:
    fingerprint = await stored(storage, "a.example")
    await save_record(storage, "a.example", IssuedRecord(fingerprint, ask_at=START + 20 * 3600))
    await rebuild(storage)
    assert [entry.at async for entry in storage.list_due("advice")] == [START + 20 * 3600]


async def test_responders_are_asked_again_about_what_has_one(rebuild: Rebuild, storage: FaultyStorage) -> None:
    for name in ("a.example", "parked.example"):
        await storage.put(name, OcspCa().leaf(name).stored)
    await storage.schedule("parked", [Due("parked.example", 0.0, UNTIL)])
    await stored(storage, "b.example")
    await rebuild(storage)
    assert {entry.key async for entry in storage.list_due("ocsp")} == {"a.example", "parked.example"}
    assert set(await entries(storage)) == {"a.example", "b.example"}


async def test_it_is_asked_which_index_there_is_before_that_is_filled(
    rebuild: Rebuild, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(storage, "a.example")
    calls = note_calls(storage, monkeypatch, "index_complete", "schedule", "mark_index_complete")
    await rebuild(storage)
    assert calls[0] == "index_complete"
    assert calls[-1] == "mark_index_complete"
    assert "schedule" in calls[1:-1]
    assert "index_complete" not in calls[1:]


async def test_the_index_is_complete_then(rebuild: Rebuild, storage: FaultyStorage) -> None:
    await rebuild(storage)
    assert await storage.index_complete()


async def test_what_expired_lately_is_renewed_and_what_expired_long_ago_is_not(
    rebuild: Rebuild, storage: FaultyStorage
) -> None:
    for days in (6, 8):
        pair = make_pair([f"{days}.example"], start=START - 90 * DAY, end=START - days * DAY)
        await stored(storage, f"{days}.example", pair)
    await storage.schedule("renewal", [Due("8.example", 1.0)])
    assert (await rebuild(storage)).removed == 1
    assert set(await entries(storage)) == {"6.example"}


async def test_what_cannot_be_used_is_told_once(rebuild: Rebuild, storage: FaultyStorage, lines: list[str]) -> None:
    await storage.put("a.example", b"x")
    await SealedStorage(storage, Sealer([KEY])).put("b.example", b"x")
    await storage.schedule("renewal", [Due("a.example", 1.0)])
    done = await rebuild(SealedStorage(storage, Sealer()))
    assert (done.unusable, done.removed) == (2, 1)
    assert sorted(line.partition(": ")[0] for line in lines) == ["a.example", "can't open b.example"]
    assert await entries(storage) == {}


async def test_a_record_that_cannot_be_opened_keeps_nothing_from_being_renewed(
    rebuild: Rebuild, storage: FaultyStorage
) -> None:
    await stored(storage, "a.example")
    await SealedStorage(storage, Sealer([KEY])).put("_issued/a.example", b"x")
    await rebuild(SealedStorage(storage, Sealer()))
    assert (await entries(storage))["a.example"].at == renew_at(FROM, UNTIL, 0.5)


async def test_storage_that_fails_ends_it(rebuild: Rebuild, storage: FaultyStorage) -> None:
    await fill(storage)
    storage.break_down("get", key="b.example")
    with pytest.raises(StorageError):
        await rebuild(storage)
