"""Where the server listens: TCP addresses and Unix sockets."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ssl_cert_server.config.values import plain_text
from ssl_cert_server.errors import InvalidName
from ssl_cert_server.pki.names import normalize_name

_FORMS = "must be host:port, [IPv6 address]:port or unix:/path, with a port from 0 to 65535"
_MAX_UNIX_PATH = 107
"""Bytes: the kernel's sun_path less its closing NUL."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port. An empty host is every interface, port 0 any free port; IPv6 hosts stand without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        """Give the address as it is configured."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix socket."""

    path: Path

    def __str__(self) -> str:
        """Give the address as it is configured."""
        return f"unix:{self.path}"


ListenAddress = TcpAddress | UnixAddress


def parse_address(value: object) -> ListenAddress:
    """Parse an address as it is configured.

    :raises ValueError: with what is accepted.
    """
    if isinstance(value, TcpAddress | UnixAddress):
        return value
    if not isinstance(value, str):
        raise ValueError(_FORMS)
    plain_text(value)
    if value.startswith("unix:"):
        return _parse_unix(value.removeprefix("unix:"))
    host, colon, port = value.rpartition(":")
    # The length comes first: int() refuses thousands of digits in words of its own.
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(_FORMS)
    try:
        return TcpAddress(_parse_host(host), int(port))
    except (ValueError, InvalidName) as error:
        raise ValueError(_FORMS) from error


def _parse_unix(path: str) -> UnixAddress:
    if not 0 < len(path.encode()) <= _MAX_UNIX_PATH:
        raise ValueError(f"a Unix socket's path must be 1 to {_MAX_UNIX_PATH} bytes long")
    return UnixAddress(Path(path))


def _parse_host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1]))
    if not host.strip("0123456789."):
        return str(ipaddress.IPv4Address(host)) if host else host
    return normalize_name(host)
