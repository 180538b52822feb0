"""The CA is told only when no authoritative server is behind."""

from __future__ import annotations

import asyncio

import pytest

from ssl_cert_server.challenges.dns01.propagation import Propagation
from ssl_cert_server.errors import ChallengeFailed
from tests.support.clock import AutoClock, ManualClock
from tests.support.fake_dns import FakeDns

RECORD = "_acme-challenge.a.example.com"
VALUE = "v" * 43
FOUND: tuple[tuple[str, int], ...] = ()


def shown(clock: ManualClock) -> FakeDns:
    dns = FakeDns(clock)
    dns.values[RECORD] = ["another", VALUE]
    return dns


def propagation(dns: FakeDns, clock: ManualClock) -> Propagation:
    return Propagation(dns, clock, RECORD, VALUE)


async def test_it_ends_when_every_server_shows_the_value() -> None:
    clock = ManualClock()
    dns = shown(clock)
    dns.zones["example.com"] = {"ns1.example.com": ("192.0.2.1",), "ns2.example.com": ("192.0.2.2", "2001:db8::2")}
    dns.behind = {"192.0.2.2"}
    waiting = asyncio.create_task(propagation(dns, clock).wait(FOUND, 120))
    await clock.advance(20)
    assert not waiting.done()
    dns.behind = set()
    await clock.advance(13)
    assert await waiting == 3
    assert dns.asked.count(("192.0.2.1", 53)) == 1, "a server that showed it is not asked again"


async def test_pauses_grow_and_have_jitter_and_a_bound() -> None:
    clock = AutoClock()
    dns = shown(clock)
    dns.behind = {"192.0.2.1"}
    with pytest.raises(ChallengeFailed):
        await propagation(dns, clock).wait(FOUND, 120)
    assert clock.sleeps[:3] == [1.0, 1.5, 2.25]
    assert max(clock.sleeps) == 10
    assert 110 < clock.monotonic() <= 120
    early = AutoClock()
    early.chance = 0.0
    with pytest.raises(ChallengeFailed):
        await propagation(dns, early).wait(FOUND, 120)
    assert early.sleeps[:2] == [0.75, 1.125]


async def test_the_failure_tells_what_each_server_that_is_missing_said() -> None:
    clock = AutoClock()
    dns = shown(clock)
    dns.zones["example.com"] = {f"ns{number}.example.com": (f"192.0.2.{number}",) for number in range(1, 4)}
    dns.behind = {"192.0.2.1"}
    dns.dead = {"192.0.2.3": "DNS gave no usable answer: REFUSED" + "!" * 10_000}
    with pytest.raises(ChallengeFailed) as failed:
        await propagation(dns, clock).wait(FOUND, 30)
    words = str(failed.value)
    assert words.startswith(f"{RECORD} was set, but after 30 s not every authoritative name server shows it")
    assert "ns1.example.com (192.0.2.1 port 53): shows no TXT record" in words
    assert "ns3.example.com (192.0.2.3 port 53): DNS gave no usable answer: REFUSED" in words
    assert "ns2" not in words
    assert len(words) < 600


async def test_other_values_are_told_by_their_number() -> None:
    clock = AutoClock()
    dns = shown(clock)
    dns.values[RECORD] = ["old"]
    with pytest.raises(ChallengeFailed, match="shows 1 TXT values, not this one"):
        await propagation(dns, clock).wait(FOUND, 1)


async def test_fifty_servers_are_asked_ten_at_a_time_and_told_briefly() -> None:
    clock = AutoClock()
    dns = shown(clock)
    dns.zones["example.com"] = {f"ns{number}.example.com": (f"192.0.2.{number}",) for number in range(50)}
    dns.behind = {f"192.0.2.{number}" for number in range(50)}
    with pytest.raises(ChallengeFailed, match=r"; and 42 more$") as failed:
        await propagation(dns, clock).wait(FOUND, 5)
    assert len(str(failed.value)) < 1200
    assert dns.most_side_by_side == 10


