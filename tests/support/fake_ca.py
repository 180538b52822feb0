"""A CA in this process: RFC 8555 behind an httpx2 transport, strict about requests, and made to fail on demand."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from josepy.json_util import decode_b64jose, encode_b64jose
from josepy.jwa import ES256, ES384, HS256, RS256
from josepy.jwk import JWK

from ssl_cert_server.pki.alternative_names import names_of
from ssl_cert_server.pki.names import is_ip
from tests.support.clock import START

BASE = "https://ca.test"
STEPS = ("directory", "newNonce", "newAccount", "newOrder", "authz", "challenge", "order", "finalize", "certificate")
"""Those of an ordinary order; there are ``account``, ``keyChange``, ``revokeCert`` and ``renewalInfo`` besides."""

_ALGORITHMS = {"ES256": ES256, "ES384": ES384, "RS256": RS256, "HS256": HS256}

Fault = httpx2.Response | Exception


@dataclass
class Account:
    url: str
    jwk: Any
    contact: list[str]
    external: str | None = None
    status: str = "valid"


@dataclass
class Authz:
    name: str
    token: str
    wildcard: bool = False
    status: str = "pending"
    challenge_status: str = "pending"
    answered: str | None = None
    polls: int = 0
    error: dict[str, Any] | None = None


@dataclass
class Order:
    names: list[str]
    authzs: list[int]
    status: str = "pending"
    polls: int = 0
    chain: bytes = b""
    leaf: bytes = b""
    error: dict[str, Any] | None = None
    csr: bytes | None = None
    asked: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeCa(httpx2.AsyncBaseTransport):
    """``AsyncClient(transport=FakeCa())`` is a CA at ``https://ca.test/directory``.

    ``responder`` is asked for what a web server would answer for (name, token); None takes every challenge for
    answered. ``requests`` lists the steps in the order they came (see STEPS). ``faults`` maps a step to what happens
    instead, once each: a response, or an exception. ``drop_after`` names steps that are done, but whose answer is
    lost once. ``hang`` names a step that never answers, from its ``hang_from``-th request on.

    ``challenges`` are the types it offers; wildcards are offered ``dns-01`` alone. ``external_keys`` (key id to
    base64url key) are its customers. ``renewal_info`` is the body of each answer to ARI; without it the CA knows no
    ARI. ``alternates`` are the common names of other issuers that its chains come from.
    """

    responder: Callable[[str, str], str | None] | None = None
    bad_nonces: int = 0
    authz_polls: int = 1
    processing_polls: int = 0
    retry_after: str | None = None
    challenges: tuple[str, ...] = ("http-01",)
    external_account_required: bool = False
    external_keys: dict[str, str] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)
    renewal_info: Any = None
    alternates: tuple[str, ...] = ()
    not_before: float = START - 3600
    valid_days: float = 90
    extra_challenges: list[dict[str, Any]] = field(default_factory=list)
    extra_order: dict[str, Any] = field(default_factory=dict)
    reusable: set[str] = field(default_factory=set)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    drop_after: set[str] = field(default_factory=set)
    hang: str | None = None
    hang_from: int = 1
    requests: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    """Nonces refused, used or unknown: a client that sends one again shows here twice."""

    def __post_init__(self) -> None:
        self.accounts: list[Account] = []
        self.orders: list[Order] = []
        self.authzs: list[Authz] = []
        self.nonces: set[str] = set()
        self.urls: list[str] = []
        self.revoked: list[dict[str, Any]] = []
        self.reached_hang = asyncio.Event()
        self._count = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._routes = {
            "newAccount": self._new_account,
            "newOrder": self._new_order,
            "authz": self._get_authz,
            "challenge": self._challenge,
            "order": self._get_order,
            "finalize": self._finalize,
            "certificate": self._certificate,
            "account": self._update_account,
            "keyChange": self._key_change,
            "revokeCert": self._revoke,
        }

    directory_url = f"{BASE}/directory"

    def fail(self, step: str, *faults: Fault) -> None:
        """Let the next requests of a step go wrong, in this order."""
        self.faults.setdefault(step, []).extend(faults)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        step = request.url.path.split("/")[1]
        self.requests.append(step)
        self.urls.append(str(request.url))
        if self.hang == step and self.requests.count(step) >= self.hang_from:
            self.reached_hang.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)  # a real network lets others run meanwhile
        if self.faults.get(step):
            fault = self.faults[step].pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        response = self._respond(step, request)
        response.headers["Replay-Nonce"] = self._nonce()
        if step in self.drop_after:
            self.drop_after.remove(step)
            raise httpx2.ReadError("connection reset after the request was received")
        return response

    def _respond(self, step: str, request: httpx2.Request) -> httpx2.Response:
        if step == "directory":
            return self._directory()
        if step == "newNonce":
            return httpx2.Response(200)
        if step == "renewalInfo":
            assert request.method == "GET"
            return httpx2.Response(200, json=self.renewal_info, headers=self._wait(True))
        try:
            header, payload = self._verified(request)
            if step == "certificate" and request.headers["accept"] != "application/pem-certificate-chain":
                raise _Refused("malformed", f"no certificates in {request.headers['accept']}", 406)
            return self._routes[step](request.url.path, header, payload)
        except _Refused as refused:
            return problem(refused.type, refused.detail, status=refused.status)

    # --- requests (section 6)

    def _nonce(self) -> str:
        self._count += 1
        nonce = f"nonce-{self._count}"
        self.nonces.add(nonce)
        return nonce

    def _verified(self, request: httpx2.Request) -> tuple[dict[str, Any], bytes]:
        if request.method != "POST" or request.headers["content-type"] != "application/jose+json":
            raise _Refused("malformed", f"{request.method} with {request.headers.get('content-type')}", 415)
        jws = json.loads(request.content)
        header = json.loads(decode_b64jose(jws["protected"]))
        if set(header) not in ({"alg", "nonce", "url", "kid"}, {"alg", "nonce", "url", "jwk"}):
            raise _Refused("malformed", f"header fields {sorted(header)}")
        if header["url"] != str(request.url):
            raise _Refused("unauthorized", f"url is {header['url']}", 401)
        if "kid" in header:
            account = self._account(header)
            if account.status != "valid":
                raise _Refused("unauthorized", f"the account is {account.status}", 401)
            _verify(jws, header, account.jwk.key)
        else:
            _verify(jws, header, _jwk(header).key)
        self._accept_nonce(header["nonce"])
        return header, decode_b64jose(jws["payload"])

    def _accept_nonce(self, nonce: str) -> None:
        known = nonce in self.nonces
        self.nonces.discard(nonce)
        if known and self.bad_nonces == 0:
            return
        self.bad_nonces = max(0, self.bad_nonces - 1)
        self.rejected.append(nonce)
        raise _Refused("badNonce", f"nonce {nonce} is not good")

    # --- resources (section 7)

    def _directory(self) -> httpx2.Response:
        resources = {step: f"{BASE}/{step}" for step in ("newNonce", "newAccount", "newOrder")}
        resources |= {step: f"{BASE}/{step}" for step in ("keyChange", "revokeCert")}
        if self.renewal_info is not None:
            resources["renewalInfo"] = f"{BASE}/renewalInfo"
        meta: dict[str, Any] = {"externalAccountRequired": self.external_account_required}
        meta |= {"profiles": self.profiles, "caaIdentities": ["ca.test"]}
        return httpx2.Response(200, json={**resources, "meta": meta, "randomKey": "https://example.com/why"})

    def _new_account(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        jwk = _jwk(header)
        asked = json.loads(payload)
        for account in self.accounts:
            if account.jwk == jwk:
                return httpx2.Response(200, json={"status": account.status}, headers={"Location": account.url})
        if asked.get("onlyReturnExisting"):
            raise _Refused("accountDoesNotExist", "no account has this key")
        if asked.get("termsOfServiceAgreed") is not True:
            raise _Refused("userActionRequired", "agree to the terms", 403)
        external = self._external_account(asked.get("externalAccountBinding"), header["jwk"])
        account = Account(f"{BASE}/account/{len(self.accounts)}", jwk, asked.get("contact", []), external)
        self.accounts.append(account)
        return httpx2.Response(201, json={"status": "valid"}, headers={"Location": account.url})

    def _external_account(self, binding: dict[str, str] | None, jwk: dict[str, str]) -> str | None:
        if binding is None:
            if self.external_account_required:
                raise _Refused("externalAccountRequired", "customers only", 403)
            return None
        header = json.loads(decode_b64jose(binding["protected"]))
        if header.get("kid") not in self.external_keys:
            raise _Refused("unauthorized", "no customer", 403)
        if header != {"alg": "HS256", "kid": header["kid"], "url": f"{BASE}/newAccount"}:
            raise _Refused("malformed", f"header of the binding is {header}")
        if json.loads(decode_b64jose(binding["payload"])) != jwk:
            raise _Refused("malformed", "the binding is for another key")
        _verify(binding, header, decode_b64jose(self.external_keys[header["kid"]]))
        kid: str = header["kid"]
        return kid

    def _update_account(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        account = self._account(header)
        if json.loads(payload) != {"status": "deactivated"}:
            raise _Refused("malformed", "an account can be deactivated only")
        account.status = "deactivated"
        return httpx2.Response(200, json={"status": account.status})

    def _key_change(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        account, jws = self._account(header), json.loads(payload)
        inner = json.loads(decode_b64jose(jws["protected"]))
        if set(inner) != {"alg", "jwk", "url"} or inner["url"] != header["url"]:
            raise _Refused("malformed", f"inner header is {inner}")
        jwk = _jwk(inner)
        _verify(jws, inner, jwk.key)
        asked = json.loads(decode_b64jose(jws["payload"]))
        if asked != {"account": account.url, "oldKey": account.jwk.to_json()}:
            raise _Refused("malformed", f"inner payload is {asked}")
        for other in self.accounts:
            if other.jwk == jwk:
                raise _Refused("malformed", f"in use by {other.url}", 409)
        account.jwk = jwk
        return httpx2.Response(200, json={"status": "valid"})

    def _revoke(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        asked = json.loads(payload)
        if asked["certificate"] in [revoked["certificate"] for revoked in self.revoked]:
            raise _Refused("alreadyRevoked", "it is")
        self.revoked.append(asked)
        return httpx2.Response(200)

    def _new_order(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        asked = json.loads(payload)
        if asked.get("profile", "classic") not in {"classic", *self.profiles}:
            raise _Refused("invalidProfile", asked["profile"])
        replaced = [order.asked["replaces"] for order in self.orders if "replaces" in order.asked]
        if asked.get("replaces") in replaced:
            raise _Refused("alreadyReplaced", asked["replaces"], 409)
        for identifier in asked["identifiers"]:
            if identifier["type"] != _type_of(identifier["value"]):
                raise _Refused("malformed", f"{identifier}")
        number = self.add_order([identifier["value"] for identifier in asked["identifiers"]])
        self.orders[number].asked = asked
        response = self._order_response(number, 201)
        response.headers["Location"] = f"{BASE}/order/{number}"
        return response

    def add_order(self, names: list[str]) -> int:
        """What newOrder does; the result is the order's number."""
        authzs = []
        for name in names:
            status = "valid" if name in self.reusable else "pending"
            token = f"token-{len(self.authzs)}-".ljust(43, "x")
            self.authzs.append(Authz(name.removeprefix("*."), token, name.startswith("*."), status))
            authzs.append(len(self.authzs) - 1)
        self.orders.append(Order(names, authzs))
        return len(self.orders) - 1

    def _get_order(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        _post_as_get(payload)
        number = int(path.split("/")[2])
        order = self.orders[number]
        if order.status == "processing":
            order.polls += 1
            if order.polls > self.processing_polls:
                self._issue(order)
        return self._order_response(number)

    def _order_response(self, number: int, status: int = 200) -> httpx2.Response:
        order = self.orders[number]
        states = {self.authzs[authz].status for authz in order.authzs}
        if order.status == "pending" and states == {"valid"}:
            order.status = "ready"
        if order.status == "pending" and "invalid" in states:
            order.status = "invalid"
        document = {
            "status": order.status,
            "identifiers": [{"type": _type_of(name), "value": name} for name in order.names],
            "authorizations": [f"{BASE}/authz/{authz}" for authz in order.authzs],
            "finalize": f"{BASE}/finalize/{number}",
            "error": order.error,
            **({"certificate": f"{BASE}/certificate/{number}"} if order.status == "valid" else {}),
            **self.extra_order,
        }
        return httpx2.Response(status, json=document, headers=self._wait(order.status == "processing"))

    def _get_authz(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        _post_as_get(payload)
        number = int(path.split("/")[2])
        authz = self.authzs[number]
        if authz.challenge_status == "processing":
            authz.polls += 1
            if authz.polls >= self.authz_polls:
                self._validate(authz, JWK.thumbprint(self._account(header).jwk))
        document = {
            "identifier": {"type": _type_of(authz.name), "value": authz.name},
            "status": authz.status,
            "wildcard": authz.wildcard,
            "challenges": [*self.extra_challenges, *self._offered(number)],
        }
        return httpx2.Response(200, json=document, headers=self._wait(authz.status == "pending"))

    def _offered(self, number: int) -> list[dict[str, Any]]:
        authz = self.authzs[number]
        return [
            {
                "type": kind,
                "url": f"{BASE}/challenge/{number}/{kind}",
                "token": authz.token,
                "status": authz.challenge_status if kind == self._tried(authz) else "pending",
                "error": authz.error if kind == self._tried(authz) else None,
            }
            for kind in self.challenges
            if kind == "dns-01" or not authz.wildcard
        ]

    def _tried(self, authz: Authz) -> str | None:
        """The challenge that was answered; the first, where a test says only that one was."""
        return authz.answered or next(iter(self.challenges), None)

    def _challenge(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        _, _, number, kind = path.split("/")
        authz = self.authzs[int(number)]
        if json.loads(payload) != {}:
            raise _Refused("malformed", "the payload of a challenge's answer is {}")
        if authz.challenge_status != "pending" and kind == self._tried(authz):
            raise _Refused("malformed", f"cannot update challenge with status {authz.challenge_status}")
        authz.challenge_status, authz.answered = "processing", kind
        return httpx2.Response(200, json={"type": kind, "status": "processing"})

    def _validate(self, authz: Authz, thumbprint: bytes) -> None:
        expected = f"{authz.token}.{encode_b64jose(thumbprint)}"
        found = expected if self.responder is None else self.responder(authz.name, authz.token)
        authz.status = authz.challenge_status = "valid" if found == expected else "invalid"
        if found != expected:
            # What Boulder says: it quotes secrets.
            words = f'http://{authz.name}/.well-known/acme-challenge/{authz.token}: wanted "{expected}", got "{found}"'
            authz.error = {"type": "urn:ietf:params:acme:error:unauthorized", "detail": words, "status": 403}

    def _finalize(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        number = int(path.split("/")[2])
        order = self.orders[number]
        if order.status != "ready":
            raise _Refused("orderNotReady", f"the order is {order.status}", 403)
        csr = x509.load_der_x509_csr(decode_b64jose(json.loads(payload)["csr"]))
        if not csr.is_signature_valid or names_of(csr.extensions) != set(order.names):
            raise _Refused("badCSR", "the CSR is for other names")
        order.csr = csr.public_bytes(Encoding.DER)
        order.status = "processing"
        if self.processing_polls == 0:
            self._issue(order)
        return self._order_response(number)

    def _issue(self, order: Order) -> None:
        csr = x509.load_der_x509_csr(order.csr or b"")
        issuer = _name("Fake CA")
        leaf = _certificate(x509.Name([]), issuer, csr.public_key(), self.not_before, self.valid_days)
        for extension in csr.extensions:
            leaf = leaf.add_extension(extension.value, critical=False)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)
        order.leaf = self._signed(leaf)
        order.chain = order.leaf + self._signed(_certificate(issuer, issuer, self._key.public_key(), self.not_before))
        order.status = "valid"

    def _certificate(self, path: str, header: dict[str, Any], payload: bytes) -> httpx2.Response:
        _post_as_get(payload)
        _, _, number, *alternate = path.split("/")
        order = self.orders[int(number)]
        if alternate:
            issuer = _name(self.alternates[int(alternate[0])])
            cross = _certificate(_name("Fake CA"), issuer, self._key.public_key(), self.not_before)
            return httpx2.Response(200, content=order.leaf + self._signed(cross))
        links = [f'<{BASE}/certificate/{number}/{at}>; rel="alternate"' for at in range(len(self.alternates))]
        headers = [("Link", link) for link in [f'<{BASE}/directory>; rel="index"', *links]]
        return httpx2.Response(200, content=order.chain, headers=headers)

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _account(self, header: dict[str, Any]) -> Account:
        for account in self.accounts:
            if account.url == header["kid"]:
                return account
        raise _Refused("accountDoesNotExist", header["kid"])

    def _wait(self, waiting: bool) -> dict[str, str]:
        return {"Retry-After": self.retry_after} if waiting and self.retry_after is not None else {}


class _Refused(Exception):
    def __init__(self, type: str, detail: str, status: int = 400) -> None:
        self.type, self.detail, self.status = type, detail, status


def problem(type: str, detail: str = "because", *, status: int = 400, **headers: str) -> httpx2.Response:
    """A refusal; header names are given with underscores."""
    document = {"type": f"urn:ietf:params:acme:error:{type}", "detail": detail, "status": status}
    return httpx2.Response(status, json=document, headers={k.replace("_", "-"): v for k, v in headers.items()})


class Cut(httpx2.AsyncByteStream):
    """A body that breaks off: ``httpx2.Response(200, stream=Cut(b"{"))``."""

    def __init__(self, begin: bytes) -> None:
        self._begin = begin

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._begin
        raise httpx2.RemoteProtocolError("peer closed connection without sending complete message body")


def _post_as_get(payload: bytes) -> None:
    if payload:
        raise _Refused("malformed", "a fetch has an empty payload")


def _jwk(header: dict[str, Any]) -> Any:
    """``from_json`` is typed as giving the base class."""
    return JWK.from_json(header["jwk"])


def _verify(jws: dict[str, str], header: dict[str, Any], key: Any) -> None:
    algorithm: Any = _ALGORITHMS[header["alg"]]
    signed = f"{jws['protected']}.{jws['payload']}".encode()
    if not algorithm.verify(key, signed, decode_b64jose(jws["signature"])):
        raise _Refused("unauthorized", "the signature is wrong", 401)


def _type_of(name: str) -> str:
    return "ip" if is_ip(name) else "dns"


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: Any, begin: float, days: float = 3650
) -> x509.CertificateBuilder:
    start = datetime.datetime.fromtimestamp(begin, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
    )
