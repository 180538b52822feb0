"""An authoritative DNS server (knotd) on loopback, with TSIG updates, zone transfers and NOTIFY."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.message
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update

from tests.support.process import Process

KNOTD = "/usr/sbin/knotd"
TSIG_NAME = "test-key"
TSIG_SECRET = "bm90LWEtc2VjcmV0LWJ1dC1sb25nLWVub3VnaC1mb3I="
KEYRING = dns.tsigkeyring.from_text({TSIG_NAME: (str(dns.tsig.HMAC_SHA256), TSIG_SECRET)})
_SOA = "@ 60 IN SOA ns1 root 1 {refresh} 1 86400 60\n"
_HOUR = 3600


class DnsServer:
    """One server for some zones: of its own, or transferred from ``primary``.

    ``zones`` has each zone's lines in master file format, without the SOA. A secondary asks for changes once an hour,
    or when it is notified, and again where nobody answers. Everything may be asked from anywhere on this machine;
    updates need the key.
    """

    def __init__(
        self,
        folder: Path,
        zones: Mapping[str, str],
        *,
        port: int,
        address: str = "127.0.0.1",
        primary: Self | None = None,
    ) -> None:
        self.address = address
        self.port = port
        self._zones = list(zones)
        folder.mkdir(parents=True)
        for zone, lines in zones.items():
            if primary is None:
                (folder / f"{zone}.zone").write_text(_SOA.format(refresh=_HOUR) + lines)
        (folder / "knot.conf").write_text(self._config(folder, zones, primary))
        self._process = Process([KNOTD, "-c", folder / "knot.conf"], folder / "log")

    def __enter__(self) -> Self:
        self._process.start()
        try:
            self._process.wait_for_port(self.port, host=self.address)
            self._wait_for_zones()
        except BaseException:
            self._process.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.stop()

    def add(self, zone: str, record: str, value: str) -> None:
        """Add a TXT value by a signed update (RFC 2136)."""
        update = _update(zone)
        update.add(f"{record}.", 60, "TXT", value)
        self._send(update)

    def remove(self, zone: str, record: str, value: str) -> None:
        """Remove a TXT value by a signed update."""
        update = _update(zone)
        update.delete(f"{record}.", "TXT", value)
        self._send(update)

    def notify(self, zone: str) -> None:
        """Tell a secondary to look for changes."""
        message = dns.message.make_query(zone, dns.rdatatype.SOA)
        message.set_opcode(dns.opcode.NOTIFY)
        self._send(message)

    def txt(self, record: str) -> list[str]:
        """Give the values that it shows, sorted."""
        answer = self._ask(record, dns.rdatatype.TXT)
        return sorted(item.to_text().strip('"') for rrset in answer.answer for item in rrset)

    def _wait_for_zones(self) -> None:
        end = time.monotonic() + 60
        while any(self._ask(zone, dns.rdatatype.SOA).rcode() != dns.rcode.NOERROR for zone in self._zones):
            if time.monotonic() > end or not self._process.running:
                raise RuntimeError(f"knotd serves not all of {self._zones}. It printed:\n{self._process.text[-4000:]}")
            time.sleep(0.02)

    def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> dns.message.Message:
        return dns.query.tcp(dns.message.make_query(name, kind), self.address, port=self.port, timeout=60)

    def _send(self, message: dns.message.Message) -> None:
        answer = dns.query.tcp(message, self.address, port=self.port, timeout=60)
        assert answer.rcode() == dns.rcode.NOERROR, dns.rcode.to_text(answer.rcode())

    def _config(self, folder: Path, zones: Iterable[str], primary: DnsServer | None) -> str:
        upstream = f"remote:\n  - id: primary\n    address: {primary.address}@{primary.port}\n" if primary else ""
        master = "    master: primary\n" if primary else ""
        listed = "".join(f"  - domain: {zone}\n    acl: [update, transfer]\n{master}" for zone in zones)
        return f"""\
server:
  rundir: {folder}
  listen: {self.address}@{self.port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
control:
  listen: {folder}/ctl
log:
  - target: stdout
    any: info
database:
  storage: {folder}
key:
  - id: {TSIG_NAME}
    algorithm: hmac-sha256
    secret: {TSIG_SECRET}
{upstream}acl:
  - id: update
    key: {TSIG_NAME}
    action: update
  - id: transfer
    address: 127.0.0.0/8
    action: [transfer, notify]
template:
  - id: default
    storage: {folder}
    file: "%s.zone"
zone:
{listed}"""


def _update(zone: str) -> dns.update.UpdateMessage:
    return dns.update.UpdateMessage(f"{zone}.", keyring=KEYRING)
