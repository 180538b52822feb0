"""Storages that several machines share, as integration tests need them: started, broken and mended at will."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.support.ports import free_port
from tests.support.postgres_server import PostgresServer
from tests.support.process import Process
from tests.support.redis_server import RedisServer
from tests.support.relay import relay_argv


class SharedStorage(Protocol):
    """A server; ``section`` is the configuration's, over a ``port`` of somebody in between where one is given."""

    kind: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def section(self, *, port: int | None = None, **more: Any) -> dict[str, Any]: ...

    @property
    def port(self) -> int: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def lapse_leases(self) -> None:
        """As if every lease's time had passed."""


class SharedDirectory:
    """A directory, which has no server that could be killed; leases of killed instances are free at once."""

    kind = "directory"
    port = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Nothing runs."""

    def section(self, *, port: int | None = None, **more: Any) -> dict[str, Any]:
        return {"type": "dir_cache", "dir_cache": str(self._folder), **more}

    def start(self) -> None:
        """Nothing is to be started."""

    def kill(self) -> None:
        """Nothing runs."""

    def lapse_leases(self) -> None:
        """They need no help."""


class SharedRedis:
    """Redis, which keeps what it has on its disk."""

    kind = "redis"

    def __init__(self, folder: Path) -> None:
        self._server = RedisServer(folder, {"appendonly": "yes", "appendfsync": "always"})
        self.start = self._server.start
        self.kill = self._server.kill

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.close()

    @property
    def port(self) -> int:
        return self._server.port

    def section(self, *, port: int | None = None, **more: Any) -> dict[str, Any]:
        redis = {"addr": f"127.0.0.1:{port or self.port}", **more}
        return {"type": "redis", "redis": redis}

    def lapse_leases(self) -> None:
        for name in self._server.ask("KEYS", "* lease *"):
            self._server.ask("HINCRBY", name, "until", -1_000_000_000)

    def lose_everything(self) -> None:
        """As if it came back without its data, or an empty replica took over."""
        self._server.ask("FLUSHALL")


class SharedPostgres:
    """PostgreSQL."""

    kind = "postgres"

    def __init__(self, _: Path) -> None:
        self._server = PostgresServer()
        self.start = self._server.start
        self.kill = self._server.kill

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.close()

    @property
    def port(self) -> int:
        return self._server.port

    def section(self, *, port: int | None = None, **more: Any) -> dict[str, Any]:
        postgres = {"dsn": self._server.dsn(port=port or self.port), **more}
        return {"type": "postgres", "postgres": postgres}

    def lapse_leases(self) -> None:
        self._server.execute("UPDATE ssl_cert_server.leases SET until = until - interval '1000 s'")


SERVERS: dict[str, Callable[[Path], SharedStorage]] = {"redis": SharedRedis, "postgres": SharedPostgres}
KINDS = {"directory": SharedDirectory, **SERVERS}


class Cable:
    """The way to a port, which can be cut: what is sent is neither delivered nor refused. A context manager."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = free_port()
        self._process = Process(relay_argv(f"127.0.0.1:{self.port}", f"127.0.0.1:{port}"), folder / "cable.log")
        self.cut = self._process.pause
        self.mend = self._process.resume

    def __enter__(self) -> Self:
        self._process.start()
        self._process.wait_for_port(self.port)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.mend()
        self._process.stop()
