"""A certificate server that can be told to misbehave, in asyncio: what the nginx plugin's tests are run against."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.listener import Listener
from tests.support.ports import free_port

_BACKLOG = 2048
"""Connections that may wait, as at the server: the tests' thousand visitors share the loop that accepts them."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert_pem: str
    key_pem: str
    der: bytes
    expire_at: int

    @property
    def fingerprint(self) -> str:
        return x509.load_der_x509_certificate(self.der).fingerprint(hashes.SHA1()).hex()

    @property
    def keytype(self) -> str:
        return "rsa" if "BEGIN RSA" in self.key_pem else "ecdsa"

    def answer(self, **changes: Any) -> dict[str, Any]:
        """The fields of /cert/, with changes."""
        fields = {
            "type": 0,
            "cert": self.cert_pem,
            "pkey": self.key_pem,
            "fingerprint": self.fingerprint,
            "expire_at": self.expire_at,
            "ttl": 3600,
        }
        return fields | changes


def make_pair(name: str, *, use_rsa: bool = False, bits: int = 2048, lifetime: float = 86400) -> Pair:
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    key = rsa.generate_private_key(65537, bits) if use_rsa else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
    now = dt.datetime.now(dt.UTC)
    until = (now + dt.timedelta(seconds=lifetime)).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(
        cert_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ).decode(),
        der=certificate.public_bytes(serialization.Encoding.DER),
        expire_at=int(until.timestamp()),
    )


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What the stand-in sends. `raw` replaces all of it; `close` hangs up afterwards without saying so before.

    `reset` breaks the connection off.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    close: bool = False
    reset: bool = False

    def wire(self) -> bytes:
        if self.raw is not None:
            return self.raw
        lines = [f"HTTP/1.1 {self.status} Status"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.status != 304:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def json_answer(value: Any) -> Answer:
    return Answer(headers={"Content-Type": "application/json"}, body=json.dumps(value).encode())


def chunked(body: bytes, size: int) -> Answer:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(f"{len(piece):X};ext=1\r\n".encode() + piece + b"\r\n" for piece in pieces)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Answer(raw=head + chunks + b"0\r\nTrailer: x\r\n\r\n")


@dataclass(frozen=True)
class Staple:
    der: bytes
    expire_at: int
    ttl: int = 3600


def make_staple(mark: bytes = b"") -> bytes:
    """What begins as a successful OCSPResponse does, and tells itself apart; nobody here verifies it."""
    rest = b"\x0a\x01\x00" + b"\xa0" + bytes([len(mark) + 2]) + b"\x04" + bytes([len(mark)]) + mark
    return b"\x30" + bytes([len(rest)]) + rest


Handler = Callable[[Request], Awaitable[Answer]]


class StandIn:
    """A certificate server. Names get a certificate each.

    ``answer`` is for certificates and challenges, ``answer_ocsp`` for staples, ``answer_changes`` for the long poll;
    each may be replaced to do anything else. What was asked is in ``requests``, ``ocsp_requests``, ``polls`` and
    ``probes``. Without ``changes`` the server is one that doesn't know /v1/changes.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        path: str | None = None,
        changes: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.port = port or free_port()
        self.path = path
        self.tls = tls
        self.requests: list[Request] = []
        self.ocsp_requests: list[Request] = []
        self.polls: list[Request] = []
        self.probes: list[Request] = []
        self.raw = bytearray()
        self.connections = 0
        self.under_way = 0
        self.most_under_way = 0
        self.pairs: dict[str, Pair] = {}
        self.others: dict[str, Pair] = {}
        self.staples: dict[str, Staple] = {}
        self.tokens: dict[str, str] = {}
        self.bearer: str | None = None
        self.ttl = 3600
        self.changes = changes
        self.changed: list[str] = []
        self.first_cursor = 0
        self.reset_before = 0
        self.answer: Handler = self.usual
        self.answer_ocsp: Handler = self.usual_ocsp
        self.answer_changes: Handler = self.usual_changes
        self._news = asyncio.Event()
        self._listener: Listener | None = None

    @property
    def backend(self) -> str:
        return f"unix:{self.path}" if self.path else f"127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    @property
    def cursor(self) -> int:
        return self.first_cursor + len(self.changed)

    async def usual(self, request: Request) -> Answer:
        target = urlsplit(request.path)
        kind, _, rest = target.path[1:].partition("/")
        if kind == ".well-known":
            token = rest.removeprefix("acme-challenge/")
            text = self.tokens.get(token)
            return Answer(body=text.encode()) if text else Answer(404, body=b"no such token\n")
        if rest not in self.pairs:
            self.pairs[rest] = make_pair(rest)
        pair, other = self.pairs[rest], self.others.get(rest)
        wanted = parse_qs(target.query).get("keytype", [pair.keytype])[0]
        if other and wanted == other.keytype:
            pair = other
        etag = f'"{pair.fingerprint}"'
        headers = {"ETag": etag, "X-TTL": str(self.ttl)} | ({"X-Keytypes": "ecdsa, rsa"} if other else {})
        if request.headers.get("if-none-match") == etag:
            return Answer(304, headers=headers)
        answer = json_answer(pair.answer(ttl=self.ttl))
        return Answer(headers=answer.headers | headers, body=answer.body)

    async def usual_ocsp(self, request: Request) -> Answer:
        fingerprint = parse_qs(urlsplit(request.path).query)["fp"][0]
        staple = self.staples.get(fingerprint)
        if staple is None:
            return Answer(204)
        headers = {
            "Content-Type": "application/ocsp-response",
            "X-Expire-At": str(staple.expire_at),
            "X-TTL": str(staple.ttl),
        }
        return Answer(headers=headers, body=staple.der)

    def announce(self, *names: str, reset: bool = False) -> None:
        """Say that these names changed, or that any may have."""
        self.changed += names or [""]
        if reset:
            self.reset_before = self.cursor
        self._news.set()

    async def usual_changes(self, request: Request) -> Answer:
        query = parse_qs(urlsplit(request.path).query)
        if "since" not in query:
            return json_answer({"cursor": str(self.cursor), "names": [], "reset": False})
        since = int(query["since"][0])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(query["wait"][0])):
                while since == self.cursor:
                    self._news.clear()
                    await self._news.wait()
        reset = since < self.reset_before or since > self.cursor
        names = [] if reset else [name for name in self.changed[since - self.first_cursor :] if name]
        return json_answer({"cursor": str(self.cursor), "names": names, "reset": reset})

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        if self.path:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(self.path)
            listening.listen(_BACKLOG)
        else:
            listening = socket.create_server(("127.0.0.1", self.port), backlog=_BACKLOG)
        self._listener = Listener(listening, self._serve, self.tls)

    async def stop(self) -> None:
        """Stops listening and drops every connection."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        await listener.close()
        if self.path:
            Path(self.path).unlink(missing_ok=True)  # noqa: ASYNC240 (one system call)

    async def drop_connections(self) -> None:
        assert self._listener is not None
        await self._listener.drop_connections()

    async def _respond(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        if path == "/healthz":
            self.probes.append(request)
            return Answer(body=b"ok\n")
        challenge = path.startswith("/.well-known/")
        if (
            self.bearer is not None
            and not challenge
            and request.headers.get("authorization") != f"Bearer {self.bearer}"
        ):
            self.requests.append(request)
            return Answer(401)
        if path == "/v1/changes":
            self.polls.append(request)
            return await self.answer_changes(request) if self.changes else Answer(404)
        if path.startswith("/ocsp/"):
            self.ocsp_requests.append(request)
            return await self.answer_ocsp(request)
        self.requests.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self.answer(request)
        finally:
            self.under_way -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.raw += head
                answer = await self._respond(self._parse(head))
                writer.write(answer.wire())
                await writer.drain()
                if answer.reset:
                    await asyncio.sleep(0.05)  # or the RST overtakes what came before it
                    writer.transport.abort()
                if answer.close or answer.reset:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    @staticmethod
    def _parse(head: bytes) -> Request:
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Request(method, path, headers)
