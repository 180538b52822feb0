"""``/cert/`` and ``/ocsp/``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ssl_cert_server.errors import NotPermitted
from ssl_cert_server.pki.names import normalize_name
from ssl_cert_server.service.answer import Answer
from ssl_cert_server.service.certificates import Certificates


class CertEndpoints:
    """What web servers ask during the handshake."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    async def cert(self, request: Request) -> Response:
        """``GET /cert/{name}``: 200 with the certificate, 304 where the client has it, else an error."""
        name = normalize_name(request.path_params["name"])
        if request.query_params.get("alpn") == "1":
            raise NotPermitted(f"no tls-alpn-01 challenge is pending for {name}")
        answer = await self._certificates.answer(name)
        headers = {"etag": answer.etag, "cache-control": "no-store"}
        if _has(request, answer):
            return Response(status_code=304, headers={**headers, "x-ttl": str(answer.ttl)})
        return Response(answer.body, media_type="application/json", headers=headers)

    async def ocsp(self, request: Request) -> Response:
        """``GET /ocsp/{name}``: always 204 so far, which tells clients that there is no staple."""
        normalize_name(request.path_params["name"])
        return Response(status_code=204)


def _has(request: Request, answer: Answer) -> bool:
    known = request.headers.get("if-none-match", "")
    return answer.etag in (tag.strip().removeprefix("W/") for tag in known.split(","))
