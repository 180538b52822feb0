"""What the directory backend promises beyond the contract: files, modes, and what others left in it."""

# ruff: noqa: ASYNC240 - the test's own look at the files may block: nobody else runs

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.storage.base import MAX_VALUE, Lease
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.directory_files import Files
from tests.support.certs import make_pair
from tests.support.clock import ManualClock
from tests.support.disks import NOBODY
from tests.support.leaks import assert_no_key
from tests.support.loop_time import LoopTime

HOLD_A_LEASE = """
import asyncio, sys
from pathlib import Path
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.storage.directory import DirectoryStorage

async def hold():
    lease = await DirectoryStorage(Path(sys.argv[1]), SystemClock()).acquire("work", 1e6)
    print(lease.token, flush=True)
    sys.stdin.read()

asyncio.run(hold())
"""


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


async def taken(storage: DirectoryStorage, name: str = "work") -> Lease:
    lease = await storage.acquire(name, 30)
    assert lease is not None
    return lease


def left_over(root: Path) -> list[Path]:
    return list(root.rglob(".tmp-*"))


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file grows beyond ``size`` bytes: the write that would do so stops half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def failing(number: int) -> Any:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# --- files and modes


async def test_files_are_0600_and_folders_0700_whatever_the_umask(root: Path, clock: ManualClock) -> None:
    before = os.umask(0)
    try:
        storage = DirectoryStorage(root, clock)
        await storage.put("a.example", b"key")
        await storage.put("_f/g/h/deep", b"key")
        await taken(storage, "certificates/a.example")
        await storage.close()
    finally:
        os.umask(before)
    modes = {path.relative_to(root): stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    files = {str(path): mode for path, mode in modes.items() if (root / path).is_file()}
    folders = {str(path): mode for path, mode in modes.items() if (root / path).is_dir()}
    assert set(files.values()) == {0o600}, files
    assert set(folders.values()) == {0o700}, folders
    assert {"a.example", "_f/g/h/deep", "_leases/certificates/a.example", ".last-token"} <= set(files)


async def test_a_value_is_a_file_of_its_keys_name(storage: DirectoryStorage, root: Path) -> None:
    await storage.put("a.example+rsa", b"value")
    await storage.put("_f/key", b"another")
    assert (root / "a.example+rsa").read_bytes() == b"value"
    assert (root / "_f" / "key").read_bytes() == b"another"


async def test_the_predecessors_directory_is_taken_over_as_it_is(root: Path, clock: ManualClock) -> None:
    root.mkdir(mode=0o700)
    ecdsa, rsa, account = make_pair(["a.example"]), make_pair(["b.example"]), make_pair().key_pem
    (root / "a.example").write_bytes(ecdsa.stored)
    (root / "b.example+rsa").write_bytes(rsa.stored)
    (root / "acme_account+key").write_bytes(account)
    storage = DirectoryStorage(root, clock)
    assert sorted([key async for key in storage.list()]) == ["a.example", "acme_account+key", "b.example+rsa"]
    assert parse_certificate(await storage.get("a.example") or b"").names == {"a.example"}
    assert parse_certificate(await storage.get("b.example+rsa") or b"").names == {"b.example"}
    assert await storage.get("acme_account+key") == account
    await storage.close()


async def test_a_symbolic_link_is_read_like_a_file(storage: DirectoryStorage, root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.pem").write_bytes(b"managed elsewhere")
    (root / "managed").symlink_to(tmp_path / "elsewhere.pem")
    assert await storage.get("managed") == b"managed elsewhere"


async def test_folders_and_hidden_files_are_no_keys(storage: DirectoryStorage, root: Path) -> None:
    (root / ".hidden").write_bytes(b"")
    (root / "folder").mkdir()
    (root / "dangling").symlink_to(root / "nowhere")
    assert [key async for key in storage.list()] == []


async def test_everything_is_synced_before_put_returns(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append("temporary" if path.name.startswith(".tmp-") else str(path.relative_to(root)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    await storage.put("_f/g/key", b"value")
    assert synced == ["temporary", ".", "_f", "_f/g"], "the value, then every folder that is new or holds it"
    synced.clear()
    await storage.put("_f/g/key", b"value")
    assert synced == ["temporary", "_f/g"]
    synced.clear()
    await storage.delete("_f/g/key")
    assert synced == ["_f/g"]


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
async def test_a_directory_open_to_others_is_told(root: Path, clock: ManualClock, mode: int) -> None:
    root.mkdir()
    root.chmod(mode)
    with capture_logs() as logs:
        await DirectoryStorage(root, clock).close()
    [log] = logs
    assert (log["event"], log["log_level"]) == ("storage.open_to_others", "warning")
    assert (log["directory"], log["mode"]) == (str(root), f"{mode:04o}")
    assert log["remedy"] == f"chmod 0700 {root}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_a_directory_that_root_creates_belongs_to_the_owner_of_its_parent(
    tmp_path: Path, clock: ManualClock
) -> None:
    parent = tmp_path / "home"
    parent.mkdir()
    os.chown(parent, NOBODY, NOBODY)
    root = parent / "ssl" / "secret-dir"
    await DirectoryStorage(root, clock).close()
    created = [root.parent, root, *root.rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in created} == {(NOBODY, NOBODY)}


async def test_a_missing_one_is_not_created_where_it_has_to_exist(root: Path, clock: ManualClock) -> None:
    with pytest.raises(StorageError, match=r"there is no storage in .*; check storage\.dir_cache"):
        DirectoryStorage(root, clock, create=False)
    assert not root.exists()
    await DirectoryStorage(root, clock).close()
    await DirectoryStorage(root, clock, create=False).close()


async def test_a_removed_one_is_told_with_a_remedy(storage: DirectoryStorage, root: Path) -> None:
    shutil.rmtree(root)
    with pytest.raises(StorageError, match=rf"can't read .*: the directory {root} is gone; mount the right one"):
        await storage.get("a.example")


async def test_a_directory_of_our_own_needs_no_warning(root: Path, clock: ManualClock) -> None:
    with capture_logs() as logs:
        await DirectoryStorage(root, clock).close()
        await DirectoryStorage(root, clock).close()
    assert logs == []


# --- temporary files


async def test_stale_temporary_files_go_at_open_and_fresh_ones_stay(root: Path, clock: ManualClock) -> None:
    root.mkdir(mode=0o700)
    stale, fresh = root / ".tmp-dead-0", root / ".tmp-alive-0"
    stale.write_bytes(b"half a")
    fresh.write_bytes(b"half a")
    os.utime(stale, (time.time() - 700,) * 2)
    await DirectoryStorage(root, clock).close()
    assert left_over(root) == [fresh]


async def test_those_of_an_instance_that_is_alive_stay_however_old_they_look(
    storage: DirectoryStorage, root: Path, clock: ManualClock
) -> None:
    """A clock that was set forward makes every file look old."""
    temporary = storage._files.write_temporary(b"half a")
    os.utime(temporary, (0, 0))
    await DirectoryStorage(root, clock).close()
    assert left_over(root) == [temporary]
    await storage.close()
    await DirectoryStorage(root, clock).close()
    assert left_over(root) == []


@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES])
async def test_a_write_that_fails_leaves_the_old_value_and_nothing_else(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    pair = make_pair(["a.example"])
    await storage.put("a.example", b"old")
    with monkeypatch.context() as broken:
        broken.setattr(os, call, failing(number))
        with pytest.raises(StorageError) as failure:
            await storage.put("a.example", pair.stored)
        with pytest.raises(StorageError, match="can't write"):
            await storage.check_writable()
    assert str(failure.value).startswith(f"can't write {root / 'a.example'}: {os.strerror(number)}; ")
    assert_no_key(pair.key_pem, failure.value)
    assert await storage.get("a.example") == b"old"
    assert left_over(root) == []


async def test_a_disk_that_is_full_half_way_leaves_the_old_value(storage: DirectoryStorage, root: Path) -> None:
    await storage.put("a.example", b"old")
    with files_limited_to(4096):
        with pytest.raises(StorageError, match=r"can't write .*a\.example: File too large"):
            await storage.put("a.example", bytes(100_000))
        with pytest.raises(StorageError, match="can't write"):
            await storage.check_writable()
    assert await storage.get("a.example") == b"old"
    assert left_over(root) == []
    await storage.check_writable()
    await storage.put("a.example", bytes(100_000))


async def test_a_rename_that_fails_leaves_no_temporary_file(storage: DirectoryStorage, root: Path) -> None:
    await storage.put("folder/key", b"value")
    with pytest.raises(StorageError, match=r"can't write .*folder: Is a directory"):
        await storage.put("folder", b"value")
    await storage.put("file", b"value")
    with pytest.raises(StorageError, match=r"can't write .*file/key: (File exists|Not a directory)"):
        await storage.put("file/key", b"value")
    assert left_over(root) == []


async def test_a_refused_write_leaves_no_temporary_file(
    storage: DirectoryStorage, root: Path, clock: ManualClock
) -> None:
    lost = await taken(storage)
    await clock.advance(31)
    await taken(storage)
    with pytest.raises(LeaseLost):
        await storage.put("key", b"value", lease=lost)
    assert left_over(root) == []


async def test_checking_for_writability_leaves_nothing(storage: DirectoryStorage, root: Path) -> None:
    await storage.put("_state/a.example", b"value")
    await taken(storage, "certificates/a.example")
    await storage.unschedule("work", ["a.example"])  # makes the index, and the file that its writers lock
    before = sorted(root.rglob("*"))
    await storage.check_writable()
    assert sorted(root.rglob("*")) == before


# --- what can't be read or opened


@pytest.mark.parametrize("content", [b"", b"-----BEGIN", os.urandom(5000)], ids=["empty", "cut short", "corrupt"])
async def test_a_broken_file_is_given_as_it_is_and_replaced_whole(
    storage: DirectoryStorage, root: Path, content: bytes
) -> None:
    (root / "a.example").write_bytes(content)
    assert await storage.get("a.example") == content
    await storage.put("a.example", b"good")
    assert await storage.get("a.example") == b"good"


async def test_a_key_that_is_a_directory_is_told(storage: DirectoryStorage, root: Path) -> None:
    (root / "a.example").mkdir()
    with pytest.raises(StorageError, match=r"can't read .*a\.example: Is a directory"):
        await storage.get("a.example")
    with pytest.raises(StorageError, match=r"can't delete .*a\.example"):
        await storage.delete("a.example")


async def test_a_file_too_large_is_told_and_not_read_whole(storage: DirectoryStorage, root: Path) -> None:
    with (root / "a.example").open("wb") as file:
        file.truncate(MAX_VALUE * 1000)
    with pytest.raises(StorageError, match=rf"a\.example.*more than {MAX_VALUE}"):
        await storage.get("a.example")


REMEDIES = {
    errno.ENOENT: "create the missing directory",
    errno.ENOTDIR: "a file is in the place of a directory",
    errno.EEXIST: "a file is in the place of a directory",
    errno.EACCES: "chown, chmod -R u+rwX",
}


@pytest.mark.parametrize("number", REMEDIES)
async def test_what_is_missing_or_refused_is_told_with_a_remedy_that_fits_folders(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(os, "open", failing(number))
        with pytest.raises(StorageError) as failure:
            await storage.put("a.example", b"value")
    assert REMEDIES[number] in str(failure.value)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_directory_that_cannot_be_written_is_told_at_open(
    root: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    root.mkdir(mode=0o700)
    monkeypatch.setattr(os, "open", failing(number))
    with pytest.raises(StorageError) as failure:
        DirectoryStorage(root, clock)
    assert str(failure.value).startswith(f"can't open {root}: {os.strerror(number)}; ")


def test_what_inside_the_directory_cannot_be_opened_is_named(root: Path, clock: ManualClock) -> None:
    (root / ".lock").mkdir(parents=True)
    with pytest.raises(StorageError) as failure:
        DirectoryStorage(root, clock)
    assert (
        str(failure.value)
        == f"can't open {root} ({root / '.lock'}): Is a directory; a directory is in the place of a file: move it away"
    )


def test_a_file_in_place_of_the_directory_is_told_at_open(root: Path, clock: ManualClock) -> None:
    root.write_bytes(b"")
    with pytest.raises(StorageError, match=r"can't open .*: File exists"):
        DirectoryStorage(root, clock)


async def test_a_directory_that_goes_away_is_told(storage: DirectoryStorage, root: Path) -> None:
    root.rename(root.with_name("gone"))
    with pytest.raises(StorageError, match="can't write"):
        await storage.put("key", b"value")
    with pytest.raises(StorageError, match="can't write"):
        await storage.check_writable()
    root.with_name("gone").rename(root)


async def test_a_storage_that_hangs_is_given_up(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setattr("ssl_cert_server.storage.directory_threads.DEADLINE", 0.0)
    with pytest.raises(StorageError, match="no answer in"):
        await storage.get("key")


@pytest.mark.parametrize("change", ["put", "delete"])
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_what_was_given_up_never_lands_after_a_later_write(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch, how: str, change: str
) -> None:
    held, released = threading.Event(), threading.Event()
    call = {"put": "write_temporary", "delete": "unlink"}[change]
    original = getattr(Files, call)

    def slow(self: Files, *args: object) -> object:
        if not held.is_set():
            held.set()
            assert released.wait(60)
        return original(self, *args)

    await storage.put("key", b"before")
    monkeypatch.setattr(Files, call, slow)
    time = LoopTime()
    early = asyncio.create_task(storage.put("key", b"early") if change == "put" else storage.delete("key"))
    try:
        assert await asyncio.to_thread(held.wait, 60)
        if how == "cancelled":
            early.cancel()
        await time.advance(31 if how == "timed out" else 0)
        with pytest.raises(StorageError if how == "timed out" else asyncio.CancelledError):
            await early
        await storage.put("key", b"later")
    finally:
        released.set()
    await storage.close()  # waits for the threads
    assert (root / "key").read_bytes() == b"later"
    assert left_over(root) == []


async def test_nor_where_it_was_given_up_at_the_last_moment(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread has seen that it is still wanted, and is held up right before the rename."""
    held, acknowledged = threading.Event(), threading.Event()
    original = Path.replace

    def slow(self: Path, target: Path) -> Path:
        if not held.is_set():
            held.set()
            acknowledged.wait(0.2)  # in vain, as the later one has to wait for this
        return original(self, target)

    monkeypatch.setattr(Path, "replace", slow)
    early = asyncio.create_task(storage.put("key", b"early"))
    assert await asyncio.to_thread(held.wait, 60)
    early.cancel()
    await asyncio.wait([early])
    await storage.put("key", b"later")
    acknowledged.set()
    await storage.close()
    assert (root / "key").read_bytes() == b"later"


async def test_closing_a_directory_that_became_read_only_lets_go_of_it_and_says_nothing(
    root: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = DirectoryStorage(root, clock)
    await taken(storage)
    with monkeypatch.context() as broken:
        broken.setattr(os, "open", failing(errno.EROFS))
        await storage.close()
    other = DirectoryStorage(root, clock)
    assert len([*(root / "_leases").glob(".holder-*")]) == 1, "the other's own"
    await taken(other)
    await other.close()


async def test_after_close_every_call_is_refused_and_closing_again_does_nothing(root: Path, clock: ManualClock) -> None:
    storage = DirectoryStorage(root, clock)
    lease = await taken(storage)
    await storage.close()
    calls = [storage.get("key"), storage.put("key", b""), storage.acquire("work", 1), storage.release(lease)]
    for call in calls:
        with pytest.raises(StorageError, match="closed"):
            await call
    await storage.close()


# --- leases


async def test_what_somebody_removed_of_a_running_instances_leases_is_put_back(
    storage: DirectoryStorage, root: Path, clock: ManualClock
) -> None:
    lost = await taken(storage)
    shutil.rmtree(root / "_leases")
    held = await taken(storage)
    assert held.token > lost.token
    peer = DirectoryStorage(root, clock)
    assert await peer.acquire("work", 30) is None, "its holder is known to be alive"
    await storage.put("key", b"value", lease=held)
    await peer.close()


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        '{"token": 1, "hol',
        "null",
        "[]",
        "7",
        "{}",
        '{"token": 1, "holder": "x"}',
        '{"token": null, "holder": "x", "until": 9e9}',
        '{"token": 1, "holder": "x", "until": null}',
        '{"token": 1, "holder": "x", "until": "tomorrow"}',
        "\udcff\udcfe",
    ],
)
async def test_a_record_that_makes_no_sense_is_nobodys(storage: DirectoryStorage, root: Path, record: str) -> None:
    lost = await taken(storage)
    (root / "_leases" / "work").write_bytes(record.encode("utf-8", "surrogateescape"))
    with pytest.raises(LeaseLost):
        await storage.renew(lost, 30)
    await storage.release(lost)
    held = await taken(storage)
    assert held.token > lost.token
    await storage.put("key", b"", lease=held)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff", b"-"])
async def test_with_the_last_token_gone_those_in_use_are_still_exceeded(
    storage: DirectoryStorage, root: Path, content: bytes
) -> None:
    for number in range(5):
        await taken(storage, f"certificates/{number}")
    (root / ".last-token").write_bytes(content)
    assert (await taken(storage)).token == 6
    assert (root / ".last-token").read_text() == "6"


async def test_a_full_disk_takes_neither_the_last_token_nor_a_lease_that_is_held(
    storage: DirectoryStorage, root: Path
) -> None:
    peer = DirectoryStorage(root, ManualClock())
    released = await taken(storage, "other")
    held = await taken(storage)
    await storage.release(released)
    with files_limited_to(0):
        with pytest.raises(StorageError):
            await storage.renew(held, 30)
        with pytest.raises(StorageError):
            await storage.acquire("other", 30)
    assert await peer.acquire("work", 30) is None
    await storage.renew(held, 30)
    assert (await taken(storage, "other")).token > held.token
    await peer.close()


async def test_a_name_that_is_also_a_folder_of_names_is_told(storage: DirectoryStorage) -> None:
    await taken(storage, "a/b")
    with pytest.raises(StorageError, match=r"can't lease .*a: Is a directory"):
        await storage.acquire("a", 30)
    await taken(storage, "c")
    with pytest.raises(StorageError, match=r"can't lease .*c/d"):
        await storage.acquire("c/d", 30)


async def test_trouble_with_a_lease_names_its_file(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await taken(storage, "certificates/a.example")
    place = f"{root}/_leases/certificates/a.example: {os.strerror(errno.EROFS)}"
    monkeypatch.setattr(os, "open", failing(errno.EROFS))
    for call, action in [
        (storage.acquire(lease.name, 30), "lease"),
        (storage.renew(lease, 30), "renew"),
        (storage.release(lease), "release"),
    ]:
        with pytest.raises(StorageError) as failure:
            await call
        assert str(failure.value).startswith(f"can't {action} {place}; mount it writable again")


@contextmanager
def another_process_holding(root: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    command = [sys.executable, "-c", HOLD_A_LEASE, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout
        finally:
            process.kill()


async def test_a_killed_processs_lease_is_free_at_once_and_a_living_ones_is_not(
    storage: DirectoryStorage, root: Path
) -> None:
    with another_process_holding(root) as (process, output):
        token = int(await asyncio.to_thread(output.readline))
        assert await storage.acquire("work", 30) is None
        other = await storage.acquire("other", 30)
        assert other is not None
        process.kill()
        await asyncio.to_thread(process.wait)
        assert (await taken(storage)).token > token


async def test_what_killed_holders_left_goes_at_the_next_open_and_the_livings_stays(
    storage: DirectoryStorage, root: Path, clock: ManualClock
) -> None:
    lease = await taken(storage)
    (root / "_leases" / ".holder-dead").write_bytes(b"")
    other = DirectoryStorage(root, clock)
    holders = [path.name for path in (root / "_leases").glob(".holder-*")]
    assert len(holders) == 2
    assert ".holder-dead" not in holders
    assert await other.acquire("work", 30) is None
    await storage.renew(lease, 30)
    await other.close()


async def test_a_lease_from_before_a_restart_of_the_machine_is_free(storage: DirectoryStorage, root: Path) -> None:
    record = {"token": 1, "holder": "of-yesterday", "until": 1e12}
    (root / "_leases" / "work").write_text(json.dumps(record))
    await taken(storage)
