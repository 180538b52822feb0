"""Accounts bound to a customer's, given another key, and ended; certificates revoked."""

from __future__ import annotations

import base64
import json

import httpx2
import pytest
from josepy.json_util import decode_b64jose

from ssl_cert_server.acme.accounts import ExternalAccount
from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.jose import AccountKey, sign_by_hmac
from ssl_cert_server.acme.revocation import RevocationReason
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.errors import AcmeError, CaProblem, CaUnreachable, MalformedResponse, StartError
from tests.support.fake_ca import BASE, problem
from tests.unit.acme.conftest import Bench

HMAC_KEY = base64.urlsafe_b64encode(bytes(range(200, 232))).decode().rstrip("=")
CUSTOMER = ExternalAccount("customer-7", HMAC_KEY)


def customers_only(bench: Bench) -> None:
    bench.ca.external_account_required, bench.ca.external_keys = True, {"customer-7": HMAC_KEY}
    bench.client._directory = None


# --- external accounts


def test_the_binding_is_that_of_an_hmac_by_hand() -> None:
    jws = sign_by_hmac(b'{"kty":"EC"}', b"secret", kid="k", url="https://ca.test/new")
    assert json.loads(decode_b64jose(jws["protected"])) == {"alg": "HS256", "kid": "k", "url": "https://ca.test/new"}
    assert decode_b64jose(jws["payload"]) == b'{"kty":"EC"}'
    # printf '%s.%s' PROTECTED PAYLOAD | openssl dgst -sha256 -hmac secret
    assert jws["protected"] == "eyJhbGciOiAiSFMyNTYiLCAia2lkIjogImsiLCAidXJsIjogImh0dHBzOi8vY2EudGVzdC9uZXcifQ"
    assert decode_b64jose(jws["signature"]).hex() == "4bbe47d91648484677c4e2167be85731adffdafc12764b59453e53e9b2dbfa30"


@pytest.mark.parametrize("padding", ["", "="])
async def test_a_customer_gets_an_account(bench: Bench, padding: str) -> None:
    customers_only(bench)
    url = await bench.client.new_account(AccountKey.generate(), eab=ExternalAccount("customer-7", HMAC_KEY + padding))
    assert (bench.ca.accounts[-1].url, bench.ca.accounts[-1].external) == (url, "customer-7")


async def test_a_binding_is_sent_where_none_is_wanted_too(bench: Bench) -> None:
    bench.ca.external_keys = {"customer-7": HMAC_KEY}
    await bench.client.new_account(AccountKey.generate(), eab=CUSTOMER)
    assert bench.ca.accounts[-1].external == "customer-7"


async def test_who_is_no_customer_is_told_what_to_set_and_the_ca_is_not_asked(bench: Bench) -> None:
    customers_only(bench)
    with pytest.raises(CaProblem, match=r"ca\.test/directory: .* set the key id and the HMAC key") as refusal:
        await bench.client.new_account(bench.key)
    assert refusal.value.type == "externalAccountRequired"
    assert "newAccount" not in bench.ca.requests


@pytest.mark.parametrize("wrong", [ExternalAccount("customer-8", HMAC_KEY), ExternalAccount("customer-7", "AAAA")])
async def test_the_wrong_binding_is_refused(bench: Bench, wrong: ExternalAccount) -> None:
    customers_only(bench)
    with pytest.raises(CaProblem, match="unauthorized"):
        await bench.client.new_account(AccountKey.generate(), eab=wrong)


@pytest.mark.parametrize("key", ["", "=", "a", "not base64!", "ab+/", "abcd efg", "äöü"])
def test_a_key_that_is_not_base64url_is_refused_without_being_quoted(key: str) -> None:
    with pytest.raises(StartError, match="external account customer-7 is not base64url") as refusal:
        ExternalAccount("customer-7", key)
    assert len(key) < 2 or key not in str(refusal.value)


async def test_the_hmac_key_shows_nowhere(bench: Bench) -> None:
    customers_only(bench)
    with pytest.raises(CaProblem) as refusal:
        await bench.client.new_account(AccountKey.generate(), eab=ExternalAccount("customer-8", HMAC_KEY))
    assert HMAC_KEY not in f"{CUSTOMER!r} {CUSTOMER} {refusal.value!r}"


# --- finding


async def test_an_account_is_found_by_its_key_and_never_made(bench: Bench) -> None:
    assert await bench.client.find_account(bench.key) == bench.session.account_url
    assert await bench.client.find_account(AccountKey.generate()) is None
    assert len(bench.ca.accounts) == 1


async def test_looking_for_an_account_tells_of_other_refusals(bench: Bench) -> None:
    bench.ca.fail("newAccount", problem("unauthorized", status=403))
    with pytest.raises(CaProblem, match="unauthorized"):
        await bench.client.find_account(bench.key)


# --- another key


async def test_a_changed_key_signs_from_then_on(bench: Bench) -> None:
    new = AccountKey.generate()
    await bench.session.change_key(new)
    assert bench.ca.requests == ["keyChange", "newAccount"]
    assert bench.session.key_authorization("t") == new.key_authorization("t")
    await bench.obtain("a.example")
    assert await bench.client.find_account(new) == bench.session.account_url
    assert await bench.client.find_account(bench.key) is None


