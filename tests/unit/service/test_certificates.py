from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ssl_cert_server.errors import (
    DeadlineExceeded,
    InvalidCertificate,
    NotPermitted,
    Overloaded,
    StorageError,
    Unavailable,
)
from ssl_cert_server.model import Certificate, CertificateType, KeyFamily, Permission, Subject
from ssl_cert_server.service import certificates as room
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.certificates import ANSWER_DEADLINE, Certificates
from ssl_cert_server.service.policy import Policy, PolicyRules, SelfSignedRule, Source
from tests.support.clock import START, ManualClock
from tests.support.leaves import make_certificate
from tests.support.loop_time import LoopTime, settle

A = Subject("a.com", ("a.com",), permission=Permission.PATTERN)


class ScriptedIssuer:
    """Hands out ``certificate``, or raises ``error``, once ``gate`` is set; ``asked`` are the questions."""

    type = CertificateType.ACME

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.certificate = make_certificate("a.com")
        self.error: Exception | None = None
        self.fresh_for = 1e9
        self.cancelled = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def obtain(self, name: str, subject: Subject) -> Certificate:
        self.asked.append((name, subject.cert_key))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error:
            raise self.error
        return self.certificate

    def fresh_until(self, certificate: Certificate) -> float:
        return min(certificate.not_after, START + self.fresh_for)


RULES = PolicyRules(managed=[(r"b\.com", "shared")], patterns=[r".+\.com"])


class Room:
    """The service over one scripted issuer, which answers ``*.com``; ``b.com`` is managed."""

    def __init__(self, rules: PolicyRules = RULES) -> None:
        self.clock = ManualClock()
        self.issuer = ScriptedIssuer()
        self.managed = ScriptedIssuer()
        self.self_signed = ScriptedIssuer()
        issuers = {Source.ACME: self.issuer, Source.MANAGED: self.managed, Source.SELF_SIGNED: self.self_signed}
        self.cache = AnswerCache(self.clock, 1_000_000)
        self.certificates = Certificates(self.cache, Policy(rules), issuers, self.clock)


@pytest.fixture
async def it() -> Room:
    return Room()


async def test_a_miss_asks_the_issuer_and_the_next_request_is_hot(it: Room) -> None:
    assert it.cache.get("a.com") is None
    answer = await it.certificates.answer("a.com")
    assert answer.certificate == it.issuer.certificate
    assert answer.body
    assert it.cache.get("a.com") is answer
    assert await it.certificates.answer("a.com") is answer
    assert it.issuer.asked == [("a.com", "a.com")]


async def test_the_policy_says_who_is_asked_and_for_which_key(it: Room) -> None:
    await it.certificates.answer("b.com")
    assert it.managed.asked == [("b.com", "shared")]
    assert it.issuer.asked == []


async def test_what_is_not_permitted_reaches_no_issuer(it: Room) -> None:
    with pytest.raises(NotPermitted):
        await it.certificates.answer("a.net")
    assert it.issuer.asked == []


async def test_a_hot_name_is_answered_with_the_issuer_broken(it: Room) -> None:
    answer = await it.certificates.answer("a.com")
    it.issuer.error = StorageError("gone")
    it.issuer.gate.clear()
    it.clock.jump(86_400)
    assert await it.certificates.answer("a.com") is answer


async def test_a_hundred_at_once_are_one_question(it: Room) -> None:
    answers = await asyncio.gather(*(it.certificates.answer("a.com") for _ in range(100)))
    assert len(it.issuer.asked) == 1
    assert {id(answer) for answer in answers} == {id(answers[0])}


async def test_a_failure_goes_to_the_client_and_is_not_kept(it: Room) -> None:
    it.issuer.error = StorageError("gone")
    with pytest.raises(StorageError):
        await it.certificates.answer("a.com")
    it.issuer.error = None
    assert (await it.certificates.answer("a.com")).certificate == it.issuer.certificate
    assert len(it.issuer.asked) == 2


