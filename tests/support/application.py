"""The HTTP application over parts that a test chooses."""

from __future__ import annotations

from starlette.applications import Starlette

from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from ssl_cert_server.clock import Clock
from ssl_cert_server.http.app import make_app
from ssl_cert_server.http.certs import CertEndpoints
from ssl_cert_server.http.changes import ChangesEndpoint
from ssl_cert_server.service.certificates import Certificates
from ssl_cert_server.service.news import News
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.service.readiness import Readiness
from ssl_cert_server.service.staples import Staples
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.write_watch import WriteWatch


class Application:
    """``app`` is what serves; ``wanted`` are the keys of certificates whose responders are to be asked."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        certificates: Certificates,
        policy: Policy,
        *,
        http01: Http01Responder | None = None,
        tls_alpn01: TlsAlpn01Responder | None = None,
    ) -> None:
        self.wanted: list[str] = []
        self.staples = Staples(policy, certificates, storage, clock, want=self._want)
        self.news = News(storage, lambda key: [key])
        self.app: Starlette = make_app(
            CertEndpoints(certificates, self.staples, clock, tls_alpn01),
            ChangesEndpoint(self.news),
            http01 or Http01Responder(storage, clock),
            Readiness(WriteWatch(storage, clock), clock),
        )

    async def _want(self, cert_key: str) -> None:
        self.wanted.append(cert_key)
