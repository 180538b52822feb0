"""A mirror that was emptied or removed while the server runs is filled again, with what is in use."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.service.mirror_watch import MirrorWatch
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.guarded import GuardedStorage
from ssl_cert_server.storage.mirror import MirroredStorage
from ssl_cert_server.storage.mirror_directory import MirrorDirectory
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.waiting import wait_until_async

USED = ["a.com", "b.com"]


class Room:
    """A shared storage with certificates, and a mirror in a real directory."""

    def __init__(self, folder: Path) -> None:
        self.mirror = folder / "mirror"
        self.clock = ManualClock()
        self.primary = FaultyStorage(self.clock)
        self.refused = False
        self.directory = MirrorDirectory(self._open)
        guarded = GuardedStorage(self.primary, self.directory)
        self.storage = MirroredStorage(guarded, self.directory, self.clock)
        self.watch = MirrorWatch(self.directory, self.storage, guarded, self.storage, self.clock, lambda: USED)

    def _open(self) -> Storage:
        if self.refused:
            raise StorageError("the disk is gone")
        return DirectoryStorage(self.mirror, SystemClock())

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


async def test_while_storage_is_away_nothing_is_copied_and_nothing_fails(it: Room) -> None:
    shutil.rmtree(it.mirror)
    it.primary.break_down("get")
    await it.watch.look()
    it.primary.repair()
    for _ in USED:
        await it.watch.look()
        await it.clock.advance(31)
    await it.wait()