async def test_a_stale_answer_is_asked_for_anew(it: Room) -> None:
    it.issuer.fresh_for = 100
    await it.certificates.answer("a.com")
    it.clock.jump(100)
    it.issuer.fresh_for = 1e9
    assert it.cache.get("a.com") is None
    assert (await it.certificates.answer("a.com")).certificate == it.issuer.certificate
    assert len(it.issuer.asked) == 2


async def test_a_certificate_that_expired_on_the_way_is_not_handed_out(it: Room) -> None:
    it.issuer.certificate = make_certificate("a.com", end=START)
    with pytest.raises(InvalidCertificate, match=r"a\.com expired"):
        await it.certificates.answer("a.com")
    assert it.cache.get("a.com") is None


async def test_a_successor_is_handed_out_at_once_without_asking_anybody(it: Room) -> None:
    await it.certificates.answer("a.com")
    successor = make_certificate("a.com")
    it.certificates.replace(A, successor)
    assert (await it.certificates.answer("a.com")).certificate == successor
    assert len(it.issuer.asked) == 1


async def test_a_successor_of_what_nobody_asks_for_takes_no_memory(it: Room) -> None:
    it.certificates.replace(A, make_certificate("a.com"))
    assert it.cache.get("a.com") is None


async def test_a_successor_counts_however_its_ca_dates_it(it: Room) -> None:
    it.issuer.certificate = make_certificate("a.com", start=START - 10)
    await it.certificates.answer("a.com")
    backdated = make_certificate("a.com", start=START - 3600)
    it.certificates.replace(A, backdated)
    assert (await it.certificates.answer("a.com")).certificate == backdated


async def test_what_was_being_read_when_its_successor_came_is_not_handed_out(it: Room) -> None:
    it.issuer.gate.clear()
    asking = asyncio.create_task(it.certificates.answer("a.com"))
    await settle()
    successor = make_certificate("a.com", start=START - 10)
    it.certificates.replace(A, successor)
    it.issuer.gate.set()
    assert (await asking).certificate == successor
    assert (await it.certificates.answer("a.com")).certificate == successor


async def test_a_wildcards_successor_is_handed_out_for_every_name_in_use() -> None:
    it = Room(PolicyRules(wildcards=["*.a.com"]))
    it.issuer.certificate = make_certificate("*.a.com")
    for name in ("1.a.com", "2.a.com"):
        await it.certificates.answer(name)
    it.issuer.gate.clear()
    asking = asyncio.create_task(it.certificates.answer("3.a.com"))
    await settle()
    successor = make_certificate("*.a.com", start=START - 10)
    it.certificates.replace(Subject("*.a.com", ("*.a.com",)), successor)
    it.issuer.gate.set()
    assert (await asking).certificate == successor
    for name in ("1.a.com", "2.a.com", "3.a.com"):
        assert (await it.certificates.answer(name)).certificate == successor
    assert len(it.issuer.asked) == 3


async def test_a_client_that_wants_rsa_gets_its_own_answer() -> None:
    it = Room(PolicyRules(domains=["a.com"], families=[KeyFamily.ECDSA, KeyFamily.RSA]))
    usual = await it.certificates.answer("a.com")
    assert await it.certificates.answer("a.com", KeyFamily.ECDSA) is usual
    it.issuer.certificate = replace(make_certificate("a.com"), family=KeyFamily.RSA)
    rsa = await it.certificates.answer("a.com", KeyFamily.RSA)
    assert rsa.certificate.family is KeyFamily.RSA
    assert it.issuer.asked == [("a.com", "a.com"), ("a.com", "a.com+rsa")]
    assert await it.certificates.answer("a.com") is usual


async def test_a_family_that_the_certificate_has_not_is_refused(it: Room) -> None:
    for _ in range(2):
        with pytest.raises(NotPermitted, match="no certificate with an RSA key"):
            await it.certificates.answer("b.com", KeyFamily.RSA)


async def test_what_ask_refuses_goes_to_the_fallback() -> None:
    it = Room(PolicyRules(ask=True, self_signed=SelfSignedRule("fallback")))
    it.issuer.error = NotPermitted("no")
    answer = await it.certificates.answer("c.com")
    assert answer.certificate == it.self_signed.certificate
    assert it.self_signed.asked == [("c.com", "fallback")]


