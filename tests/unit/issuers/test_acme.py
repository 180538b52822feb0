"""The ACME CA as issuance sees it: orders gone on with, given up, or made anew."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from josepy.json_util import decode_b64jose
from structlog.testing import capture_logs

from ssl_cert_server.acme.authorize import ChallengeSolver
from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.errors import AcmeError, CaProblem, CaUnreachable, OrderFailed, StorageError, ValidationFailed
from ssl_cert_server.issuers.acme import AcmeCa, CaSettings, CaTerms
from ssl_cert_server.model import Certificate, KeyFamily, KeyType, OpenOrder
from ssl_cert_server.pki.keys import generate_key, key_to_pem
from tests.support.clock import START, AutoClock
from tests.support.fake_ca import FakeCa, problem
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaks import assert_no_key
from tests.support.leaves import DAY, HOUR, make_certificate
from tests.unit.issuers.conftest import MakePlace, Place

NAME = "a.example"


async def announce() -> None:
    """Nothing has to be stored before an order is placed."""


def allow() -> None:
    """No lease can lapse."""


class Issuance:
    """One instance of the server, and the open order that it keeps of the name."""

    def __init__(self, place: Place, storage: FaultyStorage, key_type: KeyType = KeyType.ECDSA_P256) -> None:
        clock = AutoClock()
        self.responder = Http01Responder(storage, clock)
        self.settings = CaSettings(FakeCa.directory_url, {key_type.family: key_type})
        self.family = key_type.family
        self.ca = AcmeCa(place.account, place.client, clock, self.settings)
        self.orders: list[OpenOrder] = []

    async def issue(self, order: OpenOrder | None = None, *, names: Sequence[str] = (NAME,)) -> Certificate:
        """Go on with an order, and where it is of no use place another one."""
        certificate = await self.ca.resume(names, self._choice, order) if order else None
        return certificate or await self.order(names=names)

    async def order(self, *, names: Sequence[str] = (NAME,), replaces: str | None = None) -> Certificate:
        return await self.ca.issue(
            names,
            self.family,
            self._choice,
            replaces=replaces,
            before_order=announce,
            before_send=allow,
            on_order=self._keep,
        )

    def _choice(self, name: str) -> list[ChallengeSolver]:
        return [self.responder]

    async def _keep(self, order: OpenOrder) -> None:
        self.orders.append(order)


@pytest.fixture
def issuance(make_place: MakePlace, storage: FaultyStorage) -> Issuance:
    return Issuance(make_place(), storage)


async def unfinished(issuance: Issuance, fake_ca: FakeCa, step: str) -> OpenOrder:
    """Begin an issuance and end it as a crash would, at a step of the CA."""
    fake_ca.hang = step
    running = asyncio.ensure_future(issuance.issue())
    await fake_ca.reached_hang.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    fake_ca.hang = None
    [order] = issuance.orders
    return order


@pytest.mark.parametrize("key_type", KeyType)
async def test_a_name_goes_in_and_a_certificate_comes_out(
    make_place: MakePlace, storage: FaultyStorage, key_type: KeyType
) -> None:
    certificate = await Issuance(make_place(), storage, key_type).issue()
    assert certificate.names == {NAME}
    assert certificate.family is key_type.family
    kind = b"RSA PRIVATE KEY" if key_type.family is KeyFamily.RSA else b"EC PRIVATE KEY"
    assert kind in certificate.key_pem


async def test_an_order_is_kept_with_its_key_before_anything_is_done_for_it(
    issuance: Issuance, fake_ca: FakeCa
) -> None:
    order = await unfinished(issuance, fake_ca, "authz")
    assert (order.directory_url, order.order_url) == (fake_ca.directory_url, "https://ca.test/order/0")
    certificate = await issuance.issue(order)
    assert certificate.key_pem.decode() == order.key_pem


async def test_an_order_that_cannot_be_kept_is_not_gone_on_with(issuance: Issuance, fake_ca: FakeCa) -> None:
    async def refused(order: OpenOrder) -> None:
        raise StorageError("the disk is gone")

    with pytest.raises(StorageError, match="the disk is gone"):
        await issuance.ca.issue(
            [NAME],
            issuance.family,
            lambda name: [issuance.responder],
            replaces=None,
            before_order=announce,
            before_send=allow,
            on_order=refused,
        )
    assert "authz" not in fake_ca.requests


@pytest.mark.parametrize("step", ["authz", "challenge", "order", "finalize", "certificate"])
async def test_an_order_cut_short_at_any_step_is_gone_on_with(
    issuance: Issuance, make_place: MakePlace, fake_ca: FakeCa, storage: FaultyStorage, step: str
) -> None:
    order = await unfinished(issuance, fake_ca, step)
    another = Issuance(make_place(), storage)
    certificate = await another.issue(order)
    assert certificate.key_pem.decode() == order.key_pem
    assert another.orders == []
    assert fake_ca.requests.count("newOrder") == 1


async def test_an_order_whose_certificate_was_issued_costs_no_new_one(issuance: Issuance, fake_ca: FakeCa) -> None:
    first = await issuance.issue()
    assert await issuance.issue(issuance.orders[0]) == first
    assert fake_ca.requests.count("newOrder") == 1


def of_no_use(fake_ca: FakeCa, how: str, order: OpenOrder) -> OpenOrder:
    match how:
        case "invalid":
            fake_ca.orders[0].status = "invalid"
        case "forgotten by the CA":
            fake_ca.fail("order", problem("malformed", "no such order", status=404))
            return replace(order, placed_at=START - HOUR)
        case "refused":
            fake_ca.fail("order", problem("unauthorized", "not your order", status=403))
            return replace(order, placed_at=START - HOUR)
        case "refused by something before the CA":
            fake_ca.fail("order", httpx2.Response(403, content=b"<html>blocked"))
            return replace(order, placed_at=START - DAY)
        case "noted by a clock that ran ahead":
            fake_ca.fail("order", problem("malformed", "no such order", status=404))
            return replace(order, placed_at=START + DAY)
        case "its key is damaged":
            return replace(order, key_pem="garbage")
        case "finalized with another key":
            return replace(order, key_pem=key_to_pem(generate_key(KeyType.ECDSA_P256)).decode())
    return order


@pytest.mark.parametrize(
    "how",
    [
        "invalid",
        "forgotten by the CA",
        "refused",
        "refused by something before the CA",
        "noted by a clock that ran ahead",
        "its key is damaged",
        "finalized with another key",
    ],
)
async def test_an_order_of_no_use_is_given_up_for_a_new_one(issuance: Issuance, fake_ca: FakeCa, how: str) -> None:
    await issuance.issue()
    order = of_no_use(fake_ca, how, issuance.orders.pop())
    with capture_logs() as logs:
        certificate = await issuance.issue(order)
    assert fake_ca.requests.count("newOrder") == 2
    [new] = issuance.orders
    assert (certificate.key_pem.decode(), new.order_url) == (new.key_pem, "https://ca.test/order/1")
    [abandoned] = [log for log in logs if log["event"] == "acme.order.abandoned"]
    assert abandoned["names"] == [NAME]
    assert abandoned["reason"]


REFUSALS = {
    "a replica that lags behind": lambda: problem("malformed", "no such order", status=404),
    "a filter in the CA's words": lambda: problem("unauthorized", "no", status=403),
    "a filter": lambda: httpx2.Response(403, content=b"<html>blocked"),
}


@pytest.mark.parametrize("step", ["authz", "order", "certificate"])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_young_order_that_is_refused_is_not_given_up(
    issuance: Issuance, fake_ca: FakeCa, step: str, refusal: str
) -> None:
    """It is well, and the CA may have issued: each new one would count as another certificate."""
    fake_ca.fail(step, *[REFUSALS[refusal]() for _ in range(3)])
    with pytest.raises(CaProblem):
        await issuance.issue()
    [order] = issuance.orders
    for _ in range(2):
        with pytest.raises(CaProblem):
            await issuance.issue(order)
    certificate = await issuance.issue(replace(order, placed_at=START - HOUR + 60))
    assert certificate.key_pem.decode() == order.key_pem
    assert len(fake_ca.orders) == 1


async def test_an_order_whose_challenge_fails_is_told_as_such(issuance: Issuance, fake_ca: FakeCa) -> None:
    """Another challenge may do, so that whoever knows of others has to hear of it."""
    order = await unfinished(issuance, fake_ca, "challenge")
    fake_ca.responder = lambda name, token: "something else"
    with pytest.raises(ValidationFailed) as failure:
        await issuance.ca.resume([NAME], lambda name: [issuance.responder], order)
    assert (failure.value.name, failure.value.challenge) == (NAME, "http-01")


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_ca_that_cannot_now_is_no_reason_to_order_anew(
    issuance: Issuance, fake_ca: FakeCa, status: int
) -> None:
    order = await unfinished(issuance, fake_ca, "authz")
    fake_ca.fail("order", problem("serverInternal", status=status, Retry_After="3600"))
    with pytest.raises(CaProblem) as refusal:
        await issuance.issue(order)
    assert refusal.value.retry_after == 3600
    assert fake_ca.requests.count("newOrder") == 1


async def test_an_unreachable_ca_is_no_reason_to_order_anew(issuance: Issuance, fake_ca: FakeCa) -> None:
    order = await unfinished(issuance, fake_ca, "authz")
    fake_ca.fail("order", *[httpx2.ConnectError("refused")] * 4)
    with pytest.raises(CaUnreachable):
        await issuance.issue(order)
    assert fake_ca.requests.count("newOrder") == 1


async def test_an_account_the_ca_does_not_know_is_registered_anew(issuance: Issuance, fake_ca: FakeCa) -> None:
    await issuance.issue()
    [account] = fake_ca.accounts
    fake_ca.accounts.clear()
    with capture_logs() as logs:
        await issuance.issue()
    assert [known.jwk for known in fake_ca.accounts] == [account.jwk]
    assert "acme.account.unknown" in [log["event"] for log in logs]


async def test_with_the_account_the_open_order_is_gone_too(issuance: Issuance, fake_ca: FakeCa) -> None:
    order = await unfinished(issuance, fake_ca, "authz")
    fake_ca.accounts.clear()
    certificate = await issuance.issue(order)
    assert certificate.key_pem.decode() == issuance.orders[-1].key_pem != order.key_pem


async def test_an_account_that_stays_unknown_is_told_and_not_tried_for_ever(
    issuance: Issuance, fake_ca: FakeCa
) -> None:
    fake_ca.fail("newOrder", *[problem("accountDoesNotExist")] * 2)
    with pytest.raises(CaProblem, match="accountDoesNotExist"):
        await issuance.issue()
    assert fake_ca.requests.count("newOrder") == 2


async def test_the_cas_refusal_comes_out_and_no_challenge_stays(
    issuance: Issuance, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    fake_ca.responder = lambda name, token: "something else"
    with pytest.raises(OrderFailed, match=NAME):
        await issuance.issue()
    assert [key async for key in storage.list("_challenges/http-01")] == []


async def test_the_challenge_is_answered_when_the_ca_looks(issuance: Issuance, fake_ca: FakeCa) -> None:
    asked = []

    def look(name: str, token: str) -> str | None:
        asked.append(name)
        return issuance.responder._pending.get(token)

    fake_ca.responder = look
    await issuance.issue()
    assert asked == [NAME]


async def test_a_challenge_that_cannot_be_presented_is_not_answered(
    issuance: Issuance, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    await issuance.issue()
    storage.break_down("put")
    with pytest.raises(StorageError):
        await issuance.issue()
    assert fake_ca.requests.count("challenge") == 1


async def test_the_terms_are_the_account_and_what_caa_records_call_the_ca(issuance: Issuance, fake_ca: FakeCa) -> None:
    assert await issuance.ca.account_url() is None
    assert fake_ca.requests == []
    terms = await issuance.ca.terms()
    assert terms == CaTerms(fake_ca.accounts[0].url, ("ca.test",))
    assert await issuance.ca.account_url() == terms.account_url


async def test_one_certificate_holds_many_names(issuance: Issuance, fake_ca: FakeCa) -> None:
    names = (NAME, "b.example", "192.0.2.1", "2001:db8::1")
    assert (await issuance.issue(names=names)).names == {*names}


async def test_profile_and_predecessor_go_with_the_order(
    make_place: MakePlace, storage: FaultyStorage, fake_ca: FakeCa
) -> None:
    fake_ca.profiles = {"shortlived": "six days"}
    fake_ca.renewal_info = {}
    place, issuance = make_place(), Issuance(make_place(), storage)
    settings = replace(issuance.settings, profile="shortlived")
    issuance.ca = AcmeCa(place.account, place.client, AutoClock(), settings)
    await issuance.order(replaces="aaaa.bbbb")
    [order] = fake_ca.orders
    assert (order.asked["profile"], order.asked["replaces"]) == ("shortlived", "aaaa.bbbb")


async def test_a_key_changed_elsewhere_meanwhile_costs_nothing(
    issuance: Issuance, make_place: MakePlace, fake_ca: FakeCa
) -> None:
    async def keep(order: OpenOrder) -> None:
        if len(issuance.orders) == 0:
            issuance.orders.append(order)
            await make_place().account.change_key()

    await issuance.ca.issue(
        [NAME],
        issuance.family,
        lambda name: [issuance.responder],
        replaces=None,
        before_order=announce,
        before_send=allow,
        on_order=keep,
    )
    assert len(fake_ca.accounts) == 1
    assert fake_ca.requests.count("newOrder") == len(fake_ca.orders) == 1, "the open order is resumed"


async def test_a_certificate_is_revoked(issuance: Issuance, fake_ca: FakeCa) -> None:
    certificate = await issuance.issue()
    await issuance.ca.revoke(certificate, 4)
    [revoked] = fake_ca.revoked
    leaf = x509.load_pem_x509_certificate(certificate.chain_pem)
    assert decode_b64jose(revoked["certificate"]) == leaf.public_bytes(Encoding.DER)
    assert revoked["reason"] == 4


async def test_advice_is_asked_of_the_ca(issuance: Issuance, fake_ca: FakeCa) -> None:
    window = {"start": "2027-01-02T00:00:00Z", "end": "2027-01-03T00:00:00Z"}
    fake_ca.renewal_info, fake_ca.retry_after = {"suggestedWindow": window}, "600"
    info = await issuance.ca.renewal_info(await issuance.issue())
    assert info is not None
    assert (info.end - info.start, info.retry_after) == (86_400, 600)


async def test_a_ca_without_advice_gives_none(issuance: Issuance, fake_ca: FakeCa) -> None:
    assert await issuance.ca.renewal_info(await issuance.issue()) is None
    fake_ca.renewal_info = {}
    assert await issuance.ca.renewal_info(make_certificate(NAME)) is None, "it names no issuer's key"
    assert "renewalInfo" not in fake_ca.requests


async def test_no_key_is_in_a_log_or_an_error(issuance: Issuance, fake_ca: FakeCa) -> None:
    with capture_logs() as logs:
        certificate = await issuance.issue()
        order = issuance.orders[0]
        damaged = OpenOrder(order.directory_url, order.order_url, order.key_pem[:-40])
        fake_ca.fail("newOrder", problem("rejectedIdentifier", "no"))
        with pytest.raises(AcmeError) as failure:
            await issuance.issue(damaged)
    assert_no_key(order.key_pem, logs, failure.value, certificate, order, damaged)
