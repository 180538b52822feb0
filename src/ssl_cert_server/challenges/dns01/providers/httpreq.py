"""A service of the operator's that changes the zone when asked by HTTP, by lego's convention for httpreq."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from ssl_cert_server.challenges.dns01.providers.options import Option
from ssl_cert_server.challenges.dns01.providers.web import WebService, check_url
from ssl_cert_server.challenges.dns01.providers.words import Words


class HttpreqProvider:
    """Posts ``{"fqdn": "_acme-challenge.example.com.", "value": "..."}`` to ``present`` and ``cleanup``."""

    def __init__(self, options: Mapping[str, str], *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """``options`` are resolved and checked; ``transport`` replaces the network, for tests."""
        username, password = options.get("username", ""), options.get("password", "")
        auth = (username, password) if username or password else None
        words = Words((username, password, f"{username}:{password}"))
        self._service = WebService(options["endpoint"], words, auth, transport)

    async def add(self, record: str, value: str) -> None:
        await self._post("present", record, value)

    async def remove(self, record: str, value: str) -> None:
        await self._post("cleanup", record, value)

    async def _post(self, action: str, record: str, value: str) -> None:
        what = f"httpreq: can't {action} {record} at {self._service.base}"
        await self._service.post(what, f"/{action}", {"fqdn": f"{record}.", "value": value})


OPTIONS = (
    Option("endpoint", required=True, check=check_url),
    Option("username"),
    Option("password"),
)
"""``username`` and ``password`` are for basic authentication."""
