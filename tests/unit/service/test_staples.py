"""Staples come from memory, for the very certificate that was asked about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import StorageError
from ssl_cert_server.model import Certificate, KeyFamily
from ssl_cert_server.ocsp.codec import OcspStatus
from ssl_cert_server.ocsp.staples import Staple, save_staple
from ssl_cert_server.service.policy import Policy, PolicyRules, SelfSignedRule
from ssl_cert_server.service.staples import Staples
from tests.support.certs import DAY
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import make_certificate
from tests.support.ocsp_ca import OcspCa

CA = OcspCa()


class Memory:
    """What certificates are in memory; ``reads`` counts how often storage was asked."""

    def __init__(self) -> None:
        self.certificates: dict[tuple[str, KeyFamily], Certificate] = {}

    def in_memory(self, name: str, family: KeyFamily) -> Certificate | None:
        return self.certificates.get((name, family))


class CountingStorage(FaultyStorage):
    """``slow`` are waited for before what was read is told."""

    reads = 0
    slow: asyncio.Event | None = None

    async def get(self, key: str) -> bytes | None:
        self.reads += 1
        value = await super().get(key)
        if self.slow:
            await self.slow.wait()
        return value


class Room:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = CountingStorage(self.clock)
        self.memory = Memory()
        self.wanted: list[str] = []
        policy = Policy(
            PolicyRules(
                managed=[(r"shop\.net", "shop")],
                wildcards=["*.wild.com"],
                patterns=[r"[a-z]+\.com"],
                families=(KeyFamily.ECDSA, KeyFamily.RSA),
                local_ca_patterns=[r".+\.test"],
                self_signed=SelfSignedRule("fallback"),
            )
        )
        self.staples = Staples(policy, self.memory, self.storage, self.clock, want=self._want)  # type: ignore[arg-type]
        self._task = asyncio.create_task(self.staples.run())

    async def _want(self, cert_key: str) -> None:
        self.storage._check("schedule", "ocsp")
        self.wanted.append(cert_key)

    async def keep(self, cert_key: str, certificate: Certificate, response: bytes = b"response") -> Staple:
        now = self.clock.now()
        staple = Staple(certificate.fingerprint, OcspStatus.GOOD, response, now, now + 4 * DAY, now + 2 * DAY)
        await save_staple(self.storage, cert_key, staple)
        return staple

    def hold(self, name: str, certificate: Certificate, family: KeyFamily = KeyFamily.ECDSA) -> None:
        self.memory.certificates[name, family] = certificate

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.staples.close()


@pytest.fixture
async def it() -> AsyncIterator[Room]:
    room = Room()
    yield room
    await room.close()


LEAF = CA.leaf("a.com")


async def test_the_staple_of_the_certificate_is_given_and_read_once(it: Room) -> None:
    it.hold("a.com", LEAF)
    staple = await it.keep("a.com", LEAF)
    for fingerprint in (LEAF.fingerprint, ""):
        assert await it.staples.answer("a.com", fingerprint) == staple
    assert it.storage.reads == 1


async def test_one_of_another_certificate_is_not_given(it: Room) -> None:
    await it.keep("a.com", LEAF)
    assert await it.staples.answer("a.com", "0" * 40) is None
    it.hold("a.com", CA.leaf("a.com"))
    assert await it.staples.answer("a.com", "") is None


async def test_after_a_restart_it_is_there_before_the_certificate_is(it: Room) -> None:
    staple = await it.keep("a.com", LEAF)
    assert await it.staples.answer("a.com", LEAF.fingerprint) == staple


async def test_of_two_kinds_of_key_each_has_its_own(it: Room) -> None:
    rsa = CA.leaf("a.com")
    ours, others = await it.keep("a.com", LEAF), await it.keep("a.com+rsa", rsa, b"rsa")
    it.hold("a.com", LEAF)
    it.hold("a.com", rsa, KeyFamily.RSA)
    assert await it.staples.answer("a.com", LEAF.fingerprint) == ours
    assert await it.staples.answer("a.com", rsa.fingerprint) == others
    assert await it.staples.answer("a.com", "") == ours


async def test_a_wildcard_s_is_given_for_what_it_covers(it: Room) -> None:
    leaf = CA.leaf("*.wild.com")
    staple = await it.keep("*.wild.com", leaf)
    assert await it.staples.answer("one.wild.com", leaf.fingerprint) == staple


async def test_a_managed_certificate_s_is_given(it: Room) -> None:
    leaf = CA.leaf("shop.net")
    it.hold("shop.net", leaf)
    staple = await it.keep("shop", leaf)
    assert await it.staples.answer("shop.net", leaf.fingerprint) == staple


@pytest.mark.parametrize("name", ["a.test", "other.org", "192.0.2.1"])
async def test_others_never_have_one_and_cost_no_look(it: Room, name: str) -> None:
    assert await it.staples.answer(name, "") is None
    assert it.storage.reads == 0


async def test_one_without_a_url_costs_no_look(it: Room) -> None:
    it.hold("a.com", make_certificate("a.com"))
    it.hold("a.com", make_certificate("a.com"), KeyFamily.RSA)
    for _ in range(10):
        assert await it.staples.answer("a.com", "") is None
    assert it.storage.reads == 0
    assert it.wanted == []


async def test_one_that_is_replaced_is_read_again(it: Room) -> None:
    await it.keep("a.com", LEAF)
    await it.staples.answer("a.com", LEAF.fingerprint)
    new = await it.keep("a.com", LEAF, b"new")
    assert (await it.staples.answer("a.com", LEAF.fingerprint)) != new
    it.staples.drop("a.com")
    assert await it.staples.answer("a.com", LEAF.fingerprint) == new


async def test_what_was_being_read_when_it_was_replaced_is_told_to_nobody_who_asks_later(it: Room) -> None:
    old = await it.keep("a.com", LEAF)
    it.storage.slow = asyncio.Event()
    early = asyncio.create_task(it.staples.answer("a.com", LEAF.fingerprint))
    await it.clock.advance(0)
    new = await it.keep("a.com", LEAF, b"new")
    it.staples.drop("a.com")
    late = asyncio.create_task(it.staples.answer("a.com", LEAF.fingerprint))
    await it.clock.advance(0)
    it.storage.slow.set()
    assert (await early, await late) == (old, new)
    assert await it.staples.answer("a.com", LEAF.fingerprint) == new


async def test_where_nobody_tells_of_a_new_one_it_is_found_in_time(it: Room) -> None:
    await it.keep("a.com", LEAF)
    await it.staples.answer("a.com", LEAF.fingerprint)
    await it.clock.advance(1.5 * DAY)
    new = await it.keep("a.com", LEAF, b"new")
    await it.clock.advance(DAY)
    assert await it.staples.answer("a.com", LEAF.fingerprint) == new


async def test_it_is_given_until_it_expires_and_no_longer(it: Room) -> None:
    await it.keep("a.com", LEAF)
    await it.clock.advance(4 * DAY - 1)
    assert await it.staples.answer("a.com", LEAF.fingerprint) is not None
    await it.clock.advance(1)
    assert await it.staples.answer("a.com", LEAF.fingerprint) is None


async def test_while_storage_is_away_memory_answers(it: Room) -> None:
    staple = await it.keep("a.com", LEAF)
    await it.staples.answer("a.com", LEAF.fingerprint)
    await it.clock.advance(3 * DAY)  # it would be read again
    it.storage.break_down("get")
    assert await it.staples.answer("a.com", LEAF.fingerprint) == staple
    with pytest.raises(StorageError):
        await it.staples.answer("b.com", "")


async def test_a_certificate_in_use_of_which_nothing_is_known_is_asked_about_once(it: Room) -> None:
    leaf = CA.leaf("shop.net")
    it.hold("shop.net", leaf)
    for _ in range(10):
        assert await it.staples.answer("shop.net", leaf.fingerprint) is None
        await it.clock.advance(1)
    assert it.wanted == ["shop"]
    it.hold("shop.net", CA.leaf("shop.net"))
    await it.staples.answer("shop.net", "")
    await it.clock.advance(0)
    assert it.wanted == ["shop", "shop"]


async def test_where_that_can_not_be_kept_the_next_question_tries_again(it: Room) -> None:
    it.hold("a.com", LEAF)
    it.storage.break_down("schedule", times=1)
    with capture_logs() as logs:
        await it.staples.answer("a.com", "")
        await it.clock.advance(1)
    assert [log["event"] for log in logs] == ["ocsp.not_scheduled"]
    await it.staples.answer("a.com", "")
    await it.clock.advance(1)
    assert it.wanted == ["a.com"]


async def test_what_is_known_of_it_is_not_asked_again(it: Room) -> None:
    it.hold("a.com", LEAF)
    await save_staple(it.storage, "a.com", Staple(LEAF.fingerprint, OcspStatus.REVOKED))
    assert await it.staples.answer("a.com", "") is None
    await it.clock.advance(1)
    assert it.wanted == []


async def test_memory_is_bounded(it: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_cert_server.service.staples._KEPT", 3)
    for name in ("a.com", "b.com", "c.com", "d.com"):
        await it.staples.answer(name, "x")
    assert [*it.staples._kept] == ["c.com+rsa", "d.com", "d.com+rsa"]
