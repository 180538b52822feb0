"""Asks the responder of a certificate's CA, and believes nothing of what it says before it is verified."""

from __future__ import annotations

import base64
import urllib.parse
from dataclasses import dataclass, field

import httpx2
from cryptography import x509

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import MalformedStaple, OcspError, ResponderRefused
from ssl_cert_server.model import Certificate
from ssl_cert_server.ocsp.chain import issuer_among, parse_issuers
from ssl_cert_server.ocsp.codec import CertIdHash, OcspStatus, Verdict, check_response, make_request
from ssl_cert_server.ocsp.exchange import Answer, exchange
from ssl_cert_server.ocsp.staples import Staple
from ssl_cert_server.pki.authority_access import issuer_urls

_LONGEST_GET = 255
"""Characters of a URL; a longer one is not sent (RFC 9919 section 5)."""

_URLS = 2
"""URLs that are tried, of those that a certificate holds."""

_TYPES = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
_ISSUERS = 64


@dataclass(frozen=True, slots=True)
class _Pair:
    leaf: x509.Certificate
    issuer: x509.Certificate


@dataclass(frozen=True, slots=True)
class Word:
    """A verified verdict and the response it stands in, or None where the one before still holds, and its caching."""

    verdict: Verdict | None
    response: bytes = field(repr=False)
    algorithm: CertIdHash
    max_age: float
    etag: str


class Responder:
    """Asks, by GET where the URL is short, and by SHA-256 where the responder knows that."""

    def __init__(self, http: httpx2.AsyncClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._issuers: dict[str, x509.Certificate] = {}

    async def ask(self, certificate: Certificate, before: Staple) -> Word:
        """Ask about a certificate that has an OCSP URL; ``before`` is what is kept of it.

        :raises OcspError: there is no verdict.
        """
        leaf, *chain = x509.load_pem_x509_certificates(certificate.chain_pem)
        pair = _Pair(leaf, await self._issuer(leaf, chain))
        trouble: OcspError | None = None
        for url in certificate.ocsp_urls[:_URLS]:
            try:
                return await self._ask_at(url, pair, before)
            except OcspError as error:
                trouble = trouble or error
        raise trouble or MalformedStaple("the certificate names no responder")

    async def _ask_at(self, url: str, pair: _Pair, before: Staple) -> Word:
        """Ask by the hash that was understood before; who knows one only refuses the other in many ways."""
        first, second = sorted(CertIdHash, key=lambda algorithm: algorithm is not before.algorithm)
        outcome: Word | OcspError
        try:
            outcome = await self._ask_by(first, url, pair, before)
            if outcome.verdict is None or outcome.verdict.status is not OcspStatus.UNKNOWN:
                return outcome
        except (ResponderRefused, MalformedStaple) as error:
            outcome = error
        try:
            return await self._ask_by(second, url, pair, before)
        except (ResponderRefused, MalformedStaple):
            if isinstance(outcome, Word):
                return outcome
            raise outcome from None

    async def _ask_by(self, algorithm: CertIdHash, url: str, pair: _Pair, before: Staple) -> Word:
        known = before.etag if before.holds(self._clock.now()) and before.algorithm is algorithm else ""
        answer = await self._exchange(url, make_request(pair.leaf, pair.issuer, algorithm), known)
        if answer.body is None:
            return Word(None, before.response, algorithm, answer.max_age, before.etag)
        try:
            # By the time that it is now: many responders sign on the spot.
            verdict = check_response(answer.body, pair.leaf, pair.issuer, self._clock.now())
        except OcspError as error:
            raise type(error)(f"{url}: {error}") from error
        return Word(verdict, answer.body, algorithm, answer.max_age, answer.etag)

    async def _exchange(self, url: str, request: bytes, etag: str) -> Answer:
        encoded = urllib.parse.quote(base64.b64encode(request).decode("ascii"), safe="")
        by_get = f"{url.rstrip('/')}/{encoded}"
        if len(by_get) > _LONGEST_GET:
            return await exchange(self._http, url, now=self._clock.now(), content=request, headers=_TYPES)
        headers = {"Accept": _TYPES["Accept"]} | ({"If-None-Match": etag} if etag else {})
        return await exchange(self._http, by_get, now=self._clock.now(), headers=headers)

    async def _issuer(self, leaf: x509.Certificate, chain: list[x509.Certificate]) -> x509.Certificate:
        """Find the issuer in the chain, else where the leaf says that it can be had."""
        found = issuer_among(leaf, [*chain, *self._issuers.values()])
        trouble: OcspError | None = None
        for url in issuer_urls(leaf)[:_URLS]:
            if found is not None:
                break
            try:
                answer = await exchange(self._http, url, now=self._clock.now())
            except OcspError as error:
                trouble = error
                continue
            found = issuer_among(leaf, parse_issuers(answer.body or b""))
            if found is not None:
                self._remember(url, found)
        if found is None:
            raise trouble or MalformedStaple(
                "the issuer stands neither in the chain nor where the certificate says it does"
            )
        return found

    def _remember(self, url: str, issuer: x509.Certificate) -> None:
        while len(self._issuers) >= _ISSUERS:
            del self._issuers[next(iter(self._issuers))]
        self._issuers[url] = issuer
