"""Faults of a storage that lets some writes through and refuses others; each lasts for a ``with`` block."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support.disks import NOBODY
from tests.support.postgres_server import PostgresServer
from tests.support.process import Process
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

# --- a directory


def obeying_permissions() -> list[str]:
    """Return the command that starts a program to which permissions apply, even where root starts it."""
    if os.geteuid() != 0:
        return []
    without = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}", "--"]


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Allow no file to be created, renamed or removed in a folder."""
    mode = folder.stat().st_mode
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(mode)


def immutable(file: Path) -> AbstractContextManager[None]:
    """Let nobody replace, change or remove a file; skip the test where this machine or file system can't do that."""
    if reason := _change_attribute("+i", file):
        pytest.skip(f"needs chattr +i, which is refused here: {reason}")
    return _mutable_again(file)


@contextmanager
def _mutable_again(file: Path) -> Iterator[None]:
    try:
        yield
    finally:
        _change_attribute("-i", file)


def _change_attribute(change: str, file: Path) -> str:
    """Return why it is refused, or nothing."""
    done = subprocess.run(["chattr", change, str(file)], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


@contextmanager
def of_another_owner(*files: Path) -> Iterator[None]:
    """Give files to a user who lets nobody else read or write them; without root, only take the permissions away."""
    before = [(file, file.stat()) for file in files]
    for file in files:
        file.chmod(0o600 if os.geteuid() == 0 else 0)
        if os.geteuid() == 0:
            os.chown(file, NOBODY, NOBODY)
    try:
        yield
    finally:
        for file, stat in before:
            if os.geteuid() == 0:
                os.chown(file, stat.st_uid, stat.st_gid)
            file.chmod(stat.st_mode)


@contextmanager
def index_locked(file: Path) -> Iterator[None]:
    """Hold the write lock of a SQLite file."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold ``flock`` on a file."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def failing_calls(process: Process, call: str, error: str, log: Path) -> AbstractContextManager[None]:
    """Have a system call fail in a running process; skip the test where this machine lets no process be traced."""
    if reason := _why_not_traced():
        pytest.skip(f"needs strace to attach to a process, which is refused here: {reason}")
    return _failing_calls(process.pid, call, error, log)


@contextmanager
def _failing_calls(pid: int, call: str, error: str, log: Path) -> Iterator[None]:
    options = ["-f", "-e", f"trace={call}", "-e", f"inject={call}:error={error}", "-p", str(pid)]
    with Process([_strace(), *options], log) as tracer:
        wait_until(lambda: " attached" in tracer.text or not tracer.running)
        assert tracer.running, tracer.text
        yield


@functools.cache
def _why_not_traced() -> str:
    with (
        tempfile.TemporaryDirectory() as folder,
        Process(["sleep", "60"], Path(folder, "sleep.log")) as traced,
        Process([_strace(), "-p", str(traced.pid)], Path(folder, "strace.log")) as tracer,
    ):
        wait_until(lambda: " attached" in tracer.text or not tracer.running)
        return "" if tracer.running else tracer.text.strip()


def _strace() -> str:
    found = shutil.which("strace")
    if found is None:
        raise RuntimeError("strace is not in PATH: run `tools/setup test`, or `make test`")
    return found


# --- PostgreSQL


@contextmanager
def table_locked(server: PostgresServer, schema: str, table: str) -> Iterator[None]:
    """Keep everybody else from changing a table; it can be read."""
    name = psycopg.sql.Identifier(schema, table)
    with psycopg.connect(server.dsn()) as connection:
        connection.execute(psycopg.sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(name))
        yield
        connection.rollback()


@contextmanager
def insert_refused(server: PostgresServer, schema: str, table: str, role: str) -> Iterator[None]:
    """Take a role's right to insert into a table away."""
    names = psycopg.sql.Identifier(schema, table), psycopg.sql.Identifier(role)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("REVOKE INSERT ON {} FROM {}").format(*names))
        yield
        connection.execute(psycopg.sql.SQL("GRANT INSERT ON {} TO {}").format(*names))


# --- Redis


@contextmanager
def wrong_type(server: RedisServer, key: str) -> Iterator[None]:
    """Have a string stand under a key that is of another type."""
    aside = f"aside {key}"
    was_there = server.ask("EXISTS", key)
    if was_there:
        server.ask("RENAME", key, aside)
    server.ask("SET", key, "of the wrong type")
    yield
    server.ask("DEL", key)
    if was_there:
        server.ask("RENAME", aside, key)


@contextmanager
def unreadable(server: RedisServer, key: str) -> Iterator[None]:
    """Have a set stand under the key of a value."""
    server.ask("RENAME", key, f"aside {key}")
    server.ask("SADD", key, "of the wrong type")
    yield
    server.ask("DEL", key)
    server.ask("RENAME", f"aside {key}", key)


# --- any server


@contextmanager
def down(server: PostgresServer | RedisServer) -> Iterator[None]:
    """Kill a server; it is started again in the end."""
    server.kill()
    yield
    server.start()
