"""Which challenges can prove a name, by the configuration alone and by what DNS says of delegation."""

from __future__ import annotations

import pytest

from ssl_cert_server.challenges.choice import Challenges
from ssl_cert_server.challenges.dns01.solver import Dns01
from ssl_cert_server.challenges.dns01.zones import ZoneProvider
from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.errors import NotPresented, PreflightFailed
from tests.support.clock import ManualClock
from tests.support.fake_dns import FakeDns, ScriptedProvider
from tests.support.faulty_storage import FaultyStorage

SHOP = "shop.customer.example"
RECORD = f"_acme-challenge.{SHOP}"
BOTH = ("http-01", "dns-01")


@pytest.fixture
def dns(clock: ManualClock) -> FakeDns:
    """Delegates a customer's name into our zone."""
    dns = FakeDns(clock)
    dns.aliases = {RECORD: "shop.acme.mine.net"}
    return dns


@pytest.fixture
def dns01(storage: FaultyStorage, clock: ManualClock, dns: FakeDns) -> Dns01:
    return Dns01(storage, clock, dns, [ZoneProvider("acme.mine.net", ScriptedProvider(dns.values))])


@pytest.fixture
def alone(dns01: Dns01) -> Challenges:
    return Challenges(direct=(), dns01=dns01)


@pytest.fixture
def beside(storage: FaultyStorage, clock: ManualClock, dns01: Dns01) -> Challenges:
    return Challenges(direct=[Http01Responder(storage, clock)], dns01=dns01)


async def test_a_name_is_proven_where_it_is_delegated_to(alone: Challenges, beside: Challenges) -> None:
    assert await alone.possible(SHOP) == ("dns-01",)
    assert await alone.possible(f"*.{SHOP}") == ("dns-01",)
    assert await beside.possible(SHOP) == BOTH
    assert await beside.possible(f"*.{SHOP}") == ("dns-01",)


async def test_a_name_of_our_own_zone_needs_no_delegation_and_no_question(beside: Challenges, dns: FakeDns) -> None:
    dns.broken_lookups = 1
    assert await beside.possible("*.acme.mine.net") == ("dns-01",)
    assert await beside.possible("a.acme.mine.net") == beside.types("a.acme.mine.net") == BOTH
    assert dns.broken_lookups == 1


async def test_what_is_delegated_nowhere_is_left_to_the_others(beside: Challenges, dns: FakeDns) -> None:
    assert await beside.possible("other.example") == ("http-01",)
    dns.aliases["_acme-challenge.other.example"] = "somebody.else.example"
    assert await beside.possible("other.example") == ("http-01",)
    dns.broken_lookups = 1
    assert await beside.possible(SHOP) == ("http-01",)


@pytest.mark.parametrize(
    ("aliases", "said"),
    [
        ({}, r"no dns-01 provider is configured for _acme-challenge\.shop\..*, and no CNAME delegates it"),
        ({RECORD: "a.else.example"}, r"nor for a\.else\.example, where it is delegated to"),
        ({RECORD: "a.example", "a.example": RECORD}, r"is delegated in a circle"),
    ],
)
async def test_where_nothing_is_left_the_reason_is_told(
    alone: Challenges, beside: Challenges, dns: FakeDns, aliases: dict[str, str], said: str
) -> None:
    dns.aliases = aliases
    with pytest.raises(
        PreflightFailed, match=rf"^shop\.customer\.example: no challenge .*; see challenges, but .*{said}"
    ):
        await alone.possible(SHOP)
    with pytest.raises(PreflightFailed, match=rf"^\*\.shop\..* wildcards need challenges\.dns01, but .*{said}"):
        await beside.possible(f"*.{SHOP}")


async def test_that_dns_did_not_tell_is_the_reason_then(alone: Challenges, dns: FakeDns) -> None:
    dns.broken_lookups = 1
    with pytest.raises(PreflightFailed, match=r"but can't tell where .*shop\..* is delegated to: .*SERVFAIL"):
        await alone.possible(SHOP)


async def test_an_address_is_never_asked_for(alone: Challenges, beside: Challenges, dns: FakeDns) -> None:
    dns.broken_lookups = 1
    assert await beside.possible("192.0.2.1") == ("http-01",)
    with pytest.raises(PreflightFailed, match=r"^192\.0\.2\.1: no challenge .* see challenges$"):
        await alone.possible("192.0.2.1")
    assert dns.broken_lookups == 1


async def test_without_dns_01_nothing_is_asked() -> None:
    with pytest.raises(PreflightFailed, match=r"wildcards need challenges\.dns01$"):
        await Challenges(direct=(), dns01=None).possible(f"*.{SHOP}")


async def test_an_answer_that_cannot_be_put_in_place_tells_of_its_name_and_type(
    dns: FakeDns, alone: Challenges
) -> None:
    [solver] = alone.among({f"*.{SHOP}": ("dns-01",)}, {})(f"*.{SHOP}")
    dns.aliases = {RECORD: RECORD}
    with pytest.raises(NotPresented, match="in a circle") as failure:
        await solver.present(SHOP, "token", "token.thumbprint")
    assert (failure.value.name, failure.value.challenge) == (f"*.{SHOP}", "dns-01")
