"""The task that answers one request: it ends with its connection, and is refused where too many wait.

Work that other requests share runs in a task of its own (:mod:`ssl_cert_server.service.flights`): it goes on.
"""

from __future__ import annotations

import asyncio

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ssl_cert_server.http.load import Load

_RETRY_AFTER = {"retry-after": "5"}


class RequestTask:
    """An ASGI application that calls another one for a single request."""

    def __init__(self, cycle: RequestResponseCycle, app: ASGIApp, load: Load) -> None:
        self._cycle = cycle
        self._app = app
        self._load = load
        self._task: asyncio.Task[None] | None = None
        self._refused = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, unless its connection is lost before."""
        if self._cycle.disconnected:
            return
        self._task = asyncio.current_task()
        if self._load.too_many_wait():
            # One turn later: by then a request that is answered from memory is done, and not refused.
            asyncio.get_running_loop().call_soon(self._refuse)
        self._load.waiting += 1
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if self._cycle.disconnected:
                return
            if not self._refused or self._cycle.response_started:
                raise
            await PlainTextResponse("too many requests wait\n", 500, _RETRY_AFTER)(scope, receive, send)
        finally:
            self._load.waiting -= 1
            self._task = None

    def disconnect(self) -> None:
        """End the request: its connection is lost."""
        self._cycle.disconnected = True
        if self._task is not None:
            self._task.cancel()

    def _refuse(self) -> None:
        if self._task is not None:
            self._refused = True
            self._task.cancel()
