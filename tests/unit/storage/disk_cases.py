"""What test_directory_disk.py runs in a process of its own: ``disk_cases <case> <empty folder>``."""

# ruff: noqa: ASYNC240 - a look at the files may block: nobody else runs

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.service.policy import Policy, PolicyRules
from ssl_cert_server.service.readiness import Readiness
from ssl_cert_server.service.why import explain
from ssl_cert_server.storage.base import Due, Storage
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.write_watch import WriteWatch
from tests.support.disks import Disk, become_nobody

NOW = 1_800_000_000.0
FULL = ("No space left on device", "disk is full", "File too large", "disk I/O error")
READ_ONLY = ("Read-only file system", "readonly database", "Permission denied")
GONE = ("another directory is in its place", "is gone; mount the right one", "No such file or directory")


async def refused(work: Awaitable[object], *reasons: str, path: Path, remedy: str = "; ") -> None:
    """The work fails, and says where, why and what to do."""
    with pytest.raises(StorageError) as failure:
        await work
    words = str(failure.value)
    assert str(path) in words, words
    assert any(reason in words for reason in reasons), words
    assert remedy in words, words


async def filled(place: Path) -> DirectoryStorage:
    storage = DirectoryStorage(place, SystemClock())
    await storage.put("a.example", b"good")
    await storage.schedule("work", [Due("a.example", NOW)])
    assert not await storage.index_complete()
    await storage.mark_index_complete()
    return storage


async def all_good(storage: Storage, place: Path) -> None:
    """What was there is there, everything works, and nothing was left or set aside."""
    assert await storage.get("a.example") == b"good"
    assert await storage.scheduled("work", "a.example") == Due("a.example", NOW)
    await storage.check_writable()
    await storage.put("b.example", bytes(50_000))
    await storage.schedule("work", [Due("b.example", NOW + 1)])
    await storage.announce(["b.example"])
    lease = await storage.acquire("after", 30)
    assert lease is not None
    await storage.release(lease)
    assert isinstance(storage, DirectoryStorage)
    assert await storage.index_complete()
    assert [*place.glob(".tmp-*"), *place.glob("*.broken-*")] == []


async def full(place: Path) -> None:
    disk = Disk(place)
    storage = await filled(place)
    lease = await storage.acquire("work", 30)
    assert lease is not None
    disk.fill()
    await refused(storage.put("a.example", bytes(50_000)), *FULL, path=place / "a.example")
    await refused(storage.put("new.example", b"x", lease=lease), *FULL, path=place / "new.example")
    await refused(storage.check_writable(), *FULL, path=place)
    await refused(storage.renew(lease, 30), *FULL, path=place / "_leases/work")
    acknowledged = await schedule_until_refused(storage, place)
    assert await storage.get("a.example") == b"good"
    assert await storage.get("new.example") is None
    disk.make_room()
    for key in acknowledged:
        assert await storage.scheduled("work", key) == Due(key, NOW + 9), key
    await storage.renew(lease, 30)
    await all_good(storage, place)
    await storage.close()


async def schedule_until_refused(storage: DirectoryStorage, place: Path) -> list[str]:
    acknowledged: list[str] = []

    async def schedule_on() -> None:
        while len(acknowledged) < 1_000_000:
            keys = [f"n{len(acknowledged) + number}.example" for number in range(20)]
            await storage.schedule("work", [Due(key, NOW + 9) for key in keys])
            acknowledged.extend(keys)

    with pytest.raises(StorageError) as failure:
        await schedule_on()
    words = str(failure.value)
    assert words.startswith(f"can't schedule n{len(acknowledged)}.example and 19 more in {place / '.index.sqlite'}: ")
    assert any(reason in words for reason in FULL), words
    assert "; " in words, words
    return acknowledged


async def inodes(place: Path) -> None:
    disk = Disk(place)
    storage = await filled(place)
    disk.use_up_inodes()
    await refused(storage.put("a.example", b"bad"), *FULL, path=place / "a.example")
    await refused(storage.acquire("work", 30), *FULL, path=place / "_leases/work")
    assert await storage.get("a.example") == b"good"
    disk.make_room()
    await all_good(storage, place)
    await storage.close()


async def full_at_start(place: Path) -> None:
    disk = Disk(place)
    await (await filled(place)).close()
    disk.fill()
    storage = DirectoryStorage(place, SystemClock())
    assert await storage.get("a.example") == b"good"
    await refused(storage.next_due("work"), "disk", path=place / ".index.sqlite")
    await refused(storage.check_writable(), *FULL, path=place)
    await storage.close()
    disk.use_up_inodes()
    if disk.real:
        with pytest.raises(StorageError, match=f"can't open {place}.*No space left on device; make room"):
            DirectoryStorage(place, SystemClock())
    disk.make_room()
    storage = DirectoryStorage(place, SystemClock())
    await all_good(storage, place)
    await storage.close()


