"""Named pipes, devices, sockets and folders in place of the directory's files: refused in words, and nothing hangs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Due, Lease
from ssl_cert_server.storage.directory import DirectoryStorage
from tests.support.clock import START, ManualClock
from tests.support.irregular import IRREGULAR

DEADLINE = 60
"""Seconds that nothing here comes near, unless it hangs."""

pytestmark = pytest.mark.parametrize("kind", IRREGULAR)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
async def storage(root: Path) -> AsyncIterator[DirectoryStorage]:
    storage = DirectoryStorage(root, ManualClock())
    await storage.put("good.example", b"value")
    yield storage
    await storage.close()


def put_in_place(path: Path, kind: str) -> None:
    if path.exists():
        path.unlink()
    IRREGULAR[kind](path)


def words(kind: str) -> str:
    return "Is a directory" if kind == "a folder" else f"it is {kind}, not a regular file; remove it, or put the file"


async def test_a_value_is_refused_and_others_are_read(storage: DirectoryStorage, root: Path, kind: str) -> None:
    put_in_place(root / "bad.example", kind)
    async with asyncio.timeout(DEADLINE):
        refused = await asyncio.gather(*(storage.get("bad.example") for _ in range(20)), return_exceptions=True)
        assert {type(error) for error in refused} == {StorageError}
        assert str(refused[0]).startswith(f"can't read {root / 'bad.example'}: {words(kind)}")
        assert await storage.get("good.example") == b"value"
        if kind != "a folder":
            await storage.put("bad.example", b"new")
            assert await storage.get("bad.example") == b"new", "a write replaces it"


async def test_a_symbolic_link_leads_to_one_and_is_refused(
    storage: DirectoryStorage, root: Path, tmp_path: Path, kind: str
) -> None:
    put_in_place(tmp_path / "elsewhere", kind)
    (root / "bad.example").symlink_to(tmp_path / "elsewhere")
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(StorageError, match=words(kind)):
            await storage.get("bad.example")


@pytest.mark.parametrize("name", [".lock", ".last-token", "_leases/work"])
async def test_in_place_of_what_leases_need_it_is_named(
    storage: DirectoryStorage, root: Path, kind: str, name: str
) -> None:
    lease = await storage.acquire("work", 30)
    assert isinstance(lease, Lease)
    await storage.release(lease)
    put_in_place(root / name, kind)
    async with asyncio.timeout(DEADLINE):
        refused = await asyncio.gather(*(storage.acquire("work", 30) for _ in range(20)), return_exceptions=True)
        assert {type(error) for error in refused} == {StorageError}
        assert words(kind) in str(refused[0])
        assert str(root / name) in str(refused[0])
        assert await storage.get("good.example") == b"value"
        if name != "_leases/work":
            with pytest.raises(StorageError, match=words(kind)) as failure:
                await storage.check_writable()
            assert str(root / name) in str(failure.value)
    shutil.rmtree(root / name) if kind == "a folder" else (root / name).unlink()
    assert await storage.acquire("other", 30) is not None
    await storage.check_writable()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_in_place_of_the_index_it_is_set_aside(root: Path, kind: str, suffix: str) -> None:
    storage = DirectoryStorage(root, ManualClock())
    await storage.schedule("work", [Due("a.example", START)])
    await storage.close()
    put_in_place(root / f".index.sqlite{suffix}", kind)
    storage = DirectoryStorage(root, ManualClock())
    async with asyncio.timeout(DEADLINE):
        assert not await storage.index_complete()
        await storage.schedule("work", [Due("b.example", START)])
        assert await storage.scheduled("work", "b.example") is not None
    await storage.close()


async def test_in_place_of_the_indexs_lock_it_is_named(storage: DirectoryStorage, root: Path, kind: str) -> None:
    put_in_place(root / ".index.lock", kind)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(StorageError) as failure:
            await storage.next_due("work")
    assert words(kind).partition(";")[0] in str(failure.value)
    assert str(root / ".index.lock") in str(failure.value)


async def test_in_place_of_a_folder_it_is_named_by_who_writes_there(
    storage: DirectoryStorage, root: Path, kind: str
) -> None:
    await storage.put("_state/a.example", b"value")
    shutil.rmtree(root / "_state")
    if kind == "a folder":
        return
    put_in_place(root / "_state", kind)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(StorageError, match="_state"):
            await storage.put("_state/a.example", b"value")
        with pytest.raises(StorageError, match="_state"):
            await storage.check_writable()
        assert await storage.get("_state/a.example") is None
