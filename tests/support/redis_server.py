"""Redis on loopback ports: a server, replicas of it, Sentinels, a cluster's nodes.

``REDIS_SERVER`` in the environment names another program than Debian's redis-server: Valkey's, or another version's.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.waiting import wait_until


def _free_port() -> int:
    """Find a port that is free together with the one that a cluster's node takes for the others."""
    for _ in range(100):
        port = free_port()
        with socket.socket() as bus, suppress(OSError, OverflowError):
            bus.bind(("127.0.0.1", port + 10_000))
            return port
    raise RuntimeError("no port is free together with the one 10,000 above it")


class RedisServer:
    """One redis-server on a loopback port, which stays the same for the object's life; a context manager.

    ``options`` are lines of its configuration (``appendonly: yes``). What it holds survives a stop only with
    ``appendonly``. It also listens on the Unix socket ``socket``. ``within`` begins its command, where it is to run
    elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, str] | None = None,
        *,
        password: str = "",
        within: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        self.password = password
        # A socket's path may have 107 bytes, and pytest's folders may be deep.
        self._run = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self._run / "redis.sock"
        lines = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "unixsocket": str(self.socket),
            "save": '""',
            "repl-diskless-sync-delay": "0",
            "enable-debug-command": "yes",
            **({"requirepass": password, "masterauth": password} if password else {}),
            **(options or {}),
        }
        config = folder / "redis.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        self._process = Process([*within, _program(), config], folder / "redis.log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def addr(self) -> str:
        """Where it listens, as host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._process.text

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        self._process.start()
        wait_until(self._answers)

    def stop(self) -> None:
        """An outage: nobody listens."""
        self._process.stop()

    def kill(self) -> None:
        """An outage without a farewell."""
        self._process.stop(grace=0)

    def pause(self) -> None:
        """An outage of the other kind: nothing answers."""
        self._process.pause()

    def resume(self) -> None:
        """After a pause."""
        self._process.resume()

    def close(self) -> None:
        """Stop it for good."""
        self._process.stop()
        shutil.rmtree(self._run, ignore_errors=True)

    def ask(self, *command: str | bytes | int) -> Any:
        """Run a command, by the Unix socket."""
        connection = redis.Redis(unix_socket_path=str(self.socket), password=self.password or None, protocol=2)
        connection.response_callbacks.clear()  # what the server says, as it says it
        try:
            return connection.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            connection.close()

    def _answers(self) -> bool:
        if not self._process.running:
            raise RuntimeError(f"redis-server ended: {self.log[-2000:]}")
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False


class Replica(RedisServer):
    """One that follows another."""

    def __init__(self, folder: Path, primary: RedisServer, options: Mapping[str, str] | None = None) -> None:
        follow = {"replicaof": f"127.0.0.1 {primary.port}"}
        super().__init__(folder, {**follow, **(options or {})}, password=primary.password)

    def start(self) -> None:
        """Start it, and wait until it has what the primary has."""
        super().start()
        wait_until(lambda: _follows(self))


class Sentinel:
    """One redis-sentinel that watches ``primary`` as ``main``; a context manager. ``quorum`` of them depose it."""

    def __init__(self, folder: Path, primary: RedisServer, *, quorum: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor main 127.0.0.1 {primary.port} {quorum}\n"
            "sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 3000\n"
        )
        self._process = Process([_program(), config, "--sentinel"], folder / "sentinel.log")

    def __enter__(self) -> Self:
        self._process.start()
        self._process.wait_for_port(self.port, seconds=60)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.resume()
        self._process.stop()

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    def pause(self) -> None:
        """Nothing answers."""
        self._process.pause()

    def resume(self) -> None:
        """After a pause."""
        self._process.resume()

    def ask(self, *command: str) -> Any:
        connection = redis.Redis(port=self.port, protocol=2)
        connection.response_callbacks.clear()
        try:
            return connection.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            connection.close()

    def primary_port(self) -> int:
        return int(self.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", "main")[1])

    def knows(self, *, sentinels: int, replicas: int) -> bool:
        """Whether it has met all others."""
        told = self.ask("SENTINEL MASTER", "main")
        found = dict(zip(told[::2], told[1::2], strict=True))
        return (found[b"num-other-sentinels"], found[b"num-slaves"]) == (b"%d" % (sentinels - 1), b"%d" % replicas)


def make_cluster(nodes: list[RedisServer], *, replicas: int = 0) -> None:
    """Join running nodes (``cluster-enabled yes``) into one cluster, all slots served."""
    program = shutil.which("redis-cli")
    assert program is not None
    command = [program, "--cluster", "create", *(node.addr for node in nodes)]
    command += ["--cluster-replicas", str(replicas), "--cluster-yes"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in nodes))
    wait_until(lambda: all(_follows(node) for node in nodes if node.ask("ROLE")[0] == b"slave"))


def _follows(replica: RedisServer) -> bool:
    return b"master_link_status:up" in replica.ask("INFO", "replication")


def _program() -> str:
    wanted = os.environ.get("REDIS_SERVER", "redis-server")
    found = shutil.which(wanted)
    if found is None:
        raise RuntimeError(f"{wanted} is not in PATH: run `tools/setup test`, or `make test`")
    return found
