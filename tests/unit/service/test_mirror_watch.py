"""A mirror that was emptied or removed while the server runs is filled again, with what is in use."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.service.mirror_watch import MirrorWatch
from ssl_cert_server.storage import mirror_directory
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.guarded import GuardedStorage
from ssl_cert_server.storage.mirror import MirroredStorage
from ssl_cert_server.storage.mirror_directory import REMEDY, MirrorDirectory
from ssl_cert_server.storage.seal import Sealer, SealKey, is_sealed
from ssl_cert_server.storage.sealed import SealedStorage
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.loop_time import LoopTime
from tests.support.waiting import wait_until_async

USED = ["a.com", "b.com"]


class Room:
    """A shared storage with certificates, and a mirror in a real directory."""

    def __init__(self, folder: Path) -> None:
        self.mirror = folder / "mirror"
        self.clock = ManualClock()
        self.primary = FaultyStorage(self.clock)
        self.refused = False
        self.opens = self.opened = 0
        self.disk_answers = threading.Event()
        self.disk_answers.set()
        self.directory = MirrorDirectory(self._open)
        guarded = GuardedStorage(self.primary, self.directory)
        self.storage = MirroredStorage(guarded, self.directory, self.clock)
        self.memory: dict[str, bytes] = {}
        self.copies = SealedStorage(self.directory, Sealer(()))
        self.watch = MirrorWatch(
            self.directory, self.storage, guarded, self.copies, self.clock, lambda: USED, self.memory.get
        )

    def _open(self) -> Storage:
        self.opens += 1
        self.disk_answers.wait(60)
        if self.refused:
            raise StorageError("the disk is gone")
        self.opened += 1
        return DirectoryStorage(self.mirror, SystemClock(), remedy=REMEDY)

    async def fill(self) -> None:
        for name in USED:
            await self.primary.put(name, b"certificate")
            await self.primary.put(f"_issued/{name}", b"record")
            await self.primary.put(f"_ocsp/{name}", b"staple")
        await self.storage.changes("", 0)  # makes the mark
        await self.watch.look()
        await self.wait()

    async def wait(self) -> None:
        """Until everything in use is in the mirror, and the mark by which storage is known."""
        keys = [f"{folder}{name}" for name in USED for folder in ("", "_issued/", "_ocsp/")]
        await wait_until_async(lambda: all((self.mirror / key).exists() for key in keys))
        assert [*(self.mirror / "_deployment").iterdir()]


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path)
    await room.fill()
    yield room
    await room.storage.close()


async def test_an_emptied_one_is_filled_at_the_next_look(it: Room) -> None:
    for path in it.mirror.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with capture_logs() as logs:
        await it.watch.look()
    await it.wait()
    assert [(log["event"], log["certificates"]) for log in logs] == [("storage.mirror_filled", 2)]


async def test_a_removed_one_is_made_and_filled(it: Room) -> None:
    shutil.rmtree(it.mirror)
    with capture_logs() as logs:
        await it.watch.look()
    await it.wait()
    assert [log["event"] for log in logs] == ["storage.mirror_reopened", "storage.mirror_filled"]


async def test_a_single_copy_that_is_gone_is_made_again(it: Room) -> None:
    (it.mirror / "a.com").unlink()
    for _ in USED:
        await it.watch.look()
    await it.wait()


async def test_one_that_can_not_be_made_is_tried_again(it: Room) -> None:
    shutil.rmtree(it.mirror)
    it.refused = True
    with pytest.raises(StorageError):
        await it.watch.look()
    it.refused = False
    await it.watch.look()
    await it.wait()


async def test_while_storage_is_away_it_is_filled_from_memory_and_again_from_storage_afterwards(it: Room) -> None:
    shutil.rmtree(it.mirror)
    it.memory.update(dict.fromkeys(USED, b"in memory"))
    it.primary.break_down("get")
    with capture_logs() as logs:
        await it.watch.look()
    [filled] = [log for log in logs if log["event"] == "storage.mirror_filled"]
    assert (filled["certificates"], filled["from_memory"]) == (2, 2)
    assert [(it.mirror / name).read_bytes() for name in USED] == [b"in memory"] * 2
    assert not (it.mirror / "_issued" / "a.com").exists()
    await it.watch.look()
    await it.clock.advance(31)
    it.primary.repair()
    await it.watch.look()
    await it.wait()
    await wait_until_async(lambda: all((it.mirror / name).read_bytes() == b"certificate" for name in USED))


async def test_while_it_is_removed_the_log_says_that_it_is_opened_again_by_itself(it: Room) -> None:
    shutil.rmtree(it.mirror)
    await it.primary.put("c.com", b"certificate")
    with capture_logs() as logs:
        await it.storage.get("c.com")
        await wait_until_async(lambda: bool(logs))
    [log] = logs
    assert log["event"] == "storage.not_mirrored"
    assert log["reason"].endswith(f"the directory {it.mirror} is gone; {REMEDY}")


async def test_what_is_filled_from_memory_is_sealed_where_storage_is(it: Room) -> None:
    shutil.rmtree(it.mirror)
    it.memory["a.com"] = b"in memory"
    it.copies._sealer = Sealer([SealKey(bytes(32))])
    it.primary.break_down("get")
    await it.watch.look()
    assert is_sealed((it.mirror / "a.com").read_bytes())
    assert await it.copies.get("a.com") == b"in memory"


async def test_one_that_stays_unusable_is_logged_once_a_minute(it: Room) -> None:
    loop_time = LoopTime()
    shutil.rmtree(it.mirror)
    it.refused = True
    with capture_logs() as logs:
        watching = asyncio.ensure_future(it.watch.run())
        for _ in range(3):
            await wait_until_async(lambda: bool(it.clock._sleepers))
            await it.clock.advance(13)
        await loop_time.advance(61)
        await it.clock.advance(13)
        await wait_until_async(lambda: len(logs) >= 2)
        watching.cancel()
    assert {log["event"] for log in logs} == {"storage.mirror_unusable"}
    assert len(logs) == 2


async def test_while_storage_is_away_nothing_that_is_not_in_memory_is_copied_and_nothing_fails(it: Room) -> None:
    shutil.rmtree(it.mirror)
    it.primary.break_down("get")
    await it.watch.look()
    it.primary.repair()
    for _ in USED:
        await it.watch.look()
        await it.clock.advance(31)
    await it.wait()


async def test_opening_a_directory_that_hangs_is_given_up_and_not_begun_twice(
    it: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_directory, "DEADLINE", 0.1)
    shutil.rmtree(it.mirror)
    it.disk_answers.clear()
    for _ in range(2):
        with pytest.raises(StorageError, match="can't open mirror_dir: no answer"):
            await asyncio.wait_for(it.watch.look(), 30)
    assert it.opens == 2, "at the start, and now"
    it.disk_answers.set()
    monkeypatch.undo()
    await it.watch.look()
    await it.wait()
    assert it.opens == 2


def test_the_event_loop_ends_while_a_directory_is_being_opened_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_directory, "DEADLINE", 0.1)

    async def run() -> Room:
        room = Room(tmp_path)
        await room.fill()
        shutil.rmtree(room.mirror)
        room.disk_answers.clear()
        with pytest.raises(StorageError, match="no answer"):
            await asyncio.wait_for(room.watch.look(), 30)
        return room

    room = asyncio.run(run())
    assert not room.disk_answers.is_set()
    assert room.opened == 1
    room.disk_answers.set()
    asyncio.run(room.directory.close())
