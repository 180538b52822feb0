"""``/v1/changes``: a long poll by which web servers hear of what was replaced."""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ssl_cert_server.errors import RequestError
from ssl_cert_server.service.news import News

LONGEST_WAIT = 55.0
"""Seconds. Proxies in between commonly end what says nothing for a minute."""

_MAX_CURSOR = 256


class ChangesEndpoint:
    """Tells names, never why: who polls asks for their certificates again."""

    def __init__(self, news: News) -> None:
        self._news = news

    async def changes(self, request: Request) -> Response:
        """``GET /v1/changes?since={cursor}&wait={seconds}``: 200 with ``cursor``, ``names`` and ``reset``."""
        cursor = request.query_params.get("since", "")
        if len(cursor) > _MAX_CURSOR:
            raise RequestError("since is no cursor of this server's")
        changes = await self._news.since(cursor, _wait(request.query_params.get("wait", "0")))
        body = {"cursor": changes.cursor, "names": changes.names, "reset": changes.reset}
        return JSONResponse(body, headers={"cache-control": "no-store"})


def _wait(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:  # NaN is not, either
        raise RequestError("wait must be a number of seconds")
    return min(seconds, LONGEST_WAIT)
