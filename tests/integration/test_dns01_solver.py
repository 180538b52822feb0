"""dns-01 against real name servers: found, waited for, and left clean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import dns.message
import pytest

from ssl_cert_server.challenges.dns01.solver import Dns01
from ssl_cert_server.challenges.dns01.zones import ZoneProvider
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.dns.exchange import Server, exchange
from ssl_cert_server.dns.resolver import CaaRecord, Resolver
from ssl_cert_server.errors import ChallengeFailed, LookupFailed
from ssl_cert_server.storage.memory import MemoryStorage
from tests.support.dns_server import DnsServer
from tests.support.ports import free_port

# ns1 has an IPv6 address as well, at which nobody listens.
ZONE = """\
@ 60 IN NS ns1
@ 60 IN NS ns2.example.test.
ns1 60 IN A 127.0.0.1
ns1 60 IN AAAA ::1
ns2 60 IN A 127.0.0.2
www 60 IN CNAME host
host 60 IN A 192.0.2.1
host 60 IN AAAA 2001:db8::1
@ 60 IN CAA 0 issue "ca.test"
_acme-challenge.shop 60 IN CNAME shop.acme.test.
_acme-challenge.loop 60 IN CNAME _acme-challenge.loop
"""
DELEGATED = "@ 60 IN NS ns1\nns1 60 IN A 127.0.0.1\n"
BIG = "".join(f'big 60 IN TXT "{number:0200}"\n' for number in range(10))
RECORD = "_acme-challenge.example.test"
SECOND = "127.0.0.2"


class Updates:
    """A provider: signed updates to the primary."""

    def __init__(self, server: DnsServer, zone: str) -> None:
        self._server = server
        self._zone = zone

    async def add(self, record: str, value: str) -> None:
        await asyncio.to_thread(self._server.add, self._zone, record, value)

    async def remove(self, record: str, value: str) -> None:
        await asyncio.to_thread(self._server.remove, self._zone, record, value)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def primary(tmp_path: Path, port: int) -> Iterator[DnsServer]:
    with DnsServer(tmp_path / "1", {"example.test": ZONE + BIG, "acme.test": DELEGATED}, port=port) as server:
        yield server


@pytest.fixture
def secondary(tmp_path: Path, port: int, primary: DnsServer) -> Iterator[DnsServer]:
    with DnsServer(tmp_path / "2", {"example.test": ""}, port=port, address=SECOND, primary=primary) as server:
        yield server


@pytest.fixture
def resolver(port: int) -> Resolver:
    """Asks the primary alone, as if it were the machine's resolver."""
    return Resolver(SystemClock(), nameservers=[("127.0.0.1", port)], authoritative_port=port, deadline=60)


def solver(primary: DnsServer, resolver: Resolver, *, timeout: float = 60) -> Dns01:
    clock = SystemClock()
    zones = [ZoneProvider(zone, Updates(primary, zone)) for zone in ("example.test", "acme.test")]
    return Dns01(MemoryStorage(clock), clock, resolver, zones, propagation_timeout=timeout)


async def test_zones_name_servers_and_records_are_found(primary: DnsServer, resolver: Resolver) -> None:
    assert await resolver.zone("_acme-challenge.a.b.example.test") == "example.test"
    assert await resolver.zone("_acme-challenge.shop.example.test") == "example.test"
    assert await resolver.authoritative("Example.Test.") == (
        ("ns1.example.test", ("127.0.0.1", "::1")),
        ("ns2.example.test", (SECOND,)),
    )
    assert await resolver.addresses("www.example.test") == ("192.0.2.1", "2001:db8::1")
    assert await resolver.addresses("nobody.example.test") == ()
    assert await resolver.caa("example.test") == [CaaRecord(0, "issue", "ca.test")]
    assert await resolver.caa("www.example.test") == []
    assert await resolver.cname("_acme-challenge.shop.example.test") == "shop.acme.test"
    with pytest.raises(LookupFailed, match=r"elsewhere\.net CAA: 127\.0\.0\.1 port \d+: REFUSED"):
        await resolver.caa("elsewhere.net")


async def test_an_answer_too_long_for_udp_comes_over_tcp(primary: DnsServer, resolver: Resolver, port: int) -> None:
    assert len(await resolver.txt_at("127.0.0.1", port, "big.example.test")) == 10


async def test_a_port_where_nobody_listens_is_told_at_once(resolver: Resolver) -> None:
    with pytest.raises(LookupFailed, match="Connection refused"):
        await resolver.txt_at("127.0.0.1", free_port(), "example.test")


async def test_the_ca_is_told_only_when_the_secondary_shows_it_too(
    primary: DnsServer, secondary: DnsServer, port: int
) -> None:
    asked_again = asyncio.Event()
    asked = 0

    async def counting(question: dns.message.Message, server: Server) -> dns.message.Message:
        nonlocal asked
        asked += server[0] == SECOND
        if asked > 1:
            asked_again.set()
        return await exchange(question, server)

    here = ("127.0.0.1", port)
    resolver = Resolver(SystemClock(), nameservers=[here], authoritative_port=port, deadline=60, exchange=counting)
    presenting = asyncio.create_task(solver(primary, resolver).present("example.test", "token", "key.authorization"))
    async with asyncio.timeout(60):
        await asked_again.wait()
    assert not presenting.done()
    assert await asyncio.to_thread(secondary.txt, RECORD) == []
    await asyncio.to_thread(secondary.notify, "example.test")
    async with asyncio.timeout(60):
        await presenting
    assert await asyncio.to_thread(secondary.txt, RECORD) == await asyncio.to_thread(primary.txt, RECORD) != []


async def test_a_secondary_that_stays_behind_is_named(
    primary: DnsServer, secondary: DnsServer, resolver: Resolver
) -> None:
    dns01 = solver(primary, resolver, timeout=2)
    with pytest.raises(ChallengeFailed, match=r"ns2\.example\.test \(127\.0\.0\.2 port \d+\): shows no TXT record$"):
        await dns01.present("example.test", "token", "key.authorization")
    await dns01.cleanup("example.test", "token")
    assert await asyncio.to_thread(primary.txt, RECORD) == []


async def test_delegated_apex_and_wildcard_are_set_in_the_other_zone_and_taken_back(
    primary: DnsServer, resolver: Resolver
) -> None:
    dns01 = solver(primary, resolver)
    tokens = ["apex", "wildcard"]
    await asyncio.gather(*(dns01.present("shop.example.test", token, f"{token}.thumbprint") for token in tokens))
    assert len(await asyncio.to_thread(primary.txt, "shop.acme.test")) == 2
    await dns01.cleanup("shop.example.test", "apex")
    assert len(await asyncio.to_thread(primary.txt, "shop.acme.test")) == 1
    await dns01.cleanup("shop.example.test", "wildcard")
    assert await asyncio.to_thread(primary.txt, "shop.acme.test") == []


async def test_a_record_delegated_in_a_circle_is_told(primary: DnsServer, resolver: Resolver) -> None:
    with pytest.raises(ChallengeFailed, match=r"_acme-challenge\.loop\.example\.test is delegated in a circle"):
        await solver(primary, resolver).present("loop.example.test", "token", "key.authorization")
