"""TLS towards Redis."""

from __future__ import annotations

import ssl
from pathlib import Path

from ssl_cert_server.errors import StorageError
from ssl_cert_server.files import check_regular
from ssl_cert_server.storage.redis.settings import RedisSettings


class TlsContexts:
    """The context for new connections, made anew when one of its files changed."""

    def __init__(self, settings: RedisSettings) -> None:
        self._ca_bundle = settings.ca_bundle
        self._cert = settings.client_cert
        self._key = settings.client_key
        self._context: ssl.SSLContext | None = None
        self._read: list[tuple[int, int]] = []

    def current(self) -> ssl.SSLContext:
        """:raises StorageError: a file can't be read or used."""
        try:
            found = [_stamp(path) for path in (self._ca_bundle, self._cert, self._key) if path is not None]
            if self._context is None or found != self._read:
                self._context = self._make()
                self._read = found
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(str(path) for path in (self._ca_bundle, self._cert, self._key) if path is not None)
            raise StorageError(f"can't use {files} for TLS to Redis: {error.strerror or error}") from error
        return self._context

    def _make(self) -> ssl.SSLContext:
        # With a bundle of one's own the system's authorities aren't trusted.
        context = ssl.create_default_context(cafile=self._ca_bundle)
        if self._cert is not None:
            context.load_cert_chain(self._cert, self._key)
        return context


def _stamp(path: Path) -> tuple[int, int]:
    check_regular(path)  # OpenSSL would wait for whoever writes to a named pipe
    status = path.stat()
    return status.st_mtime_ns, status.st_ino
