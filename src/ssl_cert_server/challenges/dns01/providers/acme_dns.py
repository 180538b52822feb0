"""acme-dns: a small DNS server for challenges alone, to which ``_acme-challenge`` records are delegated by CNAME."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from ssl_cert_server.challenges.dns01.providers.options import Option
from ssl_cert_server.challenges.dns01.providers.web import WebService, check_url
from ssl_cert_server.challenges.dns01.providers.words import Words
from ssl_cert_server.errors import ChallengeFailed


class AcmeDnsProvider:
    """One account, registered before (``POST /register``): it holds one record, and the last two values set there."""

    def __init__(self, options: Mapping[str, str], *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """``options`` are resolved and checked; ``transport`` replaces the network, for tests."""
        self._subdomain = options["subdomain"].lower()
        self._fulldomain = options.get("fulldomain", "").rstrip(".").lower()
        self._credentials = {"X-Api-User": options["username"], "X-Api-Key": options["password"]}
        words = Words((options["username"], options["password"]))
        self._service = WebService(options["server"], words, transport=transport)

    async def add(self, record: str, value: str) -> None:
        """Set the value; the older of two others goes."""
        if record.split(".")[0] != self._subdomain or self._fulldomain not in ("", record):
            own = self._fulldomain or f"{self._subdomain}.<domain of the server>"
            raise ChallengeFailed(f"acme-dns: {record} is not this account's record; make it a CNAME of {own}")
        what = f"acme-dns: can't set {record} at {self._service.base}"
        body = {"subdomain": self._subdomain, "txt": value}
        await self._service.post(what, "/update", body, self._credentials)

    async def remove(self, record: str, value: str) -> None:
        """Do nothing: a value can only be replaced, and goes with the next but one."""


OPTIONS = (
    Option("server", required=True, check=check_url),
    Option("username", required=True),
    Option("password", required=True),
    Option("subdomain", required=True),
    Option("fulldomain"),
)
"""As ``POST /register`` answered; with ``fulldomain`` the record is compared whole."""
