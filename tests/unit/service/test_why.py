"""What ``ssl-cert-server why`` says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from ssl_cert_server.errors import CertServerError, InvalidCertificate
from ssl_cert_server.issuers.local_ca import ROOT_KEY, LocalCa
from ssl_cert_server.issuers.managed import ManagedCertificates
from ssl_cert_server.issuers.self_signed import SelfSignedIssuer
from ssl_cert_server.model import Certificate, KeyFamily, OpenOrder, Subject
from ssl_cert_server.ocsp.codec import OcspStatus
from ssl_cert_server.ocsp.staples import Staple, save_staple
from ssl_cert_server.pki.signing import Validity, make_root
from ssl_cert_server.service.policy import Policy, PolicyRules, SelfSignedRule
from ssl_cert_server.service.readiness import Readiness
from ssl_cert_server.service.records import IssuedRecord, save_record
from ssl_cert_server.service.remedies import OUTCOME_REMEDIES, Outcome
from ssl_cert_server.service.state import NameState, save_state
from ssl_cert_server.service.verdicts import SharedVerdicts
from ssl_cert_server.service.why import explain
from ssl_cert_server.storage.base import Due
from ssl_cert_server.storage.write_watch import WriteWatch
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaks import assert_no_key
from tests.support.leaves import DAY, HOUR, make_certificate
from tests.support.ocsp_ca import OcspCa

RULES = PolicyRules(
    managed=[(r"m\.com", "own")],
    domains=["a.com", "w.com"],
    wildcards=["*.w.com"],
    patterns=[r"p[0-9]\.com"],
    local_ca_patterns=[r".+\.test"],
    ask=True,
)
POLICY = Policy(RULES)
CLOCK = ManualClock()


async def why(name: str, storage: FaultyStorage, policy: Policy = POLICY, family: KeyFamily | None = None) -> str:
    trouble = Readiness(WriteWatch(storage, CLOCK), CLOCK).trouble
    return await explain(name, policy, storage, CLOCK, family, renewals="renewal", trouble=trouble)


async def _keep(storage: FaultyStorage, state: NameState, cert_key: str = "a.com") -> None:
    lease = await storage.acquire("test", 1e9)
    assert lease is not None
    await save_state(storage, cert_key, state, lease)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("m.com", "managed: the certificate that you keep under own answers it"),
        ("a.com", "domains lists it: a CA issues for it"),
        ("x.w.com", "the certificate for *.w.com, w.com answers it (wildcards)"),
        ("w.com", "the certificate for *.w.com, w.com answers it (wildcards)"),
        ("*.w.com", "wildcards lists it: a CA issues for it"),
        ("p1.com", "re_patterns matches it: a CA issues for it"),
        ("x.test", "local_ca.names matches it: the server's own CA issues for it at once"),
        ("other.com", "no rule covers it, so ask decides before anything is issued"),
    ],
)
async def test_the_rule(storage: FaultyStorage, name: str, rule: str) -> None:
    assert (await why(name, storage)).splitlines()[:2] == [
        name,
        f"  rule: {rule}",
    ]


async def test_what_nothing_covers_and_how_to_have_it_covered(storage: FaultyStorage) -> None:
    said = await why("b.com", storage, Policy(PolicyRules()))
    assert "rule: none (b.com is not permitted here)" in said
    assert "add it to domains, wildcards or re_patterns" in said
    fallback = Policy(PolicyRules(self_signed=SelfSignedRule("fallback")))
    assert "self_signed answers what no other rule covers" in await why("b.com", storage, fallback)


async def test_what_is_stored_who_issued_it_and_when_it_is_renewed(storage: FaultyStorage) -> None:
    assert "next:   the next request has it issued" in await why("a.com", storage)
    certificate = make_certificate("a.com", end=START + 3 * DAY)
    await storage.put("a.com", certificate.stored)
    record = IssuedRecord(
        certificate.fingerprint,
        "https://ca.test/dir",
        "http-01",
        window_start=START,
        window_end=START + DAY,
        renew_at=START + HOUR,
    )
    await save_record(storage, "a.com", record)
    said = await why("a.com", storage)
    assert "valid until 2027-01-18 08:00:00 UTC (3.0 days), ECDSA key" in said
    assert "issued by https://ca.test/dir, control proven by http-01" in said
    assert "renewed from 2027-01-15 08:00:00 UTC to 2027-01-16 08:00:00 UTC; drawn: 2027-01-15 09:00:00 UTC" in said
    assert_no_key(said)


@pytest.mark.parametrize(("names", "end"), [(["a.com"], START), (["b.com"], START + DAY)])
async def test_what_is_stored_and_of_no_use(storage: FaultyStorage, names: list[str], end: float) -> None:
    await storage.put("a.com", make_certificate(*names, start=START - DAY, end=end).stored)
    assert "stored: under a.com, of no use: " in await why("a.com", storage)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("a.com: authorization is invalid: connection: refused", "open port 80"),
        ("a.com: authorization is invalid: dns: SERVFAIL", "could not resolve the name"),
        ("a.com: authorization is invalid: unauthorized: 404", "something else answered the CA"),
        ("HTTP 403: caa: forbids", "a CAA record"),
        ("HTTP 429: rateLimited: too many", "a limit of the CA is reached"),
        ("HTTP 403: rejectedIdentifier: policy", "configure another CA"),
        ("POST https://ca.test/order: ConnectError: refused", "see that this machine reaches it"),
        ("no account: HTTP 403: unauthorized: deactivated", "lets this server have no account"),
        ("can't write _challenges/http-01: [Errno 28] No space left on device", "see that it has room"),
        ("a.com points to 192.0.2.9, which is none of public_ips", "have the owner of the name point it here"),
    ],
)
async def test_the_last_failure_the_next_try_and_what_to_do(storage: FaultyStorage, error: str, remedy: str) -> None:
    await _keep(storage, NameState(2, START - 60, START + 600, error))
    said = await why("a.com", storage)
    assert f"failed: 2027-01-15 07:59:00 UTC, 2 in a row: {error}" in said
    assert "next:   tried again not before 2027-01-15 08:10:00 UTC, in 10 min; requests before then are refused" in said
    assert remedy in said


async def test_a_wait_that_is_no_failure(storage: FaultyStorage) -> None:
    await _keep(storage, NameState(0, START, 0.0, "a.com: no room for more new orders"))
    said = await why("a.com", storage)
    assert "waits:  2027-01-15 08:00:00 UTC: a.com: no room for more new orders" in said
    assert "next:   the next request has it issued" in said


async def test_when_there_may_be_room(storage: FaultyStorage) -> None:
    await _keep(storage, NameState(0, START - 60, 0.0, "a.com: no room for more new orders", expected_at=START + 600))
    said = await why("a.com", storage)
    assert "there may be room from 2027-01-15 08:10:00 UTC, in 10 min" in said
    assert "configure another CA after this one" in said


async def test_an_open_order_is_told_without_its_key(storage: FaultyStorage) -> None:
    await _keep(storage, NameState(orders=(OpenOrder("https://ca.test/dir", "https://ca.test/order/1", "secret"),)))
    said = await why("a.com", storage)
    assert "open:   order https://ca.test/order/1" in said
    assert "secret" not in said


async def test_an_order_that_is_being_placed_is_told(storage: FaultyStorage) -> None:
    await _keep(storage, NameState(placing_at=START))
    assert "an order is being placed since 2027-01-15 08:00:00 UTC" in await why("a.com", storage)


async def test_the_certificate_of_another_family(storage: FaultyStorage) -> None:
    both = Policy(PolicyRules(domains=["a.com"], families=[KeyFamily.ECDSA, KeyFamily.RSA]))
    assert "nothing under a.com+rsa" in await why("a.com", storage, both, KeyFamily.RSA)


async def test_when_it_is_renewed(storage: FaultyStorage) -> None:
    await storage.put("a.com", make_certificate("a.com").stored)
    await storage.schedule("renewal", [Due("a.com", START + DAY)])
    said = await why("a.com", storage)
    assert "plan:   renewed, or looked at again, from 2027-01-16 08:00:00 UTC" in said


async def test_what_ask_said(storage: FaultyStorage) -> None:
    assert "ask:    the endpoint has not permitted it lately" in await why("other.com", storage)
    await SharedVerdicts(storage, CLOCK).allow("other.com", HOUR)
    said = await why("other.com", storage)
    assert "ask:    the endpoint permitted it until 2027-01-15 09:00:00 UTC" in said


@pytest.mark.parametrize(
    ("staple", "words"),
    [
        (Staple(), "no staple: its responder was not asked yet"),
        (Staple("another", refresh_at=START), "no staple: its responder was not asked yet"),
        (
            Staple("its", OcspStatus.GOOD, b"x", START - 1, START + DAY, START + HOUR),
            "staple valid until 2027-01-16 08:00:00 UTC; asked again at 2027-01-15 09:00:00 UTC",
        ),
        (
            Staple("its", OcspStatus.GOOD, b"x", START - DAY, START, START + HOUR, failures=3),
            "no staple: http://ocsp.ca.test gave no usable answer; asked again at 2027-01-15 09:00:00 UTC",
        ),
        (
            Staple("its", OcspStatus.UNKNOWN, refresh_at=START + HOUR, failures=1),
            "no staple: http://ocsp.ca.test gave no usable answer",
        ),
        (
            Staple("its", OcspStatus.REVOKED, b"", START - 1, START + DAY, START + HOUR, failures=1),
            "no staple: http://ocsp.ca.test says revoked; asked again at 2027-01-15 09:00:00 UTC",
        ),
    ],
)
async def test_the_staple_of_one_that_may_have_one(storage: FaultyStorage, staple: Staple, words: str) -> None:
    certificate = OcspCa().leaf("a.com")
    await storage.put("a.com", certificate.stored)
    if staple.fingerprint == "its":
        staple = replace(staple, fingerprint=certificate.fingerprint)
    if staple.fingerprint:
        await save_staple(storage, "a.com", staple)
    assert words in await why("a.com", storage)


# --- what is served, by the check that serving makes

LEAF = make_certificate("elsewhere.com")
EXPIRED = make_certificate("m.com", start=START - 2 * DAY, end=START - DAY)
EARLY = make_certificate("m.com", start=START + DAY)
FALLBACK = Policy(PolicyRules(self_signed=SelfSignedRule("fallback")))


@pytest.mark.parametrize("certificate", [LEAF, EXPIRED, EARLY], ids=["of another name", "expired", "early"])
async def test_a_managed_certificate_is_of_use_where_it_is_served(
    storage: FaultyStorage, certificate: Certificate
) -> None:
    await storage.put("own", certificate.stored)
    managed = ManagedCertificates(storage, CLOCK, ["own"], lambda *_: None)
    try:
        await managed.obtain("m.com", Subject("own"))
        served = True
    except CertServerError:
        served = False
    said = await why("m.com", storage)
    assert served == (certificate is LEAF)
    assert ("of no use" in said) != served
    assert ("do:" in said) != served
    assert ("it does not cover m.com: clients that check names refuse it" in said) == served


@pytest.mark.parametrize("certificate", [LEAF, EXPIRED, EARLY], ids=["of another name", "expired", "early"])
async def test_a_self_signed_certificate_is_of_use_where_it_is_served(
    storage: FaultyStorage, certificate: Certificate
) -> None:
    await storage.put("fallback", certificate.stored)
    said = await why("b.com", storage, FALLBACK)
    issuer = SelfSignedIssuer(storage, CLOCK, valid_days=365, organization=["Test"])
    served = (await issuer.obtain("b.com", Subject("fallback"))).fingerprint == certificate.fingerprint
    assert served == (certificate is LEAF)
    assert ("of no use" in said) != served
    assert ("do:     nothing: the next request has it made" in said) != served


@pytest.mark.parametrize("stored", [b"rubbish", LEAF.stored], ids=["broken", "no root"])
async def test_the_local_cas_root_is_of_use_where_leaves_are_signed_with_it(
    storage: FaultyStorage, stored: bytes
) -> None:
    assert "do:     nothing: the next request has it made" in await why("x.test", storage)
    await LocalCa(storage, CLOCK).root()
    assert "do:" not in await why("x.test", storage)
    await storage.put(ROOT_KEY, stored)
    with pytest.raises(InvalidCertificate):
        await LocalCa(storage, CLOCK).root()
    assert f"stored: under {ROOT_KEY}, of no use: " in await why("x.test", storage)


async def test_a_certificate_from_before_a_wildcard_was_configured_is_served(storage: FaultyStorage) -> None:
    certificate = make_certificate("x.w.com")
    await storage.put("x.w.com", certificate.stored)
    said = await why("x.w.com", storage)
    assert "stored: nothing under *.w.com" in said
    assert "stored: under x.w.com, for x.w.com" in said
    assert "it is served until there is one under *.w.com" in said
    assert "do:" not in said


# --- what becomes of the next request

FAILED = NameState(2, START - 60, START + 600, "something nobody has heard of")


async def _nothing(storage: FaultyStorage) -> None:
    """Leave storage empty."""


async def _unusable(storage: FaultyStorage) -> None:
    for key in ("a.com", "own", ROOT_KEY):
        await storage.put(key, b"rubbish")


async def _expired_root(storage: FaultyStorage) -> None:
    await storage.put(ROOT_KEY, make_root("a root", Validity(int(START - 2 * DAY), int(START - DAY))).stored)


async def _failed(storage: FaultyStorage) -> None:
    await _keep(storage, FAILED)


async def _no_room(storage: FaultyStorage) -> None:
    await _keep(storage, NameState(0, START - 60, 0.0, "no news from the CA", expected_at=START + 600))


async def _placing(storage: FaultyStorage) -> None:
    await _keep(storage, NameState(placing_at=START))


async def _permitted(storage: FaultyStorage) -> None:
    await SharedVerdicts(storage, CLOCK).allow("other.com", HOUR)


async def _unwritable(storage: FaultyStorage) -> None:
    await _failed(storage)
    storage.break_down("put", "schedule")


NOT_SERVED = [
    (Outcome.NOT_PERMITTED, "b.com", Policy(PolicyRules()), _nothing),
    (Outcome.MANAGED_MISSING, "m.com", POLICY, _nothing),
    (Outcome.MANAGED_UNUSABLE, "m.com", POLICY, _unusable),
    (Outcome.ROOT_UNUSABLE, "x.test", POLICY, _unusable),
    (Outcome.ROOT_UNUSABLE, "x.test", POLICY, _expired_root),
    (Outcome.MADE_BY_REQUEST, "x.test", POLICY, _nothing),
    (Outcome.MADE_BY_REQUEST, "b.com", FALLBACK, _nothing),
    (Outcome.ISSUED_BY_REQUEST, "a.com", POLICY, _nothing),
    (Outcome.ISSUED_BY_REQUEST, "a.com", POLICY, _unusable),
    (Outcome.ISSUED_BY_REQUEST, "other.com", POLICY, _permitted),
    (Outcome.ASKED_BY_REQUEST, "other.com", POLICY, _nothing),
    (Outcome.BEING_ORDERED, "a.com", POLICY, _placing),
    (Outcome.BACKING_OFF, "a.com", POLICY, _failed),
    (Outcome.WAITING, "a.com", POLICY, _no_room),
    (Outcome.STORAGE_UNWRITABLE, "a.com", POLICY, _unwritable),
    (Outcome.STORAGE_UNWRITABLE, "p1.com", POLICY, _unwritable),
    (Outcome.STORAGE_UNWRITABLE, "b.com", FALLBACK, _unwritable),
    (Outcome.STORAGE_UNWRITABLE, "x.test", POLICY, _unwritable),
]


@pytest.mark.parametrize(("outcome", "name", "policy", "prepare"), NOT_SERVED)
async def test_whatever_is_not_served_has_one_line_that_says_what_to_do(
    storage: FaultyStorage,
    outcome: Outcome,
    name: str,
    policy: Policy,
    prepare: Callable[[FaultyStorage], Awaitable[None]],
) -> None:
    await prepare(storage)
    [line] = [line for line in (await why(name, storage, policy)).splitlines() if line.startswith("  do:")]
    beginning, _, _ = OUTCOME_REMEDIES[outcome].partition("{")
    assert line.removeprefix("  do:").lstrip().startswith(beginning)
    assert "{" not in line


def test_each_outcome_but_one_has_a_remedy_and_is_tested() -> None:
    others = {*Outcome} - {Outcome.SERVED}
    assert OUTCOME_REMEDIES.keys() == others
    assert {outcome for outcome, *_ in NOT_SERVED} == others
    assert len({*OUTCOME_REMEDIES.values()}) == len(others), "they are told apart by their words"


async def test_while_a_name_is_in_back_off_no_request_is_said_to_have_it_issued(storage: FaultyStorage) -> None:
    await _keep(storage, FAILED)
    said = await why("a.com", storage)
    assert "has it issued" not in said
    assert "next:   tried again not before 2027-01-15 08:10:00 UTC, in 10 min" in said


async def test_while_storage_can_not_be_written_nothing_is_said_to_be_issued(storage: FaultyStorage) -> None:
    storage.break_down("put")
    said = await why("a.com", storage)
    assert "next:   nothing is issued while storage can't be written: can't put _state/~probe: the disk is gone" in said
    storage.repair()
    await storage.put("a.com", make_certificate("a.com").stored)
    storage.break_down("put")
    assert "can't be written" not in await why("a.com", storage), "what is served needs no writing"


async def test_the_rehearsal_leaves_nothing_behind(storage: FaultyStorage) -> None:
    await why("a.com", storage)
    assert storage._values == {}


async def test_a_served_name_whose_renewal_is_in_back_off_is_not_said_to_be_refused(storage: FaultyStorage) -> None:
    await storage.put("a.com", make_certificate("a.com").stored)
    await _keep(storage, FAILED)
    said = await why("a.com", storage)
    assert (
        "next:   its renewal is tried again not before 2027-01-15 08:10:00 UTC, in 10 min; requests are served" in said
    )
    assert "refused" not in said


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "in 40 s"), (61, "in 2 min"), (4 * HOUR, "in 4 h"), (1.5 * DAY, "in 2 days")]
)
async def test_how_far_ahead_the_next_try_is(storage: FaultyStorage, seconds: float, words: str) -> None:
    await _keep(storage, replace(FAILED, retry_at=START + seconds))
    assert words in await why("a.com", storage)
