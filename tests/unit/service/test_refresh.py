"""What another instance, a command or an operator stored is handed out here, and told by name."""

from __future__ import annotations

import pytest

from ssl_cert_server.issuers.local_ca import LocalCa
from ssl_cert_server.issuers.managed import ManagedCertificates
from ssl_cert_server.issuers.self_signed import SelfSignedIssuer
from ssl_cert_server.model import Certificate, KeyFamily
from ssl_cert_server.ocsp.staples import Staple, save_staple
from ssl_cert_server.service.attempts import Attempts
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.certificates import Certificates
from ssl_cert_server.service.held import HeldCertificates
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.policy import Policy, PolicyRules, SelfSignedRule, Source
from ssl_cert_server.service.refresh import Refresh
from ssl_cert_server.service.retained import RetainedStorage, Retention
from ssl_cert_server.service.staples import Staples
from ssl_cert_server.service.turns import Turns
from ssl_cert_server.storage.removals import save_removals
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY, make_certificate
from tests.support.scripted_ca import ScriptedCa
from tests.support.upkeep import RecordingUpkeep


class Instance:
    """Hands out ACME certificates of ``.com`` and ``*.wild.com``, a managed one for whatever ends in ``.net``.

    All other names get the self-signed one.
    """

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)
        self.retention = Retention(self.storage, None, self.clock, fixed={"shop"})
        retained = RetainedStorage(self.storage, self.retention)
        policy = Policy(
            PolicyRules(
                managed=[(r".+\.net", "shop")],
                wildcards=["*.wild.com"],
                patterns=[r"[a-z]+\.com"],
                families=(KeyFamily.ECDSA, KeyFamily.RSA),
                self_signed=SelfSignedRule("self_signed", check_sni=False),
            )
        )
        states = NameStates(retained, self.clock)
        attempts = Attempts(retained, states, ScriptedCa(self.clock), self.clock, deadline=300.0)
        acme = AcmeCertificates(retained, states, attempts, Turns(32, self.clock), self.clock, upkeep=RecordingUpkeep())
        self.cache = AnswerCache(self.clock, 10_000_000)
        self.managed = ManagedCertificates(
            retained,
            self.clock,
            ["shop"],
            on_replaced=lambda subject, new: self.certificates.replace(subject, new, Source.MANAGED),
        )
        self_signed = SelfSignedIssuer(retained, self.clock, valid_days=365, organization=["test"])
        issuers = {Source.ACME: acme, Source.MANAGED: self.managed, Source.SELF_SIGNED: self_signed}
        self.certificates = Certificates(self.cache, policy, issuers, self.clock)  # type: ignore[arg-type]
        self.staples = Staples(policy, self.certificates, self.storage, self.clock, want=self._want)
        self.retention.held = HeldCertificates(policy, self.cache, self.managed, LocalCa(retained, self.clock)).value
        self.resets = 0
        self.refresh = Refresh(
            policy,
            self.cache,
            self.certificates,
            self.staples,
            acme,
            self.managed,
            retained,
            on_removed=self.retention.note_removal,
            on_reset=self._count_reset,
        )

    def _count_reset(self) -> None:
        self.resets += 1

    async def staple(self, cert_key: str, certificate: Certificate, response: bytes) -> None:
        """Store a certificate's staple."""
        now = self.clock.now()
        staple = Staple(certificate.fingerprint, response=response, this_update=now, next_update=now + 1000)
        await save_staple(self.storage, cert_key, staple)

    async def _want(self, cert_key: str) -> None:
        raise AssertionError(cert_key)

    async def put(self, cert_key: str, *names: str) -> str:
        """Store a certificate as somebody else does; gives its fingerprint."""
        certificate = make_certificate(*names)
        await self.storage.put(cert_key, certificate.stored)
        return certificate.fingerprint

    async def remove(self, cert_key: str, fingerprint: str) -> None:
        """Remove a certificate as ``revoke`` does."""
        await save_removals(self.storage, cert_key, {fingerprint: START + 90 * DAY}, now=self.clock.now())
        await self.storage.delete(cert_key)

    async def served(self, name: str) -> str:
        return (await self.certificates.answer(name)).certificate.fingerprint


@pytest.fixture
def it() -> Instance:
    return Instance()


async def test_a_replaced_certificate_is_handed_out_and_told(it: Instance) -> None:
    await it.put("a.com", "a.com")
    await it.served("a.com")
    new = await it.put("a.com", "a.com")
    assert set(await it.refresh.one("a.com")) == {"a.com"}
    assert await it.served("a.com") == new


async def test_one_that_nobody_asked_for_here_is_not_read_and_told_all_the_same(it: Instance) -> None:
    await it.put("a.com", "a.com")
    it.storage.break_down("get")
    assert set(await it.refresh.one("a.com")) == {"a.com"}
    assert set(await it.refresh.one("a.com+rsa")) == {"a.com"}


