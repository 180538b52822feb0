"""A process that is stopped for longer than its lease finds out when it goes on, before it acts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.leasing import leased
from tests.support.process import Process
from tests.support.stopped import wait_until_stopped
from tests.support.waiting import wait_until

HOLD_AND_STOP = """
import asyncio, os, signal, sys
from pathlib import Path
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import LeaseLost
from ssl_cert_server.storage import leasing
from ssl_cert_server.storage.directory import DirectoryStorage

leasing.LEASE_SECONDS = 1.0

async def work():
    async with leasing.leased(DirectoryStorage(Path(sys.argv[1]), SystemClock()), "work", SystemClock()) as lease:
        lease.check()
        os.kill(os.getpid(), signal.SIGSTOP)
        os.sched_yield()
        try:
            lease.check()
            print("went on", flush=True)
        except LeaseLost as error:
            print("refused:", error, flush=True)

asyncio.run(work())
"""


LEASE_AND_CHECK = """
import asyncio, sys
from pathlib import Path
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.directory import DirectoryStorage

async def work():
    root = Path(sys.argv[1])
    storage = DirectoryStorage(root, SystemClock())
    (root / ".last-token").write_text("7")
    await storage.put("key", b"value")
    for name, call in [("acquire", storage.acquire("work", 30)), ("check_writable", storage.check_writable())]:
        try:
            await call
        except StorageError as error:
            print(f"{name}: {error}", flush=True)
    print("value:", await storage.get("key"), flush=True)
    await storage.close()

asyncio.run(work())
"""


async def test_a_process_that_goes_on_after_its_lease_lapsed_is_refused_by_its_own_clock(tmp_path: Path) -> None:
    root = tmp_path / "storage"
    storage = DirectoryStorage(root, SystemClock())
    with Process([sys.executable, "-c", HOLD_AND_STOP, root], tmp_path / "log") as stopped:
        await asyncio.to_thread(wait_until, (root / "_leases" / "work").exists)
        await asyncio.to_thread(wait_until_stopped, stopped.pid)
        async with asyncio.timeout(60), leased(storage, "work", SystemClock()) as lease:
            stopped.resume()
            await asyncio.to_thread(wait_until, lambda: not stopped.running)
            assert "refused: the lease work was not renewed" in stopped.text
            await storage.put("key", b"value", lease=lease)
    await storage.close()


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
async def test_a_lease_file_that_takes_no_write_is_named_by_every_call_and_by_the_check(
    tmp_path: Path, error: str
) -> None:
    """Errors injected into a process by strace, which is the disk's own word to it."""
    root = tmp_path / "storage"
    only: list[str | Path] = ["-P", root / "_leases" / ".new", "-e", f"inject=write:error={error}"]
    trace: list[str | Path] = ["strace", "-f", "-qq", "-o", tmp_path / "trace", *only]
    with Process([*trace, sys.executable, "-c", LEASE_AND_CHECK, root], tmp_path / "log") as traced:
        await asyncio.to_thread(wait_until, lambda: not traced.running)
    lines = traced.text.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["acquire", "check_writable", "value"], traced.text
    reason = {"EIO": "Input/output error", "ENOSPC": "No space left on device"}[error]
    assert all(reason in line for line in lines[:2]), traced.text
    assert lines[2] == "value: b'value'"
