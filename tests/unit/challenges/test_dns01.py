"""dns-01: values appear side by side, and none stays behind whatever happens."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.challenges.dns01 import solver as solver_module
from ssl_cert_server.challenges.dns01.solver import Dns01
from ssl_cert_server.challenges.dns01.zones import ZoneProvider
from ssl_cert_server.errors import ChallengeFailed, StorageError
from tests.support.clock import ManualClock
from tests.support.fake_dns import FakeDns, ScriptedProvider
from tests.support.faulty_storage import FaultyStorage

FOLDER = "_challenges/dns-01"
RECORD = "_acme-challenge.example.com"
NAME = "example.com"
WEEK = 7 * 86_400.0


def authorization(token: str) -> str:
    return f"{token}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


def value(token: str) -> str:
    digest = hashlib.sha256(authorization(token).encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@pytest.fixture
def dns(clock: ManualClock) -> FakeDns:
    return FakeDns(clock)


@pytest.fixture
def provider(dns: FakeDns) -> ScriptedProvider:
    return ScriptedProvider(dns.values)


@pytest.fixture
def solver(storage: FaultyStorage, clock: ManualClock, dns: FakeDns, provider: ScriptedProvider) -> Dns01:
    return Dns01(storage, clock, dns, [ZoneProvider("example.com", provider)])


@pytest.fixture
def peer(storage: FaultyStorage, clock: ManualClock, dns: FakeDns, provider: ScriptedProvider) -> Dns01:
    """Another instance of the server."""
    return Dns01(storage, clock, dns, [ZoneProvider("example.com", provider)])


async def kept(storage: FaultyStorage) -> list[dict[str, Any]]:
    return [json.loads(await storage.get(key) or b"") for key in [key async for key in storage.list(FOLDER)]]


def leases(storage: FaultyStorage, clock: ManualClock) -> list[str]:
    return [name for name, (_, until) in storage._leases.items() if until > clock.monotonic()]


async def in_time(work: Coroutine[Any, Any, None], clock: ManualClock, seconds: float = 5.0) -> None:
    """Run something to its end, while time passes."""
    task = asyncio.create_task(work)
    await clock.advance(seconds)
    assert task.done()
    await task


async def crash(solver: Dns01) -> None:
    """What a killed process leaves: its tasks are gone, and its leases with them."""
    for challenge in solver._challenges.values():
        if challenge.set:
            await challenge.set.hold.let_go()
    solver._challenges.clear()


async def test_the_digest_is_shown_and_taken_back(
    solver: Dns01, dns: FakeDns, storage: FaultyStorage, clock: ManualClock, provider: ScriptedProvider
) -> None:
    with capture_logs() as logs:
        await solver.present(NAME, "token", authorization("token"))
    assert dns.values[RECORD] == [value("token")]
    assert await kept(storage) == [
        {"record": RECORD, "value": value("token"), "zone": "example.com", "created": clock.now()}
    ]
    assert [log["event"] for log in logs] == ["challenge.dns01.presented", "challenge.dns01.propagated"]
    assert authorization("token") not in str(logs)
    await solver.cleanup(NAME, "token")
    assert dns.values[RECORD] == []
    assert await kept(storage) == []
    assert leases(storage, clock) == []
    assert provider.calls == [("add", RECORD, value("token")), ("remove", RECORD, value("token"))]


async def test_it_is_the_digest_that_rfc_8555_asks_for(solver: Dns01, dns: FakeDns) -> None:
    await solver.present(NAME, "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA", "a.b")
    assert dns.values[RECORD] == ["LnM23I66h-9HLfVow1SCq_JXXcPl6sDFxiuP-urCyTQ"]
    await solver.cleanup(NAME, "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA")


async def test_what_is_about_to_be_set_is_kept_before_the_provider_hears_of_it(
    solver: Dns01, provider: ScriptedProvider, storage: FaultyStorage
) -> None:
    seen: list[int] = []

    async def look() -> None:
        seen.append(len(await kept(storage)))

    provider.before = look
    await solver.present(NAME, "token", authorization("token"))
    await solver.cleanup(NAME, "token")
    assert seen == [1, 1], "and it is kept until the value is gone"


async def test_nothing_is_set_where_it_cannot_be_kept(
    solver: Dns01, provider: ScriptedProvider, storage: FaultyStorage, clock: ManualClock
) -> None:
    storage.break_down("put")
    with pytest.raises(StorageError):
        await solver.present(NAME, "token", authorization("token"))
    assert provider.calls == []
    await solver.cleanup(NAME, "token")
    assert leases(storage, clock) == []


async def test_apex_and_wildcard_stand_side_by_side_and_go_one_by_one(solver: Dns01, dns: FakeDns) -> None:
    tokens = [f"token-{number}" for number in range(5)]
    await asyncio.gather(*(solver.present(NAME, token, authorization(token)) for token in tokens))
    assert sorted(dns.values[RECORD]) == sorted(map(value, tokens))
    await solver.cleanup(NAME, "token-3")
    assert sorted(dns.values[RECORD]) == sorted(value(token) for token in tokens if token != "token-3")
    await asyncio.gather(*(solver.cleanup(NAME, token) for token in tokens))
    assert dns.values[RECORD] == []


async def test_no_value_is_lost_between_two_instances(
    solver: Dns01, peer: Dns01, dns: FakeDns, storage: FaultyStorage, clock: ManualClock
) -> None:
    async def everywhere() -> None:
        mine = [solver.present(NAME, f"mine-{n}", authorization(f"mine-{n}")) for n in range(3)]
        theirs = [peer.present(NAME, f"theirs-{n}", authorization(f"theirs-{n}")) for n in range(3)]
        await asyncio.gather(*mine, *theirs)

    async def nowhere() -> None:
        mine = [solver.cleanup(NAME, f"mine-{n}") for n in range(3)]
        await asyncio.gather(*mine, *(peer.cleanup(NAME, f"theirs-{n}") for n in range(3)))

    await in_time(everywhere(), clock, 30)
    assert len(dns.values[RECORD]) == 6
    await in_time(nowhere(), clock, 30)
    assert dns.values[RECORD] == []
    assert await kept(storage) == []
    assert leases(storage, clock) == []


async def test_records_of_different_names_do_not_wait_for_each_other(
    solver: Dns01, provider: ScriptedProvider, dns: FakeDns
) -> None:
    both = asyncio.Barrier(2)

    async def meet() -> None:
        await both.wait()

    provider.before = meet
    names = ["a.example.com", "b.example.com"]
    async with asyncio.timeout(60):
        await asyncio.gather(*(solver.present(name, name, authorization(name)) for name in names))
    assert [dns.values[f"_acme-challenge.{name}"] for name in names] == [[value(name)] for name in names]
    await asyncio.gather(*(solver.cleanup(name, name) for name in names))


async def test_a_challenge_that_two_orders_share_stays_until_both_are_done(
    solver: Dns01, dns: FakeDns, provider: ScriptedProvider, storage: FaultyStorage
) -> None:
    await asyncio.gather(*(solver.present(NAME, "token", authorization("token")) for _ in range(2)))
    await solver.cleanup(NAME, "token")
    assert dns.values[RECORD] == [value("token")]
    await solver.cleanup(NAME, "token")
    assert dns.values[RECORD] == []
    assert [call[0] for call in provider.calls] == ["add", "remove"]
    await solver.cleanup(NAME, "token")
    assert len(provider.calls) == 2, "once more is nothing"


async def test_the_second_order_tries_again_where_the_first_failed(
    solver: Dns01, dns: FakeDns, provider: ScriptedProvider, storage: FaultyStorage, clock: ManualClock
) -> None:
    provider.broken = {"add"}
    with pytest.raises(ChallengeFailed):
        await solver.present(NAME, "token", authorization("token"))
    provider.broken = set()
    await solver.present(NAME, "token", authorization("token"))
    await solver.cleanup(NAME, "token")
    assert dns.values[RECORD] == [value("token")]
    await solver.cleanup(NAME, "token")
    assert dns.values[RECORD] == []
    assert leases(storage, clock) == []


async def test_a_challenge_that_another_instance_uses_is_waited_for(
    solver: Dns01, peer: Dns01, dns: FakeDns, clock: ManualClock
) -> None:
    await solver.present(NAME, "token", authorization("token"))
    waiting = asyncio.create_task(peer.present(NAME, "token", authorization("token")))
    await clock.advance(100)
    assert not waiting.done()
    await solver.cleanup(NAME, "token")
    await clock.advance(2)
    await waiting
    assert dns.values[RECORD] == [value("token")], "or the first one's clean-up would have taken it away"
    await peer.cleanup(NAME, "token")
    assert dns.values[RECORD] == []


@pytest.mark.parametrize("halfway", [False, True])
async def test_a_provider_that_fails_to_add_leaves_nothing(
    solver: Dns01, provider: ScriptedProvider, dns: FakeDns, storage: FaultyStorage, clock: ManualClock, halfway: bool
) -> None:
    provider.broken, provider.halfway = {"add"}, halfway
    with pytest.raises(ChallengeFailed, match=RECORD):
        await solver.present(NAME, "token", authorization("token"))
    await solver.cleanup(NAME, "token")
    assert dns.values.get(RECORD, []) == []
    assert await kept(storage) == []
    assert leases(storage, clock) == []


async def test_a_value_that_cannot_be_removed_is_removed_by_the_next_sweep(
    solver: Dns01, peer: Dns01, provider: ScriptedProvider, dns: FakeDns, storage: FaultyStorage, clock: ManualClock
) -> None:
    await solver.present(NAME, "token", authorization("token"))
    provider.broken = {"remove"}
    with capture_logs() as logs, pytest.raises(ChallengeFailed):
        await solver.cleanup(NAME, "token")
    await peer.remove_left_over()
    assert dns.values[RECORD] == [value("token")]
    assert len(await kept(storage)) == 1
    provider.broken = set()
    with capture_logs() as more:
        await peer.remove_left_over()
    assert dns.values[RECORD] == []
    assert await kept(storage) == []
    assert leases(storage, clock) == []
    assert [log["event"] for log in logs + more] == ["challenge.dns01.not_removed", "challenge.dns01.left_over_removed"]


async def test_a_sweep_leaves_alone_what_a_living_instance_uses(
    solver: Dns01, peer: Dns01, dns: FakeDns, clock: ManualClock
) -> None:
    await solver.present(NAME, "token", authorization("token"))
    for _ in range(4):
        await clock.advance(3600)
        await peer.remove_left_over()
        await solver.remove_left_over()
    assert dns.values[RECORD] == [value("token")]
    await solver.cleanup(NAME, "token")


async def test_what_a_dead_instance_left_is_removed_and_other_values_stay(
    solver: Dns01, peer: Dns01, dns: FakeDns, storage: FaultyStorage, clock: ManualClock
) -> None:
    dns.values[RECORD] = ["somebody else's"]
    await solver.present(NAME, "token", authorization("token"))
    await peer.present(NAME, "alive", authorization("alive"))
    await crash(solver)
    await peer.remove_left_over()
    assert dns.values[RECORD] == ["somebody else's", value("alive")]
    assert [record["value"] for record in await kept(storage)] == [value("alive")]
    await peer.cleanup(NAME, "alive")


async def test_a_lease_that_a_dead_instance_holds_still_is_waited_for_by_the_sweep(
    solver: Dns01, dns: FakeDns, provider: ScriptedProvider, storage: FaultyStorage, clock: ManualClock
) -> None:
    await solver.present(NAME, "token", authorization("token"))
    await crash(solver)
    [key] = [key async for key in storage.list(FOLDER)]
    assert await storage.acquire(f"dns-01/{key.rpartition('/')[2]}", 30)
    assert await solver.remove_left_over()
    assert dns.values[RECORD] == [value("token")]
    await clock.advance(31)
    assert not await solver.remove_left_over()
    assert dns.values[RECORD] == []


async def test_an_order_that_is_resumed_elsewhere_is_safe_from_the_sweep(
    solver: Dns01, peer: Dns01, dns: FakeDns, storage: FaultyStorage
) -> None:
    await solver.present(NAME, "token", authorization("token"))
    await crash(solver)
    await peer.present(NAME, "token", authorization("token"))
    await peer.remove_left_over()
    assert dns.values[RECORD] == [value("token")]
    await peer.cleanup(NAME, "token")
    assert await kept(storage) == []


async def test_a_clean_up_after_the_lease_was_lost_leaves_the_record_to_its_new_owner(
    solver: Dns01, storage: FaultyStorage, clock: ManualClock
) -> None:
    await solver.present(NAME, "token", authorization("token"))
    [key] = [key async for key in storage.list(FOLDER)]
    storage.steal(f"dns-01/{key.rpartition('/')[2]}")
    await clock.advance(11)
    with capture_logs() as logs, pytest.raises(StorageError):
        await solver.cleanup(NAME, "token")
    assert len(await kept(storage)) == 1
    assert [log["event"] for log in logs] == ["challenge.dns01.not_removed", "challenge.lease_lost"]


async def test_a_record_whose_zone_is_gone_is_told_and_forgotten_after_a_week(
    solver: Dns01, dns: FakeDns, storage: FaultyStorage, clock: ManualClock
) -> None:
    await solver.present(NAME, "token", authorization("token"))
    await crash(solver)
    elsewhere = Dns01(storage, clock, dns, [ZoneProvider("example.net", ScriptedProvider({}))])
    clock.jump(WEEK)
    with capture_logs() as logs:
        await elsewhere.remove_left_over()
        assert len(await kept(storage)) == 1, "exactly a week is not too old"
        clock.jump(1)
        await elsewhere.remove_left_over()
    assert await kept(storage) == []
    assert [log["event"] for log in logs] == ["challenge.dns01.not_removed", "challenge.dns01.left_over_forgotten"]
    assert logs[1]["record"] == RECORD


async def test_a_left_over_is_removed_by_the_zone_that_set_it(
    dns: FakeDns, storage: FaultyStorage, clock: ManualClock
) -> None:
    first, second = ScriptedProvider(dns.values), ScriptedProvider(dns.values)
    delegated = Dns01(storage, clock, dns, [ZoneProvider("example.com", first), ZoneProvider("example.org", second)])
    dns.aliases[RECORD] = "a.elsewhere.net"
    dns.zones["elsewhere.net"] = {"ns1.elsewhere.net": ("192.0.2.1",)}
    await delegated.present(NAME, "token", authorization("token"))
    await crash(delegated)
    await delegated.remove_left_over()
    assert [call[0] for call in first.calls] == ["add", "remove"]
    assert second.calls == []


@pytest.mark.parametrize("stored", [b"", b"{}", b"[]", b"null", b"\xff", b'{"record": "r", "value": "v", "zone": ""}'])
async def test_what_makes_no_sense_is_forgotten(solver: Dns01, storage: FaultyStorage, stored: bytes) -> None:
    await storage.put(f"{FOLDER}/{'0' * 64}", stored)
    await solver.remove_left_over()
    assert [key async for key in storage.list(FOLDER)] == []


async def test_a_record_under_another_ones_key_is_forgotten(
    solver: Dns01, storage: FaultyStorage, provider: ScriptedProvider
) -> None:
    stored = {"record": "www.example.com", "value": "v", "zone": "example.com", "created": 1.0}
    await storage.put(f"{FOLDER}/{'0' * 64}", json.dumps(stored).encode())
    await solver.remove_left_over()
    assert [key async for key in storage.list(FOLDER)] == []
    assert provider.calls == []


async def test_one_left_over_that_fails_does_not_keep_the_others(
    solver: Dns01, peer: Dns01, dns: FakeDns, provider: ScriptedProvider, storage: FaultyStorage
) -> None:
    names = [f"{letter}.example.com" for letter in "abc"]
    for name in names:
        await solver.present(name, name, authorization(name))
    await crash(solver)

    async def fail_for_b() -> None:
        provider.broken = {"remove"} if "b.example.com" in provider.calls[-1][1] else set()

    provider.before = fail_for_b
    await peer.remove_left_over()
    assert [record["record"] for record in await kept(storage)] == ["_acme-challenge.b.example.com"]


async def test_a_zone_that_refuses_is_asked_a_few_times_a_sweep_and_no_more_after_a_week(
    storage: FaultyStorage, clock: ManualClock, dns: FakeDns, provider: ScriptedProvider
) -> None:
    gone = ScriptedProvider(dns.values)
    zones = [ZoneProvider("example.com", provider), ZoneProvider("gone.example.com", gone)]
    dying, peer = Dns01(storage, clock, dns, zones), Dns01(storage, clock, dns, zones)
    names = [NAME, *(f"a{number}.gone.example.com" for number in range(10))]
    for name in names:
        await dying.present(name, name, authorization(name))
    await crash(dying)
    gone.broken = {"remove"}
    gone.calls.clear()
    with capture_logs() as logs:
        await peer.remove_left_over()
    assert len(gone.calls) == 3
    assert dns.values[RECORD] == []
    assert len(await kept(storage)) == 10
    assert [log["event"] for log in logs].count("challenge.dns01.not_removed") == 10
    clock.jump(WEEK + 1)
    with capture_logs() as logs:
        await peer.remove_left_over()
    assert await kept(storage) == []
    assert {log["event"] for log in logs} == {"challenge.dns01.left_over_forgotten"}
    assert [log["reason"] for log in logs][2:4] == [
        "_acme-challenge.a2.gone.example.com: the provider is down",
        "3 others could not be removed just now",
    ]


async def test_a_slow_provider_is_not_cut_off_by_whoever_can_not_wait_for_it(
    solver: Dns01, dns: FakeDns, provider: ScriptedProvider, storage: FaultyStorage, clock: ManualClock
) -> None:
    await solver.present(NAME, "token", authorization("token"))
    slow = asyncio.Event()

    async def wait() -> None:
        await slow.wait()

    provider.before = wait
    cleaning = asyncio.create_task(solver.cleanup(NAME, "token"))
    await clock.advance(1)
    cleaning.cancel()
    await asyncio.wait({cleaning})
    assert await solver.remove_left_over(), "it is held on to"
    slow.set()
    await solver.close()
    assert dns.values[RECORD] == []
    assert await kept(storage) == []
    assert leases(storage, clock) == []


async def test_a_removal_that_never_ends_does_not_keep_the_server_from_stopping(
    solver: Dns01,
    provider: ScriptedProvider,
    storage: FaultyStorage,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(solver_module, "REMOVALS_DEADLINE", 0.01)
    await solver.present(NAME, "token", authorization("token"))

    async def hang() -> None:
        await asyncio.Event().wait()

    provider.before = hang
    cleaning = asyncio.create_task(solver.cleanup(NAME, "token"))
    await clock.advance(1)
    await solver.close()
    await asyncio.wait({cleaning})
    assert len(await kept(storage)) == 1, "the next sweep removes it"
    assert leases(storage, clock) == []


async def test_storage_that_fails_is_told_by_the_sweep(solver: Dns01, storage: FaultyStorage) -> None:
    await solver.present(NAME, "token", authorization("token"))
    storage.break_down("list")
    with pytest.raises(StorageError):
        await solver.remove_left_over()
    storage.repair()
    await solver.cleanup(NAME, "token")


async def test_a_delegated_record_is_set_where_it_is_delegated_to(
    dns: FakeDns, storage: FaultyStorage, clock: ManualClock
) -> None:
    own, other, rest = (ScriptedProvider(dns.values) for _ in range(3))
    zones = [ZoneProvider("example.com", own), ZoneProvider("acme.example.net", other), ZoneProvider("", rest)]
    solver = Dns01(storage, clock, dns, zones)
    dns.aliases = {RECORD: "hop.example.org", "hop.example.org": "x.acme.example.net"}
    dns.zones["acme.example.net"] = {"ns.acme.example.net": ("192.0.2.9",)}
    await solver.present(NAME, "token", authorization("token"))
    assert dns.values == {"x.acme.example.net": [value("token")]}
    assert dns.asked == [("192.0.2.9", 53)]
    await solver.cleanup(NAME, "token")
    assert (len(own.calls), len(other.calls), len(rest.calls)) == (0, 2, 0)


async def test_a_name_without_provider_is_refused_before_anything_is_kept(
    solver: Dns01, dns: FakeDns, storage: FaultyStorage
) -> None:
    with pytest.raises(
        ChallengeFailed, match=r"configured for _acme-challenge\.example\.org, and no CNAME delegates it$"
    ):
        await solver.present("example.org", "token", authorization("token"))
    dns.aliases["_acme-challenge.example.org"] = "x.example.net"
    with pytest.raises(ChallengeFailed, match=r"nor for x\.example\.net, where it is delegated to"):
        await solver.present("example.org", "token", authorization("token"))
    await solver.cleanup("example.org", "token")
    assert await kept(storage) == []


def test_names_are_handled_where_a_zone_is_configured(storage: FaultyStorage, clock: ManualClock, dns: FakeDns) -> None:
    provider = ScriptedProvider({})
    some = Dns01(
        storage, clock, dns, [ZoneProvider("example.com", provider), ZoneProvider("_acme-challenge.b.net", provider)]
    )
    assert [some.handles(name) for name in ("a.example.com", "example.com", "b.net", "x.b.net", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert Dns01(storage, clock, dns, [ZoneProvider("", provider)]).handles("anything.example")
    assert not Dns01(storage, clock, dns, []).handles("anything.example")


async def test_a_delegation_that_dns_does_not_tell_in_time_is_an_obstacle(
    solver: Dns01, dns: FakeDns, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(name: str) -> str | None:
        await asyncio.get_running_loop().create_future()
        return name

    monkeypatch.setattr(dns, "cname", never)
    monkeypatch.setattr(solver_module, "DELEGATION_DEADLINE", 0.01)
    said = "DNS did not tell within 0.01 s where _acme-challenge.example.org is delegated to"
    with capture_logs() as logs:
        assert await solver.obstacle("example.org") == said
    assert [(line["event"], line["reason"]) for line in logs] == [("challenge.dns01.delegation_unknown", said)]


async def test_that_a_name_is_delegated_nowhere_is_no_line_in_the_log(solver: Dns01) -> None:
    with capture_logs() as logs:
        assert "no CNAME delegates it" in (await solver.obstacle("example.org") or "")
    assert logs == []


async def test_a_server_that_stays_behind_fails_the_challenge_and_nothing_stays(
    solver: Dns01, dns: FakeDns, storage: FaultyStorage, clock: ManualClock
) -> None:
    dns.behind = {"192.0.2.1"}
    presenting = asyncio.create_task(solver.present(NAME, "token", authorization("token")))
    await clock.advance(121)
    with pytest.raises(ChallengeFailed, match=r"after 120 s .*ns1\.example\.com \(192\.0\.2\.1 port 53\)") as failed:
        await presenting
    assert authorization("token") not in str(failed.value)
    await solver.cleanup(NAME, "token")
    assert dns.values[RECORD] == []
    assert leases(storage, clock) == []


async def test_a_present_cancelled_at_any_moment_leaves_nothing(
    solver: Dns01, dns: FakeDns, storage: FaultyStorage, clock: ManualClock
) -> None:
    for turns in range(200):
        presenting = asyncio.create_task(solver.present(NAME, "token", authorization("token")))
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = not presenting.cancel()
        await asyncio.wait({presenting})
        await solver.cleanup(NAME, "token")
        await clock.advance(0)  # a lease that was just being taken is given back in the background
        assert dns.values.get(RECORD, []) == [], turns
        assert await kept(storage) == [], turns
        assert leases(storage, clock) == [], turns
        assert solver._challenges == {}
        if finished:
            assert turns > 10, "or nothing was cancelled in its midst"
            return
    raise AssertionError("present never ended")


async def test_a_cleanup_cancelled_at_any_moment_is_finished_by_the_sweep(
    solver: Dns01, dns: FakeDns, storage: FaultyStorage, clock: ManualClock
) -> None:
    for turns in range(200):
        await solver.present(NAME, "token", authorization("token"))
        cleaning = asyncio.create_task(solver.cleanup(NAME, "token"))
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = not cleaning.cancel()
        await asyncio.wait({cleaning})
        if turns:
            await clock.advance(0)
            await solver.remove_left_over()
            assert dns.values.get(RECORD, []) == [], turns
            assert await kept(storage) == [], turns
            assert leases(storage, clock) == [], turns
        else:
            await solver.cleanup(NAME, "token")  # it had not begun
        if finished:
            assert turns > 5
            return
    raise AssertionError("cleanup never ended")


async def test_a_crash_at_any_moment_is_cleaned_up_by_the_next_instance(
    storage: FaultyStorage, clock: ManualClock, dns: FakeDns, provider: ScriptedProvider, peer: Dns01
) -> None:
    finished = False
    for turns in range(200):
        dying = Dns01(storage, clock, dns, [ZoneProvider("example.com", provider)])
        presenting = asyncio.create_task(dying.present(NAME, "token", authorization("token")))
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = not presenting.cancel()
        await asyncio.wait({presenting})
        await crash(dying)
        await clock.advance(31)
        await peer.remove_left_over()
        assert dns.values.get(RECORD, []) == [], turns
        assert await kept(storage) == [], turns
        if finished:
            return
    raise AssertionError("present never ended")