async def read_only(place: Path) -> None:
    disk = Disk(place)
    storage = await filled(place)
    lease = await storage.acquire("work", 30)
    assert lease is not None
    late = DirectoryStorage(place, SystemClock())
    disk.make_read_only()
    for _ in range(2):
        await refused(storage.put("a.example", b"bad"), *READ_ONLY, path=place / "a.example")
        await refused(storage.delete("a.example"), *READ_ONLY, path=place / "a.example")
        await refused(storage.check_writable(), *READ_ONLY, path=place)
        if disk.real:  # where permissions stand in for it, those of the index's file allow it all the same
            await refused(late.schedule("work", [Due("c", NOW)]), *READ_ONLY, path=place / ".index.sqlite")
            await refused(late.claim("work", now=NOW, limit=1, seconds=1), *READ_ONLY, path=place / ".index.sqlite")
        assert await storage.get("a.example") == b"good"
        assert [key async for key in storage.list()] == ["a.example"]
        assert await storage.next_due("work") == NOW
    if disk.real:
        with pytest.raises(StorageError, match=f"can't open {place}.*Read-only file system; mount it writable"):
            DirectoryStorage(place, SystemClock())
    disk.make_writable()
    await storage.renew(lease, 30)
    for one in (storage, late):
        await all_good(one, place)
        await one.close()


async def read_only_to_the_end(place: Path) -> None:
    disk = Disk(place)
    storage = await filled(place)
    disk.make_read_only()
    await storage.close()
    disk.make_writable()
    storage = DirectoryStorage(place, SystemClock())
    await all_good(storage, place)
    await storage.close()


async def away(place: Path) -> None:
    disk = Disk(place)
    storage = await filled(place)
    peer = DirectoryStorage(place, SystemClock())
    lease = await storage.acquire("work", 30)
    assert lease is not None
    disk.take_away()
    for one in (storage, peer, storage):
        await refused(one.get("a.example"), *GONE, path=place)
        await refused(one.get("never.there"), *GONE, path=place)
        await refused(one.put("a.example", b"bad"), *GONE, path=place)
        await refused(one.delete("a.example"), *GONE, path=place)
        await refused(anext(aiter(one.list())), *GONE, path=place)
        await refused(one.check_writable(), *GONE, path=place)
        await refused(one.acquire("other", 30), *GONE, path=place)
        await refused(one.schedule("work", [Due("a.example", NOW)]), *GONE, path=place)
        await refused(one.next_due("work"), *GONE, path=place)
        await refused(one.changes("", 0), *GONE, path=place)
    left = [path.name for path in place.iterdir() if path.name != ".index.lock"]
    assert left == [], "nothing is written to what is under a mount"
    for path in place.iterdir():
        path.unlink()
    disk.bring_back()
    await storage.put("a.example", b"good", lease=lease)
    assert await peer.acquire("work", 30) is None
    await all_good(storage, place)
    await storage.close()
    await all_good(peer, place)
    await peer.close()


async def one_file_of_anothers(place: Path) -> None:
    """As root a file that another user owns; else one that its owner took all permissions from."""
    storage = await filled(place)
    await storage.put("bad.example", b"key")
    await storage.close()
    become_nobody(place.parent)
    for name in ("bad.example", ".index.sqlite"):
        (place / name).chmod(0o000)
    with capture_logs() as logs:
        storage = DirectoryStorage(place, SystemClock())
        await refused(storage.get("bad.example"), "Permission denied", path=place / "bad.example", remedy="chown")
        assert await storage.get("a.example") == b"good"
        await storage.check_writable()
        assert await storage.next_due("work") is None
    assert not await storage.index_complete()
    [log] = [log for log in logs if log["event"] == "storage.index_lost"]
    assert "can't be read and written by the server's user" in log["reason"]
    await storage.put("bad.example", b"new")
    assert await storage.get("bad.example") == b"new", "a folder's owner may replace what is in it"
    await storage.close()


async def why_while_full(place: Path) -> None:
    disk = Disk(place)
    await (await filled(place)).close()
    disk.fill()
    clock = SystemClock()
    storage = DirectoryStorage(place, clock)
    policy = Policy(PolicyRules(domains=["new.example"]))
    trouble = Readiness(WriteWatch(storage, clock), clock).trouble
    told = await explain("new.example", policy, storage, clock, renewals="renewal", trouble=trouble)
    assert "next:   nothing is issued while storage can't be written: " in told
    assert "do:     make storage writable" in told
    disk.make_room()
    trouble = Readiness(WriteWatch(storage, clock), clock).trouble
    told = await explain("new.example", policy, storage, clock, renewals="renewal", trouble=trouble)
    assert "can't be written" not in told
    assert "next:   the next request has it issued" in told
    await storage.close()


CASES = (full, inodes, full_at_start, why_while_full, read_only, read_only_to_the_end, away, one_file_of_anothers)

if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run({case.__name__: case for case in CASES}[sys.argv[1]](Path(sys.argv[2])))
