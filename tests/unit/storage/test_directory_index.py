"""The directory's index: a file that may be broken, missing or another's at any time, and is made anew then."""

# ruff: noqa: ASYNC240 - the test's own look at the files may block: nobody else runs

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage import directory_index_sql as sql
from ssl_cert_server.storage.base import Due
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.directory_index_file import IndexFile
from tests.support.clock import ManualClock

NOW = 1_800_000_000.0
Break = Callable[[Path], object]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def storage(root: Path, clock: ManualClock) -> AsyncIterator[DirectoryStorage]:
    storage = DirectoryStorage(root, clock)
    yield storage
    await storage.close()


@pytest.fixture
async def peer(storage: DirectoryStorage, root: Path, clock: ManualClock) -> AsyncIterator[DirectoryStorage]:
    peer = DirectoryStorage(root, clock)
    yield peer
    await peer.close()


async def filled(root: Path, clock: ManualClock, entries: int = 3) -> Path:
    """A directory with an index that is complete, and nobody on it."""
    storage = DirectoryStorage(root, clock)
    await storage.put("a.example", b"value")
    await storage.index_complete()
    await storage.schedule("work", [Due(f"n{number}.example", NOW, float(number)) for number in range(entries)])
    await storage.mark_index_complete()
    await storage.close()
    return root / ".index.sqlite"


async def claimed(storage: DirectoryStorage, now: float = NOW, limit: int = 100_000) -> list[str]:
    return [entry.key for entry in await storage.claim("work", now=now, limit=limit, seconds=60)]


def index_files(root: Path) -> set[str]:
    return {path.name for path in root.glob(".index*")}


# --- the file


async def test_the_index_is_0600_hidden_and_made_when_it_is_wanted(root: Path, clock: ManualClock) -> None:
    before = os.umask(0)
    try:
        storage = DirectoryStorage(root, clock)
        await storage.put("a.example", b"")
        assert index_files(root) == set()
        await storage.schedule("work", [Due("a.example", NOW)])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.glob(".index*")}
        assert set(modes) == {".index.sqlite", ".index.sqlite-wal", ".index.sqlite-shm", ".index.lock", ".index.turn"}
        assert set(modes.values()) == {0o600}
        assert [key async for key in storage.list()] == ["a.example"]
        await storage.close()
    finally:
        os.umask(before)
    assert index_files(root) == {".index.sqlite", ".index.lock", ".index.turn"}, "closed in order, it is one file"


async def test_an_index_is_incomplete_until_it_is_marked(storage: DirectoryStorage, peer: DirectoryStorage) -> None:
    assert not await storage.index_complete()
    await storage.schedule("work", [Due("a.example", NOW)])
    assert not await peer.index_complete()
    await storage.mark_index_complete()
    assert await storage.index_complete()
    assert await peer.index_complete()


async def test_it_stays_complete_over_a_restart(root: Path, clock: ManualClock) -> None:
    await filled(root, clock)
    storage = DirectoryStorage(root, clock)
    assert await storage.index_complete()
    await storage.close()


# --- broken files


