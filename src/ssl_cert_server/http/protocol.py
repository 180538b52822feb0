"""The HTTP protocol of a connection: bounds on one request, and a fast lane for hot names.

A hot ``GET /cert/{name}`` is answered from finished bytes as soon as its headers are read: no task, no ASGI, no
framework. Whatever is unusual about a request sends it the ordinary way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ssl_cert_server.http.connection import PIECE, BoundedConnection
from ssl_cert_server.http.load import Load
from ssl_cert_server.service.answer import Answer

MAX_MESSAGE = 64 * 1024
"""Bytes of a whole request. No endpoint takes a body, and the longest name has 253 characters."""

MESSAGE_DEADLINE = 15.0
"""Seconds from a request's first byte to its last."""

_CERT = b"/cert/"
# A request that carries one of these asks for more than the bytes that lie ready.
_UNUSUAL = frozenset({b"if-none-match", b"content-length", b"transfer-encoding", b"expect", b"upgrade"})

Lookup = Callable[[str], Answer | None]


class CertServerProtocol(BoundedConnection):
    """One connection. ``hot`` and ``load`` are set by :func:`protocol_class`."""

    hot: Lookup

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._message_bytes = 0
        self._in_message = False
        self._began = False
        self._answered = False
        self._message_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._message_timer = self.loop.call_later(MESSAGE_DEADLINE, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_message_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if len(data) > PIECE or self._held or self.pipeline:
            self.receive_later(data)
            return
        self._began = False
        super().data_received(data)
        # The piece in which a message begins may hold whole ones before it; the parser bounds what it reads of it.
        if self._in_message and not self._began:
            self._bound_message(len(data))
        if self._in_message or self._unattended():
            self._start_message_timer()

    def on_message_begin(self) -> None:
        self._in_message = True
        self._message_bytes = 0
        self._began = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_MESSAGE:
            raise ValueError("too long")  # the parser makes an error of its own of it, and uvicorn a 400
        answer = self._hot_answer()
        if answer is None:
            super().on_headers_complete()
        else:
            self._answered = True
            self.transport.write(b"".join((b"HTTP/1.1 200 OK\r\n", self._date(), answer.head, answer.body)))

    def on_message_complete(self) -> None:
        self._in_message = False
        self._stop_message_timer()
        if self._answered:
            self._answered = False
            HttpToolsProtocol.on_response_complete(self)  # nothing is queued behind it, and the connection stays open
        else:
            super().on_message_complete()

    def _hot_answer(self) -> Answer | None:
        if not self.url.startswith(_CERT) or self.parser.get_method() != b"GET":
            return None
        if self.pipeline or self.flow.write_paused or self._busy():
            return None  # answers go out in the order of their requests, and no faster than they are read
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return None
        if any(name in _UNUSUAL for name, _ in self.headers):
            return None
        return type(self).hot(self.url[len(_CERT) :].decode("latin-1"))

    def _busy(self) -> bool:
        # uvicorn declares the cycle as always there; before a connection's first request it is None.
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]

    def _date(self) -> bytes:
        return b"".join(name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers)

    def _bound_message(self, received: int) -> None:
        self._message_bytes += received
        if self._message_bytes > MAX_MESSAGE and not self.transport.is_closing():
            self.send_400_response("The request is too long.")

    def _unattended(self) -> bool:
        # A line end between two messages begins none, and has stopped uvicorn's keep-alive timer all the same.
        return self.timeout_keep_alive_task is None and not self.pipeline and not self._busy()

    def _start_message_timer(self) -> None:
        if self._message_timer is None and not self.transport.is_closing():
            self._message_timer = self.loop.call_later(MESSAGE_DEADLINE, self._too_slow)

    def _stop_message_timer(self) -> None:
        if self._message_timer is not None:
            self._message_timer.cancel()
            self._message_timer = None

    def _too_slow(self) -> None:
        self._message_timer = None
        if self._busy() or self._held:
            self._start_message_timer()  # an earlier request's answer is still to come
        elif not self.transport.is_closing():
            self.transport.close()
            self._watch_sending()

    def idle_since(self) -> float | None:
        """Return the loop's time since when no whole request is under way, or None where one is."""
        if self._message_timer is not None and not self.serves():
            return self._message_timer.when() - MESSAGE_DEADLINE
        return super().idle_since()


def protocol_class(hot: Lookup, load: Load) -> type[CertServerProtocol]:
    """Make the class to give uvicorn; ``hot`` gives the finished answer for a name that is in memory."""
    return type("BoundCertServerProtocol", (CertServerProtocol,), {"hot": staticmethod(hot), "load": load})
