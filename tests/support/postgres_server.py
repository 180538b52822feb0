"""A PostgreSQL server of the test's own, on a loopback port, with its data in a folder of its own."""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg

from tests.support.ports import free_port
from tests.support.process import Process

_USER = "postgres"
_CONFIG = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 100
shared_buffers = 32MB
logging_collector = off
log_min_messages = warning
"""


class PostgresServer:
    """A cluster with one superuser, who has a password; a context manager.

    With ``follows`` it is a standby of another one, called ``standby`` there. ``largest_file`` is in bytes.
    PostgreSQL refuses to run as root: there it runs as the user ``postgres``, whom Debian's package brings.
    """

    def __init__(self, *, follows: PostgresServer | None = None, largest_file: int | None = None) -> None:
        self.port = free_port()
        self.password: str = follows.password if follows else secrets.token_urlsafe(24)
        # Not in pytest's folders: those are root's alone, and a socket's path may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.data = self.folder / "data"
        self._numbers = itertools.count()
        self._user = _USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            owner = pwd.getpwnam(_USER)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._paused: list[int] = []
        self._make(follows)
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(_CONFIG.format(port=self.port, folder=self.folder))
        limit = [] if largest_file is None else ["prlimit", f"--fsize={largest_file}"]
        argv = self._as_user(*limit, program("postgres"), "-D", self.data)
        self._process = Process(argv, self.folder / "log")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def log(self) -> str:
        return self._process.text

    def dsn(self, **changed: Any) -> str:
        """As a superuser, over TCP; parts may be others."""
        parts: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "user": self._user, "dbname": "postgres"}
        return psycopg.conninfo.make_conninfo("", **(parts | {"password": self.password} | changed))

    def start(self) -> None:
        """Start it, unless it runs, and wait until it serves; after a kill, that is when it has recovered."""
        self._process.start()
        self._process.wait_for_port(self.port, seconds=60)
        while True:
            try:
                psycopg.connect(self.dsn(), connect_timeout=60).close()
            except psycopg.OperationalError as error:
                if "starting up" not in str(error) and "recovery" not in str(error):
                    raise
            else:
                return

    def kill(self) -> None:
        """``immediate``: as if the machine had lost power, but for the kernel's own buffers."""
        os.kill(self._postmaster(), signal.SIGQUIT)
        self._process.stop(grace=30)

    def stop(self) -> None:
        """``fast``: connections are cut, and all is in order."""
        if self._process.running:
            os.kill(self._postmaster(), signal.SIGINT)
            self._process.stop(grace=30)

    def pause(self) -> None:
        """Let it and every one of its processes go deaf."""
        os.kill(self._postmaster(), signal.SIGSTOP)  # first, and no more are started
        self._paused = self._family()
        for process in self._paused:
            with suppress(ProcessLookupError):  # it ended by itself just now
                os.kill(process, signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        for process in self._paused:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def close(self) -> None:
        """Stop it, and remove all it had."""
        if self._process.running:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, statement: LiteralString, values: Sequence[object] | None = None, **changed: Any) -> list[Any]:
        """Run one statement as a superuser, and give its rows."""
        with psycopg.connect(self.dsn(**changed), autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def configure(self, name: LiteralString, value: str) -> None:
        """Set a parameter that needs no restart."""
        setting = psycopg.sql.SQL("ALTER SYSTEM SET {} = {}").format(psycopg.sql.Identifier(name), value)
        with psycopg.connect(self.dsn(options="-c default_transaction_read_only=off"), autocommit=True) as connection:
            connection.execute(setting)
            connection.execute("SELECT pg_reload_conf()")

    def new_schema(self) -> str:
        """A schema's name that nobody has used yet."""
        return f"test_{next(self._numbers)}"

    def drop_schema(self, schema: str) -> None:
        """Remove a schema with all that is in it, if it is there."""
        with psycopg.connect(self.dsn(), autocommit=True, options="-c client_min_messages=error") as connection:
            name = psycopg.sql.Identifier(schema)
            connection.execute(psycopg.sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))

    # --- inside

    def _postmaster(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def _family(self) -> list[int]:
        postmaster = self._postmaster()
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
        return [postmaster, *map(int, children.split())]

    def _make(self, follows: PostgresServer | None) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        password.chmod(0o644)
        argv: list[str | Path] = [program("initdb"), "-D", self.data, "-U", self._user, f"--pwfile={password}"]
        argv += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        if follows is not None:
            source = follows.dsn(application_name="standby")
            argv = [program("pg_basebackup"), "-D", self.data, "-d", source, "-R", "-c", "fast", "--no-sync"]
        made = subprocess.run(self._as_user(*argv), capture_output=True, text=True, check=False, cwd=self.folder)
        password.unlink()
        if made.returncode:
            raise RuntimeError(f"{argv[0]}: {made.stdout}{made.stderr}")

    def _as_user(self, *argv: str | Path) -> list[str | Path]:
        if os.geteuid() != 0:
            return [*argv]
        # setpriv and not runuser, which would stand between, and not take the server with it when it is killed.
        become = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups", "--pdeathsig", "KILL", "--"]
        return [*become, *argv]


def program(name: str) -> Path:
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = shutil.which(name)
    if not versions and found is None:
        raise RuntimeError(f"{name} is not installed: run `tools/setup test`, or `make test`")
    return versions[-1] if versions else Path(str(found))
