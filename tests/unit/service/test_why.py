"""What ``ssl-cert-server why`` says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ssl_cert_server.model import KeyFamily, OpenOrder
from ssl_cert_server.ocsp.codec import OcspStatus
from ssl_cert_server.ocsp.staples import Staple, save_staple
from ssl_cert_server.service.policy import Policy, PolicyRules, SelfSignedRule
from ssl_cert_server.service.records import IssuedRecord, save_record
from ssl_cert_server.service.state import NameState, save_state
from ssl_cert_server.service.verdicts import SharedVerdicts
from ssl_cert_server.service.why import explain
from ssl_cert_server.storage.base import Due
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
    return await explain(name, policy, storage, CLOCK, family, renewals="renewal")


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
    assert "stored: nothing under a.com; the first request" in await why("a.com", storage)
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
    assert "tried again from 2027-01-15 08:10:00 UTC; requests before then are refused" in said
    assert remedy in said


async def test_a_wait_that_is_no_failure(storage: FaultyStorage) -> None:
    await _keep(storage, NameState(0, START, 0.0, "a.com: no room for more new orders"))
    said = await why("a.com", storage)
    assert "waits:  2027-01-15 08:00:00 UTC: a.com: no room for more new orders" in said
    assert "tried again at the next request or renewal" in said


async def test_when_there_may_be_room(storage: FaultyStorage) -> None:
    await _keep(storage, NameState(0, START - 60, 0.0, "a.com: no room for more new orders", expected_at=START + 600))
    said = await why("a.com", storage)
    assert "there may be room from 2027-01-15 08:10:00 UTC" in said
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
