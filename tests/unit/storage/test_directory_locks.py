"""Locks that others hold without end: every wait ends, its error says who holds it, and reads don't wait at all."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage import directory_threads, leasing
from ssl_cert_server.storage.base import Due, Lease
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.directory_locks import FileLock, is_locked, lock_holders
from tests.support.clock import START, ManualClock
from tests.support.waiting import wait_until

PATIENCE = 0.3
HELD = Lease("held", 1)
CALLS: dict[str, Callable[[DirectoryStorage], Awaitable[object]]] = {
    "acquire": lambda storage: storage.acquire("work", 30),
    "renew": lambda storage: storage.renew(HELD, 30),
    "release": lambda storage: storage.release(HELD),
    "put": lambda storage: storage.put("key", b"new", lease=HELD),
    "delete": lambda storage: storage.delete("key", lease=HELD),
    "check_writable": lambda storage: storage.check_writable(),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
async def storage(root: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DirectoryStorage]:
    storage = DirectoryStorage(root, ManualClock())
    monkeypatch.setattr(directory_threads, "PATIENCE", PATIENCE)
    await storage.put("key", b"value")
    assert await storage.acquire("held", 30) == HELD
    yield storage
    await storage.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock as another process would: by a descriptor of its own."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def test_the_wait_for_a_lock_is_far_shorter_than_a_lease() -> None:
    assert directory_threads.PATIENCE <= leasing.LEASE_SECONDS / 4


@pytest.mark.parametrize("call", CALLS)
async def test_a_lock_that_another_holds_is_named_with_its_holder(
    storage: DirectoryStorage, root: Path, call: str
) -> None:
    with locked(root / ".lock"), pytest.raises(StorageError) as failure:
        await CALLS[call](storage)
    assert f"({root / '.lock'}): it is locked by process {os.getpid()}; continue it (kill -CONT" in str(failure.value)
    await CALLS[call](storage)


async def test_however_many_wait_they_end_together_and_reads_and_plain_writes_do_not_wait(
    storage: DirectoryStorage, root: Path
) -> None:
    await storage.put("folder/a", b"")
    directory_threads.PATIENCE = 1.0  # put back by the fixture
    with locked(root / ".lock"):
        began = time.monotonic()
        calls = [CALLS[name](storage) for name in CALLS if name != "check_writable" for _ in range(40)]
        waiting = asyncio.gather(*calls, return_exceptions=True)
        for _ in range(5):
            assert await storage.get("key") == b"value"
            assert [key async for key in storage.list("folder")] == ["folder/a"]
            await storage.put("other", b"value")
            await storage.schedule("work", [Due("a.example", START)])
        assert not waiting.done()
        assert {type(result) for result in await waiting} == {StorageError}
        assert time.monotonic() - began < len(calls) / 16, "not one batch after the other, of which each takes a second"
    assert await storage.acquire("work", 30) is not None


async def test_a_lock_that_comes_free_in_time_is_had(storage: DirectoryStorage, root: Path) -> None:
    directory_threads.PATIENCE = 60  # put back by the fixture
    with locked(root / ".lock"):
        waiting = asyncio.create_task(storage.acquire("work", 30))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    assert await waiting is not None


async def test_another_instance_opens_the_directory_reads_it_and_closes_it_meanwhile(
    storage: DirectoryStorage, root: Path
) -> None:
    with locked(root / ".lock"):
        peer = DirectoryStorage(root, ManualClock())
        assert await peer.get("key") == b"value"
        await peer.close()
    assert len([*(root / "_leases").glob(".holder-*")]) == 1


async def test_looking_whether_a_holder_is_alive_makes_none_look_alive(storage: DirectoryStorage, root: Path) -> None:
    dead = root / "_leases" / ".holder-dead"
    dead.write_bytes(b"")
    with dead.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as another instance does at the same moment
        assert not is_locked(dead)
    [alive] = [path for path in dead.parent.glob(".holder-*") if path != dead]
    assert is_locked(alive)


async def test_the_indexs_lock_is_named_as_well(storage: DirectoryStorage, root: Path) -> None:
    with locked(root / ".index.lock"):
        with pytest.raises(StorageError, match=rf"it is locked by process {os.getpid()}.*\.index\.lock"):
            await storage.schedule("work", [Due("a.example", START)])
        with pytest.raises(StorageError, match=r"\.index\.lock"):
            await storage.check_writable()
    await storage.schedule("work", [Due("a.example", START)])


async def test_an_index_that_cannot_be_closed_in_time_is_closed_later(storage: DirectoryStorage, root: Path) -> None:
    await storage.schedule("work", [Due("a.example", START)])
    (root / ".index.sqlite").rename(root / "elsewhere")
    with locked(root / ".index.lock"), pytest.raises(StorageError, match=r"\.index\.lock"):
        await storage.schedule("work", [Due("b.example", START)])
    await storage.schedule("work", [Due("b.example", START)])
    assert await storage.scheduled("work", "a.example") is None


async def test_closing_while_the_lock_is_held_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = DirectoryStorage(root, ManualClock())
    monkeypatch.setattr(directory_threads, "PATIENCE", PATIENCE)
    with locked(root / ".lock"):
        await storage.close()


def test_threads_of_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    with lock.held(0.0), pytest.raises(OSError, match="it is locked by process"), lock.held(0.0):
        pytest.fail("held twice")
    with lock.held(0.0):
        assert lock_holders(tmp_path / "lock", "FLOCK") == [os.getpid()]
    assert lock_holders(tmp_path / "lock", "FLOCK") == []
    assert lock_holders(tmp_path / "nowhere", "FLOCK") == []


def test_a_holder_that_the_system_does_not_show_is_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_cert_server.storage.directory_locks.lock_holders", lambda path, kind: [])
    lock = FileLock(tmp_path / "lock")
    with locked(tmp_path / "lock"), pytest.raises(OSError, match="can't be seen from here"), lock.held(0.0):
        pytest.fail("held twice")


def test_instances_that_lock_without_a_pause_keep_no_other_from_the_lock(tmp_path: Path) -> None:
    *busy, other = (FileLock(tmp_path / "lock") for _ in range(5))
    ended, count = threading.Event(), itertools.count()

    def lock_again_and_again(lock: FileLock) -> None:
        while not ended.is_set():
            with lock.held(time.monotonic() + 60):
                next(count)
                time.sleep(0.01)  # as on a slow disk

    threads = [threading.Thread(target=lock_again_and_again, args=(lock,)) for lock in busy]
    for thread in threads:
        thread.start()
    waits = []
    for _ in range(5):
        time.sleep(0.02)
        began = next(count)
        with other.held(time.monotonic() + 60):
            waits.append(next(count) - began)
    ended.set()
    for thread in threads:
        thread.join()
    assert max(waits) < 10 * len(busy), "in one wait each of the others gets the lock about once"


def test_waits_that_ended_hold_the_lock_and_descriptors_no_longer_than_the_one_that_kept_them_waiting(
    tmp_path: Path,
) -> None:
    lock = FileLock(tmp_path / "lock")
    lock.make()
    before = len([*Path("/proc/self/fd").iterdir()])
    with locked(tmp_path / "lock"):
        for _ in range(2 * 8):  # more than there are threads
            with pytest.raises(OSError, match="it is locked by process"), lock.held(0.0):
                pytest.fail("held twice")
    with lock.held(time.monotonic() + 60):
        pass
    wait_until(lambda: len([*Path("/proc/self/fd").iterdir()]) == before)
    lock.close()


async def test_calls_without_end_are_refused(storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_threads, "_WAITING", 5)
    answers = await asyncio.gather(*(storage.get("key") for _ in range(500)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, StorageError)]
    assert refused
    assert "5 calls wait already" in str(refused[0])
    assert b"value" in answers
    assert await storage.get("key") == b"value"
