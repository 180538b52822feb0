"""Addresses: where the server listens, which DNS servers it asks, and where the public finds it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ssl_cert_server.config.values import plain_text
from ssl_cert_server.errors import InvalidName
from ssl_cert_server.pki.names import normalize_name

_FORMS = "must be host:port, [IPv6 address]:port or unix:/path, with a port from 0 to 65535"
_TCP_FORMS = "must be host:port or [IPv6 address]:port, with a port from 0 to 65535"
_NAMESERVER_FORMS = "must be an IP address, alone or with a port: 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353"
_REDIS_FORMS = "must be host:port, or a URL: redis://host:port/0, rediss://host:port or unix:///path"
_NETWORK_FORMS = "must be an IP address or a network, like 203.0.113.1 or 203.0.113.0/24"
_DNS_PORT = 53
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
Nameserver = tuple[str, int]
"""An IP address, IPv6 without brackets, and a port."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(value: object) -> ListenAddress:
    """Parse an address as it is configured.

    :raises ValueError: with what is accepted.
    """
    if isinstance(value, str) and value.startswith("unix:"):
        return _parse_unix(plain_text(value).removeprefix("unix:"))
    return value if isinstance(value, UnixAddress) else _parse_tcp(value, _FORMS)


def parse_tcp_address(value: object) -> TcpAddress:
    """Parse an address that can't be a Unix socket.

    :raises ValueError: with what is accepted.
    """
    return _parse_tcp(value, _TCP_FORMS)


def parse_nameserver(value: object) -> Nameserver:
    """Parse the address of a DNS server; it is no host name, which would have to be looked up first.

    :raises ValueError: with what is accepted.
    """
    if not isinstance(value, str):
        raise ValueError(_NAMESERVER_FORMS)
    for text in (value, f"{value}:{_DNS_PORT}", f"[{value}]:{_DNS_PORT}"):
        try:
            address = _parse_tcp(text, _NAMESERVER_FORMS)
            ipaddress.ip_address(address.host)
        except ValueError:
            continue
        if address.port:
            return address.host, address.port
    raise ValueError(_NAMESERVER_FORMS)


def parse_network(value: object) -> Network:
    """Parse an IP address or network.

    :raises ValueError: with what is accepted.
    """
    if not isinstance(value, str):
        raise ValueError(_NETWORK_FORMS)
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(_NETWORK_FORMS) from error


def redis_addresses(value: str) -> str:
    """Check the address of a Redis server, or those of a cluster's nodes with commas between, and give it as it is.

    :raises ValueError: with what is accepted.
    """
    for address in value.split(","):
        redis_address(address.strip())
    return value


def redis_address(value: str) -> str:
    """Check the address of one Redis server or Sentinel, and give it as it is.

    :raises ValueError: with what is accepted.
    """
    if "://" not in value:
        _parse_tcp(value, _REDIS_FORMS)
        return value
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port
    except ValueError as error:
        raise ValueError(_REDIS_FORMS) from error
    if "@" in url.netloc or "password=" in url.query:
        raise ValueError("must not hold a user name or password: see username, password_file and password_env")
    if url.scheme not in ("redis", "rediss", "unix") or not (url.path if url.scheme == "unix" else host):
        raise ValueError(_REDIS_FORMS)
    return value


def _parse_tcp(value: object, forms: str) -> TcpAddress:
    if isinstance(value, TcpAddress):
        return value
    if not isinstance(value, str):
        raise ValueError(forms)
    host, colon, port = plain_text(value).rpartition(":")
    # The length comes first: int() refuses thousands of digits in words of its own.
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(forms)
    try:
        return TcpAddress(_parse_host(host), int(port))
    except (ValueError, InvalidName) as error:
        raise ValueError(forms) from error


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
