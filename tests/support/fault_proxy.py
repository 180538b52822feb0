"""An HTTPS proxy between the server and Pebble that misbehaves as told; tests/support/faults.py has the ways."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import random
import socket
import ssl
import struct
import threading
import time
from asyncio.trsock import TransportSocket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import httpx2
from cryptography import x509

from tests.support.certs import DAY, make_pair
from tests.support.listener import Listener
from tests.support.loop_thread import LoopThread
from tests.support.pebble import Pebble
from tests.support.ports import free_port

_CLOSED_WITHIN = 1.0
_MAX_BODY = 1024 * 1024
_HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive", "date"}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Step(StrEnum):
    """What a request is to an order; the values are Pebble's paths up to the second slash."""

    DIRECTORY = "dir"
    NEW_NONCE = "nonce-plz"
    NEW_ACCOUNT = "sign-me-up"
    NEW_ORDER = "order-plz"
    AUTHORIZATION = "authZ"
    CHALLENGE = "chalZ"
    FINALIZE = "finalize-order"
    ORDER = "my-order"
    CERTIFICATE = "certZ"
    OTHER = ""


@dataclass(frozen=True, slots=True)
class Request:
    """As the server sent it. ``name`` is the ordered name, where the request belongs to an order."""

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    step: Step
    name: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. Content-Length is added, unless ``headers`` tells one."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def but(self, *, body: bytes | None = None, **headers: str | None) -> Answer:
        """The same with another body, and with headers (``_`` for ``-``) set, or left out where they are None."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        kept = [(name, value) for name, value in self.headers if name.lower() not in changed]
        new = [(name, value) for name, value in changed.items() if value is not None]
        return replace(self, headers=(*kept, *new), body=self.body if body is None else body)

    def encode(self) -> bytes:
        """As bytes for the wire."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if all(name.lower() != "content-length" for name, _ in self.headers):
            lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


class Exchange:
    """One request, and the means to answer it. The connection closes after a fault that sent nothing.

    On a ``spoilt`` connection something lies before the answer, and will be taken for it.
    """

    def __init__(
        self,
        proxy: FaultProxy,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        spoilt: bool,
    ) -> None:
        self.proxy = proxy
        self.request = request
        self.keeps_connection = False
        self.spoilt = spoilt
        self._reader = reader
        self._writer = writer
        self._genuine: Answer | None = None

    async def forward(self) -> Answer:
        """Hand the request to Pebble, and give what it answers."""
        self._genuine = await self.proxy._ask_pebble(self.request)
        return self._genuine

    async def send(self, answer: Answer) -> None:
        """Answer, and keep the connection."""
        data = answer.encode()
        await self.send_bytes(data.removesuffix(answer.body) if self.request.method == "HEAD" else data)
        if self._genuine is not None and answer.body == self._genuine.body and not self.spoilt:
            self.proxy._told(self.request, self._genuine, self._writer)
        self.keeps_connection = True

    async def send_bytes(self, data: bytes) -> None:
        """Write to the connection, which then closes; ConnectionResetError where either side has left."""
        self._check_open()
        self._writer.write(data)
        await self._writer.drain()
        self._check_open()

    def _check_open(self) -> None:
        # A TLS connection in asyncio swallows what is written to one that ends, and drain() tells it a turn later.
        if self._reader.at_eof() or self._writer.is_closing():
            raise ConnectionResetError

    def reset(self) -> None:
        """End the connection with a TCP RST."""
        self.proxy.abort(self._writer)


class Fault(Protocol):
    """A way to treat a request: forward it or not, answer it or not."""

    __name__: str

    async def __call__(self, exchange: Exchange, /) -> None: ...


async def forwarded(exchange: Exchange) -> None:
    """No fault."""
    await exchange.send(await exchange.forward())


@dataclass(slots=True)
class _Script:
    step: Step
    name: str | None
    fault: Fault
    times: float


