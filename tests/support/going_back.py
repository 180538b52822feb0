"""Storages that can be put back to an earlier state, as operators and crashes do."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.support.postgres_server import PostgresServer, program
from tests.support.redis_server import RedisServer


class GoingBack(Protocol):
    """A storage with a ``section`` for the configuration; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def section(self, **more: Any) -> dict[str, Any]: ...

    def snapshot(self) -> None:
        """Take a backup."""

    def go_back(self) -> None:
        """Restore the backup."""

    def certificates(self) -> set[str]:
        """The keys of the certificates."""

    def remove(self, key: str) -> None:
        """As an operator does by hand."""

    def planned(self) -> set[str]:
        """The keys in the queue of renewals."""


class RedisGoingBack:
    """Killed, and started with an earlier snapshot (RDB)."""

    def __init__(self, folder: Path) -> None:
        self._dump, self._kept = folder / "redis" / "dump.rdb", folder / "kept.rdb"
        self._server = RedisServer(folder / "redis")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.close()

    def section(self, **more: Any) -> dict[str, Any]:
        return {"type": "redis", "redis": {"addr": self._server.addr, **more}}

    def snapshot(self) -> None:
        self._server.ask("SAVE")
        shutil.copy(self._dump, self._kept)

    def go_back(self) -> None:
        self._server.kill()
        shutil.copy(self._kept, self._dump)
        self._server.start()

    def certificates(self) -> set[str]:
        return {key.decode() for key in self._server.ask("KEYS", "*") if key.endswith(b".example.com")}

    def remove(self, key: str) -> None:
        self._server.ask("DEL", key)

    def planned(self) -> set[str]:
        return {key.decode() for key in self._server.ask("HKEYS", " due renewal ranks")}


class PostgresGoingBack:
    """Restored from a dump while instances run."""

    def __init__(self, folder: Path) -> None:
        self._dump = folder / "dump.sql"
        self._server = PostgresServer()

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.close()

    def section(self, **more: Any) -> dict[str, Any]:
        return {"type": "postgres", "postgres": {"dsn": self._server.dsn(), **more}}

    def snapshot(self) -> None:
        self._run("pg_dump", "--schema=ssl_cert_server", "--clean", f"--file={self._dump}")

    def go_back(self) -> None:
        self._run("psql", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", f"--file={self._dump}")

    def certificates(self) -> set[str]:
        rows = self._server.execute(
            "SELECT name FROM ssl_cert_server.kept WHERE folder = '' AND name LIKE '%.example.com'"
        )
        return {name for (name,) in rows}

    def remove(self, key: str) -> None:
        self._server.execute("DELETE FROM ssl_cert_server.kept WHERE folder = '' AND name = %s", [key])

    def planned(self) -> set[str]:
        rows = self._server.execute("SELECT key FROM ssl_cert_server.due WHERE queue = 'renewal'")
        return {key for (key,) in rows}

    def _run(self, name: str, *arguments: str) -> None:
        argv = [str(program(name)), *arguments, f"--dbname={self._server.dsn()}"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


class DirectoryGoingBack:
    """Restored in place from a copy while instances run, as ``rsync -a --delete`` does it.

    With ``index`` off, the backup was made as docs/deployment.md shows it: without the due index and other dot files.
    """

    def __init__(self, folder: Path, *, index: bool = True) -> None:
        self._root, self._kept = folder / "shared", folder / "kept"
        self._index = index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Nothing runs."""

    def section(self, **_: Any) -> dict[str, Any]:
        return {"type": "dir_cache", "dir_cache": str(self._root)}

    def snapshot(self) -> None:
        subprocess.run(["cp", "-a", self._root, self._kept], check=True)
        for beside in ("-wal", "-shm"):  # a copy of a database that is in use is made by SQLite
            (self._kept / f".index.sqlite{beside}").unlink()
        index = ".index.sqlite"
        with (
            closing(sqlite3.connect(self._root / index)) as source,
            closing(sqlite3.connect(self._kept / index)) as kept,
        ):
            source.backup(kept)

    def go_back(self) -> None:
        kept = self._files(self._kept)
        for path in self._files(self._root) - kept:
            (self._root / path).unlink()
        for path in sorted(kept):
            source, target = self._kept / path, self._root / path
            if not target.exists() or source.read_bytes() != target.read_bytes():
                temporary: Path = target.with_name(f".{target.name}.restored")
                shutil.copy2(source, temporary)
                temporary.replace(target)

    def certificates(self) -> set[str]:
        return {path.name for path in self._root.glob("*.example.com")}

    def remove(self, key: str) -> None:
        (self._root / key).unlink()

    def planned(self) -> set[str]:
        with closing(sqlite3.connect(self._root / ".index.sqlite")) as connection:
            return {key for (key,) in connection.execute("SELECT key FROM due WHERE queue = 'renewal'")}

    def _files(self, root: Path) -> set[Path]:
        found = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
        return {
            path for path in found if path.parts[0] != "_leases" and (self._index or not path.parts[0].startswith("."))
        }


KINDS: dict[str, Callable[[Path], GoingBack]] = {
    "redis": RedisGoingBack,
    "postgres": PostgresGoingBack,
    "directory": DirectoryGoingBack,
    "directory without its index": lambda folder: DirectoryGoingBack(folder, index=False),
}