async def test_a_wildcard_stands_for_what_it_covers(it: Instance) -> None:
    await it.put("*.wild.com", "*.wild.com", "wild.com")
    await it.served("one.wild.com")
    await it.served("two.wild.com")
    assert set(await it.refresh.one("*.wild.com")) == {"*.wild.com", "wild.com"}


async def test_one_that_was_removed_is_not_handed_out_any_more(it: Instance) -> None:
    old = await it.put("a.com", "a.com")
    await it.served("a.com")
    await it.remove("a.com", old)
    assert set(await it.refresh.one("_removed/a.com")) == {"a.com"}
    assert set(await it.refresh.one("a.com")) == {"a.com"}
    assert await it.served("a.com") != old


async def test_a_self_signed_one_that_was_removed_is_not_handed_out_any_more(it: Instance) -> None:
    old = await it.served("any.org")
    await it.remove("self_signed", old)
    assert set(await it.refresh.one("_removed/self_signed")) == {"any.org"}
    await it.refresh.one("self_signed")
    assert await it.served("any.org") != old


async def test_one_whose_removal_was_not_heard_is_not_handed_out_after_a_reset(it: Instance) -> None:
    old = await it.put("a.com", "a.com")
    await it.served("a.com")
    await it.remove("a.com", old)
    await it.refresh.one("a.com")
    assert await it.served("a.com") != old


async def test_one_that_storage_lost_is_handed_out_on_and_queued_to_be_written_back(it: Instance) -> None:
    old = await it.put("a.com", "a.com")
    await it.served("a.com")
    await it.storage.delete("a.com")
    for key in it.refresh.everything():
        await it.refresh.one(key)
    assert await it.served("a.com") == old
    assert await it.retention.lost.take() == "a.com"
    assert it.resets == 1


async def test_an_older_one_takes_no_newer_ones_place(it: Instance) -> None:
    new = await it.put("a.com", "a.com")
    await it.served("a.com")
    await it.storage.put("a.com", make_certificate("a.com", start=START - DAY).stored)
    await it.refresh.one("a.com")
    assert await it.served("a.com") == new
    assert len(it.retention.lost) == 1


async def test_a_managed_one_is_read_at_once_and_told_by_all_names_it_answers(it: Instance) -> None:
    await it.put("shop", "shop.net", "*.shop.net")
    await it.served("shop.net")
    await it.served("a.b.net")
    new = await it.put("shop", "shop.net", "new.net")
    assert set(await it.refresh.one("shop")) == {"shop.net", "*.shop.net", "new.net", "a.b.net"}
    assert await it.served("shop.net") == new


async def test_whoever_finds_a_managed_one_replaced_tells_the_others_once(it: Instance) -> None:
    await it.put("shop", "shop.net")
    await it.served("shop.net")
    cursor = (await it.storage.changes("", 0)).cursor
    await it.put("shop", "shop.net")
    assert await it.managed.refresh("shop")
    assert not await it.managed.refresh("shop")
    await it.refresh.one("shop")
    assert (await it.storage.changes(cursor, 0)).keys == ()  # only the watch announces


async def test_a_staple_is_told_by_its_names_and_read_anew(it: Instance) -> None:
    certificate = make_certificate("a.com")
    await it.storage.put("a.com", certificate.stored)
    for response in (b"one", b"two"):
        await it.staple("a.com", certificate, response)
        assert set(await it.refresh.one("_ocsp/a.com")) == {"a.com"}
        answer = await it.staples.answer("a.com", certificate.fingerprint)
        assert answer is not None
        assert answer.response == response


async def test_after_a_reset_everything_in_use_is_to_be_read_again(it: Instance) -> None:
    await it.put("a.com", "a.com")
    await it.put("shop", "shop.net")
    await it.put("unused.com", "unused.com")
    await it.served("a.com")
    await it.served("shop.net")
    assert set(it.refresh.everything()) == {"a.com", "shop"}


async def test_after_a_reset_staples_are_read_anew(it: Instance) -> None:
    certificate = make_certificate("a.com")
    await it.storage.put("a.com", certificate.stored)
    for response in (b"one", b"two"):
        await it.staple("a.com", certificate, response)
        it.refresh.everything()
        answer = await it.staples.answer("a.com", certificate.fingerprint)
        assert answer is not None
        assert answer.response == response


@pytest.mark.parametrize("what", ["garbage", "another name's", "expired"])
async def test_what_can_not_be_used_takes_no_certificates_place(it: Instance, what: str) -> None:
    good = await it.put("a.com", "a.com")
    await it.served("a.com")
    values = {
        "garbage": b"-----BEGIN EC PRIVATE KEY-----\ntrunc",
        "another name's": make_certificate("b.com").stored,
        "expired": make_certificate("a.com", start=START - 90 * DAY, end=START - DAY).stored,
    }
    await it.storage.put("a.com", values[what])
    assert set(await it.refresh.one("a.com")) == {"a.com"}
    assert await it.served("a.com") == good
