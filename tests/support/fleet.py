"""What a user runs in production, small and on loopback: a CA, the server, and nginx with the plugin."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.nginx import Nginx
from tests.support.pebble import Pebble
from tests.support.ports import free_port
from tests.support.server import CertServer, acme_config


class Fleet:
    """Pebble validates at nginx, which hands its visits on to the server. A context manager.

    Names under example.com are permitted, by the server and by nginx.
    """

    def __init__(self, folder: Path, **pebble_options: Any) -> None:
        self._folder = folder
        self._pebble_options = pebble_options
        self._running = ExitStack()
        self.pebble: Pebble
        self.server: CertServer
        self.nginx: Nginx

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            server_port = free_port()
            prefix = self._folder / "nginx"
            prefix.mkdir(parents=True)
            self.nginx = stack.enter_context(Nginx(prefix, backend=f"127.0.0.1:{server_port}"))
            self.pebble = stack.enter_context(
                Pebble(self._folder / "pebble", http_port=self.nginx.http_port, **self._pebble_options)
            )
            config = acme_config(self.pebble.directory_url, self.pebble.ca_bundle, re_patterns=[r"(.+\.)?example\.com"])
            self.server = stack.enter_context(CertServer(self._folder / "server", config, port=server_port))
            self._running = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._running.close()