def test_the_inner_signature_names_its_key_and_has_no_nonce() -> None:
    body = json.loads(AccountKey.generate().sign(b"{}", url="https://ca.test/k", nonce=None, kid=None))
    assert set(json.loads(decode_b64jose(body["protected"]))) == {"alg", "url", "jwk"}


async def test_a_key_in_use_is_told_and_the_old_one_goes_on(bench: Bench) -> None:
    other = AccountKey.generate()
    await bench.client.new_account(other)
    with pytest.raises(CaProblem, match="belongs to another account already") as refusal:
        await bench.session.change_key(other)
    assert refusal.value.status == 409
    await bench.session.new_order(["a.example"])


@pytest.mark.parametrize(
    ("known", "words"), [(True, "belongs to another account"), (False, "does not know the new one")]
)
async def test_a_yes_that_changed_nothing_is_seen_through(bench: Bench, known: bool, words: str) -> None:
    new = AccountKey.generate()
    if known:
        await bench.client.new_account(new)
    bench.ca.fail("keyChange", httpx2.Response(200))
    with pytest.raises(AcmeError, match=words):
        await bench.session.change_key(new)
    await bench.session.new_order(["a.example"])


async def test_a_key_that_is_ours_already_is_no_error(bench: Bench) -> None:
    await bench.session.change_key(bench.key)
    await bench.session.new_order(["a.example"])


async def test_a_change_whose_answer_was_lost_has_happened(bench: Bench) -> None:
    new = AccountKey.generate()
    bench.ca.drop_after = {"keyChange"}
    await bench.session.change_key(new)
    assert bench.ca.requests.count("keyChange") == 2, "the second one is signed by a key that is worth nothing"
    await bench.session.new_order(["a.example"])


async def test_a_change_that_failed_leaves_the_old_key(bench: Bench) -> None:
    bench.ca.fail("keyChange", *[httpx2.ConnectError("refused")] * 4)
    with pytest.raises(CaUnreachable):
        await bench.session.change_key(AccountKey.generate())
    await bench.session.new_order(["a.example"])


async def test_a_change_at_a_ca_that_is_gone_tells_the_first_reason(bench: Bench) -> None:
    bench.ca.fail("keyChange", problem("serverInternal", "of the change", status=500, Retry_After="3600"))
    bench.ca.fail("newAccount", problem("serverInternal", "of the look-up", status=500, Retry_After="3600"))
    with pytest.raises(CaProblem, match="of the change"):
        await bench.session.change_key(AccountKey.generate())


# --- the end


async def test_a_deactivated_account_is_of_no_use(bench: Bench) -> None:
    await bench.session.deactivate()
    assert bench.ca.accounts[0].status == "deactivated"
    with pytest.raises(CaProblem, match="unauthorized: the account is deactivated"):
        await bench.session.new_order(["a.example"])


# --- revocation


@pytest.mark.parametrize("reason", [None, 0, 1, RevocationReason.SUPERSEDED, 10])
async def test_a_certificate_is_revoked_with_its_reason(bench: Bench, reason: int | None) -> None:
    await bench.session.revoke(b"the DER", reason)
    [revoked] = bench.ca.revoked
    assert decode_b64jose(revoked["certificate"]) == b"the DER"
    assert revoked.get("reason") == reason


async def test_a_revoked_certificate_is_revoked(bench: Bench) -> None:
    await bench.session.revoke(b"the DER", 1)
    await bench.session.revoke(b"the DER", 1)
    assert bench.ca.requests == ["revokeCert"] * 2


async def test_a_revocation_whose_answer_was_lost_has_happened(bench: Bench) -> None:
    bench.ca.drop_after = {"revokeCert"}
    await bench.session.revoke(b"the DER", 1)
    assert len(bench.ca.revoked) == 1


@pytest.mark.parametrize("reason", [7, 11, -1, 256])
async def test_reasons_that_rfc_5280_does_not_know(bench: Bench, reason: int) -> None:
    with pytest.raises(ValueError, match="not a valid RevocationReason"):
        await bench.session.revoke(b"the DER", reason)
    assert bench.ca.requests == []


async def test_a_refused_revocation_is_told(bench: Bench) -> None:
    bench.ca.fail("revokeCert", problem("badRevocationReason", "not this one"))
    with pytest.raises(CaProblem, match="badRevocationReason: not this one"):
        await bench.session.revoke(b"the DER", 2)


# --- CAs that offer less


@pytest.mark.parametrize("missing", ["keyChange", "revokeCert"])
async def test_what_the_directory_does_not_have_is_named(bench: Bench, missing: str) -> None:
    resources = {name: f"{BASE}/{name}" for name in ("newNonce", "newAccount", "newOrder", "keyChange", "revokeCert")}
    bench.ca.fail("directory", httpx2.Response(200, json={**resources, missing: None}))
    async with httpx2.AsyncClient(transport=bench.ca) as http:
        client = AcmeClient(bench.ca.directory_url, http, bench.clock)
        session = AcmeSession(client, bench.key, bench.session.account_url)
        with pytest.raises(MalformedResponse, match=f"'{missing}' is missing"):
            await (session.revoke(b"") if missing == "revokeCert" else session.change_key(AccountKey.generate()))
