"""An operator's endpoint for ``ask``, over real HTTP."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from tests.support.http_thread import Handler, HttpThread


class AskEndpoint:
    """Says yes for the names in ``allowed``, and notes every name in ``asked``; stopped and started at will."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        self.asked: list[str] = []
        self._http = HttpThread(_handler(self))
        self.start = self._http.start
        self.stop = self._http.stop

    @property
    def url(self) -> str:
        return f"{self._http.url}/allowed"

    @property
    def section(self) -> dict[str, object]:
        """The configuration's: with patience, as it is the test's own process that answers."""
        return {"url": self.url, "timeout": 60}


def _handler(endpoint: AskEndpoint) -> type[Handler]:
    class Asked(Handler):
        def get(self) -> None:
            (name,) = parse_qs(urlsplit(self.path).query)["domain"]
            endpoint.asked.append(name)
            self.reply(200 if name in endpoint.allowed else 403)

    return Asked
