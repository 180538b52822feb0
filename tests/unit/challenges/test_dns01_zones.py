"""Which provider holds a name, and where delegation leads."""

from __future__ import annotations

import pytest

from ssl_cert_server.challenges.dns01.zones import ZoneProvider, Zones, where
from ssl_cert_server.errors import ChallengeFailed
from tests.support.clock import ManualClock
from tests.support.fake_dns import FakeDns, ScriptedProvider


def zones(*names: str) -> Zones:
    return Zones([ZoneProvider(name, ScriptedProvider({})) for name in names])


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("_acme-challenge.a.example.com", "example.com"),
        ("_acme-challenge.sub.example.com", "sub.example.com"),
        ("_acme-challenge.a.sub.example.com", "sub.example.com"),
        ("sub.example.com", "sub.example.com"),
        ("example.com", "example.com"),
        ("_acme-challenge.notexample.com", None),
        ("com", None),
        ("_acme-challenge.example.com.evil.net", None),
    ],
)
def test_the_longest_zone_holds_a_name(name: str, zone: str | None) -> None:
    found = zones("example.com", "sub.example.com").holding(name)
    assert (found.zone if found else None) == zone


def test_an_empty_zone_holds_every_other_name() -> None:
    both = zones("example.com", "")
    assert [found.zone for name in ("a.example.com", "a.example.net") if (found := both.holding(name))] == [
        "example.com",
        "",
    ]


def test_a_zone_has_its_provider_by_name() -> None:
    both = zones("example.com", "")
    assert (both.named("example.com"), both.named("a.example.com")) == (both.holding("x.example.com"), None)


def test_a_provider_is_not_shown() -> None:
    assert "ScriptedProvider" not in repr(ZoneProvider("example.com", ScriptedProvider({})))


@pytest.fixture
def resolver(clock: ManualClock) -> FakeDns:
    return FakeDns(clock)


async def test_a_record_without_alias_is_where_it_is(resolver: FakeDns) -> None:
    assert await where(resolver, "_acme-challenge.a.example") == "_acme-challenge.a.example"


async def test_ten_aliases_are_followed_and_no_more(resolver: FakeDns) -> None:
    resolver.aliases = {f"n{number}.example": f"n{number + 1}.example" for number in range(10)}
    assert await where(resolver, "n0.example") == "n10.example"
    resolver.aliases["n10.example"] = "n11.example"
    with pytest.raises(ChallengeFailed, match=r"n0\.example is delegated through more than 10 CNAMEs"):
        await where(resolver, "n0.example")


@pytest.mark.parametrize("back", ["a.example", "b.example"])
async def test_a_circle_is_told_with_its_way(resolver: FakeDns, back: str) -> None:
    resolver.aliases = {"a.example": "b.example", "b.example": back}
    with pytest.raises(
        ChallengeFailed, match=rf"a\.example is delegated in a circle: a\.example -> b\.example -> {back}"
    ):
        await where(resolver, "a.example")


@pytest.mark.parametrize(
    "target",
    [
        "localhost",
        "a b.example",
        "a\\000.example",
        "a/b.example",
        "*.example",
        "-" * 64 + ".example",
        "@",
        "a\n.example",
    ],
)
async def test_a_target_that_no_provider_should_see_is_refused(resolver: FakeDns, target: str) -> None:
    resolver.aliases = {"a.example": target}
    with pytest.raises(ChallengeFailed, match="where no value can be set"):
        await where(resolver, "a.example")


async def test_an_alias_that_cannot_be_asked_for_is_told(resolver: FakeDns) -> None:
    resolver.broken_lookups = 1
    with pytest.raises(ChallengeFailed, match=r"can't tell where a\.example is delegated to: .*SERVFAIL"):
        await where(resolver, "a.example")
