"""Parsing is tolerant of what we don't know and exact about what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from ssl_cert_server.acme.directory import Directory
from ssl_cert_server.acme.messages import Authorization, AuthorizationStatus, Order, OrderStatus
from ssl_cert_server.errors import MalformedResponse

DIRECTORY = {"newNonce": "https://ca.test/n", "newAccount": "https://ca.test/a", "newOrder": "https://ca.test/o"}
ORDER = {"status": "pending", "authorizations": ["https://ca.test/z/1"], "finalize": "https://ca.test/f"}
AUTHORIZATION: dict[str, Any] = {
    "identifier": {"type": "dns", "value": "example.com"},
    "status": "pending",
    "challenges": [{"type": "http-01", "url": "https://ca.test/c", "token": "tok", "status": "pending"}],
}
URL = "https://ca.test/order/1"


def without(document: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != field}


def test_directory() -> None:
    directory = Directory.parse({**DIRECTORY, "meta": {"externalAccountRequired": True, "x": 1}, "renewalInfo": 5})
    assert directory == Directory("https://ca.test/n", "https://ca.test/a", "https://ca.test/o", True)
    assert not Directory.parse({**DIRECTORY, "meta": "what"}).external_account_required


def test_directory_with_all_that_a_ca_may_offer() -> None:
    offered = {name: f"https://ca.test/{name}" for name in ("revokeCert", "keyChange", "renewalInfo")}
    meta = {"profiles": {"classic": "the old one", "odd": 5}, "caaIdentities": ["ca.test", 7]}
    directory = Directory.parse({**DIRECTORY, **offered, "meta": meta})
    assert directory.revoke_cert == "https://ca.test/revokeCert"
    assert directory.key_change == "https://ca.test/keyChange"
    assert directory.renewal_info == "https://ca.test/renewalInfo"
    assert directory.profiles == {"classic": "the old one", "odd": ""}
    assert directory.caa_identities == ("ca.test",)
    odd = Directory.parse({**DIRECTORY, "revokeCert": "/here", "meta": {"profiles": ["a"], "caaIdentities": "ca.test"}})
    assert (odd.revoke_cert, dict(odd.profiles), odd.caa_identities) == (None, {}, ())


@pytest.mark.parametrize("value", [None, [], "text", 5, True])
@pytest.mark.parametrize("parse", [Directory.parse, Authorization.parse, lambda value: Order.parse(value, url=URL)])
def test_no_object(parse: Any, value: object) -> None:
    with pytest.raises(MalformedResponse, match="not a JSON object"):
        parse(value)


@pytest.mark.parametrize("field", DIRECTORY)
@pytest.mark.parametrize(("value", "words"), [(None, "missing"), (5, "not a URL"), ("/relative", "not a URL")])
def test_directory_names_the_wrong_field(field: str, value: object, words: str) -> None:
    with pytest.raises(MalformedResponse, match=rf"directory: field '{field}' is {words}"):
        Directory.parse({**DIRECTORY, field: value})


@pytest.mark.parametrize("field", ORDER)
def test_order_names_the_missing_field(field: str) -> None:
    with pytest.raises(MalformedResponse, match=f"order: field '{field}' is missing"):
        Order.parse(without(ORDER, field), url=URL)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "wavering"}, "field 'status' is 'wavering'"),
        ({"status": 1}, "field 'status' is not a string"),
        ({"authorizations": "x"}, "field 'authorizations' is not a list"),
        ({"authorizations": [5]}, "field 'authorizations' is not a URL"),
        ({"status": "valid"}, "field 'certificate' is missing"),
    ],
)
def test_order_names_the_wrong_field(change: dict[str, object], words: str) -> None:
    with pytest.raises(MalformedResponse, match=words):
        Order.parse({**ORDER, **change}, url=URL)


def test_order_with_an_error() -> None:
    problem = {"type": "urn:ietf:params:acme:error:caa", "detail": "no", "future": 1}
    order = Order.parse({**ORDER, "status": "invalid", "error": problem, "future": {}}, url=URL, retry_after=3.0)
    assert (order.url, order.status, order.retry_after) == (URL, OrderStatus.INVALID, 3.0)
    assert order.error is not None
    assert order.error.describe() == "caa: no"


@pytest.mark.parametrize("field", AUTHORIZATION)
def test_authorization_names_the_missing_field(field: str) -> None:
    with pytest.raises(MalformedResponse, match=f"authorization: (field '{field}' is missing|{field}: not a JSON)"):
        Authorization.parse(without(AUTHORIZATION, field))


def test_unknown_challenges_are_kept_apart_from_ours() -> None:
    persist = {"type": "dns-persist-01", "url": "https://ca.test/p", "status": "pending", "issuer-domain-names": []}
    strange: list[Any] = [persist, {"type": 5}, {}, "text", None, {"type": "x", "token": 7, "error": "odd"}]
    authorization = Authorization.parse({**AUTHORIZATION, "challenges": [*strange, *AUTHORIZATION["challenges"]]})
    assert authorization.status is AuthorizationStatus.PENDING
    assert authorization.challenges[0].token is None
    assert [challenge.type for challenge in authorization.challenges] == ["dns-persist-01", "", "", "x", "http-01"]


def test_wildcards_get_their_star_back() -> None:
    assert Authorization.parse(AUTHORIZATION).name == "example.com"
    assert Authorization.parse({**AUTHORIZATION, "wildcard": True}).name == "*.example.com"


def test_reprs_hide_tokens() -> None:
    error = {"type": "x", "detail": "your tokentoken is wrong"}
    challenge = {**AUTHORIZATION["challenges"][0], "token": "tokentoken", "error": error}
    authorization = Authorization.parse({**AUTHORIZATION, "challenges": [challenge]})
    assert authorization.challenges[0].token == "tokentoken"
    assert "tokentoken" not in repr(authorization)
