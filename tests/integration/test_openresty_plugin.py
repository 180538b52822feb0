"""The nginx client in a real nginx, against a stand-in for the certificate server that can be told to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import ssl
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.nginx import LUA_PATH, NginxUnavailableError, find_nginx
from tests.support.nginx import Nginx as BaseNginx
from tests.support.ports import free_port

NAME = "www.example.com"
LIMIT = 25.0  # seconds: anything slower waited for the plugin's 30 s, which it should not
# Failures are remembered for a second only, so that the tests needn't wait long to see the plugin recover.
QUICK = "failure_ttl = 1,"
QUIET = 0.3  # seconds in which a request that should not come would have come


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


def make_pair(name: str, *, use_rsa: bool = False, lifetime: float = 86400) -> Pair:
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    key = rsa.generate_private_key(65537, 2048) if use_rsa else ec.generate_private_key(ec.SECP256R1())
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
    """What the stand-in sends. `raw` replaces all of it; `close` hangs up afterwards without saying so before."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    close: bool = False

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


class StandIn:
    """A certificate server. Names get a certificate each; `answer` may be replaced to do anything else."""

    def __init__(self, *, port: int | None = None, path: str | None = None) -> None:
        self.port = port or free_port()
        self.path = path
        self.requests: list[Request] = []
        self.raw = b""
        self.connections = 0
        self.pairs: dict[str, Pair] = {}
        self.tokens: dict[str, str] = {}
        self.ttl = 3600
        self.answer: Callable[[Request], Awaitable[Answer]] = self.usual
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def backend(self) -> str:
        return f"unix:{self.path}" if self.path else f"127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    async def usual(self, request: Request) -> Answer:
        kind, _, rest = request.path[1:].partition("/")
        if kind == ".well-known":
            token = rest.removeprefix("acme-challenge/")
            text = self.tokens.get(token)
            return Answer(body=text.encode()) if text else Answer(404, body=b"no such token\n")
        pair = self.pairs.setdefault(rest, make_pair(rest)) if rest not in self.pairs else self.pairs[rest]
        etag = f'"{pair.fingerprint}"'
        if request.headers.get("if-none-match") == etag:
            return Answer(304, headers={"ETag": etag, "X-TTL": str(self.ttl)})
        answer = json_answer(pair.answer(ttl=self.ttl))
        return Answer(headers=answer.headers | {"ETag": etag}, body=answer.body)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        if self.path:
            self._server = await asyncio.start_unix_server(self._serve, self.path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Stops listening and drops every connection."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        await self.drop_connections()
        await server.wait_closed()
        if self.path:
            Path(self.path).unlink(missing_ok=True)  # noqa: ASYNC240 (one system call)

    async def drop_connections(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.raw += head
                request = self._parse(head)
                self.requests.append(request)
                answer = await self.answer(request)
                writer.write(answer.wire())
                await writer.drain()
                if answer.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    @staticmethod
    def _parse(head: bytes) -> Request:
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Request(method, path, headers)


class Nginx(BaseNginx):
    """nginx that leaves the log clean of what it must never hold."""

    def stop(self) -> None:
        super().stop()
        log = self.error_log
        assert "PRIVATE KEY" not in log
        for mark in ("[emerg]", "[alert]", "[crit]", "runtime error", "internal error", "stale global SSL error"):
            assert mark not in log, log


@pytest.fixture(autouse=True, scope="module")
def nginx_is_installed() -> None:
    try:
        find_nginx()
    except NginxUnavailableError as error:
        pytest.fail(str(error))


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    path = tmp_path / "nginx"
    path.mkdir()
    return path


@pytest.fixture
def short_path() -> Iterator[str]:
    """A path short enough for a Unix socket."""
    folder = subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip()
    yield f"{folder}/s"
    shutil.rmtree(folder)


def client_context(protocols: list[str] | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


async def handshake(port: int, name: str | None = NAME, protocols: list[str] | None = None) -> bytes:
    """The DER of the certificate that nginx gave."""
    context = client_context(protocols)
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name or "", ssl_handshake_timeout=60
    )
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(der, bytes)
        return der
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def until_served(port: int, der: bytes, name: str = NAME) -> None:
    """Handshakes until nginx gives that certificate."""
    async with asyncio.timeout(LIMIT):
        while True:
            if await handshake(port, name) == der:
                return
            await asyncio.sleep(0.1)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


async def quickly(port: int, name: str = NAME) -> bytes:
    async with asyncio.timeout(LIMIT):
        return await handshake(port, name)


async def http_get(port: int, path: str, host: str, method: str = "GET") -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(LIMIT):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body
    finally:
        writer.close()
        await writer.wait_closed()


# Finding certificates


async def test_gives_the_certificate_of_the_name(prefix: Path) -> None:
    async with StandIn() as server:
        server.pairs["rsa.example.com"] = make_pair("rsa.example.com", use_rsa=True)
        with Nginx(prefix, backend=server.backend) as nginx:
            assert await handshake(nginx.https_port) == server.pairs[NAME].der
            assert await handshake(nginx.https_port, "rsa.example.com") == server.pairs["rsa.example.com"].der
            assert server.paths == [f"/cert/{NAME}", "/cert/rsa.example.com"]
            assert server.requests[0].headers["host"] == server.backend


async def test_asks_once_per_name_over_all_workers(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend) as nginx:
            for name in [NAME, NAME.upper(), NAME] * 10:
                assert await handshake(nginx.https_port, name) == server.pairs[NAME].der
            assert server.paths == [f"/cert/{NAME}"]


async def test_a_hundred_visitors_of_a_cold_name_cause_one_request(prefix: Path) -> None:
    async with StandIn() as server:

        async def slowly(request: Request) -> Answer:
            await asyncio.sleep(0.5)
            return await server.usual(request)

        server.answer = slowly
        with Nginx(prefix, backend=server.backend) as nginx:
            ders = await asyncio.gather(*(handshake(nginx.https_port) for _ in range(100)))
            assert set(ders) == {server.pairs[NAME].der}
            assert server.paths == [f"/cert/{NAME}"]


async def test_many_cold_names_at_once(prefix: Path) -> None:
    async with StandIn() as server:
        names = [f"n{number}.example.com" for number in range(150)]
        with Nginx(prefix, backend=server.backend, options="max_fetches = 4,") as nginx:
            ders = await asyncio.gather(*(handshake(nginx.https_port, name) for name in names))
            assert list(ders) == [server.pairs[name].der for name in names]
            assert len(server.requests) == len(names)
            assert server.connections < len(names), "connections are kept and used again"


async def test_a_request_longer_than_the_lease_keeps_its_lock(prefix: Path) -> None:
    async with StandIn() as server:
        release = asyncio.Event()

        async def when_released(request: Request) -> Answer:
            await release.wait()
            return await server.usual(request)

        server.answer = when_released
        with Nginx(prefix, backend=server.backend, workers=4) as nginx:
            visitors = [asyncio.create_task(handshake(nginx.https_port)) for _ in range(20)]
            await asyncio.sleep(7)  # the lease is 5 s
            release.set()
            assert set(await asyncio.gather(*visitors)) == {server.pairs[NAME].der}
            assert server.paths == [f"/cert/{NAME}"]


async def test_workers_killed_during_a_fetch_hold_nobody_up_for_long(prefix: Path) -> None:
    async with StandIn() as server:

        async def never(_: Request) -> Answer:
            await asyncio.Event().wait()
            return Answer()

        server.answer = never
        with BaseNginx(prefix, backend=server.backend) as nginx:
            visitor = asyncio.create_task(handshake(nginx.https_port))
            await until(lambda: len(server.requests) == 1)
            workers = Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split()  # noqa: ASYNC240
            for worker in workers:
                os.kill(int(worker), signal.SIGKILL)
            await asyncio.gather(visitor, return_exceptions=True)
            server.answer = server.usual
            assert await quickly(nginx.https_port) == server.pairs[NAME].der


async def test_a_visitor_who_hangs_up_does_not_stop_the_fetch(prefix: Path) -> None:
    async with StandIn() as server:
        release = asyncio.Event()

        async def when_released(request: Request) -> Answer:
            await release.wait()
            return await server.usual(request)

        server.answer = when_released
        with Nginx(prefix, backend=server.backend) as nginx:
            visitor = asyncio.create_task(handshake(nginx.https_port))
            await until(lambda: len(server.requests) == 1)
            visitor.cancel()
            await asyncio.gather(visitor, return_exceptions=True)
            other = asyncio.create_task(quickly(nginx.https_port))
            await asyncio.sleep(QUIET)
            release.set()
            assert await other == server.pairs[NAME].der
            assert len(server.requests) == 1


async def test_a_visitor_waits_no_longer_than_wait_timeout(prefix: Path) -> None:
    async with StandIn() as server:
        release = asyncio.Event()

        async def when_released(request: Request) -> Answer:
            await release.wait()
            return await server.usual(request)

        server.answer = when_released
        with Nginx(prefix, backend=server.backend, options="wait_timeout = 0.5,") as nginx:
            assert await quickly(nginx.https_port) == nginx.fallback_der
            release.set()
            await until(lambda: NAME in server.pairs)
            await until_served(nginx.https_port, server.pairs[NAME].der)
            assert len(server.requests) == 1


async def test_a_unix_socket(prefix: Path, short_path: str) -> None:
    async with StandIn(path=short_path) as server:
        with Nginx(prefix, backend=server.backend) as nginx:
            assert await handshake(nginx.https_port) == server.pairs[NAME].der
            assert server.requests[0].headers["host"] == "localhost"


async def test_a_url_as_backend(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=f"http://{server.backend}/") as nginx:
            assert await handshake(nginx.https_port) == server.pairs[NAME].der


# Names that get the fallback


async def test_a_name_that_is_not_allowed(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend) as nginx:
            assert await quickly(nginx.https_port, "www.example.net") == nginx.fallback_der
            assert await quickly(nginx.https_port, "") == nginx.fallback_der
            assert server.requests == []


async def test_allow_domain_that_fails(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend, allow='error("line one\\nline two")') as nginx:
            assert await quickly(nginx.https_port) == nginx.fallback_der
            assert server.requests == []
            assert "allow_domain failed" in nginx.error_log
            assert "\nline two" not in nginx.error_log


def client_hello(server_name: bytes) -> bytes:
    """A TLS 1.2 ClientHello with any bytes as its SNI. In TLS 1.2 the certificate comes back in the clear."""

    def vector(data: bytes, width: int) -> bytes:
        return len(data).to_bytes(width, "big") + data

    def extension(number: int, data: bytes) -> bytes:
        return struct.pack("!H", number) + vector(data, 2)

    extensions = b"".join(
        [
            extension(0, vector(b"\x00" + vector(server_name, 2), 2)),
            extension(10, vector(b"\x00\x17\x00\x1d", 2)),  # groups: P-256, X25519
            extension(11, vector(b"\x00", 1)),  # uncompressed points
            extension(13, vector(b"\x04\x03\x08\x04\x04\x01", 2)),  # ECDSA and RSA with SHA-256
        ]
    )
    suites = vector(b"\xc0\x2b\xc0\x2f\xc0\x2c\xc0\x30", 2)  # ECDHE with ECDSA or RSA, AES-GCM
    body = b"\x03\x03" + bytes(range(32)) + b"\x00" + suites + b"\x01\x00" + vector(extensions, 2)
    return b"\x16\x03\x01" + vector(b"\x01" + vector(body, 3), 2)


async def raw_handshake(port: int, server_name: bytes, until_seen: bytes) -> bytes:
    """What nginx sends back, until it contains the given bytes or ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seen = b""
    try:
        writer.write(client_hello(server_name))
        async with asyncio.timeout(LIMIT):
            while until_seen not in seen and (data := await reader.read(65536)):
                seen += data
        return seen
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_crafted_hello_of_a_good_name_gets_its_certificate(prefix: Path) -> None:
    async with StandIn() as server:
        server.pairs[NAME] = make_pair(NAME)
        with Nginx(prefix, backend=server.backend) as nginx:
            der = server.pairs[NAME].der
            assert der in await raw_handshake(nginx.https_port, NAME.encode(), der)
            assert der in await raw_handshake(nginx.https_port, NAME.encode() + b".", der)
            assert server.paths == [f"/cert/{NAME}"]


@pytest.mark.parametrize(
    "server_name",
    [
        b"a HTTP/1.1\r\nHost: x\r\n\r\nGET /cert/b.example.com",
        b"a\r\nX: y.example.com",
        b"a\n.example.com",
        b"../admin.example.com",
        b"a?b=c.example.com",
        b"a#.example.com",
        b"%61.example.com",
        b"a b.example.com",
        b"-a.example.com",
        b"a..example.com",
        b"\xc3\xa4.example.com",
        b"x" * 64 + b".example.com",
        b"x." * 122 + b"example.com",
        b"127.0.0.1",
        b"1.example.com\x7f",
    ],
)
async def test_an_sni_that_is_no_host_name_goes_nowhere(prefix: Path, server_name: bytes) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend, allow="return true") as nginx:
            seen = await raw_handshake(nginx.https_port, server_name, nginx.fallback_der)
            assert nginx.fallback_der in seen or seen[:1] == b"\x15"  # OpenSSL itself may answer with an alert
            await asyncio.sleep(QUIET)
            assert server.raw == b""
            assert server_name not in nginx.error_log.encode()


async def test_a_tls_alpn_01_validation_is_ended_at_once(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend) as nginx:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with asyncio.timeout(LIMIT):
                    await handshake(nginx.https_port, NAME, ["acme-tls/1"])
            assert server.requests == []
            async with asyncio.timeout(LIMIT):
                assert await handshake(nginx.https_port, NAME, ["h2", "http/1.1"]) == server.pairs[NAME].der


# A server that is down, slow or wrong


async def test_a_server_that_is_down(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend, options=QUICK) as nginx:
            assert await handshake(nginx.https_port) == server.pairs[NAME].der
            await server.stop()
            for _ in range(10):
                assert await quickly(nginx.https_port) == server.pairs[NAME].der
                assert await quickly(nginx.https_port, "cold.example.com") == nginx.fallback_der
            await server.start()
            server.pairs["cold.example.com"] = make_pair("cold.example.com")
            await until_served(nginx.https_port, server.pairs["cold.example.com"].der, "cold.example.com")


async def test_a_kept_connection_that_the_server_closed(prefix: Path) -> None:
    async with StandIn() as server:

        async def then_close(request: Request) -> Answer:
            answer = await server.usual(request)
            return Answer(answer.status, answer.headers, answer.body, close=True)

        with Nginx(prefix, backend=server.backend, workers=1) as nginx:
            server.answer = then_close
            for number in range(20):
                name = f"n{number}.example.com"
                assert await quickly(nginx.https_port, name) == server.pairs[name].der


async def test_a_connection_closed_instead_of_an_answer_is_tried_once_more(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend, workers=1) as nginx:
            await handshake(nginx.https_port)

            async def hang_up_once(request: Request) -> Answer:
                server.answer = server.usual
                return Answer(raw=b"", close=True)

            server.answer = hang_up_once
            name = "other.example.com"
            assert await quickly(nginx.https_port, name) == server.pairs[name].der
            assert server.paths == [f"/cert/{NAME}", f"/cert/{name}", f"/cert/{name}"]


async def test_past_its_ttl_a_certificate_is_served_and_refreshed(prefix: Path) -> None:
    async with StandIn() as server:
        server.ttl = 1
        with Nginx(prefix, backend=server.backend) as nginx:
            assert await handshake(nginx.https_port) == server.pairs[NAME].der
            first = server.requests[0]
            assert "if-none-match" not in first.headers

            release = asyncio.Event()

            async def when_released(request: Request) -> Answer:
                await release.wait()
                return await server.usual(request)

            server.answer = when_released
            await asyncio.sleep(1.5)
            for _ in range(20):  # while the refresh hangs, nobody else does
                assert await quickly(nginx.https_port) == server.pairs[NAME].der
            await until(lambda: len(server.requests) == 2)
            assert server.requests[1].headers["if-none-match"] == f'"{server.pairs[NAME].fingerprint}"'
            server.ttl = 3600
            release.set()
            await asyncio.sleep(QUIET)
            for _ in range(20):  # a 304, and its X-TTL holds
                assert await quickly(nginx.https_port) == server.pairs[NAME].der
            assert len(server.requests) == 2


async def test_a_renewed_certificate_replaces_the_old_one_in_every_worker(prefix: Path) -> None:
    async with StandIn() as server:
        server.ttl = 1
        with Nginx(prefix, backend=server.backend) as nginx:
            first = await handshake(nginx.https_port)
            assert set(await asyncio.gather(*(handshake(nginx.https_port) for _ in range(50)))) == {first}
            renewed = server.pairs[NAME] = make_pair(NAME)
            server.ttl = 3600
            await until_served(nginx.https_port, renewed.der)
            ders: set[bytes] = set()
            async with asyncio.timeout(LIMIT):  # each worker looks once a second
                while ders != {renewed.der}:
                    ders = set(await asyncio.gather(*(handshake(nginx.https_port) for _ in range(50))))
            assert renewed.der != first


@pytest.mark.parametrize("status", [400, 500])
async def test_a_refresh_that_fails_leaves_the_certificate_in_service(prefix: Path, status: int) -> None:
    async with StandIn() as server:
        server.ttl = 1
        with Nginx(prefix, backend=server.backend) as nginx:
            der = await handshake(nginx.https_port)

            async def fail(_: Request) -> Answer:
                return Answer(status, headers={"Retry-After": "60"})

            server.answer = fail
            await asyncio.sleep(1.5)
            await quickly(nginx.https_port)
            await until(lambda: len(server.requests) == 2)
            await asyncio.sleep(1.5)
            for _ in range(20):
                assert await quickly(nginx.https_port) == der
            await asyncio.sleep(QUIET)
            assert len(server.requests) == 2, "the failure is remembered"


async def test_an_expired_certificate_is_not_served(prefix: Path) -> None:
    async with StandIn() as server:
        server.pairs[NAME] = make_pair(NAME, lifetime=6)
        with Nginx(prefix, backend=server.backend, options=QUICK) as nginx:
            assert await handshake(nginx.https_port) == server.pairs[NAME].der
            await server.stop()
            await asyncio.sleep(max(0.0, server.pairs[NAME].expire_at + 0.5 - time.time()))
            assert await quickly(nginx.https_port) == nginx.fallback_der


async def test_a_failure_is_remembered(prefix: Path) -> None:
    async with StandIn() as server:

        async def refuse(_: Request) -> Answer:
            return Answer(400, body=b"not permitted here\n")

        server.answer = refuse
        with Nginx(prefix, backend=server.backend) as nginx:
            for _ in range(20):
                assert await quickly(nginx.https_port) == nginx.fallback_der
            assert server.paths == [f"/cert/{NAME}"]


EMPTY: dict[str, Any] = {}
LARGE = 5 * 1024 * 1024


def malformed(pair: Pair, other: Pair) -> dict[str, Answer]:
    good = json.dumps(pair.answer()).encode()
    fields = {
        "all null": dict.fromkeys(pair.answer()),
        "null cert": pair.answer(cert=None),
        "number as cert": pair.answer(cert=5),
        "table as key": pair.answer(pkey={"a": []}),
        "null ttl": pair.answer(ttl=None),
        "string as ttl": pair.answer(ttl="3600"),
        "negative ttl": pair.answer(ttl=-1),
        "NaN ttl": pair.answer(ttl=float("nan")),
        "infinite expiry": pair.answer(expire_at=float("inf")),
        "fraction as expiry": pair.answer(expire_at=pair.expire_at + 0.5),
        "past expiry": pair.answer(expire_at=1),
        "null fingerprint": pair.answer(fingerprint=None),
        "fingerprint with CR LF": pair.answer(fingerprint="ab\r\nX: y"),
        "challenge certificate": pair.answer(type=101, expire_at=0, ttl=0),
        "string as type": pair.answer(type="0"),
        "empty PEMs": pair.answer(cert="", pkey=""),
        "bad certificate": pair.answer(cert=pair.cert_pem.replace("MII", "XXX", 1)),
        "bad key": pair.answer(pkey="-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"),
        "another's key": pair.answer(pkey=other.key_pem),
        "nothing": EMPTY,
        "a list": [],
        "a number": 7,
    }
    answers = {name: json_answer(value) for name, value in fields.items()}
    answers |= {
        "not JSON": Answer(body=b"<html>"),
        "no body": Answer(),
        "5 MB": Answer(body=b'{"cert": "' + b"A" * LARGE),
        "5 MB in chunks": chunked(b"A" * LARGE, 65536),
        "5 MB until the end": Answer(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b"A" * LARGE, close=True),
        "endless header": Answer(raw=b"HTTP/1.1 200 OK\r\nX: " + b"A" * LARGE),
        "not HTTP": Answer(raw=b"SSH-2.0-OpenSSH_9.2\r\n", close=True),
        "cut short": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + good, close=True),
        "two lengths": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", close=True),
        "bad chunk": Answer(
            raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n", close=True
        ),
        "304 unasked": Answer(304, headers={"X-TTL": "60"}),
        "204": Answer(204),
        "401": Answer(401),
        "503": Answer(503, headers={"Retry-After": "1"}),
    }
    return answers


async def test_a_malformed_answer_is_not_kept_and_heals(prefix: Path) -> None:
    pair, other = make_pair(NAME), make_pair(NAME)
    answers = malformed(pair, other)
    names = {f"m{number}.example.com": answer for number, answer in enumerate(answers.values())}
    async with StandIn() as server:

        async def misbehave(request: Request) -> Answer:
            return names[request.path.removeprefix("/cert/")]

        server.answer = misbehave
        with Nginx(prefix, backend=server.backend, options=QUICK) as nginx:
            for name, kind in zip(names, answers, strict=True):
                assert await quickly(nginx.https_port, name) == nginx.fallback_der, kind
            server.answer = server.usual
            for name, kind in zip(names, answers, strict=True):
                server.pairs[name] = make_pair(name)
                await until_served(nginx.https_port, server.pairs[name].der, name)
                assert await quickly(nginx.https_port, name) == server.pairs[name].der, kind


async def test_a_mismatched_pair_is_told_before_nginx_is_given_it(prefix: Path) -> None:
    pair, other = make_pair(NAME), make_pair(NAME)
    async with StandIn() as server:

        async def mismatch(_: Request) -> Answer:
            return json_answer(pair.answer(pkey=other.key_pem))

        server.answer = mismatch
        with Nginx(prefix, backend=server.backend) as nginx:
            assert await quickly(nginx.https_port) == nginx.fallback_der
            assert "certificate and key do not match" in nginx.error_log


@pytest.mark.parametrize("size", [1, 700, 100_000])
async def test_a_chunked_answer(prefix: Path, size: int) -> None:
    pair = make_pair(NAME)
    async with StandIn() as server:

        async def in_chunks(_: Request) -> Answer:
            return chunked(json.dumps(pair.answer()).encode(), size)

        server.answer = in_chunks
        with Nginx(prefix, backend=server.backend) as nginx:
            assert await quickly(nginx.https_port) == pair.der


async def test_an_answer_that_ends_with_the_connection(prefix: Path) -> None:
    pair = make_pair(NAME)
    async with StandIn() as server:

        async def until_the_end(_: Request) -> Answer:
            return Answer(raw=b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(pair.answer()).encode(), close=True)

        server.answer = until_the_end
        with Nginx(prefix, backend=server.backend) as nginx:
            assert await quickly(nginx.https_port) == pair.der


async def test_a_flood_leaves_the_log_short_and_certificates_in_place(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend) as nginx:
            der = await handshake(nginx.https_port)

            async def refuse(_: Request) -> Answer:
                return Answer(400)

            server.answer = refuse
            started = time.monotonic()
            for start in range(0, 600, 50):
                names = [f"flood{number}.example.com" for number in range(start, start + 50)]
                ders = await asyncio.gather(*(handshake(nginx.https_port, name) for name in names))
                assert set(ders) == {nginx.fallback_der}
            seconds = int(time.monotonic() - started) + 2
            lines = [line for line in nginx.error_log.splitlines() if "ssl-cert-server:" in line]
            kinds, workers = 4, 2
            assert len(lines) <= kinds * workers * seconds
            assert await quickly(nginx.https_port) == der


# Challenges


async def test_a_challenge_is_passed_on_with_the_host_that_was_asked_for(prefix: Path) -> None:
    async with StandIn() as server:
        server.tokens["tok-en_1"] = "tok-en_1.thumbprint"
        with Nginx(prefix, backend=server.backend) as nginx:
            path = "/.well-known/acme-challenge/tok-en_1"
            assert await http_get(nginx.http_port, path, f"{NAME}:8080") == (200, b"tok-en_1.thumbprint")
            assert server.requests[0].headers["host"] == NAME
            assert await http_get(nginx.http_port, path + "x", NAME) == (404, b"not found\n")


async def test_what_is_no_challenge_goes_nowhere(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend) as nginx:
            base = "/.well-known/acme-challenge/"
            for path in (
                base,
                base + "a/b",
                base + "a.b",
                base + "a%0d%0ab",
                base + "x" * 257,
            ):
                assert (await http_get(nginx.http_port, path, NAME))[0] == 404, path
            # nginx takes this one for /cert, which is another location
            assert (await http_get(nginx.http_port, base + "..%2f..%2fcert", NAME))[0] == 301
            assert (await http_get(nginx.http_port, base + "a", NAME, method="POST"))[0] == 404
            assert (await http_get(nginx.http_port, base + "a", "www.example.net"))[0] == 404
            assert (await http_get(nginx.http_port, base + "a", "127.0.0.1"))[0] == 404
            assert server.requests == []


async def test_a_challenge_while_the_server_is_down_or_failing(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend) as nginx:
            path = "/.well-known/acme-challenge/token"

            async def fail(_: Request) -> Answer:
                return Answer(500, body=b"secret reason\n" * 5)

            server.answer = fail
            status, body = await http_get(nginx.http_port, path, NAME)
            assert (status, body.count(b"\n"), b"secret" in body) == (502, 1, False)
            await server.stop()
            status, body = await http_get(nginx.http_port, path, NAME)
            assert (status, body.count(b"\n")) == (502, 1)


async def test_a_challenge_the_server_is_slow_to_answer(prefix: Path) -> None:
    async with StandIn() as server:

        async def never(_: Request) -> Answer:
            await asyncio.Event().wait()
            return Answer()

        server.answer = never
        with Nginx(prefix, backend=server.backend) as nginx:
            status, body = await http_get(nginx.http_port, "/.well-known/acme-challenge/token", NAME)
            assert (status, body.count(b"\n")) == (504, 1)


# Instances and options


SECOND_SERVER = """
server {
    listen 127.0.0.1:%d ssl;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate fallback.pem;
    ssl_certificate_key fallback.key;
    ssl_certificate_by_lua_block { second:ssl_certificate() }
}
"""


async def test_two_instances_with_one_dictionary_do_not_meet(prefix: Path) -> None:
    port = free_port()
    async with StandIn() as server, StandIn() as other:
        init = f"""
            second = (require "resty.ssl-cert-server"):new({{
                backend = "{other.backend}", allow_domain = function() return true end, disable_stapling = true,
                lru_maxitems = 100, shared_dict = "ssl_certs_cache",
            }})
        """
        with Nginx(prefix, backend=server.backend, init=init, servers=SECOND_SERVER % port) as nginx:
            for _ in range(5):
                assert await handshake(nginx.https_port) == server.pairs[NAME].der
                assert await handshake(port) == other.pairs[NAME].der
            assert server.pairs[NAME].der != other.pairs[NAME].der
            assert len(server.requests) == len(other.requests) == 1
            await server.stop()
            assert await quickly(port, "new.example.com") == other.pairs["new.example.com"].der


async def test_a_reload_keeps_what_is_cached(prefix: Path) -> None:
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend) as nginx:
            der = await handshake(nginx.https_port)
            nginx.reload()
            await until(lambda: nginx.error_log.count("start worker process ") >= 4)
            for _ in range(10):
                assert await quickly(nginx.https_port) == der
            assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("lru_maxitem = 100,", "unknown option 'lru_maxitem'"),
        ('lru_maxitems = "100",', "option 'lru_maxitems' must be a number"),
        ("wait_timeout = 0,", "option 'wait_timeout' must be greater than 0"),
        ('shared_dict = "nowhere",', "nginx.conf has no `lua_shared_dict nowhere 1m;`"),
        ('backend = "https://127.0.0.1:1",', "https is not supported yet"),
        ('backend = "127.0.0.1:99999",', "no such port"),
        ('backend = "a b",', "expected host:port"),
    ],
)
def test_a_mistake_in_the_options_is_told_at_start(prefix: Path, options: str, message: str) -> None:
    nginx = BaseNginx(prefix, backend="127.0.0.1:1", options=options)
    with pytest.raises(NginxUnavailableError) as caught:
        nginx.start()
    assert message in str(caught.value)
    assert "nginx.conf:" in str(caught.value), "the error points at the line that is wrong"


async def test_the_configuration_in_the_readme_works(prefix: Path) -> None:
    readme = LUA_PATH.parent / "README.md"
    block = readme.read_text().partition("```nginx\n")[2].partition("```")[0]
    paths = "".join(f"{kind}_temp_path temp/{kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    changes = {
        "load_module /usr/lib/nginx/modules/ndk_http_module.so;": "@MODULES@",
        "load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;": "daemon off; pid nginx.pid; error_log error.log;",
        "user www-data;": "@USER@",
        "http {": 'http {\naccess_log off; client_body_temp_path temp/body; lua_package_path "@LUA_PATH@/?.lua;;";'
        + paths,
        "127.0.0.1:8999": "@BACKEND@",
        "listen 443 ssl;": "listen 127.0.0.1:@HTTPS_PORT@ ssl;",
        "listen 80;": "listen 127.0.0.1:@HTTP_PORT@;",
        "/etc/nginx/fallback": "fallback",
    }
    for before, after in changes.items():
        assert before in block
        block = block.replace(before, after)
    async with StandIn() as server:
        with Nginx(prefix, backend=server.backend, template=block) as nginx:
            assert await handshake(nginx.https_port) == server.pairs[NAME].der
            assert await quickly(nginx.https_port, "www-example.com") == nginx.fallback_der
            server.tokens["token"] = "token.thumbprint"
            status, body = await http_get(nginx.http_port, "/.well-known/acme-challenge/token", NAME)
            assert (status, body) == (200, b"token.thumbprint")


def test_every_option_is_in_the_readme() -> None:
    source = (
        (LUA_PATH / "resty" / "ssl-cert-server.lua").read_text().partition("local OPTIONS = {")[2].partition("\n}")[0]
    )
    rows = [line for line in (LUA_PATH.parent / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert sorted(line.split()[0] for line in source.strip().splitlines()) == sorted(row.split("`")[1] for row in rows)


def test_luacheck_has_nothing_to_say() -> None:
    luacheck = shutil.which("luacheck")
    assert luacheck, "install luacheck (Debian: lua-check)"
    done = subprocess.run(
        [luacheck, "--no-color", "lib"], cwd=LUA_PATH.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
