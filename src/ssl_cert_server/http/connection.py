"""uvicorn's HTTP protocol with bounds on pipelined requests, on unread answers, and on requests without a client."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ssl_cert_server.http.load import Load
from ssl_cert_server.http.request_task import RequestTask

PIECE = 512
"""Bytes that are parsed at once: 28 of the shortest requests. What follows waits until those are answered."""

SEND_DEADLINE = 10.0
"""Seconds without progress after which a connection whose client doesn't read is aborted."""

_RESET = struct.pack("ii", 1, 0)
_LOOK_FOR_HANG_UP = 1.0
"""Seconds between two looks at a connection that isn't read from, where nothing else reports its end."""


class BoundedConnection(HttpToolsProtocol):
    """One connection. ``load`` is shared with all others.

    A subclass's ``data_received`` passes to :meth:`receive_later` what is longer than :data:`PIECE`, or arrives while
    bytes are held or requests are queued.
    """

    load: Load

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._held = b""
        self._taken = 0
        """Bytes of ``_held`` that have been parsed."""
        self._scheduled = False
        self._running: RequestTask | None = None
        self._unsent = 0
        self._send_timer: asyncio.TimerHandle | None = None
        self._hang_up_timer: asyncio.TimerHandle | None = None

    def serves(self) -> bool:
        """Return whether an answer is due, or not read yet."""
        due = self._running is not None or bool(self.pipeline) or bool(self._held)
        return due or self.flow.write_paused or self.transport.is_closing()

    def idle_since(self) -> float | None:
        """Return the loop's time since when no whole request is under way, or None where one is."""
        if self.timeout_keep_alive_task is None or self.serves():
            return None
        return self.timeout_keep_alive_task.when() - self.timeout_keep_alive

    def abort(self) -> None:
        """Close the connection at once."""
        self.connections.discard(self)
        if self.serves():
            # Otherwise the kernel keeps up to megabytes for a client that doesn't read.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    # --- requests that arrive

    def on_headers_complete(self) -> None:
        """Begin the request, or queue it behind those that came before on the connection."""
        super().on_headers_complete()
        if self.pipeline:
            self._watch_for_hang_up()

    def receive_later(self, data: bytes) -> None:
        """Parse what arrived piece by piece: no further while requests are queued or answers aren't read."""
        self._held = self._held[self._taken :] + data
        self._taken = 0
        self.go_on()

    def go_on(self) -> None:
        """Begin the next queued request, or parse the next piece of what is held, unless answers are due first."""
        self._scheduled = False
        if self.transport.is_closing():
            self._drop_held()
        elif self.pipeline:
            if self._running is None:
                self._start_asgi_task(*self.pipeline.pop())
            self._after_piece()
        elif self._held:
            if not self.flow.write_paused:
                self._parse_piece()
            self._after_piece()

    def _parse_piece(self) -> None:
        held, self._held = self._held, b""
        end = min(self._taken + PIECE, len(held))
        self.data_received(held[self._taken : end])
        self._held, self._taken = held, end

    def _after_piece(self) -> None:
        if self._taken >= len(self._held):
            self._drop_held()
        elif not self.transport.is_closing():
            self._hold()
            if not self.pipeline and not self.flow.write_paused:
                self._schedule()
        if not self.pipeline and not self._held:
            self.flow.resume_reading()

    def _schedule(self) -> None:
        # Not at once: other connections have their turn between two pieces.
        if not self._scheduled:
            self._scheduled = True
            self.load.schedule(self)

    def _hold(self) -> None:
        self.flow.pause_reading()
        self.load.hold(self, len(self._held) + self.transport.get_write_buffer_size())
        self._watch_for_hang_up()

    def _drop_held(self) -> None:
        self._held = b""
        self._taken = 0
        if not self.flow.write_paused:
            self.load.release(self)

    def on_response_complete(self) -> None:
        """Schedule the next queued request, or the next piece of what is held."""
        self._running = None
        if self.transport.is_closing():
            self._watch_sending()
        elif self.pipeline:
            self.server_state.total_requests += 1
            self._schedule()
        else:
            super().on_response_complete()
            if self._held:
                self.flow.pause_reading()
                self._schedule()

    # --- answers that aren't read

    def pause_writing(self) -> None:
        """Start the deadline for the client to read."""
        super().pause_writing()
        self.load.hold(self, len(self._held) + self.transport.get_write_buffer_size())
        self._watch_sending()

    def resume_writing(self) -> None:
        """Stop that deadline, and continue with what is held."""
        super().resume_writing()
        self._stop_send_timer()
        if self.transport.is_closing():
            self._watch_sending()
        if self._held:
            self._schedule()
        else:
            self.load.release(self)

    def _watch_sending(self) -> None:
        if self._send_timer is None:
            self._unsent = self.transport.get_write_buffer_size()
            if self._unsent:
                self._send_timer = self.loop.call_later(SEND_DEADLINE, self._check_sending)

    def _check_sending(self) -> None:
        self._send_timer = None
        if self.transport.get_write_buffer_size() >= self._unsent:
            self.abort()
        else:
            self._watch_sending()

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    # Wherever the connection is closed, it stays open until the client has read everything.

    def eof_received(self) -> None:
        """Let the transport close: the client has finished sending."""
        self._watch_sending()

    def send_400_response(self, msg: str) -> None:
        """Refuse what can't be parsed, and close the connection."""
        super().send_400_response(msg)
        self._watch_sending()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection: it was idle for long."""
        super().timeout_keep_alive_handler()
        self._watch_sending()

    def shutdown(self) -> None:
        """Close the connection once the request under way is answered."""
        super().shutdown()
        if self.transport.is_closing():
            self._watch_sending()

    # --- requests whose client has gone

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request under way, and release what the connection holds."""
        self.pipeline.clear()
        self._stop_send_timer()
        if self._hang_up_timer is not None:
            self._hang_up_timer.cancel()
        if self._running is not None:
            # uvicorn marks the last request that was parsed, which isn't this one where others are queued behind it.
            self._running.disconnect()
            self._running = None
        self._held = b""
        super().connection_lost(exc)
        self.load.release(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # uvicorn's types of ASGI aren't Starlette's, and mean the same.
        self._running = RequestTask(cycle, app, self.load)  # type: ignore[arg-type]
        super()._start_asgi_task(cycle, self._running)  # type: ignore[arg-type]

    def _watch_for_hang_up(self) -> None:
        if self._hang_up_timer is None:
            self._hang_up_timer = self.loop.call_later(_LOOK_FOR_HANG_UP, self._look_for_hang_up)

    def _look_for_hang_up(self) -> None:
        """Abort the connection if its client has closed it: the loop doesn't report that while reading is paused."""
        self._hang_up_timer = None
        if self._running is None or not self.flow.read_paused or self.transport.is_closing():
            return
        if _has_hung_up(self.transport.get_extra_info("socket").fileno()):
            self.abort()
        else:
            self._watch_for_hang_up()


def _has_hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))