async def test_ipv6_that_does_not_answer_counts_not_where_ipv4_shows_the_value() -> None:
    clock = AutoClock()
    dns = shown(clock)
    dns.zones["example.com"] = {"ns1.example.com": ("192.0.2.1", "2001:db8::1"), "ns2.example.com": ("192.0.2.2",)}
    dns.dead = {"2001:db8::1": "no route"}
    assert await propagation(dns, clock).wait(FOUND, 30) == 2
    assert not clock.sleeps


@pytest.mark.parametrize(
    ("addresses", "behind", "dead"),
    [
        (("192.0.2.1", "2001:db8::1"), {"2001:db8::1"}, {}),
        (("192.0.2.1", "2001:db8::1"), {"192.0.2.1"}, {"2001:db8::1": "no route"}),
        (("192.0.2.1", "2001:db8::1"), set(), {"192.0.2.1": "no answer"}),
        (("192.0.2.1", "192.0.2.9"), set(), {"192.0.2.9": "no answer"}),
        (("2001:db8::1",), set(), {"2001:db8::1": "no route"}),
        (("2001:db8::1", "2001:db8::2"), set(), {"2001:db8::1": "no route"}),
    ],
    ids=["v6-behind", "v4-behind", "v4-dead", "a-second-v4-dead", "v6-only", "v6-twice"],
)
async def test_nothing_else_is_excused(addresses: tuple[str, ...], behind: set[str], dead: dict[str, str]) -> None:
    clock = AutoClock()
    dns = shown(clock)
    dns.zones["example.com"] = {"ns1.example.com": addresses, "ns2.example.com": ("192.0.2.2",)}
    dns.behind, dns.dead = behind, dead
    with pytest.raises(ChallengeFailed, match=r"ns1\.example\.com"):
        await propagation(dns, clock).wait(FOUND, 30)


async def test_ipv6_that_answered_before_it_fell_silent_is_judged_by_now() -> None:
    clock = ManualClock()
    dns = shown(clock)
    dns.zones["example.com"] = {"ns1.example.com": ("192.0.2.1", "2001:db8::1")}
    dns.dead = {"2001:db8::1": "no route", "192.0.2.1": "no answer"}
    waiting = asyncio.create_task(propagation(dns, clock).wait(FOUND, 30))
    await clock.advance(2)
    dns.dead, dns.behind = {}, {"2001:db8::1"}
    await clock.advance(10)
    assert not waiting.done(), "it answers, and is behind"
    dns.behind = set()
    await clock.advance(10)
    assert await waiting == 2


async def test_name_servers_without_address_are_nobodys() -> None:
    clock = AutoClock()
    dns = shown(clock)
    dns.zones["example.com"] = {"gone.example.net": (), "ns1.example.com": ("192.0.2.1",)}
    assert await propagation(dns, clock).wait(FOUND, 30) == 1


async def test_servers_that_cannot_be_found_yet_are_looked_for_again() -> None:
    clock = AutoClock()
    dns = shown(clock)
    dns.broken_lookups = 3
    assert await propagation(dns, clock).wait(FOUND, 30) == 1
    dns.broken_lookups = 1000
    with pytest.raises(ChallengeFailed, match=r"after 30 s its name servers are still not known: .*SERVFAIL"):
        await propagation(dns, clock).wait(FOUND, 30)


async def test_configured_servers_are_asked_in_place_of_those_found() -> None:
    clock = AutoClock()
    dns = shown(clock)
    dns.zones = {}
    dns.hosts = {"hidden.example.com": ("192.0.2.7", "192.0.2.8")}
    assert await propagation(dns, clock).wait((("hidden.example.com", 5300), ("2001:db8::5", 53)), 30) == 3
    assert sorted(dns.asked) == [("192.0.2.7", 5300), ("192.0.2.8", 5300), ("2001:db8::5", 53)]


async def test_a_configured_server_without_address_is_told() -> None:
    clock = AutoClock()
    with pytest.raises(ChallengeFailed, match=r"the name server typo\.example\.com has no address"):
        await propagation(shown(clock), clock).wait((("typo.example.com", 53),), 30)


async def test_a_wait_that_is_cancelled_ends() -> None:
    clock = ManualClock()
    dns = shown(clock)
    dns.behind = {"192.0.2.1"}
    waiting = asyncio.create_task(propagation(dns, clock).wait(FOUND, 120))
    await clock.advance(5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert dns.side_by_side == 0
