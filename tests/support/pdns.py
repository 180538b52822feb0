"""PowerDNS (pdns_server) with SQLite and its HTTP API, as dns-lexicon's powerdns provider uses it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.process import Process

_SCHEMAS = (
    Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql"),
    Path("/usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql"),
)


class PowerDns:
    """A name server on a loopback port with its API on another, which stay the same; a context manager.

    ``zones`` are made at the first start, each with a name server ``ns1`` at 127.0.0.1, and outlive a stop.
    """

    def __init__(self, folder: Path, *, zones: Sequence[str] = ("example.com",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self._api_port = free_port(), free_port()
        self.api_key = secrets.token_urlsafe(24)
        self._wanted = list(zones)
        # A socket's path may have 107 bytes, and pytest's folders may be deep.
        self._run = Path(tempfile.mkdtemp(prefix="pdns-"))
        database = folder / "pdns.sqlite3"
        schema = next((path for path in _SCHEMAS if path.exists()), None)
        if schema is None:
            raise RuntimeError("pdns-backend-sqlite3 is not installed: run `tools/setup test`, or `make test`")
        with sqlite3.connect(database) as connection:
            connection.executescript(schema.read_text())
        connection.close()
        (folder / "pdns.conf").write_text(self._config(database))
        argv: list[str | Path] = [_program("pdns_server"), f"--config-dir={folder}"]
        self._process = Process(argv, folder / "pdns.log")

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
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._api_port}"

    @property
    def options(self) -> dict[str, str]:
        """What a provider of kind ``lexicon:powerdns`` needs."""
        return {"pdns_server": self.api_url, "auth_token": self.api_key}

    @property
    def log(self) -> str:
        return self._process.text

    def start(self) -> None:
        """Start it, unless it runs, wait until it answers, and make the zones that aren't there yet."""
        self._process.start()
        for port in (self.port, self._api_port):
            self._process.wait_for_port(port)
        while self._wanted:
            self._make_zone(self._wanted.pop())

    def stop(self) -> None:
        """An outage: nobody listens."""
        self._process.stop()

    def pause(self) -> None:
        """An outage of the other kind: connections open, and nothing answers."""
        self._process.pause()

    def resume(self) -> None:
        """After a pause."""
        self._process.resume()

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        shutil.rmtree(self._run, ignore_errors=True)

    def set_record(self, zone: str, name: str, kind: str, *contents: str) -> None:
        """Have a name (absolute, without the trailing dot) hold these records alone of their kind, or none."""
        records = [{"content": content, "disabled": False} for content in contents]
        rrset = {"name": f"{name}.", "type": kind, "ttl": 1, "changetype": "REPLACE", "records": records}
        self._post(f"/api/v1/servers/localhost/zones/{zone}.", {"rrsets": [rrset]}, method="PATCH")

    def _make_zone(self, zone: str) -> None:
        settings = {"name": f"{zone}.", "kind": "Native", "nameservers": [f"ns1.{zone}."]}
        self._post("/api/v1/servers/localhost/zones", settings)
        self.set_record(zone, f"ns1.{zone}", "A", "127.0.0.1")

    def _post(self, path: str, body: Mapping[str, object], *, method: str = "POST") -> None:
        headers = {"X-API-Key": self.api_key, "Content-Type": "application/json"}
        request = urllib.request.Request(self.api_url + path, json.dumps(body).encode(), headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as response:
            response.read()

    def _config(self, database: Path) -> str:
        return f"""\
launch=gsqlite3
gsqlite3-database={database}
local-address=127.0.0.1
local-port={self.port}
api=yes
api-key={self.api_key}
webserver=yes
webserver-address=127.0.0.1
webserver-port={self._api_port}
webserver-allow-from=127.0.0.1
# It would ask over DNS whether it is still secure.
security-poll-suffix=
version-string=anonymous
socket-dir={self._run}
write-pid=no
guardian=no
daemon=no
# A change shows at once.
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
zone-cache-refresh-interval=0
default-ttl=1
receiver-threads=1
distributor-threads=1
"""


def _program(name: str) -> Path:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise RuntimeError(f"{name} is not in PATH: run `tools/setup test`, or `make test`")
    return Path(found)
