"""Processes that are stopped while they hold something that others need."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.process import Process
from tests.support.waiting import wait_until

_LOCK = """
import fcntl, os, signal, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.kill(os.getpid(), signal.SIGSTOP)
"""
_WRITE = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
os.kill(os.getpid(), signal.SIGSTOP)
connection.execute("ROLLBACK")
"""


def stopped_with_lock(lock: Path, log: Path) -> Process:
    """Start a process that takes ``flock`` on a file and stops itself; it ends once it is continued."""
    return _stopped(_LOCK, lock, log)


def stopped_writing(index: Path, log: Path) -> Process:
    """Start a process that begins to write to a SQLite file and stops itself; it ends once it is continued."""
    return _stopped(_WRITE, index, log)


def wait_until_stopped(pid: int) -> None:
    """Wait until a process is stopped."""
    wait_until(lambda: is_stopped(pid))


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _stopped(program: str, file: Path, log: Path) -> Process:
    process = Process([sys.executable, "-c", program, file], log)
    process.start()
    wait_until_stopped(process.pid)
    return process
