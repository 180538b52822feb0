"""The ACME CA as issuance sees it: orders gone on with, given up, or made anew."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from structlog.testing import capture_logs

from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.errors import AcmeError, CaProblem, CaUnreachable, OrderFailed, StorageError
from ssl_cert_server.issuers.account import AcmeAccount
from ssl_cert_server.issuers.acme import AcmeCa
from ssl_cert_server.model import Certificate, KeyType, OpenOrder
from ssl_cert_server.pki.keys import generate_key, key_to_pem
from tests.support.clock import AutoClock
from tests.support.fake_ca import FakeCa, problem
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaks import assert_no_key
from tests.unit.issuers.conftest import MakeAccount

NAME = "a.example"


class Issuance:
    """One instance of the server, and the open order that it keeps of the name."""

    def __init__(self, account: AcmeAccount, storage: FaultyStorage, key_type: KeyType = KeyType.ECDSA_P256) -> None:
        clock = AutoClock()
        url = FakeCa.directory_url
        self.responder = Http01Responder(storage, clock)
        self.ca = AcmeCa(account, self.responder, clock, directory_url=url, key_type=key_type)
        self.orders: list[OpenOrder] = []

    async def issue(self, order: OpenOrder | None = None) -> Certificate:
        return await self.ca.issue(NAME, order, self._keep)

    async def _keep(self, order: OpenOrder) -> None:
        self.orders.append(order)


@pytest.fixture
def issuance(make_account: MakeAccount, storage: FaultyStorage) -> Issuance:
    return Issuance(make_account(), storage)


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
    make_account: MakeAccount, storage: FaultyStorage, key_type: KeyType
) -> None:
    certificate = await Issuance(make_account(), storage, key_type).issue()
    assert certificate.names == {NAME}
    kind = b"RSA PRIVATE KEY" if key_type is KeyType.RSA_2048 else b"EC PRIVATE KEY"
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
        await issuance.ca.issue(NAME, None, refused)
    assert "authz" not in fake_ca.requests


@pytest.mark.parametrize("step", ["authz", "challenge", "order", "finalize", "certificate"])
async def test_an_order_cut_short_at_any_step_is_gone_on_with(
    issuance: Issuance, make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage, step: str
) -> None:
    order = await unfinished(issuance, fake_ca, step)
    another = Issuance(make_account(), storage)
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
        case "refused":
            fake_ca.fail("order", problem("unauthorized", "not your order", status=403))
        case "its key is damaged":
            return OpenOrder(order.directory_url, order.order_url, "garbage")
        case "finalized with another key":
            key = key_to_pem(generate_key(KeyType.ECDSA_P256)).decode()
            return OpenOrder(order.directory_url, order.order_url, key)
        case "of another CA":
            return OpenOrder("https://other.example/dir", "https://other.example/order/7", order.key_pem)
    return order


@pytest.mark.parametrize(
    "how",
    ["invalid", "forgotten by the CA", "refused", "its key is damaged", "finalized with another key", "of another CA"],
)
async def test_an_order_of_no_use_is_given_up_for_a_new_one(issuance: Issuance, fake_ca: FakeCa, how: str) -> None:
    await issuance.issue()
    order = of_no_use(fake_ca, how, issuance.orders.pop())
    with capture_logs() as logs:
        certificate = await issuance.issue(order)
    assert fake_ca.requests.count("newOrder") == 2
    [new] = issuance.orders
    assert (certificate.key_pem.decode(), new.order_url) == (new.key_pem, "https://ca.test/order/1")
    abandoned = [log for log in logs if log["event"] == "acme.order.abandoned"]
    assert len(abandoned) == (how != "of another CA")
    assert all(log["name"] == NAME and log["reason"] for log in abandoned)


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


async def test_no_key_is_in_a_log_or_an_error(issuance: Issuance, fake_ca: FakeCa) -> None:
    with capture_logs() as logs:
        certificate = await issuance.issue()
        order = issuance.orders[0]
        damaged = OpenOrder(order.directory_url, order.order_url, order.key_pem[:-40])
        fake_ca.fail("newOrder", problem("rejectedIdentifier", "no"))
        with pytest.raises(AcmeError) as failure:
            await issuance.issue(damaged)
    assert_no_key(order.key_pem, logs, failure.value, certificate, order, damaged)
