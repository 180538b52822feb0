"""The server under test, as a process of its own with a configuration of its own."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.ports import free_port
from tests.support.process import Process

_LOG_WRITTEN = 0.2
"""Seconds until a thread of the server has written what another one logged, on a busy machine, too."""

# Beyond what any request may take: an answer comes within 100 s.
_TIMEOUT = 120


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer: header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> dict[str, Any]:
        """The body as the protocol's JSON object."""
        value: dict[str, Any] = json.loads(self.body)
        return value


class CertServer:
    """``ssl-cert-server run`` on a free port, storing in ``directory`` or under ``folder``; a context manager.

    ``program`` is what the interpreter runs instead of the package, as arguments for it. ``within`` begins the command,
    where it is to run elsewhere; ``port`` then has to lead there.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any] | None = None,
        *,
        port: int | None = None,
        directory: Path | None = None,
        program: Sequence[str] = ("-m", "ssl_cert_server"),
        within: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.directory = directory or folder / "storage"
        self.config_file = folder / "conf.yaml"
        settings = {
            "listen": f"127.0.0.1:{self.port}",
            "pid_file": str(folder / "server.pid"),
            "storage": {"type": "dir_cache", "dir_cache": str(self.directory)},
            **(config or {}),
        }
        self.config_file.write_text(yaml.safe_dump(settings))
        command: list[str | Path] = [*within, sys.executable, *program, "run", "-c", self.config_file]
        self.process = Process(command, folder / "server.log", cwd=folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process.start()
        self.process.wait_for_port(self.port)

    def stop(self) -> int | None:
        """Ask it to end, and give its exit code."""
        return self.process.stop(grace=60)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.signal(signal.SIGKILL)
        self.process.stop()

    @property
    def log(self) -> str:
        """Everything it logged so far; its log is written a moment after what it tells of was seen."""
        if self.process.running:
            time.sleep(_LOG_WRITTEN)
        return self.process.text

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        """One GET on a connection of its own; OSError where the server is gone."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            body = response.read()
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
        finally:
            connection.close()

    def cert(self, name: str) -> Reply:
        """``GET /cert/{name}``."""
        return self.get(f"/cert/{name}")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the same configuration, whether the server runs or not; nobody is at its terminal."""
        return self.run(*arguments, "-c", str(self.config_file))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command that has its configuration among its arguments."""
        return subprocess.run(
            [sys.executable, "-m", "ssl_cert_server", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
            cwd=self.config_file.parent,
        )

    def stored(self) -> dict[str, bytes]:
        """Every file of storage that holds a value, by its key."""
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        values: dict[str, bytes] = {}
        for path in files:
            key = path.relative_to(self.directory)
            if key.parts[0] != "_leases" and not any(part.startswith(".") for part in key.parts):
                with suppress(FileNotFoundError):  # a running server removed it in the meantime
                    values[str(key)] = path.read_bytes()
        return values


def changed_program(*changes: str) -> tuple[str, str]:
    """What to run as a :class:`CertServer`'s ``program``: the package after these statements, which change it."""
    return "-c", "\n".join([*changes, "from ssl_cert_server.cli.main import main", "main()"])


def loaded_dice(says: float) -> tuple[str, str]:
    """As above: one whose dice always say the same, so that it draws no time that falls into a test by chance."""
    return changed_program(f"import ssl_cert_server.clock; ssl_cert_server.clock.SystemClock.random = lambda _: {says}")


def backing_off_for(seconds: float) -> str:
    """Return the change for :func:`changed_program` that has every name that failed back off for so long."""
    return f"import ssl_cert_server.service.backoff as backoff; backoff._DELAYS = ({seconds},) * 4"


def acme_config(directory_url: str, ca_bundle: Path, **more: Any) -> dict[str, Any]:
    """Configuration that issues through one CA; ``more`` holds further top-level keys.

    CAA isn't looked up unless ``more`` says so: the names are made up, and no question may leave this machine.
    """
    return cas_config(ca_entry(directory_url, ca_bundle), **more)


def ca_entry(directory_url: str, ca_bundle: Path, **options: Any) -> dict[str, Any]:
    """One entry of the list ``acme``, with further ``options``."""
    return {"directory_url": directory_url, "ca_bundle": str(ca_bundle), **options}


def cas_config(*cas: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Configuration as :func:`acme_config` makes it, for several CAs, or one with options."""
    return {"acme": [*cas], "preflight": {"caa": False}, **more}
