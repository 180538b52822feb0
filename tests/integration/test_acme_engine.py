"""The ACME engine against a CA that isn't ours: Pebble."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs

from ssl_cert_server.acme.accounts import ExternalAccount
from ssl_cert_server.acme.ari import ari_id
from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.acme.order import obtain
from ssl_cert_server.acme.revocation import RevocationReason
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.acme.transport import open_http_client
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import CaProblem, OrderFailed, ValidationFailed
from ssl_cert_server.model import Certificate, KeyFamily, KeyType
from ssl_cert_server.pki.csr import make_csr
from ssl_cert_server.pki.keys import generate_key
from ssl_cert_server.pki.x509 import assemble
from tests.integration.conftest import StartPebble
from tests.support.pebble import Pebble

HMAC_KEY = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
DAY = 86_400.0
SHORT = int(6.5 * DAY)


@dataclass
class WebServer:
    """Answers http-01 on a port of the test's."""

    type: str = "http-01"
    answers: dict[str, str] = field(default_factory=dict)
    presented: list[str] = field(default_factory=list)
    deaf: bool = False

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        self.presented.append(name)
        self.answers[f"/.well-known/acme-challenge/{token}"] = key_authorization

    async def cleanup(self, name: str, token: str) -> None:
        del self.answers[f"/.well-known/acme-challenge/{token}"]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        found = None if self.deaf else self.answers.get(path)
        body = (found or "not here").encode()
        status = b"404 Not Found" if found is None else b"200 OK"
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
        writer.write(head + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@dataclass
class Customer:
    """An account at a CA, and the web server that proves its names."""

    client: AcmeClient
    key: AccountKey
    session: AcmeSession
    web: WebServer

    async def obtain(
        self,
        *names: str,
        key_type: KeyType = KeyType.ECDSA_P256,
        profile: str | None = None,
        replaces: str | None = None,
        preferred_chain: str | None = None,
    ) -> Certificate:
        key = generate_key(key_type)
        chain = await obtain(
            self.session,
            names,
            make_csr(key, names),
            self.choice,
            SystemClock(),
            profile=profile,
            replaces=replaces,
            preferred_chain=preferred_chain,
        )
        assert not self.web.answers
        return assemble(key, chain)

    def choice(self, name: str) -> Sequence[WebServer]:
        return [self.web]


@contextlib.asynccontextmanager
async def client_of(pebble: Pebble) -> AsyncIterator[AcmeClient]:
    async with open_http_client(pebble.ca_bundle) as http:
        yield AcmeClient(pebble.directory_url, http, SystemClock())


@contextlib.asynccontextmanager
async def customer_of(pebble: Pebble) -> AsyncIterator[Customer]:
    web, key = WebServer(), AccountKey.generate()
    server = await asyncio.start_server(web.answer, "127.0.0.1", pebble.http_port)
    async with server, client_of(pebble) as client:
        yield Customer(client, key, AcmeSession(client, key, await client.new_account(key)), web)


@pytest.fixture
async def customer(pebble: Pebble) -> AsyncIterator[Customer]:
    async with customer_of(pebble) as customer:
        yield customer


async def order_blindly(customer: Customer, **fields: str) -> None:
    """Ask for what the engine knows better than to ask for."""
    url = (await customer.client.directory()).new_order
    payload = {"identifiers": [{"type": "dns", "value": "a.example.com"}], **fields}
    kid = customer.session.account_url
    await customer.client.post(url, json.dumps(payload).encode(), key=customer.key, kid=kid)


def certificates(certificate: Certificate) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(certificate.chain_pem)


# --- accounts


async def test_a_ca_for_customers_only(start_pebble: StartPebble, http_port: int) -> None:
    pebble = start_pebble(http_port=http_port, eab={"customer-7": HMAC_KEY})
    async with client_of(pebble) as client:
        assert (await client.directory()).external_account_required
        key = AccountKey.generate()
        with pytest.raises(CaProblem) as refusal:
            await client.new_account(key)
        assert refusal.value.type == "externalAccountRequired"
        wrong = base64.urlsafe_b64encode(bytes(32)).decode()
        for stranger in (ExternalAccount("customer-7", wrong), ExternalAccount("customer-8", HMAC_KEY)):
            with pytest.raises(CaProblem):
                await client.new_account(key, eab=stranger)
        assert pebble.account_count() == 0
        url = await client.new_account(key, ("mailto:a@b.example",), ExternalAccount("customer-7", HMAC_KEY))
        assert await client.find_account(key) == url
        assert pebble.account_count() == 1


async def test_another_key_takes_over(customer: Customer) -> None:
    await customer.obtain("a.example.com")
    new = AccountKey.generate()
    await customer.session.change_key(new)
    await customer.obtain("b.example.com")
    assert await customer.client.find_account(new) == customer.session.account_url
    assert await customer.client.find_account(customer.key) is None


async def test_a_key_of_another_account_is_refused(customer: Customer) -> None:
    other = AccountKey.generate()
    await customer.client.new_account(other)
    with pytest.raises(CaProblem, match="belongs to another account already") as refusal:
        await customer.session.change_key(other)
    assert refusal.value.status == 409
    await customer.obtain("a.example.com")


async def test_a_deactivated_account_orders_nothing(customer: Customer) -> None:
    await customer.session.deactivate()
    with pytest.raises(CaProblem):
        await customer.obtain("a.example.com")


# --- what is ordered


@pytest.mark.parametrize("key_type", [KeyType.ECDSA_P384, KeyType.RSA_2048, KeyType.RSA_3072])
async def test_key_types(customer: Customer, key_type: KeyType) -> None:
    certificate = await customer.obtain("a.example.com", key_type=key_type)
    public = certificates(certificate)[0].public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    assert public.key_size == int(key_type.rpartition("-")[2].removeprefix("p"))
    assert certificate.family is (KeyFamily.ECDSA if key_type is KeyType.ECDSA_P384 else KeyFamily.RSA)


async def test_an_address_is_certified(customer: Customer) -> None:
    certificate = await customer.obtain("127.0.0.1", "a.example.com")
    assert certificate.names == {"127.0.0.1", "a.example.com"}
    assert sorted(customer.web.presented) == ["127.0.0.1", "a.example.com"]


async def test_profiles(start_pebble: StartPebble, http_port: int) -> None:
    async with customer_of(start_pebble(http_port=http_port, profiles={"shortlived": SHORT})) as customer:
        advertised = (await customer.client.directory()).profiles
        if not advertised:
            pytest.skip("Debian's Pebble has no profiles")
        assert advertised == {"default": "default", "shortlived": "shortlived"}
        short = await customer.obtain("a.example.com", profile="shortlived")
        assert short.lifetime == pytest.approx(SHORT, abs=2)
        with capture_logs() as logs:
            await customer.obtain("b.example.com", profile="tlsserver")
        assert "acme.profile.unknown" in [log["event"] for log in logs]
        with pytest.raises(CaProblem) as refusal:
            await order_blindly(customer, profile="tlsserver")
        assert refusal.value.type == "invalidProfile"


async def test_an_answer_that_the_ca_does_not_find(customer: Customer) -> None:
    customer.web.deaf = True
    with pytest.raises(ValidationFailed) as failure:
        await customer.obtain("a.example.com")
    told = (failure.value.name, failure.value.challenge, failure.value.problem)
    assert told == ("a.example.com", "http-01", "unauthorized")


async def test_a_wildcard_that_cannot_be_proven(customer: Customer) -> None:
    words = r"^\*\.example\.com: .*offers: .*dns-01.*set up for this name: http-01\)"
    with pytest.raises(OrderFailed, match=words) as failure:
        await customer.obtain("*.example.com")
    assert not isinstance(failure.value, ValidationFailed)


# --- after the issuance


@pytest.mark.parametrize("reason", [RevocationReason.KEY_COMPROMISE, RevocationReason.SUPERSEDED])
async def test_a_certificate_is_revoked_for_a_reason(
    customer: Customer, pebble: Pebble, reason: RevocationReason
) -> None:
    leaf = certificates(await customer.obtain("a.example.com"))[0]
    assert pebble.revocation_reason(leaf) is None
    await customer.session.revoke(leaf.public_bytes(Encoding.DER), reason)
    assert pebble.revocation_reason(leaf) == reason
    await customer.session.revoke(leaf.public_bytes(Encoding.DER), reason)


async def test_a_certificate_of_another_account_is_not_revoked(customer: Customer, pebble: Pebble) -> None:
    leaf = certificates(await customer.obtain("a.example.com"))[0]
    key = AccountKey.generate()
    stranger = AcmeSession(customer.client, key, await customer.client.new_account(key))
    with pytest.raises(CaProblem):
        await stranger.revoke(leaf.public_bytes(Encoding.DER), RevocationReason.KEY_COMPROMISE)
    assert pebble.revocation_reason(leaf) is None


@pytest.fixture
async def adviser(customer: Customer) -> Customer:
    if (await customer.client.directory()).renewal_info is None:
        pytest.skip("Debian's Pebble knows no ARI")
    return customer


async def replace(adviser: Customer, name: str) -> None:
    """Replace the certificate, in an order that says so.

    Pebble may hand out a certificate before it knows that its order can be replaced: then the order is placed without.
    """
    async with asyncio.timeout(60):
        while True:
            with capture_logs() as logs:
                await adviser.obtain("a.example.com", replaces=name)
            # Its order may be found when it is asked for once more.
            events = [log["event"] for log in logs if log["event"] != "acme.request.retried"]
            if "acme.order.replaces_refused" not in events:
                assert events == ["acme.order.created"]
                return
            assert "could not find order resulting in" in str(logs)


async def test_renewal_as_the_ca_advises(adviser: Customer, pebble: Pebble) -> None:
    old = await adviser.obtain("a.example.com")
    name = ari_id(old.chain_pem)
    assert name is not None
    info = await adviser.client.renewal_info(name)
    assert old.not_before < info.start < info.end < old.not_after
    assert info.retry_after is not None
    window = {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00.123456789Z"}
    leaf = certificates(old)[0].public_bytes(Encoding.PEM)
    pebble.set_renewal_info(leaf, {"suggestedWindow": window, "explanationURL": "https://ca.test/incident"})
    info = await adviser.client.renewal_info(name)
    assert info.end == pytest.approx(1_577_923_200.123)
    assert info.explanation_url == "https://ca.test/incident"

    await replace(adviser, name)
    with capture_logs() as logs:
        again = await adviser.obtain("a.example.com", replaces=name)
    assert [log["event"] for log in logs] == ["acme.order.replaces_refused", "acme.order.created"]
    assert again.names == {"a.example.com"}


async def test_renewal_information_for_a_certificate_that_the_ca_never_issued(adviser: Customer) -> None:
    with pytest.raises(CaProblem) as refusal:
        await adviser.client.renewal_info("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
    assert refusal.value.status in (400, 404)


async def test_the_preferred_chain_is_taken(start_pebble: StartPebble, http_port: int) -> None:
    pebble = start_pebble(http_port=http_port, alternate_roots=2)
    roots = [x509.load_pem_x509_certificate(pebble.root_certificate(number)) for number in range(3)]
    common_names = [root.subject.rfc4514_string().removeprefix("CN=") for root in roots]
    assert len(set(common_names)) == 3
    async with customer_of(pebble) as customer:
        for root, common_name in zip(roots, common_names, strict=True):
            chain = certificates(await customer.obtain("a.example.com", preferred_chain=common_name))
            chain[-1].verify_directly_issued_by(root)
        with capture_logs() as logs:
            chain = certificates(await customer.obtain("a.example.com", preferred_chain="Nobody's Root"))
        chain[-1].verify_directly_issued_by(roots[0])
        [told] = [log for log in logs if log["event"] == "acme.chain.not_offered"]
        assert told["offered"] == common_names
