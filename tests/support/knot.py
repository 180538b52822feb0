"""Knot DNS (knotd), an authoritative server that takes signed updates (RFC 2136 with TSIG)."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.process import Process

TSIG_NAME = "update-key"
TSIG_ALGORITHM = "hmac-sha256"


class Knot:
    """A name server on a loopback port, which stays the same for the object's life; a context manager.

    ``zones`` gives further lines for each zone's file, like ``_acme-challenge.www CNAME www.delegated.test.``; every
    zone has a name server ``ns1`` with the address 127.0.0.1. The one key may change every zone of ``zones`` but not
    those of ``frozen``. What was changed is lost at a stop.
    """

    def __init__(
        self, folder: Path, *, zones: Mapping[str, Sequence[str]] | None = None, frozen: Sequence[str] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.tsig_secret = base64.b64encode(os.urandom(32)).decode()
        self._zones = dict(zones) if zones is not None else {"example.com": ()}
        # A socket's path may have 107 bytes, and pytest's folders may be deep.
        self._run = Path(tempfile.mkdtemp(prefix="knot-"))
        config = folder / "knot.conf"
        config.write_text(self._config(folder, frozen))
        for zone, lines in {**self._zones, **dict.fromkeys(frozen, ())}.items():
            (folder / f"{zone}.zone").write_text(_zone_file(zone, lines))
        self._process = Process([_program("knotd"), "-c", config], folder / "knot.log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def server(self) -> str:
        """Where it listens, as address:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """What a provider of kind ``rfc2136`` needs."""
        return {"server": self.server, "tsig_name": TSIG_NAME, "tsig_secret": self.tsig_secret}

    @property
    def log(self) -> str:
        return self._process.text

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        self._process.start()
        self._process.wait_for_port(self.port)

    def stop(self) -> None:
        """An outage: nobody listens."""
        self._process.stop()

    def pause(self) -> None:
        """An outage of the other kind: nothing answers."""
        self._process.pause()

    def resume(self) -> None:
        """After a pause."""
        self._process.resume()

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        shutil.rmtree(self._run, ignore_errors=True)

    def _config(self, folder: Path, frozen: Sequence[str]) -> str:
        zones = [f"  - domain: {zone}\n    acl: [update]" for zone in self._zones]
        zones += [f"  - domain: {zone}" for zone in frozen]
        return f"""\
server:
    rundir: "{self._run}"
    listen: 127.0.0.1@{self.port}
    tcp-workers: 1
    udp-workers: 1
    background-workers: 1
control:
    listen: "{self._run}/control"
log:
  - target: stdout
    any: info
database:
    storage: "{folder}/db"
key:
  - id: {TSIG_NAME}
    algorithm: {TSIG_ALGORITHM}
    secret: {self.tsig_secret}
acl:
  - id: update
    key: {TSIG_NAME}
    action: update
template:
  - id: default
    storage: "{folder}"
    file: "%s.zone"
    zonefile-sync: -1
    journal-content: none
zone:
{chr(10).join(zones)}
"""


def _zone_file(zone: str, lines: Sequence[str]) -> str:
    own = [
        f"$ORIGIN {zone}.",
        "$TTL 1",
        f"@ SOA ns1.{zone}. hostmaster.{zone}. 1 3600 600 86400 1",
        "@ NS ns1",
        "ns1 A 127.0.0.1",
    ]
    return "\n".join([*own, *lines, ""])


def _program(name: str) -> Path:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise RuntimeError(f"{name} is not in PATH: run `tools/setup test`, or `make test`")
    return Path(found)
