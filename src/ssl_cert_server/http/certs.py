"""``/cert/`` and ``/ocsp/``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import NotPermitted, RequestError
from ssl_cert_server.model import CertificateType, KeyFamily
from ssl_cert_server.pki.names import normalize_identifier
from ssl_cert_server.service.answer import Answer
from ssl_cert_server.service.certificates import Certificates
from ssl_cert_server.service.staples import Staples
from ssl_cert_server.service.ttl import ttl


class CertEndpoints:
    """What web servers ask during the handshake."""

    def __init__(
        self, certificates: Certificates, staples: Staples, clock: Clock, tls_alpn01: TlsAlpn01Responder | None = None
    ) -> None:
        """Without ``tls_alpn01`` no such challenge is ever pending."""
        self._certificates = certificates
        self._staples = staples
        self._clock = clock
        self._tls_alpn01 = tls_alpn01

    async def cert(self, request: Request) -> Response:
        """``GET /cert/{name}``: 200 with the certificate, 304 where the client has it, else an error."""
        name = normalize_identifier(request.path_params["name"])
        if request.query_params.get("alpn") == "1":
            return await self._challenge(name)
        answer = await self._certificates.answer(name, _family(request))
        if _has(request, answer):
            return Response(status_code=304, headers={**answer.headers, "x-ttl": str(answer.ttl)})
        return Response(answer.body, media_type="application/json", headers=answer.headers)

    async def _challenge(self, name: str) -> Response:
        """``?alpn=1``: the certificate for a tls-alpn-01 challenge that is pending."""
        certificate = await self._tls_alpn01.answer(name) if self._tls_alpn01 else None
        if certificate is None:
            raise NotPermitted(f"no tls-alpn-01 challenge is pending for {name}")
        answer = {
            "type": int(CertificateType.TLS_ALPN_CHALLENGE),
            "cert": certificate.chain_pem.decode("ascii"),
            "pkey": certificate.key_pem.decode("ascii"),
            "fingerprint": "",
            "expire_at": 0,
            "ttl": 0,
        }
        return JSONResponse(answer, headers={"cache-control": "no-store"})

    async def ocsp(self, request: Request) -> Response:
        """``GET /ocsp/{name}?fp={fingerprint}``: 200 with the response in DER, 204 where there is no staple."""
        name = normalize_identifier(request.path_params["name"])
        staple = await self._staples.answer(name, request.query_params.get("fp", "").lower())
        if staple is None:
            return Response(status_code=204)
        headers = {
            "x-expire-at": str(int(staple.next_update)),
            "x-ttl": str(ttl(staple.next_update, self._clock.now(), self._clock.random())),
        }
        return Response(staple.response, media_type="application/ocsp-response", headers=headers)


def _family(request: Request) -> KeyFamily | None:
    wanted = request.query_params.get("keytype")
    try:
        return KeyFamily(wanted) if wanted is not None else None
    except ValueError:
        raise RequestError(f"keytype must be {' or '.join(KeyFamily)}") from None


def _has(request: Request, answer: Answer) -> bool:
    known = request.headers.get("if-none-match", "")
    return answer.etag in (tag.strip().removeprefix("W/") for tag in known.split(","))
