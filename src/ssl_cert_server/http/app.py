"""The ASGI application: routes, and how errors become answers."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import structlog
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.errors import CertServerError, DeadlineExceeded, Overloaded, RequestError, Unavailable
from ssl_cert_server.http.certs import CertEndpoints
from ssl_cert_server.http.changes import ChangesEndpoint
from ssl_cert_server.service.flights import Flights
from ssl_cert_server.service.readiness import Readiness

_log = structlog.get_logger()


class _Rest(Convertor[str]):
    """The rest of a path, whatever it holds; Starlette's own ``path`` stops short of a line feed."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("rest", _Rest())

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(
    certs: CertEndpoints, changes: ChangesEndpoint, http01: Http01Responder, readiness: Readiness
) -> Starlette:
    """Put the endpoints together."""
    checks: Flights[str | None] = Flights(1)

    async def challenge(request: Request) -> Response:
        key_authorization = await http01.answer(request.path_params["token"])
        if key_authorization is None:
            return PlainTextResponse("no such challenge\n", 404)
        return PlainTextResponse(key_authorization)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        # A check outlives its client: otherwise clients that hang up could start any number of checks.
        trouble = await checks.join("readyz", readiness.trouble)
        if trouble is not None:
            _log.warning("readyz.not_ready", reason=trouble)
            return PlainTextResponse("storage can't be written\n", 503)
        return PlainTextResponse("ok\n")

    app = Starlette(
        routes=[
            Route("/cert/{name:rest}", guarded(certs.cert)),
            Route("/ocsp/{name:rest}", guarded(certs.ocsp)),
            Route("/v1/changes", guarded(changes.changes)),
            Route("/.well-known/acme-challenge/{token:rest}", guarded(challenge)),
            Route("/healthz", healthz),
            Route("/readyz", guarded(readyz)),
        ]
    )
    app.router.redirect_slashes = False
    return app


def guarded(endpoint: Endpoint) -> Endpoint:
    """Turn what an endpoint raises into one line for the client, and the reason into the log."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestError as error:
            return PlainTextResponse(f"{error}\n", 400)
        except Unavailable as error:
            # A failure that is remembered was told when it happened; here it would be told with each request.
            if isinstance(error, Overloaded | DeadlineExceeded):
                _log.warning("request.refused", path=request.scope["path"], reason=str(error))
            return _no_certificate({"retry-after": str(math.ceil(error.retry_after))})
        except CertServerError as error:
            _log.error("request.failed", path=request.scope["path"], reason=str(error))
        except Exception:  # noqa: BLE001 - a bug met by one request must not show, nor end the connection
            _log.exception("request.crashed", path=request.scope["path"])
        return _no_certificate({})

    return answer


def _no_certificate(headers: dict[str, str]) -> Response:
    return PlainTextResponse("no answer could be had now; the server's log tells why\n", 500, headers)
