"""What the operator says about Redis: where it is, how to log in, how much to wait for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

PORT = 6379
SENTINEL_PORT = 26379

_SCHEMES = {"redis", "rediss", "unix"}
_HASH_TAG = re.compile(r"[^{]*\{[^}]+\}")


@dataclass(frozen=True, slots=True)
class Address:
    """One address, taken apart. ``path`` is that of a Unix socket, and host and port mean nothing then."""

    host: str = "localhost"
    port: int = PORT
    path: str = ""
    tls: bool = False
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Without what is secret."""
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How to reach one Redis (or Valkey), its Sentinels, or a Cluster.

    ``addr`` is ``host:port``, or a URL: ``redis://host:port/db``, ``rediss://`` for TLS, ``unix:///path?db=1``; several
    nodes of a Cluster stand in it separated by commas. A user and password in a URL count where ``username`` and
    ``password`` are empty. With ``sentinels`` (host:port, or URLs) the primary of ``master_name`` is asked of them,
    and ``addr`` says no more than the scheme and the database. ``timeout`` is what one call may take, in seconds.
    ``wait_replicas`` is how many replicas must have a write before it counts.
    """

    addr: str = field(default=f"127.0.0.1:{PORT}", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)
    sentinels: tuple[str, ...] = field(default=(), repr=False)
    master_name: str = ""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    cluster: bool = False
    prefix: str = ""
    ca_bundle: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    pool_size: int = 16
    timeout: float = 5.0
    wait_replicas: int = 0

    def addresses(self) -> list[Address]:
        """Take ``addr`` apart; several only for a Cluster.

        :raises ValueError: it is no address.
        """
        return [parse_address(part.strip()) for part in self.addr.split(",")]

    def sentinel_addresses(self) -> list[Address]:
        """:raises ValueError: one is no address."""
        return [parse_address(part, SENTINEL_PORT) for part in self.sentinels]

    def problems(self) -> list[tuple[str, str]]:
        """Say what can't be so: pairs of a field's name and a sentence, which holds nothing secret."""
        found = [*self._problems_of_addresses(), *self._problems_of_cluster()]
        if bool(self.sentinels) != bool(self.master_name):
            found.append(("master_name", "sentinels and master_name are of use only together"))
        if self.client_key is not None and self.client_cert is None:
            found.append(("client_key", "there is no client_cert that it belongs to"))
        if self.pool_size < 1:
            found.append(("pool_size", "must be at least 1"))
        if not 0 < self.timeout <= 60:
            found.append(("timeout", "must be more than 0 and at most 60 seconds"))
        if self.wait_replicas < 0:
            found.append(("wait_replicas", "must not be negative"))
        if not self.prefix.isascii() or not self.prefix.isprintable():
            found.append(("prefix", "must consist of printable ASCII characters"))
        return found

    def _problems_of_addresses(self) -> list[tuple[str, str]]:
        found = []
        for name, parse in (("addr", self.addresses), ("sentinels", self.sentinel_addresses)):
            try:
                if any(address.path for address in parse()) and (self.cluster or self.sentinels):
                    found.append((name, "a Unix socket leads to one Redis, not to Sentinels or a Cluster"))
            except ValueError as error:
                found.append((name, str(error)))
        if "," in self.addr and not self.cluster:
            found.append(("addr", "several addresses are for a Cluster only (cluster: true)"))
        return found

    def _problems_of_cluster(self) -> list[tuple[str, str]]:
        if not self.cluster:
            return []
        found = []
        if self.sentinels:
            found.append(("cluster", "a Cluster has no Sentinels"))
        if not _HASH_TAG.match(self.prefix):
            found.append(("prefix", "a Cluster needs one with a hash tag, like {ssl-cert-server}:, see docs/redis.md"))
        return found


def parse_address(text: str, port: int = PORT) -> Address:
    """Take an address apart.

    :raises ValueError: it is none; the message does not repeat it, as it may hold a password.
    """
    url = urlsplit(text if "://" in text else f"redis://{text}")
    if url.scheme not in _SCHEMES:
        raise ValueError("must be host:port, or a URL that starts with redis://, rediss:// or unix://")
    db = _database(url)
    username, password = unquote(url.username or ""), unquote(url.password or "")
    if url.scheme == "unix":
        path = unquote(url.path)
        if url.hostname or not path.startswith("/"):
            raise ValueError("the path of a Unix socket must be absolute: unix:///run/redis.sock")
        return Address("", 0, path, db=db, username=username, password=password)
    try:
        found = port if url.port is None else url.port
    except ValueError:
        found = 0
    if not found:
        raise ValueError("the port must be a number from 1 to 65535")
    return Address(
        url.hostname or "localhost", found, tls=url.scheme == "rediss", db=db, username=username, password=password
    )


def _database(url: SplitResult) -> int:
    options = parse_qs(url.query)
    if not options.keys() <= {"db"}:
        raise ValueError("of options in the URL only db is known; all others stand beside addr")
    written = options.get("db", [""])[-1] or ("" if url.scheme == "unix" else url.path.strip("/")) or "0"
    if not (written.isascii() and written.isdecimal()):
        raise ValueError("the database must be a number")
    return int(written)
