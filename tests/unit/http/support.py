"""What the tests of the HTTP room share: the application over scripted issuers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.applications import Starlette

from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from ssl_cert_server.issuers import base
from ssl_cert_server.model import Certificate, CertificateType, KeyFamily, Subject
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.certificates import Certificates
from ssl_cert_server.service.policy import Policy, PolicyRules, Source
from tests.support.application import Application
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import make_certificate


class Issuer:
    """Hands out one certificate for all names, or raises ``error``; waits while ``gate`` is clear."""

    def __init__(self, type: CertificateType) -> None:
        self.type = type
        self.certificate = make_certificate("*.com")
        self.error: Exception | None = None
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def obtain(self, name: str, subject: Subject) -> Certificate:
        self.asked.append(name)
        await self.gate.wait()
        if self.error:
            raise self.error
        return self.certificate

    def fresh_until(self, certificate: Certificate) -> float:
        return certificate.not_after


class Site:
    """Names under ``.com`` and two addresses are ACME's, ``managed.net`` is managed, the rest is not permitted."""

    def __init__(self, families: Sequence[KeyFamily] = (KeyFamily.ECDSA,)) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)
        self.acme = Issuer(CertificateType.ACME)
        self.managed = Issuer(CertificateType.MANAGED)
        self.http01 = Http01Responder(self.storage, self.clock)
        self.cache = AnswerCache(self.clock, 10_000_000)
        self.policy = Policy(
            PolicyRules(
                managed=[(r"managed\.net", "key")],
                domains=["192.0.2.1", "2001:db8::1"],
                patterns=[r"(.+\.)?[a-z0-9-]+\.com", "xn--.+"],
                families=families,
            )
        )
        issuers: dict[Source, base.Issuer] = {Source.ACME: self.acme, Source.MANAGED: self.managed}
        self.certificates = Certificates(self.cache, self.policy, issuers, self.clock)
        self.usual = self.application()
        self.app: Starlette = self.usual.app

    def application(self, tls_alpn01: TlsAlpn01Responder | None = None) -> Application:
        return Application(
            self.storage, self.clock, self.certificates, self.policy, http01=self.http01, tls_alpn01=tls_alpn01
        )