def overwrite(start: int, end: int | None = None) -> Break:
    def do(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[start:end] = os.urandom(len(content[start:end]))
        path.write_bytes(content)

    return do


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE due (something_else)")


def without(statement: str) -> Break:
    def do(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(statement)

    return do


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


BROKEN: dict[str, Break] = {
    "empty": lambda path: path.write_bytes(b""),
    "one byte": lambda path: path.write_bytes(b"S"),
    "text": lambda path: path.write_text("not a database, and longer than a header of SQLite is\n" * 100),
    "cut to a page": lambda path: os.truncate(path, 4096),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut in the middle": lambda path: os.truncate(path, path.stat().st_size // 2),
    "its header overwritten": overwrite(0, 100),
    "its first page overwritten": overwrite(100, 4096),
    "everything but its first page overwritten": overwrite(4096),
    "another program's": foreign,
    "of another version": without(f"PRAGMA application_id = {sql.APPLICATION + 1}"),
    "a table is missing": without("DROP TABLE change"),
    "nothing known of itself": without("DELETE FROM meta"),
    "a folder": a_folder,
    "a dangling link": a_link,
}


@pytest.mark.parametrize("breaking", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_index_is_set_aside_and_made_anew(root: Path, clock: ManualClock, breaking: Break) -> None:
    path = await filled(root, clock, entries=500)
    breaking(path)
    storage = DirectoryStorage(root, clock)
    with capture_logs() as logs:
        assert await claimed(storage) == []
        assert not await storage.index_complete()
        await storage.schedule("work", [Due("new.example", NOW)])
    assert await claimed(storage) == ["new.example"]
    assert await storage.get("a.example") == b"value"
    [log] = logs
    assert (log["event"], log["log_level"], log["path"]) == ("storage.index_lost", "error", str(path))
    assert log["reason"]
    assert log["kept_as"] == f".index.sqlite.broken-{int(clock.now())}"
    assert os.path.lexists(root / log["kept_as"])
    assert [key async for key in storage.list()] == ["a.example"]
    await storage.close()


async def test_one_that_breaks_while_it_is_used_is_replaced_for_every_instance(
    storage: DirectoryStorage, peer: DirectoryStorage, root: Path
) -> None:
    for one in (storage, peer):
        await one.schedule("work", [Due(f"n{number}.example", NOW) for number in range(500)])
        assert await one.scheduled("work", "n1.example") is not None
    cursor = (await peer.changes("", 0)).cursor
    with closing(sqlite3.connect(root / ".index.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (root / ".index.sqlite").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(64 * 4096))
    with capture_logs() as logs:
        for one in (storage, peer) * 2:
            assert [entry async for entry in one.list_due("work")] == []
            assert await claimed(one) == []
    assert [log["event"] for log in logs] == ["storage.index_lost"]
    await peer.schedule("work", [Due("after.example", NOW)])
    assert await claimed(storage) == ["after.example"]
    assert (await peer.changes(cursor, 0)).reset, "what was announced is forgotten"


async def test_one_that_is_removed_while_it_is_used_is_made_anew_for_every_instance(
    storage: DirectoryStorage, peer: DirectoryStorage, root: Path
) -> None:
    for one in (storage, peer):
        await one.index_complete()
        await one.schedule("work", [Due("a.example", NOW)])
        await one.mark_index_complete()
    for path in root.glob(".index.sqlite*"):
        path.unlink()
    with capture_logs() as logs:
        await storage.schedule("work", [Due("b.example", NOW)])
        await peer.schedule("work", [Due("c.example", NOW)])
        assert sorted([entry.key async for entry in peer.list_due("work")]) == ["b.example", "c.example"]
        assert not await peer.index_complete()
    assert [log["reason"] for log in logs] == ["the file is gone"]
    assert sorted(await claimed(storage)) == ["b.example", "c.example"]


async def test_the_log_of_a_removed_one_is_not_taken_for_the_new_ones(root: Path, clock: ManualClock) -> None:
    """As after a crash in the middle of setting one aside."""
    path = await filled(root, clock)
    path.unlink()
    path.with_name(f"{path.name}-wal").write_bytes(os.urandom(50_000))
    path.with_name(f"{path.name}-shm").write_bytes(os.urandom(32_768))
    storage = DirectoryStorage(root, clock)
    await storage.schedule("work", [Due("a.example", NOW)])
    assert await claimed(storage) == ["a.example"]
    await storage.close()


async def test_closing_one_that_was_set_aside_leaves_the_new_ones_log_alone(
    storage: DirectoryStorage, peer: DirectoryStorage, root: Path, clock: ManualClock
) -> None:
    await storage.schedule("work", [Due("old.example", NOW)])
    for suffix in ("", "-wal", "-shm"):
        (root / f".index.sqlite{suffix}").rename(root / f"elsewhere{suffix}")
    await peer.schedule("work", [Due("a.example", NOW)])
    await storage.close()
    await peer.schedule("work", [Due("b.example", NOW)])
    third = DirectoryStorage(root, clock)
    assert sorted(await claimed(third)) == ["a.example", "b.example"]
    await third.close()


async def test_a_lock_that_cannot_be_opened_is_named(root: Path, clock: ManualClock) -> None:
    await filled(root, clock)
    (root / ".index.lock").unlink()
    (root / ".index.lock").mkdir()
    storage = DirectoryStorage(root, clock)
    with pytest.raises(StorageError, match=r"can't schedule a\.example in .*: Is a directory \(.*\.index\.lock\)"):
        await storage.schedule("work", [Due("a.example", NOW)])
    assert await storage.get("a.example") == b"value"
    await storage.close()


async def test_no_more_than_three_broken_ones_are_kept(root: Path, clock: ManualClock) -> None:
    for _ in range(6):
        path = await filled(root, clock)
        path.write_bytes(b"broken")
    storage = DirectoryStorage(root, clock)
    await storage.next_due("work")
    await storage.close()
    start = int(clock.now())
    assert index_files(root) == {".index.sqlite", ".index.lock", ".index.turn"} | {
        f".index.sqlite.broken-{start + number}" for number in (3, 4, 5)
    }


async def test_one_that_was_lost_while_it_was_filled_is_not_marked_as_complete(
    storage: DirectoryStorage, root: Path
) -> None:
    assert not await storage.index_complete()
    for path in root.glob(".index.sqlite*"):
        path.unlink()
    with pytest.raises(StorageError, match="was lost while it was filled"):
        await storage.mark_index_complete()
    assert not await storage.index_complete()
    await storage.mark_index_complete()
    assert await storage.index_complete()


async def test_in_place_of_the_predecessors_directory_the_index_is_incomplete(root: Path, clock: ManualClock) -> None:
    root.mkdir(mode=0o700)
    (root / "a.example").write_bytes(b"value")
    storage = DirectoryStorage(root, clock)
    with capture_logs() as logs:
        assert not await storage.index_complete()
    assert logs == [], "nothing was lost"
    await storage.close()


# --- many due entries, and clocks


async def test_where_more_come_due_than_one_claim_considers_none_is_forgotten(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "MOVED", 200)
    entries = [Due(f"n{number}.example", NOW - number, float(number)) for number in range(3000)]
    await storage.schedule("work", entries)
    keys: list[str] = []
    while batch := await claimed(storage, limit=10):
        keys += batch
    assert sorted(keys) == sorted(entry.key for entry in entries)


async def test_a_clock_that_was_set_back_has_what_is_not_due_any_more_wait(storage: DirectoryStorage) -> None:
    early = [Due(f"early{number}.example", NOW + 100, 1.0) for number in range(700)]
    await storage.schedule("work", [*early, Due("due.example", NOW, 2.0), Due("first.example", NOW + 50, 0.0)])
    assert await claimed(storage, NOW + 200, limit=1) == ["first.example"]
    assert await claimed(storage, NOW, limit=1) == ["due.example"]
    assert await claimed(storage, NOW) == []
    assert await storage.next_due("work") == NOW + 60, "what was claimed last"
    assert await claimed(storage, NOW + 99) == ["due.example"]
    assert len(await claimed(storage, NOW + 100)) == 700


async def test_what_is_written_anew_as_it_was_stays_where_it_is(storage: DirectoryStorage) -> None:
    entries = [Due("a.example", NOW, 1.0), Due("b.example", NOW, 2.0)]
    await storage.schedule("work", entries)
    assert await claimed(storage, limit=1) == ["a.example"]
    await storage.schedule("work", entries)
    assert await claimed(storage) == ["a.example", "b.example"]


@pytest.mark.parametrize("entry", [Due("a.example", float("nan")), Due("a.example", NOW, float("nan"))])
async def test_what_is_no_number_is_not_scheduled(storage: DirectoryStorage, entry: Due) -> None:
    with pytest.raises(StorageError, match=r"can't schedule a\.example"):
        await storage.schedule("work", [entry])


async def test_a_queue_is_one_segment(storage: DirectoryStorage) -> None:
    for queue in ("", "a/b", ".hidden"):
        with pytest.raises(StorageError, match="can't be a"):
            await storage.next_due(queue)


async def test_what_cannot_be_a_key_is_in_no_queue(storage: DirectoryStorage) -> None:
    await storage.unschedule("work", ["a b", "\0", "münchen.de"])
    assert await storage.scheduled("work", "a b") is None
    with pytest.raises(StorageError, match="UnicodeEncodeError"):
        await storage.scheduled("work", "\udcff")


# --- giving up


async def test_a_schedule_that_was_given_up_never_lands_after_a_later_one(
    storage: DirectoryStorage, peer: DirectoryStorage, root: Path
) -> None:
    await storage.schedule("work", [Due("a.example", NOW, 1.0)])
    with closing(sqlite3.connect(root / ".index.sqlite", isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        early = asyncio.create_task(storage.schedule("work", [Due("a.example", NOW, 2.0)]))
        await asyncio.sleep(0.05)  # its thread waits for the other writer
        early.cancel()
        await asyncio.wait([early])
        another.execute("COMMIT")
    await peer.schedule("work", [Due("a.example", NOW, 3.0)])
    await storage.schedule("work", [Due("b.example", NOW)])  # behind the one that was given up
    assert await storage.scheduled("work", "a.example") == Due("a.example", NOW, 3.0)


async def test_a_writer_that_never_ends_is_told_and_read_beside(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl_cert_server.storage.directory_threads.PATIENCE", 0.05)
    await storage.schedule("work", [Due("a.example", NOW)])
    with closing(sqlite3.connect(root / ".index.sqlite", isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"can't schedule b\.example in .*locked; another process keeps it"):
            await storage.schedule("work", [Due("b.example", NOW)])
        assert await storage.scheduled("work", "a.example") == Due("a.example", NOW)
        assert await storage.next_due("work") == NOW
    await storage.schedule("work", [Due("b.example", NOW)])


async def test_what_schedule_says_is_synced_and_a_claim_is_not(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, bool]] = []
    write = IndexFile.write

    def watched(self: IndexFile, work: Any, call: Any, *, durable: bool) -> Any:
        def looked_at(connection: sqlite3.Connection) -> Any:
            [(level,)] = connection.execute("PRAGMA synchronous")
            told.append((work.func.__name__, level == 2))
            return work(connection)

        return write(self, looked_at, call, durable=durable)

    monkeypatch.setattr(IndexFile, "write", watched)
    await storage.schedule("work", [Due("a.example", NOW)])
    await claimed(storage)
    await storage.announce(["a.example"])
    await storage.unschedule("work", ["a.example"])
    await storage.index_complete()
    await storage.mark_index_complete()
    assert told == [
        ("schedule", True),
        ("claim", False),
        ("announce", False),
        ("unschedule", True),
        ("mark_complete", True),
    ]


# --- changes


async def test_what_another_process_announces_is_seen_at_the_next_look(
    storage: DirectoryStorage, root: Path, clock: ManualClock
) -> None:
    cursor = (await storage.changes("", 0)).cursor
    waiting = asyncio.create_task(storage.changes(cursor, 1000))
    with closing(sqlite3.connect(root / ".index.sqlite", isolation_level=None)) as another:
        another.execute("INSERT INTO change (key) VALUES ('a.example')")
    while not waiting.done():
        await clock.advance(0.2)
        await asyncio.sleep(0.001)
    assert (await waiting).keys == ("a.example",)


async def test_a_cursor_from_before_an_older_state_was_restored_starts_over(
    storage: DirectoryStorage, root: Path, clock: ManualClock
) -> None:
    """However much was announced since, and was given the numbers of what is lost."""
    cursors = []
    for number in range(4):
        await clock.advance(0.01)
        await storage.announce([f"a{number}.example"])
        cursors.append((await storage.changes("", 0)).cursor)
    with closing(sqlite3.connect(root / ".index.sqlite", isolation_level=None)) as another:
        another.execute("DELETE FROM change WHERE key <> 'a0.example'")
    await clock.advance(0.01)
    await storage.announce([f"b{number}.example" for number in range(10)])
    assert [(await storage.changes(cursor, 0)).reset for cursor in cursors] == [False, True, True, True]


async def test_the_wait_for_changes_ends(storage: DirectoryStorage, clock: ManualClock) -> None:
    cursor = (await storage.changes("", 0)).cursor
    waiting = asyncio.create_task(storage.changes(cursor, 10))
    while not waiting.done():
        await clock.advance(0.2)
        await asyncio.sleep(0.001)
    assert (await waiting).keys == ()
    assert clock.monotonic() >= 10


async def test_who_waits_for_changes_is_told_of_the_close(root: Path, clock: ManualClock) -> None:
    storage = DirectoryStorage(root, clock)
    waiting = asyncio.create_task(storage.changes((await storage.changes("", 0)).cursor, 1000))
    await asyncio.sleep(0.05)
    await storage.close()
    with pytest.raises(StorageError, match="closed"):
        await waiting