async def test_at_the_deadline_the_client_is_answered_and_the_work_goes_on(it: Room) -> None:
    time = LoopTime()
    it.issuer.gate.clear()
    asking = asyncio.create_task(it.certificates.answer("a.com"))
    await settle()
    await time.advance(ANSWER_DEADLINE - 1)
    assert not asking.done()
    await time.advance(1)
    with pytest.raises(DeadlineExceeded) as caught:
        await asking
    assert caught.value.retry_after > 0
    assert not it.issuer.cancelled
    it.issuer.gate.set()
    await settle()
    assert it.cache.get("a.com")
    assert it.issuer.asked == [("a.com", "a.com")]


async def test_a_request_after_the_deadline_joins_the_same_work(it: Room) -> None:
    time = LoopTime()
    it.issuer.gate.clear()
    first = asyncio.create_task(it.certificates.answer("a.com"))
    await settle()
    await time.advance(ANSWER_DEADLINE)
    second = asyncio.create_task(it.certificates.answer("a.com"))
    await settle()
    it.issuer.gate.set()
    assert (await second).certificate == it.issuer.certificate
    with pytest.raises(DeadlineExceeded):
        await first
    assert len(it.issuer.asked) == 1


def test_the_deadline_is_within_what_old_clients_wait() -> None:
    assert ANSWER_DEADLINE < 110


async def test_a_client_that_leaves_does_not_stop_the_work(it: Room) -> None:
    it.issuer.gate.clear()
    leaving = asyncio.create_task(it.certificates.answer("a.com"))
    await settle()
    leaving.cancel()
    await settle()
    it.issuer.gate.set()
    await settle()
    assert it.cache.get("a.com")


async def test_too_many_names_at_once_are_refused_but_not_those_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MAX_FETCHES", 3)
    it = Room()
    hot = await it.certificates.answer("hot.com")
    it.issuer.gate.clear()
    waiting = [asyncio.create_task(it.certificates.answer(f"{number}.com")) for number in range(3)]
    await settle()
    with pytest.raises(Overloaded) as caught:
        await it.certificates.answer("one-more.com")
    assert caught.value.retry_after > 0
    assert await it.certificates.answer("hot.com") is hot
    waiting.append(asyncio.create_task(it.certificates.answer("2.com")))
    await settle()
    it.issuer.gate.set()
    assert len(await asyncio.gather(*waiting)) == 4
    await it.certificates.answer("one-more.com")


async def test_close_gives_up_what_is_under_way(it: Room) -> None:
    it.issuer.gate.clear()
    asking = asyncio.create_task(it.certificates.answer("a.com"))
    await settle()
    await it.certificates.close()
    assert it.issuer.cancelled
    with pytest.raises(Unavailable, match="the server is stopping"):
        await asking


async def test_past_its_time_an_answer_is_given_while_nothing_newer_is_to_be_had(it: Room) -> None:
    it.issuer.fresh_for = 100
    answer = await it.certificates.answer("a.com")
    await it.clock.advance(100)
    it.issuer.error = StorageError("storage is away")
    for _ in range(3):
        assert await it.certificates.answer("a.com") is answer
    assert len(it.issuer.asked) == 2, "it holds for a minute again"
    await it.clock.advance(60)
    it.issuer.error, it.issuer.fresh_for = None, 1e9
    assert await it.certificates.answer("a.com") is not answer


async def test_but_not_where_the_name_is_refused_or_its_certificate_expired(it: Room) -> None:
    it.issuer.fresh_for = 100
    it.issuer.certificate = make_certificate("a.com", end=START + 200)
    await it.certificates.answer("a.com")
    await it.clock.advance(100)
    it.issuer.error = NotPermitted("not any more")
    with pytest.raises(NotPermitted):
        await it.certificates.answer("a.com")
    await it.clock.advance(100)
    it.issuer.error = StorageError("storage is away")
    with pytest.raises(StorageError):
        await it.certificates.answer("a.com")
