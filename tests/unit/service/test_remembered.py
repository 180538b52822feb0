from __future__ import annotations

from ssl_cert_server.service.remembered import RememberedNames
from tests.support.clock import ManualClock


async def test_a_name_is_remembered_for_its_time(clock: ManualClock) -> None:
    names = RememberedNames(clock, 10)
    names.add("a.com", 5)
    await clock.advance(4.9)
    assert "a.com" in names
    assert "b.com" not in names
    await clock.advance(0.1)
    assert "a.com" not in names


async def test_adding_again_starts_anew(clock: ManualClock) -> None:
    names = RememberedNames(clock, 10)
    names.add("a.com", 5)
    await clock.advance(4)
    names.add("a.com", 5)
    await clock.advance(4)
    assert "a.com" in names
    names.drop("a.com")
    names.drop("never-there.com")
    assert "a.com" not in names


async def test_the_wall_clock_does_not_matter(clock: ManualClock) -> None:
    names = RememberedNames(clock, 10)
    names.add("a.com", 5)
    clock.jump(1_000_000)
    assert "a.com" in names


async def test_the_least_recently_used_goes_first(clock: ManualClock) -> None:
    names = RememberedNames(clock, 3)
    for name in ("a.com", "b.com", "c.com"):
        names.add(name, 100)
    assert "a.com" in names
    names.add("b.com", 100)
    names.add("d.com", 100)
    assert [name for name in ("a.com", "b.com", "c.com", "d.com") if name in names] == ["a.com", "b.com", "d.com"]
