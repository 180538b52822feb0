"""Several processes on one directory, killed at any moment or hanging for ever."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage import directory
from ssl_cert_server.storage.base import Due
from ssl_cert_server.storage.directory import DirectoryStorage
from tests.support.clock import ManualClock
from tests.support.waiting import wait_until

NOW = 1_800_000_000.0
ENTRIES = 2000

SCHEDULE_AND_CLAIM = """
import asyncio, itertools, os, sys
from pathlib import Path
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.storage.base import Due
from ssl_cert_server.storage.directory import DirectoryStorage

NOW = 1_800_000_000.0

async def schedule(storage):
    for number in itertools.count():
        keys = [f"p{os.getpid()}-{number}-{part}" for part in range(number % 40 + 1)]
        await storage.schedule("work", [Due(key, NOW, float(number)) for key in keys])
        print(*keys, flush=True)

async def claim(storage):
    while True:
        await storage.claim("work", now=NOW, limit=15, seconds=1e6)
        await storage.announce(["a.example"])

async def both():
    storage = DirectoryStorage(Path(sys.argv[1]), SystemClock())
    await asyncio.gather(schedule(storage), claim(storage))

asyncio.run(both())
"""

HANG = """
import asyncio, os, sys
from pathlib import Path
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.storage import directory
from ssl_cert_server.storage.directory import DirectoryStorage

async def hang():
    directory._CLOSING = 0.1
    never, _ = os.pipe()
    directory.read_file = lambda path: os.read(never, 1)
    storage = DirectoryStorage(Path(sys.argv[1]), SystemClock())
    reading = asyncio.create_task(storage.get("a.example"))
    await asyncio.sleep(0.1)
    reading.cancel()
    await storage.close()
    print("closed", flush=True)

asyncio.run(hang())
"""


def claim_all(root: str, ready: multiprocessing.synchronize.Barrier) -> list[str]:
    async def claiming() -> list[str]:
        storage = DirectoryStorage(Path(root), SystemClock())
        ready.wait(60)
        keys: list[str] = []
        batch = await storage.claim("work", now=NOW, limit=13, seconds=1e6)
        ready.wait(60)  # or one may be through before the other has begun
        while batch:
            keys += [entry.key for entry in batch]
            batch = await storage.claim("work", now=NOW, limit=13, seconds=1e6)
        await storage.close()
        return keys

    return asyncio.run(claiming())


async def test_two_processes_claim_each_entry_once(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path, SystemClock())
    await storage.schedule("work", [Due(f"n{number}.example", NOW, float(number)) for number in range(ENTRIES)])
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, spawn.Pool(2) as pool:
        ready = manager.Barrier(2)
        claims = await asyncio.to_thread(pool.starmap, claim_all, [(str(tmp_path), ready)] * 2)
    assert all(claims), "both had some"
    assert Counter(claims[0] + claims[1]) == Counter(f"n{number}.example" for number in range(ENTRIES))
    assert await storage.next_due("work") == NOW + 1e6
    await storage.close()


@contextmanager
def running(script: str, root: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("ab") as file, subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=file) as process:
        try:
            yield process
        finally:
            process.kill()


def acknowledged(output: Path) -> set[str]:
    """What was told in whole lines: the last one may have been cut off by the kill."""
    return set(output.read_text().rpartition("\n")[0].split())


def some_told(outputs: list[Path]) -> bool:
    return sum(len(acknowledged(output)) for output in outputs) > 10


async def test_killed_again_and_again_no_acknowledged_entry_is_lost(tmp_path: Path) -> None:
    root, chance = tmp_path / "storage", random.Random(1)
    told: set[str] = set()
    for turn in range(12):
        outputs = [tmp_path / f"told{turn}-{number}" for number in range(2)]
        with running(SCHEDULE_AND_CLAIM, root, outputs[0]), running(SCHEDULE_AND_CLAIM, root, outputs[1]):
            await asyncio.to_thread(wait_until, partial(some_told, outputs))
            await asyncio.sleep(chance.random() * 0.2)
        told = told.union(*(acknowledged(file) for file in outputs))
        assert not [*root.glob(".index.sqlite.broken-*")]
    storage = DirectoryStorage(root, SystemClock())
    kept = {entry.key async for entry in storage.list_due("work")}
    assert len(told) > 100
    assert told <= kept
    await storage.close()
    with closing(sqlite3.connect(root / ".index.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --- hanging


async def test_closing_does_not_wait_for_a_thread_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "_CLOSING", 0.1)
    never, writer = os.pipe()  # the disk's answer, which does not come
    others = set(threading.enumerate())
    monkeypatch.setattr(directory, "read_file", lambda path: os.read(never, 1))
    storage = DirectoryStorage(tmp_path, ManualClock())
    await storage.schedule("work", [Due("a.example", NOW)])
    reading = [asyncio.create_task(storage.get("a.example")) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.to_thread(wait_until, lambda: storage._reading._jobs.qsize() == 2)  # all threads hang
    with capture_logs() as logs:
        await storage.close()
    assert [(log["event"], log["log_level"]) for log in logs] == [("storage.close_given_up", "warning")]
    with pytest.raises(StorageError, match="closed"):
        await storage.get("a.example")
    os.close(writer)
    done = await asyncio.gather(*reading, return_exceptions=True)
    assert len([result for result in done if result == b""]) == 8, "those that had begun"
    assert len([result for result in done if isinstance(result, StorageError) and "closed" in str(result)]) == 2
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith("storage"):
            await asyncio.to_thread(thread.join, 60)
            assert not thread.is_alive()
    os.close(never)
    assert not [*(tmp_path / "_leases").glob(".holder-*")], "let go of in the end"


def test_nor_does_the_end_of_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", HANG, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "closed"), done.stderr
