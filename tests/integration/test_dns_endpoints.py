"""Certificates whose names are proven through HTTP endpoints that change a real zone, which the CA resolves through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import pytest

from tests.integration.conftest import StartPebble
from tests.support.dns_endpoints import AcmeDns, HttpreqEndpoint, Write
from tests.support.pdns import PowerDns
from tests.support.pebble import Pebble
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf

WILDCARD = ["*.example.com", "example.com"]
RECORD = "_acme-challenge.example.com"


@pytest.fixture
def power_dns(tmp_path: Path) -> Iterator[PowerDns]:
    with PowerDns(tmp_path / "pdns", zones=("example.com", "acme-dns.test")) as running:
        yield running


@pytest.fixture
def resolving(start_pebble: StartPebble, power_dns: PowerDns, http_port: int) -> Pebble:
    """A CA that resolves through ``power_dns``."""
    return start_pebble(http_port=http_port, dns_server=f"127.0.0.1:{power_dns.port}")


def writing(power_dns: PowerDns, zone: str) -> Write:
    def write(record: str, values: list[str]) -> None:
        power_dns.set_record(zone, record, "TXT", *(f'"{value}"' for value in values))

    return write


def config_for(pebble: Pebble, zone: str, provider: str, options: dict[str, str]) -> dict[str, Any]:
    ours = {"zone": zone, "provider": provider, "options": options, "nameservers": [pebble.dns_server]}
    return acme_config(
        pebble.directory_url,
        pebble.ca_bundle,
        dns={"resolvers": [pebble.dns_server]},
        challenges={"http01": False, "dns01": {"zones": [ours]}},
        domains=["example.com"],
        wildcards=["*.example.com"],
    )


def values_at(port: int, record: str) -> int:
    """How many the name server shows."""
    question = dns.message.make_query(record, dns.rdatatype.TXT)
    answer = dns.query.tcp(question, "127.0.0.1", port=port, timeout=60)
    return sum(len(rrset) for rrset in answer.answer if rrset.rdtype == dns.rdatatype.TXT)


def test_httpreq(tmp_path: Path, power_dns: PowerDns, resolving: Pebble) -> None:
    with HttpreqEndpoint(writing(power_dns, "example.com")) as endpoint:
        options = {"endpoint": endpoint.url, "username": endpoint.username, "password": endpoint.password}
        config = config_for(resolving, "example.com", "httpreq", options)
        with CertServer(tmp_path / "server", config) as server:
            reply = server.cert("a.example.com")
            verified_leaf(reply, "a.example.com", resolving.root_certificate(), names=WILDCARD)
            assert endpoint.password not in server.log
    assert sorted(endpoint.calls) == ["/cleanup", "/cleanup", "/present", "/present"]
    assert values_at(power_dns.port, RECORD) == 0
    assert resolving.order_count() == 1


def test_acme_dns_over_a_cname(tmp_path: Path, power_dns: PowerDns, resolving: Pebble) -> None:
    with AcmeDns("acme-dns.test", writing(power_dns, "acme-dns.test")) as acme_dns:
        account = acme_dns.register()
        power_dns.set_record("example.com", RECORD, "CNAME", f"{account['fulldomain']}.")
        config = config_for(resolving, "acme-dns.test", "acme-dns", {"server": acme_dns.url, **account})
        with CertServer(tmp_path / "server", config) as server:
            reply = server.cert("a.example.com")
            verified_leaf(reply, "a.example.com", resolving.root_certificate(), names=WILDCARD)
            assert f"record={account['fulldomain']}" in server.log
            assert account["password"] not in server.log
    assert acme_dns.calls == ["/update", "/update"]
    assert values_at(power_dns.port, account["fulldomain"]) == 2, "acme-dns removes none"
    assert resolving.order_count() == 1
