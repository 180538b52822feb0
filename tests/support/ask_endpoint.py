"""An operator's endpoint for ``ask``, over real HTTP."""

from __future__ import annotations

import http.server
import threading
from urllib.parse import parse_qs, urlsplit

from tests.support.ports import free_port


class AskEndpoint:
    """Says yes for the names in ``allowed``, and notes every name in ``asked``; stopped and started at will."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        self.asked: list[str] = []
        self.port = free_port()
        self._running: tuple[http.server.ThreadingHTTPServer, threading.Thread] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/allowed"

    def start(self) -> None:
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                (name,) = parse_qs(urlsplit(self.path).query)["domain"]
                endpoint.asked.append(name)
                self.send_response(200 if name in endpoint.allowed else 403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *values: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self._running = server, thread

    def stop(self) -> None:
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            thread.join()
            server.server_close()
            self._running = None
