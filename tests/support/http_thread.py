"""An HTTP server of a test's own, in a thread."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.ports import free_port


class Handler(BaseHTTPRequestHandler):
    """Answers what ``get`` and ``post`` are made to answer, and logs nothing."""

    def do_GET(self) -> None:
        self.get()

    def do_POST(self) -> None:
        self.post(self.rfile.read(int(self.headers["Content-Length"])))

    def get(self) -> None:
        self.reply(405)

    def post(self, body: bytes) -> None:
        self.reply(405)

    def reply(self, status: int, body: bytes = b"", content_type: str | None = None) -> None:
        """Send a whole answer."""
        self.send_response(status)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


class HttpThread:
    """Serves on one loopback port, whenever it is started; in between connections are refused."""

    def __init__(self, handler: type[Handler]) -> None:
        self.port = free_port()
        self._handler = handler
        self._running: tuple[ThreadingHTTPServer, threading.Thread] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self._running = server, thread

    def stop(self) -> None:
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            thread.join()
            server.server_close()
            self._running = None