class FaultProxy:
    """A context manager. ``ca_bundle`` is what the server has to trust in place of Pebble's.

    ``orders`` counts by name the orders that Pebble took, ``heard`` those of whose taking the server was told.
    ``met`` counts by step, fault's name and ordered name what the proxy did to requests. ``tokens`` are all
    challenges'.
    """

    def __init__(self, folder: Path, pebble: Pebble) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.ca_bundle = folder / "proxy-https.pem"
        self.orders: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self.met: Counter[tuple[Step, str, str | None]] = Counter()
        self.tokens: set[str] = set()
        self._names: dict[str, str] = {}
        self._scripts: list[_Script] = []
        self._random: tuple[int, float, Sequence[Fault]] = (0, 0.0, ())
        self._seen: Counter[tuple[Step, str | None]] = Counter()
        self._lock = threading.Lock()
        self._tls = _server_tls(folder / "proxy-https.key", self.ca_bundle)
        self._pebble = pebble
        self._connections: dict[asyncio.StreamWriter, TransportSocket] = {}
        self._told_last: dict[asyncio.StreamWriter, str] = {}
        self._refusing = 0

    def __enter__(self) -> Self:
        self._thread = LoopThread("fault proxy")
        self._thread.run(self._open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._thread.run(self._close())
        self._thread.stop()

    @property
    def directory_url(self) -> str:
        return f"https://127.0.0.1:{self.port}/dir"

    # --- what is to go wrong

    def script(self, step: Step, fault: Fault, *, times: float = 1, name: str | None = None) -> None:
        """Treat the next ``times`` requests of a step so, of one name's order or of any. Earlier scripts go first."""
        with self._lock:
            self._scripts.append(_Script(step, name, fault, times))

    def at_random(self, faults: Sequence[Fault], *, chance: float, seed: int) -> None:
        """Treat a share of all requests that no script is for with one of the faults.

        The n-th request of a step and name meets the same under the same seed, in whatever order names come.
        """
        with self._lock:
            self._random = (seed, chance, faults)

    def clear(self) -> None:
        """From now on, only forward."""
        with self._lock:
            self._scripts.clear()
            self._random = (0, 0.0, ())

    async def refuse(self, seconds: float) -> None:
        """Cut every connection and refuse new ones for a while, as where the CA is being restarted."""
        self._stop_listening()
        self._refusing += 1
        self._abort_all()
        await asyncio.sleep(seconds)
        self._refusing -= 1
        if not self._refusing:
            self._listen()

    def abort(self, writer: asyncio.StreamWriter) -> None:
        """End a connection with a TCP RST. What was sent last may not have been read yet, and is lost then."""
        if (name := self._told_last.pop(writer, None)) is not None:
            self.heard[name] -= 1
        connection = self._connections[writer]
        if connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()

    # --- serving

    async def _open(self) -> None:
        trust = ssl.create_default_context(cafile=str(self._pebble.ca_bundle))
        self._upstream = httpx2.AsyncClient(verify=trust, timeout=30, trust_env=False)
        self._listen()

    def _listen(self) -> None:
        self._listener = Listener(socket.create_server(("127.0.0.1", self.port)), self._serve, self._tls)

    def _stop_listening(self) -> None:
        if not self._refusing:
            self._listener.stop_accepting()

    async def _close(self) -> None:
        self._stop_listening()
        self._abort_all()
        await self._upstream.aclose()

    def _abort_all(self) -> None:
        for writer in self._connections:
            self.abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = writer.get_extra_info("socket")
        spoilt = False
        try:
            while (request := await self._read(reader)) is not None:
                self._told_last.pop(writer, None)
                exchange = Exchange(self, request, reader, writer, spoilt=spoilt)
                fault = self._fault_for(request)
                self.met[request.step, fault.__name__, request.name] += 1
                await fault(exchange)
                spoilt = exchange.spoilt
                if not exchange.keeps_connection:
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, httpx2.HTTPError):
            pass  # one side is gone, or the proxy ends: what tests do to it
        finally:
            await self._closed(writer)
            del self._connections[writer]
            self._told_last.pop(writer, None)

    async def _closed(self, writer: asyncio.StreamWriter) -> None:
        """Close in peace where the other side goes along, and by force where it doesn't."""
        writer.close()
        try:
            async with asyncio.timeout(_CLOSED_WITHIN):
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.CancelledError):
            self.abort(writer)

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        body = await reader.readexactly(min(length, _MAX_BODY))
        step = Step(first_part) if (first_part := target.split("/")[1]) in {*Step} else Step.OTHER
        name = _ordered_name(body) if step is Step.NEW_ORDER else self._names.get(target)
        return Request(method, target, headers, body, step, name)

    def _fault_for(self, request: Request) -> Fault:
        with self._lock:
            nth = self._seen[request.step, request.name]
            self._seen[request.step, request.name] += 1
            for script in self._scripts:
                if script.step is request.step and script.name in (None, request.name) and script.times > 0:
                    script.times -= 1
                    return script.fault
            seed, chance, faults = self._random
        dice = random.Random(f"{seed} {request.step} {request.name} {nth}")
        return dice.choice(faults) if dice.random() < chance else forwarded

    # --- Pebble's side

    async def _ask_pebble(self, request: Request) -> Answer:
        # The Host header stays: what Pebble signs URLs for, and what it checks them against, is the proxy.
        headers = [(name, value) for name, value in request.headers if name.lower() not in _HOP_BY_HOP]
        origin = self._pebble.directory_url.removesuffix("/dir")
        response = await self._upstream.request(
            request.method, origin + request.path, headers=headers, content=request.body
        )
        kept = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _HOP_BY_HOP]
        answer = Answer(response.status_code, tuple(kept), response.content)
        if request.name is not None:
            self._learn(request.name, answer)
            if request.step is Step.NEW_ORDER and answer.status == HTTPStatus.CREATED:
                self.orders[request.name] += 1
        return answer

    def _learn(self, name: str, answer: Answer) -> None:
        document = _json_object(answer.body)
        urls = [value for header, value in answer.headers if header.lower() == "location"]
        urls += [url for key in ("finalize", "certificate") if isinstance(url := document.get(key), str)]
        urls += document.get("authorizations") or []
        challenges = document.get("challenges") or []
        urls += [challenge["url"] for challenge in challenges]
        self.tokens.update(challenge["token"] for challenge in challenges)
        self._names.update((urlsplit(url).path, name) for url in urls)

    def _told(self, request: Request, genuine: Answer, writer: asyncio.StreamWriter) -> None:
        if request.step is Step.NEW_ORDER and request.name is not None and genuine.status == HTTPStatus.CREATED:
            self.heard[request.name] += 1
            self._told_last[writer] = request.name


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _ordered_name(body: bytes) -> str | None:
    payload = str(_json_object(body).get("payload", ""))
    order = _json_object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    identifiers = order.get("identifiers") or [{}]
    name = identifiers[0].get("value")
    return name if isinstance(name, str) else None


def _server_tls(key_file: Path, certificate_file: Path) -> ssl.SSLContext:
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = time.time()
    pair = make_pair(start=now - DAY, end=now + DAY, extensions=[loopback])
    certificate_file.write_bytes(pair.pem)
    key_file.write_bytes(pair.pkcs8)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate_file, key_file)
    return tls
