"""What operators have in front of their DNS: an endpoint for ``httpreq``, and an acme-dns server."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
import uuid
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.support.http_thread import Handler, HttpThread

Write = Callable[[str, list[str]], None]
"""Has a record (absolute, without the trailing dot) hold these TXT values and no others."""

_VALUE = re.compile(r"[\w-]{43}", re.ASCII)
Answer = tuple[int, dict[str, Any]]


class _Endpoint(ABC):
    """Serves HTTP on loopback; a context manager. ``calls`` are the paths that were posted to, in their order."""

    def __init__(self, write: Write) -> None:
        self.calls: list[str] = []
        self._write = write
        self._values: dict[str, list[str]] = defaultdict(list)
        self._turn = threading.Lock()
        self._http = HttpThread(_handler(self))

    def __enter__(self) -> Self:
        self._http.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.stop()

    @property
    def url(self) -> str:
        return self._http.url

    def post(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Give the status and the JSON of an answer."""
        with self._turn:
            self.calls.append(path)
            return self._answer(path, headers, json.loads(body or b"{}"))

    @abstractmethod
    def _answer(self, path: str, headers: dict[str, str], body: dict[str, str]) -> Answer:
        """Do what a request says."""

    def _change(self, record: str, values: list[str]) -> Answer:
        self._values[record] = values
        self._write(record, values)
        return 200, {}


class HttpreqEndpoint(_Endpoint):
    """As lego's provider of this name wants it, behind a password."""

    username, password = "acme", "httpreq-password"

    def _answer(self, path: str, headers: dict[str, str], body: dict[str, str]) -> Answer:
        expected = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        if headers.get("authorization") != f"Basic {expected}":
            return 401, {"error": "unauthorized"}
        record, value = body["fqdn"].removesuffix("."), body["value"]
        others = [other for other in self._values[record] if other != value]
        return {
            "/present": lambda: self._change(record, [*others, value]),
            "/cleanup": lambda: self._change(record, others),
        }[path]()


class AcmeDns(_Endpoint):
    """As the program of this name: an account holds one record below ``domain``, and the last two values set there."""

    def __init__(self, domain: str, write: Write) -> None:
        super().__init__(write)
        self._domain = domain
        self._accounts: dict[str, dict[str, str]] = {}

    def register(self) -> dict[str, str]:
        """Give what ``POST /register`` answers, but for the restriction to addresses."""
        account = {name: str(uuid.uuid4()) for name in ("username", "subdomain")}
        account["password"] = secrets.token_urlsafe(30)
        account["fulldomain"] = f"{account['subdomain']}.{self._domain}"
        self._accounts[account["username"]] = account
        return account

    def _answer(self, path: str, headers: dict[str, str], body: dict[str, str]) -> Answer:
        account = self._accounts.get(headers.get("x-api-user", ""), {})
        if path != "/update" or headers.get("x-api-key") != account.get("password", object()):
            return 401, {"error": "forbidden"}
        if body["subdomain"] != account["subdomain"]:
            return 401, {"error": "forbidden"}
        if not _VALUE.fullmatch(body["txt"]):
            return 400, {"error": "bad_txt"}
        record = account["fulldomain"]
        self._change(record, [*self._values[record][-1:], body["txt"]])
        return 200, {"txt": body["txt"]}


def _handler(endpoint: _Endpoint) -> type[Handler]:
    class Posted(Handler):
        def post(self, body: bytes) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer = endpoint.post(self.path, headers, body)
            self.reply(status, json.dumps(answer).encode(), "application/json")

    return Posted
