"""The contract of storage/base.py, sentence by sentence, over every backend.

``storage`` and ``peer`` are two instances of the server on the same data.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import CHANGES_KEPT, MAX_VALUE, Due, Lease, Storage
from tests.unit.storage.conftest import Backend

GOOD_KEYS = {
    "a name": "example.com",
    "the predecessor's RSA": "example.com+rsa",
    "the account key": "acme_account+key",
    "an A-label": "xn--mnchen-3ya.de",
    "one character": "a",
    "a segment of 255": "a" * 255,
    "four segments": "_a/b/c/d",
    "four segments of 255": "/".join(["a" * 255] * 4),
    "dots inside": "_a/b..c",
    "every sign that is allowed": "!\"#$%&'()*+,-.0123456789:;<=>?@A[]^_`a{|}~",
}
BAD_KEYS = {
    "empty": "",
    "a dot": ".",
    "the parent": "..",
    "a path to the parent": "_a/../b",
    "a hidden name": ".lock",
    "a hidden segment": "_leases/.holder",
    "an absolute path": "/etc/passwd",
    "a slash at the end": "a/",
    "an empty segment": "_a//b",
    "five segments": "_a/b/c/d/e",
    "a segment of 256": "a" * 256,
    "a backslash": "a\\b",
    "a space": "a b",
    "NUL": "a\0b",
    "a newline at the end": "a\n",
    "DEL": "a\x7f",
    "beyond ASCII": "münchen.de",
}
good_keys = pytest.mark.parametrize("key", GOOD_KEYS.values(), ids=GOOD_KEYS.keys())
bad_keys = pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS.keys())


async def listed(storage: Storage, folder: str = "") -> list[str]:
    return sorted([key async for key in storage.list(folder)])


async def taken(storage: Storage, name: str = "work", seconds: float = 30) -> Lease:
    lease = await storage.acquire(name, seconds)
    assert lease is not None, f"{name} is held by somebody"
    return lease


# --- keys


@good_keys
async def test_a_key_of_up_to_four_printable_segments_is_kept(storage: Storage, key: str) -> None:
    await storage.put(key, b"value")
    assert await storage.get(key) == b"value"
    assert await listed(storage, key.rpartition("/")[0]) == [key]
    await storage.delete(key)
    assert await storage.get(key) is None


@bad_keys
async def test_any_other_key_is_refused(storage: Storage, key: str) -> None:
    for call in (storage.get(key), storage.put(key, b""), storage.delete(key), storage.acquire(key, 30)):
        with pytest.raises(StorageError, match="can't be a storage key"):
            await call


@pytest.mark.parametrize("folder", [key for key in BAD_KEYS.values() if key])
async def test_any_other_folder_is_refused(storage: Storage, folder: str) -> None:
    with pytest.raises(StorageError, match="can't be a storage key"):
        await listed(storage, folder)


async def test_a_long_bad_key_is_not_echoed_whole(storage: Storage) -> None:
    with pytest.raises(StorageError) as refusal:
        await storage.get("ä" * 100_000)
    assert len(str(refusal.value)) < 200


# --- reading and writing


@pytest.mark.parametrize("value", [b"", b"value", b"\0\r\n\xff" * 5, bytes(MAX_VALUE)], ids=len)
async def test_what_was_put_is_read_by_every_instance(storage: Storage, peer: Storage, value: bytes) -> None:
    await storage.put("key", value)
    assert await storage.get("key") == value
    assert await peer.get("key") == value


async def test_put_replaces_the_whole_value(storage: Storage, peer: Storage) -> None:
    await storage.put("key", b"a long value")
    await peer.put("key", b"short")
    assert await storage.get("key") == b"short"


async def test_a_value_survives_the_instance_that_wrote_it(backend: Backend) -> None:
    first = backend.open()
    await first.put("key", b"value")
    await first.put("_folder/key", b"another")
    await first.close()
    second = backend.open()
    assert await second.get("key") == b"value"
    assert await second.get("_folder/key") == b"another"


async def test_a_reader_sees_the_old_value_or_the_new_one_never_a_mixture(storage: Storage, peer: Storage) -> None:
    values = {bytes([number]) * 200_000 for number in range(8)}
    await storage.put("key", bytes([0]) * 200_000)
    writing = asyncio.gather(*(writer.put("key", value) for value in values for writer in (storage, peer)))
    seen = set()
    while not writing.done():
        seen.add(await peer.get("key"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # memory answers without a pause, and the writers would never get their turn
    await writing
    assert seen <= values


async def test_a_value_too_large_is_refused_and_the_old_one_kept(storage: Storage) -> None:
    await storage.put("key", b"old")
    with pytest.raises(StorageError, match=f"key.*{MAX_VALUE + 1} bytes"):
        await storage.put("key", bytes(MAX_VALUE + 1))
    assert await storage.get("key") == b"old"


async def test_a_key_that_is_not_there_is_none(storage: Storage) -> None:
    await storage.put("key", b"value")
    assert await storage.get("other") is None
    assert await storage.get("_no/such/folder") is None
    assert await storage.get("key/below") is None


async def test_deleting_removes_it_for_every_instance(storage: Storage, peer: Storage) -> None:
    await storage.put("key", b"value")
    await storage.put("other", b"stays")
    await peer.delete("key")
    assert await storage.get("key") is None
    assert await listed(storage) == ["other"]


async def test_deleting_what_is_not_there_does_nothing(storage: Storage) -> None:
    await storage.put("key", b"value")
    await storage.delete("other")
    await storage.delete("_no/such/folder")
    await storage.delete("key/below")
    assert await listed(storage) == ["key"]


async def test_a_list_holds_the_keys_directly_in_the_folder(storage: Storage, peer: Storage) -> None:
    for key in ("a.example", "b.example+rsa", "_f/one", "_f/two", "_f/g/three", "_f/g/h/four", "_ff/five"):
        await storage.put(key, b"")
    assert await listed(peer) == ["a.example", "b.example+rsa"]
    assert await listed(peer, "_f") == ["_f/one", "_f/two"]
    assert await listed(peer, "_f/g") == ["_f/g/three"]
    assert await listed(peer, "_f/g/h") == ["_f/g/h/four"]


async def test_a_list_of_nothing_is_empty(storage: Storage) -> None:
    assert await listed(storage) == []
    assert await listed(storage, "_no/such/folder") == []
    await storage.put("key", b"")
    assert await listed(storage, "key") == []


async def test_leases_are_in_no_list(storage: Storage) -> None:
    await taken(storage, "work")
    await taken(storage, "certificates/a.example")
    assert await listed(storage) == []


async def test_thousands_of_keys_are_each_listed_once(storage: Storage) -> None:
    keys = [f"_many/{number}" for number in range(2500)]
    for start in range(0, len(keys), 500):
        await asyncio.gather(*(storage.put(key, b"") for key in keys[start : start + 500]))
    assert Counter(await listed(storage, "_many")) == Counter(keys)


async def test_a_list_can_be_left_half_way_and_written_to_meanwhile(storage: Storage) -> None:
    for number in range(5):
        await storage.put(f"key{number}", b"")
    async for key in storage.list():
        await storage.delete(key)
        await storage.put("new", b"")
        break
    assert len(await listed(storage)) == 5


# --- leases


async def test_a_lease_excludes_every_instance_and_its_own_holder(storage: Storage, peer: Storage) -> None:
    await taken(storage)
    assert await peer.acquire("work", 30) is None
    assert await storage.acquire("work", 30) is None


async def test_of_many_tasks_in_two_instances_one_gets_the_lease(storage: Storage, peer: Storage) -> None:
    leases = await asyncio.gather(*(one.acquire("work", 30) for _ in range(20) for one in (storage, peer)))
    assert len([lease for lease in leases if lease]) == 1


async def test_leases_of_different_names_and_keys_of_the_same_name_do_not_meet(storage: Storage, peer: Storage) -> None:
    lease = await taken(storage, "key")
    await taken(peer, "other")
    await peer.put("key", b"written without a lease")
    await storage.put("key", b"written under one", lease=lease)
    assert await peer.get("key") == b"written under one"


async def test_a_released_lease_is_free(storage: Storage, peer: Storage) -> None:
    lease = await taken(storage)
    await storage.release(lease)
    await taken(peer)


async def test_a_lease_lapses_when_its_time_is_over_and_not_before(
    backend: Backend, storage: Storage, peer: Storage
) -> None:
    await taken(storage, seconds=300)
    await backend.let_pass(200)  # a busy machine takes some of the rest, where the clock is a server's
    assert await peer.acquire("work", 30) is None
    await backend.let_pass(100)
    await taken(peer)


async def test_a_renewed_lease_is_held_from_then_on(backend: Backend, storage: Storage, peer: Storage) -> None:
    lease = await taken(storage, seconds=300)
    for _ in range(5):
        await backend.let_pass(200)
        await storage.renew(lease, 300)
    await backend.let_pass(200)
    assert await peer.acquire("work", 30) is None
    await backend.let_pass(100)
    await taken(peer)


async def test_a_lapsed_lease_that_nobody_took_can_be_used_and_renewed(
    backend: Backend, storage: Storage, peer: Storage
) -> None:
    lease = await taken(storage)
    await backend.let_pass(100)
    await storage.put("key", b"value", lease=lease)
    await storage.renew(lease, 30)
    assert await peer.acquire("work", 30) is None


async def test_under_a_lost_lease_nothing_is_written_and_nothing_deleted(
    backend: Backend, storage: Storage, peer: Storage
) -> None:
    lost = await taken(storage)
    await backend.let_pass(31)
    held = await taken(peer)
    await peer.put("key", b"of the new holder", lease=held)
    with pytest.raises(LeaseLost, match="work"):
        await storage.put("key", b"of the old holder", lease=lost)
    with pytest.raises(LeaseLost):
        await storage.put("new", b"of the old holder", lease=lost)
    with pytest.raises(LeaseLost):
        await storage.delete("key", lease=lost)
    with pytest.raises(LeaseLost):
        await storage.renew(lost, 30)
    assert await peer.get("key") == b"of the new holder"
    assert await listed(peer) == ["key"]


async def test_a_lease_lost_to_a_task_of_the_same_instance_is_lost_all_the_same(
    backend: Backend, storage: Storage
) -> None:
    lost = await taken(storage)
    await backend.let_pass(31)
    held = await taken(storage)
    with pytest.raises(LeaseLost):
        await storage.put("key", b"", lease=lost)
    await storage.put("key", b"value", lease=held)


async def test_a_released_lease_writes_nothing_any_more(storage: Storage) -> None:
    lease = await taken(storage)
    await storage.release(lease)
    with pytest.raises(LeaseLost):
        await storage.put("key", b"", lease=lease)
    with pytest.raises(LeaseLost):
        await storage.renew(lease, 30)
    assert await storage.get("key") is None


async def test_releasing_a_lost_lease_leaves_it_with_its_new_holder(
    backend: Backend, storage: Storage, peer: Storage
) -> None:
    lost = await taken(storage)
    await backend.let_pass(31)
    held = await taken(peer)
    await storage.release(lost)
    assert await storage.acquire("work", 30) is None
    await peer.put("key", b"", lease=held)


async def test_releasing_twice_does_nothing(storage: Storage, peer: Storage) -> None:
    lease = await taken(storage)
    await storage.release(lease)
    await storage.release(lease)
    held = await taken(peer)
    await storage.release(lease)
    await peer.renew(held, 30)


async def test_a_lease_of_another_instance_cannot_be_used_by_its_token(storage: Storage, peer: Storage) -> None:
    held = await taken(storage)
    with pytest.raises(LeaseLost):
        await peer.put("key", b"", lease=Lease("work", held.token + 1))
    with pytest.raises(LeaseLost):
        await peer.put("key", b"", lease=Lease("another", held.token))
    assert await storage.get("key") is None


async def test_tokens_of_a_name_only_grow(backend: Backend, storage: Storage, peer: Storage) -> None:
    tokens = []
    for instance in (storage, peer, peer, storage, backend.open()):
        lease = await taken(instance)
        tokens.append(lease.token)
        await instance.release(lease)
        lease = await taken(instance)
        tokens.append(lease.token)
        await backend.let_pass(31)
    assert tokens == sorted(set(tokens))


async def test_tokens_grow_on_though_every_instance_was_restarted(backend: Backend) -> None:
    first = backend.open()
    before = await taken(first)
    await first.release(before)
    await first.close()
    assert (await taken(backend.open())).token > before.token


async def test_a_closed_instances_leases_are_free(backend: Backend, storage: Storage, peer: Storage) -> None:
    if not backend.shared:
        return
    await taken(storage, seconds=1_000_000)
    assert await peer.acquire("work", 30) is None
    await storage.close()
    await taken(peer)


# --- failure and cancellation


async def test_storage_in_order_is_writable(storage: Storage) -> None:
    await storage.check_writable()
    assert await listed(storage) == []


async def test_a_cancelled_put_or_delete_has_happened_or_has_not(storage: Storage, peer: Storage) -> None:
    old, new = b"old" * 100_000, b"new" * 100_000
    for turns in range(12):
        await storage.put("put", old)
        await storage.put("delete", old)
        tasks = [asyncio.ensure_future(work) for work in (storage.put("put", new), storage.delete("delete"))]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await peer.get("put") in (old, new)
        assert await peer.get("delete") in (old, None)
    assert set(await listed(peer)) <= {"put", "delete"}


async def test_a_cancelled_acquire_leaves_at_worst_a_lease_that_lapses(
    backend: Backend, storage: Storage, peer: Storage
) -> None:
    for turns in range(6):
        task = asyncio.ensure_future(storage.acquire("work", 30))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await storage.put("settled", b"")
    for _ in range(1000):  # what was cancelled may still be on its way, and take the lease for a moment
        await backend.let_pass(31)
        if await peer.acquire("work", 30) is not None:
            return
        await asyncio.sleep(0.01)
    pytest.fail("a cancelled acquire holds its lease for ever")


# --- the due index

NOW = 1_800_000_000.0


async def all_due(storage: Storage, queue: str = "work") -> list[Due]:
    return sorted([entry async for entry in storage.list_due(queue)], key=lambda entry: entry.key)


async def claimed(storage: Storage, now: float = NOW, limit: int = 100, seconds: float = 60.0) -> list[str]:
    return [entry.key for entry in await storage.claim("work", now=now, limit=limit, seconds=seconds)]


async def test_what_is_scheduled_is_known_to_every_instance(storage: Storage, peer: Storage) -> None:
    entries = [Due("*.a.example", NOW + 0.25, 3.5), Due("b.example+rsa", NOW - 1), Due("_x/y", 0.0, -1.0)]
    await storage.schedule("work", entries)
    assert await all_due(peer) == sorted(entries, key=lambda entry: entry.key)
    for entry in entries:
        assert await peer.scheduled("work", entry.key) == entry
    assert await peer.scheduled("work", "other") is None
    assert await peer.scheduled("other", "*.a.example") is None
    assert await peer.next_due("work") == 0.0


async def test_scheduling_anew_replaces_the_entry(storage: Storage, peer: Storage) -> None:
    await storage.schedule("work", [Due("a", NOW, 1.0)])
    await peer.schedule("work", [Due("a", NOW + 10, 2.0), Due("b", NOW + 5)])
    assert await all_due(storage) == [Due("a", NOW + 10, 2.0), Due("b", NOW + 5)]
    assert await claimed(storage, NOW + 4) == []
    assert await storage.next_due("work") == NOW + 5


async def test_an_entry_can_be_taken_out_claimed_or_not(storage: Storage, peer: Storage) -> None:
    await storage.schedule("work", [Due("a", NOW), Due("b", NOW), Due("c", NOW)])
    assert set(await claimed(peer, limit=1)) < {"a", "b", "c"}
    await storage.unschedule("work", ["a", "b", "c", "never there"])
    assert await all_due(peer) == []
    assert await peer.next_due("work") is None
    assert await claimed(peer, NOW + 1000) == []


async def test_queues_do_not_meet(storage: Storage) -> None:
    await storage.schedule("work", [Due("a", NOW)])
    await storage.schedule("other", [Due("a", NOW + 1)])
    await storage.unschedule("other", ["a"])
    assert await all_due(storage) == [Due("a", NOW)]
    assert await all_due(storage, "other") == []


async def test_nothing_is_claimed_before_its_time(storage: Storage) -> None:
    await storage.schedule("work", [Due("a", NOW), Due("b", NOW + 0.5)])
    assert await claimed(storage, NOW - 0.5) == []
    assert await claimed(storage, NOW) == ["a"]
    assert await claimed(storage, NOW + 0.5) == ["b"]


async def test_the_lowest_rank_goes_first_and_no_more_than_are_wanted(storage: Storage, peer: Storage) -> None:
    await storage.schedule("work", [Due(f"k{number}", NOW - number, float(number * 7 % 10)) for number in range(10)])
    ranked = [f"k{number}" for number in sorted(range(10), key=lambda number: number * 7 % 10)]
    assert await claimed(storage, limit=4) == ranked[:4]
    assert await claimed(peer, limit=4) == ranked[4:8]
    assert await claimed(storage, limit=4) == ranked[8:]
    assert await claimed(peer, limit=4) == []


async def test_what_comes_due_later_overtakes_by_rank_what_waits(storage: Storage) -> None:
    await storage.schedule("work", [Due("a", NOW, 5.0), Due("b", NOW, 6.0), Due("urgent", NOW + 10, 1.0)])
    assert await claimed(storage, NOW, limit=1) == ["a"]
    assert await claimed(storage, NOW + 10, limit=1) == ["urgent"]
    assert await claimed(storage, NOW + 10, limit=1) == ["b"]


async def test_the_claim_tells_what_the_entry_was(storage: Storage) -> None:
    entry = Due("a", NOW - 123.5, 7.25)
    await storage.schedule("work", [entry])
    assert await storage.claim("work", now=NOW, limit=1, seconds=60) == [entry]


async def test_nothing_is_claimed_twice_at_once(storage: Storage, peer: Storage) -> None:
    await storage.schedule("work", [Due(f"k{number}", NOW, float(number)) for number in range(200)])
    claims = await asyncio.gather(*(claimed(one, limit=7) for _ in range(20) for one in (storage, peer)))
    keys = [key for claim in claims for key in claim]
    assert sorted(keys) == sorted(f"k{number}" for number in range(200))


async def test_what_its_claimer_died_with_comes_up_again(storage: Storage, peer: Storage, backend: Backend) -> None:
    await storage.schedule("work", [Due("a", NOW, 2.0)])
    assert await claimed(storage, seconds=60) == ["a"]
    assert await peer.next_due("work") == NOW + 60
    if backend.shared:
        await storage.close()
    assert await claimed(peer, NOW + 59) == []
    assert await peer.claim("work", now=NOW + 60, limit=1, seconds=60) == [Due("a", NOW + 60, 2.0)]


async def test_who_works_for_longer_schedules_it_later(storage: Storage, peer: Storage) -> None:
    await storage.schedule("work", [Due("a", NOW)])
    assert await claimed(storage, seconds=60) == ["a"]
    await storage.schedule("work", [Due("a", NOW + 120)])
    assert await claimed(peer, NOW + 61) == []
    assert await claimed(peer, NOW + 120) == ["a"]


async def test_the_due_index_survives_every_instance(backend: Backend) -> None:
    first = backend.open()
    await first.schedule("work", [Due("a", NOW), Due("b", NOW + 5)])
    assert await claimed(first, seconds=60) == ["a"]
    await first.close()
    second = backend.open()
    assert await second.next_due("work") == NOW + 5
    assert sorted(await claimed(second, NOW + 60)) == ["a", "b"]


async def test_thousands_are_scheduled_and_claimed(storage: Storage) -> None:
    entries = [Due(f"k{number:05}", NOW - number, float(number)) for number in range(5000)]
    await storage.schedule("work", entries)
    assert len(await all_due(storage)) == 5000
    keys: list[str] = []
    while batch := await claimed(storage, limit=500, seconds=1e6):
        keys += batch
    assert keys == [entry.key for entry in entries]
    await storage.unschedule("work", keys)
    assert await storage.next_due("work") is None


@bad_keys
async def test_a_bad_key_is_not_scheduled(storage: Storage, key: str) -> None:
    with pytest.raises(StorageError, match="can't be a storage key"):
        await storage.schedule("work", [Due("good", NOW), Due(key, NOW)])


async def test_whether_the_index_knows_of_everything_is_remembered(backend: Backend) -> None:
    first = backend.open()
    assert not await first.index_complete()
    await first.schedule("work", [Due("a", NOW)])
    assert not await first.index_complete()
    await first.mark_index_complete()
    await first.mark_index_complete()
    assert await first.index_complete()
    assert await backend.open().index_complete()


async def test_an_index_that_nobody_asked_about_before_it_was_filled_is_not_marked(storage: Storage) -> None:
    await storage.schedule("work", [Due("a", NOW)])
    with pytest.raises(StorageError):
        await storage.mark_index_complete()
    assert not await storage.index_complete()
    await storage.mark_index_complete()
    assert await storage.index_complete()


async def test_the_due_index_is_in_no_list(storage: Storage) -> None:
    await storage.schedule("work", [Due("a", NOW)])
    await storage.announce(["a"])
    assert await listed(storage) == []


# --- changes


async def test_who_asks_first_is_told_where_things_stand(storage: Storage) -> None:
    await storage.announce(["before"])
    changes = await storage.changes("", 0)
    assert (changes.keys, changes.reset) == ((), False)
    assert await storage.changes(changes.cursor, 0) == changes


async def test_what_is_announced_reaches_every_instance_once_and_in_order(storage: Storage, peer: Storage) -> None:
    cursors = [(await one.changes("", 0)).cursor for one in (storage, peer)]
    await storage.announce(["b.example", "a.example"])
    await peer.announce(["*.c.example", "b.example"])
    for one, cursor in zip((storage, peer), cursors, strict=True):
        changes = await one.changes(cursor, 0)
        assert (set(changes.keys), len(changes.keys), changes.reset) == (
            {"b.example", "a.example", "*.c.example"},
            3,
            False,
        )
        assert (await one.changes(changes.cursor, 0)).keys == ()
        again = await one.changes(cursor, 0)
        assert set(again.keys) == set(changes.keys), "a cursor can be used again"


async def test_a_cursor_is_as_good_at_another_instance(storage: Storage, peer: Storage) -> None:
    cursor = (await storage.changes("", 0)).cursor
    await storage.announce(["a.example"])
    assert (await peer.changes(cursor, 0)).keys == ("a.example",)


@pytest.mark.parametrize("cursor", ["999999999999", "-1", "nonsense", "9-9-9", "0 OR 1=1", "\r\n", "x" * 5000])
async def test_a_cursor_that_makes_no_sense_starts_over(storage: Storage, cursor: str) -> None:
    await storage.announce(["a.example"])
    changes = await storage.changes(cursor, 0)
    assert changes.reset
    assert (await storage.changes(changes.cursor, 0)).keys == ()


async def test_one_that_was_away_for_too_long_starts_over(storage: Storage) -> None:
    cursor = (await storage.changes("", 0)).cursor
    for _ in range(31):
        await storage.announce([f"n{number}.example" for number in range(CHANGES_KEPT // 10)])
    assert (await storage.changes(cursor, 0)).reset


async def test_thousands_that_were_announced_are_all_told(storage: Storage, peer: Storage) -> None:
    cursor = (await peer.changes("", 0)).cursor
    keys = {f"n{number}.example" for number in range(CHANGES_KEPT // 2)}
    await storage.announce(sorted(keys))
    told: set[str] = set()
    while (batch := await peer.changes(cursor, 0)).keys:
        told |= {*batch.keys}
        cursor = batch.cursor
    assert told == keys


async def test_who_waits_is_told_when_it_happens(storage: Storage, peer: Storage) -> None:
    cursor = (await peer.changes("", 0)).cursor
    waiting = asyncio.ensure_future(peer.changes(cursor, 1000))
    await asyncio.sleep(0)
    await storage.announce(["a.example"])
    assert (await waiting).keys == ("a.example",)


async def test_a_wait_that_is_given_up_harms_nobody(storage: Storage, peer: Storage) -> None:
    cursor = (await peer.changes("", 0)).cursor
    for _ in range(3):
        waiting = asyncio.ensure_future(peer.changes(cursor, 1000))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await storage.announce(["a.example"])
    assert (await peer.changes(cursor, 0)).keys == ("a.example",)
